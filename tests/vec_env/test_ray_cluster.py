"""RayVecEnv on a cluster of three nodes on this machine: training equals that of DummyVecEnv, and survives losses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile import DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.vec_env import RayVecEnv, WorkersLostError, ray_calls
from sb3_reptile.vec_env.ray_cluster import map_on_cluster
from sb3_reptile.vec_env.ray_worker import EnvironmentFailedError
from tests.conftest import assert_same_parameters, small
from tests.vec_env.environments import SPACES, Everything, Numbered, NumberedGoals, Raises
from tests.vec_env.test_ray_vec_env import assert_same

pytestmark = pytest.mark.ray


def ray_env(cluster, fns, envs_per_worker=2, threads_per_worker=1, **kwargs):
    # With threads, on the driver's node: steps go through channels
    node = "driver" if threads_per_worker > 1 else "worker"
    kwargs = dict(resources={"CPU": 0, node: 1}, address=cluster.address, backoff=0.1, **kwargs)
    kwargs["threads_per_worker"] = threads_per_worker
    return RayVecEnv(fns, envs_per_worker, **kwargs)


@pytest.mark.parametrize("threads", [1, 2])
def test_training_is_bit_for_bit_that_of_dummy_vec_env(cluster, threads):
    resources = {"CPU": 0, "driver" if threads > 1 else "worker": 1}
    kwargs = dict(envs_per_worker=2, address=cluster.address, resources=resources, threads_per_worker=threads)
    env = make_vec_env("CartPole-v1", 4, vec_env_cls=RayVecEnv, vec_env_kwargs=kwargs)
    settings = {
        DQN: dict(learning_starts=100, train_freq=16, target_update_interval=200, exploration_fraction=0.5),
        PPO: dict(n_steps=128, n_epochs=2),
    }
    try:
        for algorithm, of_algorithm in settings.items():
            models = []
            for of_run in (env, make_vec_env("CartPole-v1", 4, vec_env_cls=DummyVecEnv)):
                of_run.seed(1)
                models.append(algorithm("MlpPolicy", of_run, seed=1, device="cpu", **of_algorithm).learn(5_000))
            assert_same_parameters(*models)
            assert [info["r"] for info in models[0].ep_info_buffer] == [info["r"] for info in models[1].ep_info_buffer]
    finally:
        env.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_large_and_dict_observations_are_those_of_dummy_vec_env(cluster, threads):
    # Larger than what a channel holds at first
    large = gym.spaces.Box(0, 255, (1_200, 1_200, 3), np.uint8)
    for space in (SPACES["image"], SPACES["dict"], large):
        fns = [lambda space=space: Everything(space) for _ in range(3)]
        ours, theirs = ray_env(cluster, fns, threads_per_worker=threads), DummyVecEnv(fns)
        for env in (ours, theirs):
            env.seed(3)
            env.set_options({"a": np.arange(2)})
            env.set_attr("mark", np.arange(3), [1])
        assert_same(ours.reset(), theirs.reset())
        for _ in range(8):
            actions = np.random.default_rng(0).uniform(-1, 1, (3, 3)).astype(np.float32)
            assert_same(ours.step(actions.copy()), theirs.step(actions.copy()))
        assert_same(ours.get_attr("mark", 1), theirs.get_attr("mark", 1))
        assert_same(ours.env_method("add", 2), theirs.env_method("add", 2))
        assert_same(ours.get_images(), theirs.get_images())
        assert not ours.has_attr("nothing")
        with pytest.raises(ValueError, match=r"^number must be a number$"):
            ours.env_method("add", None)
        ours.close()


class Lose(BaseCallback):
    """Does something at a step."""

    def __init__(self, step, what):
        super().__init__()
        self.step, self.what = step, what

    def _on_step(self):
        if self.n_calls == self.step:
            self.what()
        return True


def assert_true_transitions(buffer):
    """Steps are numbered, so that a false transition shows."""
    n = buffer.size()
    obs, next_obs = buffer.observations, buffer.next_observations
    if isinstance(obs, dict):
        obs, next_obs = obs["observation"], next_obs["observation"]
    np.testing.assert_array_equal(next_obs[:n], obs[:n] + np.array([0, 1]))
    if not isinstance(buffer, DecayedHerReplayBuffer):
        np.testing.assert_array_equal(buffer.rewards[:n], next_obs[:n, :, 1])
    np.testing.assert_array_equal(buffer.dones[:n], next_obs[:n, :, 1] == 20)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_actor_that_is_killed_leaves_no_false_transition(cluster, tmp_path, threads):
    env = ray_env(cluster, [lambda: Numbered(kills=str(tmp_path))] * 4, threads_per_worker=threads)
    model = ReptileDQN("MlpPolicy", env, gamma=0.5, **small(n_steps=3))
    logged = []
    kill = Lose(60, lambda: (tmp_path / "one").touch())
    log = Lose(140, lambda: logged.append(env.log_values()))
    model.learn(800, callback=[kill, log])
    assert logged == [{"workers/restarts": 1, "workers/lost_transitions": 2}]
    buffer = model.replay_buffer
    assert buffer.size() == 199
    assert_true_transitions(buffer)
    # Rewards are step numbers: each return sums successive ones, and ends where its next observation is
    batch = buffer.sample(2_000)
    first, last = (part[:, 1].numpy().astype(int) for part in (batch.observations, batch.next_observations))
    sums = [sum(0.5**k * (a + 1 + k) for k in range(b - a)) for a, b in zip(first, last, strict=True)]
    np.testing.assert_allclose(batch.rewards.ravel(), sums, rtol=1e-6)
    np.testing.assert_allclose(batch.discounts.ravel(), 0.5 ** (last - first), rtol=1e-6)
    np.testing.assert_array_equal(*(part[:, 0] for part in (batch.observations, batch.next_observations)))
    assert set(last - first) == {1, 2, 3}
    assert in_channels(env) == [threads == 2] * 2
    env.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_worker_whose_step_hangs_is_started_again_after_call_timeout(cluster, tmp_path, threads):
    fns = [lambda: Numbered(hangs=str(tmp_path))] * 2 * threads
    env = ray_env(cluster, fns, envs_per_worker=threads, threads_per_worker=threads, call_timeout=5)
    env.reset()
    for _ in range(10):
        env.step(np.zeros(len(fns), int))
    (tmp_path / "one").touch()
    with pytest.warns(UserWarning, match="'step' did not return within 5 s, call_timeout"):
        assert env.step(np.zeros(len(fns), int))[2].sum() == threads
    dones = env.step(np.zeros(len(fns), int))[2]
    assert env.log_values() == {"workers/restarts": 1, "workers/lost_transitions": threads}
    assert not dones.any()
    env.close()


def in_channels(env):
    return [worker.channel is not None for worker in env.workers.all]


def test_calls_come_after_the_step_under_way_and_unwanted_steps_are_not_delivered(cluster):
    env = ray_env(cluster, [lambda: Numbered(seconds=0.1)] * 4, threads_per_worker=2)
    env.reset()
    for number in range(1, 4):
        env.step_async(np.zeros(4, int))
        assert env.get_attr("step_number") == [number] * 4
        assert env.step_wait()[1].tolist() == [number] * 4
    env.step_async(np.zeros(4, int))
    env.reset()
    assert env.get_attr("step_number") == [0] * 4
    assert env.step(np.zeros(4, int))[1].tolist() == [1] * 4
    # As after an interruption in the middle of step_wait()
    env.step_async(np.zeros(4, int))
    env._pending.clear()
    assert env.step(np.zeros(4, int))[1].tolist() == [3] * 4
    assert in_channels(env) == [True, True]
    env.close()


def test_a_step_that_takes_long_is_delivered_after_a_warning(cluster, monkeypatch):
    env = ray_env(cluster, [Numbered] * 4, threads_per_worker=2)
    env.reset()
    env.set_attr("seconds", 3.0, 0)
    monkeypatch.setattr(ray_calls, "PATIENCE", 0.5)
    with pytest.warns(UserWarning, match=r"environments 0 to 1: 'step' did not return within 0.5 s"):
        assert env.step(np.zeros(4, int))[1].tolist() == [1] * 4
    env.set_attr("seconds", 0.0, 0)
    # The reference to its result was used up, and nobody knows when the channel is free again
    assert in_channels(env) == [False, True]
    assert env.step(np.zeros(4, int))[1].tolist() == [2] * 4
    env.close()


class NeedsTwoError(Exception):
    """Cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize("threads", [1, 2])
def test_exceptions_of_an_environment_are_raised_here(cluster, threads):
    env = ray_env(cluster, [Raises] * 2, threads_per_worker=threads)
    env.reset()
    with pytest.raises(ValueError, match=r"^three$"):
        env.env_method("fail", ValueError, "three")
    with pytest.raises(EnvironmentFailedError, match=r"^NeedsTwoError: one and two\n\n(.*\n)+.*in fail"):
        env.env_method("fail", NeedsTwoError, "one", "two")
    with pytest.raises(KeyboardInterrupt, match=r"in an environment: four"):
        env.env_method("fail", KeyboardInterrupt, "four", indices=1)
    assert env.step([0, 0])[1].tolist() == [1, 1]
    for error, message in (
        ((ValueError, "five"), r"^five$"),
        ((NeedsTwoError, "six", "seven"), "^NeedsTwoError: six and seven\n"),
        ((KeyboardInterrupt, "eight"), "in an environment: eight"),
    ):
        env.set_attr("error", error, 0)
        with pytest.raises(BaseException, match=message) as raised:
            env.step([0, 0])
        assert isinstance(raised.value, KeyboardInterrupt if "eight" in message else Exception)
    env.set_attr("error", None, 0)
    # In threads, the second one was stepped each time
    assert env.step([0, 0])[1].tolist() == ([2, 5] if threads == 2 else [2, 2])
    assert in_channels(env) == [threads == 2]
    assert env.workers.n_restarts == 0
    env.close()


def test_a_node_that_is_lost_leaves_no_false_transition_with_hindsight(cluster):
    env = ray_env(cluster, [NumberedGoals] * 4, envs_per_worker=1)
    # Ray may have placed all workers on the other node
    (node_id,) = env.env_method("node_id", indices=0)
    (lost,) = (node for node in cluster.worker_nodes_ if node.node_id == node_id)
    buffer_of = dict(replay_buffer_class=DecayedHerReplayBuffer, replay_buffer_kwargs=dict(copy_info_dict=True))
    model = ReptileDQN("MultiInputPolicy", env, **small(learning_starts=100, **buffer_of))
    model.learn(800, callback=Lose(60, lambda: cluster.remove_node(lost, allow_graceful=False)))
    values = env.log_values()
    # One that Ray placed on the lost node again was lost before it began
    assert values["workers/restarts"] >= values["workers/lost_transitions"] >= 1
    assert 195 <= model.replay_buffer.size() < 200
    assert_true_transitions(model.replay_buffer)
    batch = model.replay_buffer.sample(500)
    # The goals of an episode are states of this episode
    np.testing.assert_array_equal(batch.observations["desired_goal"][:, 0], batch.observations["observation"][:, 0])
    env.close()


def test_beyond_max_restarts_a_checkpoint_is_saved_from_which_training_resumes(cluster, tmp_path):
    kills = tmp_path / "kills"
    kills.mkdir()
    env = ray_env(cluster, [lambda: Numbered(kills=str(kills))] * 2, max_restarts=0)
    model = DQN("MlpPolicy", env, replay_buffer_class=DecayedReplayBuffer, **small())
    checkpoints = ResumableCheckpoint(100_000, tmp_path / "checkpoints")
    with pytest.raises(WorkersLostError, match="max_restarts=0"):
        model.learn(1_000, callback=[checkpoints, Lose(60, (kills / "one").touch)])
    env.close()
    with pytest.warns(UserWarning, match="environment could not be restored"):
        resumed = resume(tmp_path / "checkpoints", DummyVecEnv([Numbered] * 2))
    assert resumed.num_timesteps == model.num_timesteps > 120
    resumed.learn(200, reset_num_timesteps=False)
    assert_true_transitions(resumed.replay_buffer)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("by_the_program", [False, True])
def test_closing_environments_of_a_former_connection_leaves_the_present_one_alone(cluster, threads, by_the_program):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    former = ray_env(cluster, [Numbered] * 2, threads_per_worker=threads)
    former.reset()
    ray.shutdown()
    if by_the_program:
        ray.init(address=cluster.address, logging_level="ERROR")
    present = ray_env(cluster, [Numbered] * 2, threads_per_worker=threads)
    present.reset()
    former.close()
    assert present.step([0, 0])[1].tolist() == [1, 1]
    present.close()
    # The last one ends a connection that it has made
    assert ray.is_initialized() == by_the_program
    ray.shutdown()


def test_calls_are_spread_over_the_cluster(cluster):
    assert map_on_cluster(lambda x: x**2, range(4), cluster.address) == [0, 1, 4, 9]


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_page_run(cluster, number, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "how_to" / "run_on_a_cluster.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[number]
    assert "100_000" in code
    script = tmp_path / "example.py"
    script.write_text(code.replace("100_000", "400"), encoding="utf-8")
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
