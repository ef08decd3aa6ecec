"""Meta-learning: Reptile learns a start from which an agent finds new hidden goals in a few episodes."""

import argparse

import numpy as np
from stable_baselines3.common.utils import LinearSchedule

from sb3_reptile import ReptileDQN
from sb3_reptile.meta import Navigation, ReptileMetaLearner, adaptation_curve

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=30)
parser.add_argument("--new-tasks", type=int, default=5)
arguments = parser.parse_args()

tasks = Navigation()
settings = dict(
    learning_rate=3e-3,
    gamma=0.95,
    batch_size=128,
    learning_starts=20,
    target_update_interval=20,
    exploration_final_eps=0.2,
    policy_kwargs=dict(net_arch=[32, 32]),
)
learner = ReptileMetaLearner(
    ReptileDQN,
    tasks,
    inner_timesteps=200,
    meta_batch_size=4,
    meta_step_size=LinearSchedule(1.0, 0.0, 1.0),
    algorithm_kwargs=dict(settings, exploration_fraction=0.5),
    seed=0,
)
learner.learn(arguments.iterations, progress_bar=True)
learner.save("meta.zip")

for name, pretrained in [("from scratch", None), ("Reptile", "meta.zip")]:
    curves = []
    for seed in range(1000, 1000 + arguments.new_tasks):
        env, eval_env = (tasks(np.random.default_rng(seed)) for _ in range(2))
        adapting = dict(settings, exploration_initial_eps=0.2)
        model = ReptileDQN("MlpPolicy", env, pretrained=pretrained, seed=seed, **adapting)
        curves.append(adaptation_curve(model, eval_env, episodes=(0, 1, 2, 5, 10)))
    print(f"{name}: return after 0, 1, 2, 5 and 10 episodes {np.mean(curves, axis=0).round(1)}")
