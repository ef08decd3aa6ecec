"""Small models in training that is interrupted."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DDPG, DQN, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_reptile import DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint
from sb3_reptile.checkpoint.resuming import list_checkpoints
from sb3_reptile.envs import PermutedActions


def small(**options):
    settings = dict(buffer_size=300, learning_starts=30, batch_size=8, seed=0, device="cpu")
    # SB3 writes into the inner ones
    return copy.deepcopy(settings | dict(policy_kwargs=dict(net_arch=[8])) | options)


class Cut(Exception):
    """Ends training in the middle of a rollout."""


class EachStep(BaseCallback):
    """Calls a function with the number of steps."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _on_step(self):
        self.function(self.num_timesteps)
        return True


def cut_at(step):
    def cut(num_timesteps):
        if num_timesteps >= step:
            raise Cut

    return EachStep(cut)


def cartpole(n_envs=1, **kwargs):
    return make_vec_env("CartPole-v1", n_envs=n_envs, **kwargs)


def pendulum(n_envs=1, **kwargs):
    return make_vec_env("Pendulum-v1", n_envs=n_envs, env_kwargs=dict(max_episode_steps=47), **kwargs)


def bit_flipping():
    return make_vec_env(BitFlippingEnv, env_kwargs=dict(n_bits=4, max_steps=7))


class Parts(gym.ObservationWrapper):
    """Dict observations."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({key: spaces.Box(-np.inf, np.inf, (2,)) for key in ("cart", "pole")})

    def observation(self, obs):
        return {"cart": obs[:2], "pole": obs[2:]}


def images():
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)
    env.observation_space.seed(0)
    return VecFrameStack(DummyVecEnv([lambda: env]), 2)


def drifting():
    return PermutedActions(gym.make("CartPole-v1"), period=70)


DECAYED = dict(replay_buffer_class=DecayedReplayBuffer)
CASES = {
    "reptile_dqn": (ReptileDQN, cartpole, dict(train_freq=4)),
    "reptile_dqn, all of it": (
        ReptileDQN,
        cartpole,
        dict(
            priority="td_error", n_steps=3, double_q=True, train_freq=8, gradient_steps=2, tau=0.5,
            target_update_interval=20, learning_rate=LinearSchedule(1e-2, 1e-3, 0.7), exploration_fraction=0.8,
            replay_buffer_kwargs=dict(decay="power_law", uniform_fraction=0.1),
        ),
    ),
    "reptile_dqn, 3 environments": (ReptileDQN, lambda: cartpole(3), dict(train_freq=4, weighting="loss")),
    "reptile_dqn, RMSprop": (
        ReptileDQN,
        cartpole,
        dict(policy_kwargs=dict(net_arch=[8], optimizer_class=th.optim.RMSprop, activation_fn=th.nn.Tanh)),
    ),
    "reptile_dqn, auto": (ReptileDQN, lambda: cartpole(2), dict(half_life="auto", train_freq=4)),
    "reptile_dqn, drifting": (ReptileDQN, drifting, dict(train_freq=4)),
    "reptile_dqn, dict": (
        ReptileDQN,
        lambda: cartpole(wrapper_class=Parts),
        dict(policy="MultiInputPolicy"),
    ),
    "dqn": (DQN, cartpole, {}),
    "dqn, n-step": (DQN, cartpole, dict(n_steps=3)),
    "dqn, memory optimised": (
        DQN,
        cartpole,
        dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
    ),
    "dqn, hindsight": (DQN, bit_flipping, dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer)),
    "reptile_dqn, hindsight": (
        ReptileDQN,
        bit_flipping,
        dict(policy="MultiInputPolicy", replay_buffer_class=DecayedHerReplayBuffer),
    ),
    "dqn, frames": (
        DQN,
        images,
        dict(policy="CnnPolicy", buffer_size=100, policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8))),
    ),
    "qrdqn": (QRDQN, lambda: cartpole(2), dict(**DECAYED, policy_kwargs=dict(net_arch=[8], n_quantiles=5))),
    "sac": (SAC, pendulum, dict(**DECAYED, replay_buffer_kwargs=dict(half_life=50))),
    "sac, normalised": (SAC, lambda: VecNormalize(pendulum(2)), dict(train_freq=2, ent_coef=0.2)),
    "td3": (TD3, pendulum, dict(**DECAYED, action_noise=NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)))),
    "ddpg": (DDPG, pendulum, dict(train_freq=(1, "episode"), gradient_steps=5)),
    "tqc": (TQC, lambda: pendulum(2), dict(**DECAYED, top_quantiles_to_drop_per_net=1)),
}  # fmt: skip


def make_model(case, **more):
    algorithm, make_env, options = CASES[case]
    return algorithm(env=make_env(), **small(**dict(policy="MlpPolicy") | options | more))


def resumable(tmp_path, at=60, total=120, env=None, callback=(), **options):
    """A model that was cut while it trained, and the folder of its checkpoints."""
    model = ReptileDQN("MlpPolicy", env or cartpole(), **small(**options))
    with pytest.raises(Cut):
        model.learn(total, callback=[*callback, ResumableCheckpoint(20, tmp_path / "run"), cut_at(at)])
    return model, tmp_path / "run"


def steps_of(folder):
    return [int(path.name.split("-")[-1]) for path in list_checkpoints(folder)]
