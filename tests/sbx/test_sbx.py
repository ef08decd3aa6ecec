"""SBX's algorithms with decayed replay buffers: what they draw, refuse, log and save. `make test-sbx` runs these."""

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_reptile import DecayedDictReplayBuffer, DecayedReplayBuffer
from sb3_reptile.callbacks import ReplayLog
from sb3_reptile.checkpoint import ResumableCheckpoint
from tests.zoo.commands import FAST, run

theirs = pytest.importorskip("sbx", reason="needs the extra sbx: make test-sbx")
ours = pytest.importorskip("sb3_reptile.sbx")

pytestmark = pytest.mark.sbx

DICT = "Dict"
ENVS = {"DQN": "CartPole-v1", "SAC": DICT, "TD3": "Pendulum-v1", "TQC": "Pendulum-v1", "CrossQ": "Pendulum-v1"}


def small(**kwargs):
    # Not shared: SBX's TQC adds to policy_kwargs
    return dict(buffer_size=2_000, batch_size=8, seed=0, policy_kwargs=dict(net_arch=[8, 8])) | kwargs


class InDict(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({"a": env.observation_space, "b": spaces.Box(-1, 1, (2,))})

    def observation(self, observation):
        return {"a": observation, "b": np.zeros(2, np.float32)}


def make_env(env_id, n_envs):
    wrapper = InDict if env_id == DICT else None
    return make_vec_env("Pendulum-v1" if env_id == DICT else env_id, n_envs, seed=0, wrapper_class=wrapper)


def parameters(model):
    states = [value for name, value in vars(model.policy).items() if name.endswith("_state")]
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(states)]


@pytest.mark.parametrize("name", ["DQN", "TD3"])
def test_without_decay_training_is_that_of_sbx(name):
    def trained(algorithm, **kwargs):
        env = VecNormalize(make_env(ENVS[name], 2))
        model = algorithm("MlpPolicy", env, **small(learning_starts=40, n_steps=3, gamma=0.9, **kwargs))
        return model.learn(100)

    expected = trained(getattr(theirs, name))
    assert type(expected.replay_buffer) is NStepReplayBuffer
    found = trained(getattr(ours, name), replay_buffer_kwargs=dict(half_life=float("inf")))
    assert type(found.replay_buffer) is DecayedReplayBuffer
    assert found._n_updates == expected._n_updates > 0
    for one, other in zip(parameters(found), parameters(expected), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", ENVS)
def test_every_algorithm_learns_logs_and_loads(name, tmp_path):
    is_dict = ENVS[name] == DICT
    model = getattr(ours, name)(
        "MultiInputPolicy" if is_dict else "MlpPolicy",
        make_env(ENVS[name], 8),
        **small(learning_starts=1_560, n_steps=2, gamma=0.9, tensorboard_log=str(tmp_path)),
        replay_buffer_kwargs=dict(half_life="auto"),
    )
    model.learn(1_608, callback=ReplayLog(), log_interval=1)
    buffer = model.replay_buffer
    assert type(buffer) is (DecayedDictReplayBuffer if is_dict else DecayedReplayBuffer)
    assert (buffer.n_steps, buffer.gamma, buffer.n_envs, buffer.consistency is None) == (2, 0.9, 8, False)
    assert model._n_updates > 0

    events = EventAccumulator(str(tmp_path / f"{name}_1"))
    events.Reload()
    keys = {"mean_age", "entropy", "effective_sample_size", "volume", "regime", "alarms", "consistency"}
    assert {f"replay/{key}" for key in keys} <= set(events.Tags()["scalars"])

    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    again = type(model).load(tmp_path / "model", env=model.env)
    again.load_replay_buffer(tmp_path / "buffer.pkl")
    observation = model.env.reset()
    assert np.array_equal(
        again.predict(observation, deterministic=True)[0], model.predict(observation, None, None, True)[0]
    )
    assert (again.n_steps, again.replay_buffer.n_steps, again.replay_buffer.gamma) == (2, 2, 0.9)
    assert np.array_equal(again.replay_buffer.ages(), buffer.ages())
    if name == "DQN":  # every 1,000 steps: of 8 environments each
        assert model.target_update_interval == again.target_update_interval == 125


@pytest.mark.parametrize("options", [{"weighting": "loss"}, {"beta": 0.5}, {"prioritized": True}], ids=str)
def test_what_sbx_ignores_is_an_error(options):
    with pytest.raises(ValueError, match=r"has no effect with SBX's algorithms, .*: use "):
        ours.DQN("MlpPolicy", "CartPole-v1", replay_buffer_kwargs=options)


@pytest.mark.parametrize("options", [dict(weighting="loss"), dict(beta=0.4)])
def test_ignored_options_give_a_warning_with_the_classes_of_sbx(options):
    model = theirs.DQN(
        "MlpPolicy", "CartPole-v1", replay_buffer_class=DecayedReplayBuffer, replay_buffer_kwargs=options, **small()
    )
    with pytest.warns(UserWarning, match="SBX ignore"):
        model.learn(120)


@pytest.mark.parametrize(
    ("kwargs", "complaint"),
    [
        (dict(env="CartPole-v1", gamma=0.9, replay_buffer_kwargs=dict(gamma=0.99)), "contradict each other"),
        (dict(env="CartPole-v1", n_steps=2, replay_buffer_kwargs=dict(n_steps=3)), "contradict each other"),
        (dict(env=InDict(gym.make("CartPole-v1"))), "FlattenObservation, or use ReptileDQN"),
    ],
)
def test_mistakes_are_refused(kwargs, complaint):
    policy = "MultiInputPolicy" if "or use" in complaint else "MlpPolicy"
    with pytest.raises(ValueError, match=complaint):
        ours.DQN(policy, **kwargs)


def test_checkpoints_that_would_not_hold_the_networks_are_refused(tmp_path):
    model = ours.DQN("MlpPolicy", "CartPole-v1", **small())
    with pytest.raises(ValueError, match="ResumableCheckpoint saves networks of PyTorch, DQN has none"):
        model.learn(10, callback=ResumableCheckpoint(10, tmp_path / "checkpoints"))
    assert not (tmp_path / "checkpoints").exists()


def test_the_zoo_trains_and_enjoys_with_the_file_of_the_same_algorithm(tmp_path):
    where = ["--algo", "sbx_dqn", "--env", "CartPole-v1", "-f", tmp_path]
    output = run("-m", "sb3_reptile.zoo", "train", *where, *FAST, "--tensorboard-log", tmp_path / "events")
    assert "zoo_configs/dqn.yml" in output
    assert "replay/" in output
    assert "Mean reward" in run("-m", "sb3_reptile.zoo", "enjoy", *where, "--no-render", "-n", "300")
