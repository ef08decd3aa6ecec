"""RayVecEnv has SB3's VecEnv contract: here with a Ray in this process, on a cluster in test_ray_cluster.py."""

import pickle
import subprocess
import sys
from functools import partial

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_reptile import DecayedReplayBuffer
from sb3_reptile.callbacks import WorkerLog
from sb3_reptile.replay.episodes import LOST
from sb3_reptile.vec_env import RayVecEnv, WorkersLostError, ray_calls, ray_worker, ray_workers
from sb3_reptile.vec_env.ray_cluster import map_on_cluster
from tests.vec_env.environments import SPACES, Everything, InThreads, Numbered, Raises


def assert_same(ours, theirs):
    """Equal values and types, at every depth."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert ours.flags.writeable
    else:
        assert ours == theirs


@pytest.mark.parametrize(("envs_per_worker", "threads"), [(1, 1), (2, 1), (8, 1), (2, 2), (8, 2), (8, 8)])
@pytest.mark.parametrize("space", SPACES)
def test_trajectories_are_those_of_dummy_vec_env(fake_ray, space, envs_per_worker, threads):
    fns = [partial(Everything, SPACES[space]) for _ in range(3)]
    ours, theirs = RayVecEnv(fns, envs_per_worker, threads_per_worker=threads), DummyVecEnv(fns)
    assert len(fake_ray.started) == -(-3 // envs_per_worker)
    assert ours.metadata == theirs.metadata
    rng = np.random.default_rng(0)
    for seed in (3, None):
        for env in (ours, theirs):
            if seed is not None:
                assert env.seed(seed) == [3, 4, 5]
                env.set_options([{"a": 1}, {}, {"b": 2}])
        assert_same(ours.reset(), theirs.reset())
        assert_same(ours.reset_infos, theirs.reset_infos)
        for _ in range(12):
            actions = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
            assert_same(ours.step(actions.copy()), theirs.step(actions.copy()))
            assert_same(ours.reset_infos, theirs.reset_infos)
    assert_same(ours.get_images(), theirs.get_images())
    assert_same(ours.render(), theirs.render())


@pytest.mark.parametrize(("envs_per_worker", "threads"), [(2, 1), (5, 3)])
def test_attributes_and_methods_reach_the_environments_asked_for(fake_ray, envs_per_worker, threads):
    fns = [partial(Everything, SPACES["box"]) for _ in range(5)]
    ours = RayVecEnv(fns, envs_per_worker, threads_per_worker=threads)
    theirs = DummyVecEnv([lambda fn=fn: Monitor(fn()) for fn in fns])
    for env in (ours, theirs):
        env.set_attr("mark", np.arange(2), [0, 3])
        env.set_attr("mark", "x", [-1, 1])
        env.set_attr("mark", None, 2)
    for indices in (None, 3, [4, 0, 1], [-1], [], np.array([2, 3])):
        assert_same(ours.get_attr("mark", indices), theirs.get_attr("mark", indices))
        result = ours.env_method("add", 3, other=4, indices=indices)
        assert result == theirs.env_method("add", 3, other=4, indices=indices)
    arguments = dict(index=1, method="a", function="b", args=(), fn=2)
    assert_same(ours.env_method("named", **arguments), theirs.env_method("named", **arguments))
    assert ours.env_is_wrapped(Monitor) == [False] * 5
    assert RayVecEnv([lambda: Monitor(fns[0]())]).env_is_wrapped(Monitor) == [True]
    assert [env.has_attr("steps") for env in (ours, theirs)] == [True, True]
    assert [env.has_attr("nothing") for env in (ours, theirs)] == [False, False]
    with pytest.raises(AttributeError, match="nothing"):
        ours.get_attr("nothing")
    with pytest.raises(IndexError, match="0 to 4, got 5"):
        ours.get_attr("mark", 5)
    # Attributes that cannot be pickled exist too
    ours.set_attr("lock", partial(print), 0)
    assert not ours.has_attr("lock")


def test_threads_step_environments_at_the_same_time_each_always_in_the_same_thread(fake_ray):
    env = RayVecEnv([InThreads] * 4, envs_per_worker=4, threads_per_worker=2)
    env.reset()
    # The first of each thread meet in their step, and then the second
    assert env.step(np.zeros(4, int))[1].tolist() == [1] * 4
    in_step, in_call = env.get_attr("threads"), env.env_method("thread")
    assert [set(of_env) for of_env in in_step] == [{thread} for thread in in_call]
    assert in_call[0] == in_call[1] != in_call[2] == in_call[3]
    env.set_attr("written_in", 0)
    assert env.get_attr("read_in") == env.get_attr("written_in") == in_call
    # The first exception; the others are not left in their step
    env.set_attr("broken", 1, [1])
    env.set_attr("broken", 3, [3])
    with pytest.raises(ValueError, match="the environment 1 is broken"):
        env.step(np.zeros(4, int))
    env.set_attr("broken", None)
    assert env.step(np.zeros(4, int))[1].tolist() == [1] * 4
    made = env.workers.all[0].actor.instance._envs.envs
    env.close()
    assert [one.threads[-1] for one in made] == in_call


class NeedsTwoError(Exception):
    """Cannot be unpickled."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class CountsTwiceError(NeedsTwoError):
    """Another text after it was unpickled."""

    def __init__(self, code, text="nothing"):
        super().__init__(code, text)


def test_exceptions_are_those_of_the_environment(fake_ray):
    env = RayVecEnv([Raises] * 2)
    env.reset()
    with pytest.raises(ValueError, match=r"^$") as raised:
        env.env_method("fail", ValueError)
    # Where it was raised
    assert "in fail" in str(raised.value.__cause__)
    # As in a VecEnv of this process, where it ends training as Ctrl-C does
    with pytest.raises(KeyboardInterrupt, match="in an environment"):
        env.env_method("fail", KeyboardInterrupt, indices=0)
    assert env.step([0, 0])[1].tolist() == [1, 1]
    assert fake_ray.killed == 0
    assert env.workers.n_restarts == 0


@pytest.mark.parametrize("error", [NeedsTwoError, CountsTwiceError])
@pytest.mark.parametrize("threads", [1, 2])
def test_exceptions_that_cannot_be_unpickled_arrive_with_their_class_text_and_traceback(fake_ray, error, threads):
    env = RayVecEnv([Raises] * 2, envs_per_worker=2, threads_per_worker=threads)
    env.reset()
    env.set_attr("error", (error, 3, "boom"), 0)
    for call in (lambda: env.step([0, 0]), lambda: env.env_method("fail", error, 3, "boom")):
        with pytest.raises(ray_worker.EnvironmentFailedError, match=f"^{error.__name__}: 3: boom\n") as raised:
            call()
        assert "in fail" in str(pickle.loads(pickle.dumps(raised.value)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(env_fns=[]), "env_fns must be functions"),
        (dict(env_fns=[gym.make("CartPole-v1")]), "env_fns must be functions"),
        (dict(envs_per_worker=0), "envs_per_worker must be a whole number >= 1, got 0"),
        (dict(threads_per_worker=0), "threads_per_worker must be a whole number >= 1, got 0"),
        (dict(envs_per_worker=2, threads_per_worker=3), "at most envs_per_worker=2, got 3"),
        (dict(max_restarts=-1), "max_restarts must be a whole number >= 0, got -1"),
        (dict(backoff=float("nan")), "backoff must be a number of seconds"),
        (dict(call_timeout=0), "call_timeout must be a number of seconds > 0, or None, got 0"),
        (dict(call_timeout="1"), "call_timeout must be a number of seconds > 0, or None, got '1'"),
        (dict(resources={"GPU": -1}), "resources must be numbers >= 0 by name"),
        (dict(max_delay=3), "max_delay needs asynchronous=True"),
        (dict(asynchronous=True, max_delay=-1), "max_delay must be a whole number of updates >= 0"),
        (dict(asynchronous=True, envs_per_worker=2), "got 3 environments and envs_per_worker=2"),
    ],
)
def test_arguments_that_are_not_allowed_are_errors(fake_ray, arguments, message):
    with pytest.raises(ValueError, match=message):
        RayVecEnv(**{"env_fns": [Numbered] * 3, **arguments})
    assert fake_ray.started == []


def test_resources_are_those_of_the_actors(fake_ray):
    RayVecEnv([Numbered], resources={"GPU": 0.5, "simulator": 1})
    (options,) = fake_ray.started
    assert {name: options[name] for name in ("num_cpus", "num_gpus", "resources")} == {
        "num_cpus": 1,
        "num_gpus": 0.5,
        "resources": {"simulator": 1},
    }


def test_a_lost_worker_is_seeded_and_set_up_again_and_its_step_is_truncated(fake_ray):
    env = RayVecEnv([Numbered] * 4, envs_per_worker=2, backoff=0)
    env.seed(7)
    env.set_attr("order", "first")
    env.set_attr("gain", 2.0, [2])
    env.set_attr("gain", 3.0, [2])
    env.set_attr("length", 30)
    env.set_attr("order", "again")  # set again after what was set since
    first = env.reset()
    before = env.step(np.zeros(4, int))[0]
    fake_ray.dying = {fake_ray.n_calls + 2}  # the step of the second worker
    obs, rewards, dones, infos = env.step(np.zeros(4, int))
    assert dones.tolist() == [False, False, True, True]
    assert rewards.tolist() == [2, 2, 0, 0]
    assert [LOST in info for info in infos] == [False, False, True, True]
    for index in (2, 3):
        assert infos[index]["TimeLimit.truncated"]
        np.testing.assert_array_equal(infos[index]["terminal_observation"], before[index])
    assert obs[:, 1].tolist() == [2, 2, 0, 0]
    # Other episodes than the first, but with a seed that the first one determines
    assert set(obs[2:, 0]).isdisjoint(first[:, 0])
    assert [info["seed"] for info in env.reset_infos] == [7, 8, 7 + 2 + 4, 7 + 3 + 4]
    assert env.get_attr("gain") == [1, 1, 3, 1]
    assert env.get_attr("length") == [30] * 4
    assert env.get_attr("was_set")[2:] == [["gain", "length", "order"], ["length", "order"]]
    assert env.log_values() == {"workers/restarts": 1, "workers/lost_transitions": 2}
    _, rewards, dones, infos = env.step(np.zeros(4, int))
    assert rewards.tolist() == [3, 3, 3, 1]
    assert not dones.any()


@pytest.mark.parametrize("call", ["get_attr", "reset", "restart"])
def test_a_worker_that_is_lost_outside_of_a_step_is_started_again(fake_ray, call):
    env = RayVecEnv([Numbered] * 2, backoff=0)
    env.seed(0)
    env.reset()
    env.step([0, 0])
    if call == "restart":  # the restarted worker is lost while it is reset
        fake_ray.dying = {fake_ray.n_calls + 2, fake_ray.n_calls + 5}
    else:
        fake_ray.dying = {fake_ray.n_calls + 2}
        assert len(env.get_attr("gain") if call == "get_attr" else env.reset()) == 2
    _, rewards, dones, infos = env.step([0, 0])
    if call == "reset":
        assert not dones.any()
        assert rewards.tolist() == [1, 1]
    else:
        assert dones.tolist() == [False, True]
        assert infos[1][LOST]
    assert env.workers.n_restarts == (2 if call == "restart" else 1)
    assert env.step([0, 0])[2].tolist() == [False, False]


def test_pauses_before_restarts_are_doubled_up_to_a_minute(fake_ray, monkeypatch):
    pauses = []
    monkeypatch.setattr(ray_workers.time, "sleep", pauses.append)
    env = RayVecEnv([Numbered], max_restarts=9, backoff=0.5)
    env.reset()
    for _ in range(9):
        fake_ray.dying = {fake_ray.n_calls + 1}
        env.get_attr("gain")
        env.step([0])
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_beyond_max_restarts_the_model_is_saved_before_the_error(fake_ray, tmp_path):
    from stable_baselines3.common.callbacks import CheckpointCallback

    env = RayVecEnv([Numbered] * 2, max_restarts=1, backoff=0)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    fake_ray.dying = {fake_ray.n_calls + 20, fake_ray.n_calls + 30, fake_ray.n_calls + 31, fake_ray.n_calls + 40}
    saving = CheckpointCallback(1_000_000, str(tmp_path))
    with pytest.raises(WorkersLostError, match=r"environment . was lost and started again 1 times, .*The actor died"):
        model.learn(1_000, callback=[saving, WorkerLog()])
    (saved,) = tmp_path.glob("*.zip")
    assert PPO.load(saved, device="cpu").num_timesteps == model.num_timesteps > 0
    with pytest.raises(WorkersLostError):
        env.step([0, 0])
    env.close()


def test_what_the_cluster_lacks_is_said_at_once(fake_ray):
    with pytest.warns(UserWarning, match=r"the cluster has 64 CPU, 0 robot, and the workers need 66 CPU, 1.5 robot"):
        RayVecEnv([Numbered] * 3, resources={"CPU": 22, "robot": 0.5, "simulator": 0.25})


def test_a_worker_that_dies_while_it_starts_is_started_again_without_a_second_reset(fake_ray, monkeypatch):
    pauses = []
    monkeypatch.setattr(ray_workers.time, "sleep", pauses.append)
    fake_ray.dying = {2, 3}
    # Each environment refuses a reset in an episode
    env = RayVecEnv([lambda: Monitor(Numbered(), allow_early_resets=False)] * 4, envs_per_worker=2, backoff=0.25)
    assert env.log_values() == {"workers/restarts": env.workers.n_restarts, "workers/lost_transitions": 0}
    assert env.workers.n_restarts in (2, 3)
    assert sum(pauses) >= 0.25
    env.seed(5)
    assert env.reset()[:, 1].tolist() == [0] * 4
    assert [info["seed"] for info in env.reset_infos] == [5, 6, 7, 8]
    assert not env.step(np.zeros(4, int))[2].any()
    env.close()


def test_a_worker_that_always_dies_while_it_starts_is_named(fake_ray):
    fake_ray.dying = {2, 3, 4}
    with pytest.raises(
        WorkersLostError, match=r"environments 2 to 3 was lost and .* 2 times.*while it started: The ac"
    ):
        RayVecEnv([Numbered] * 4, envs_per_worker=2, max_restarts=2, backoff=0)
    assert fake_ray.killed >= 4


def test_a_worker_that_does_not_return_within_call_timeout_is_lost(fake_ray):
    env = RayVecEnv([Numbered] * 2, backoff=0, call_timeout=0.1)
    env.reset()
    fake_ray.slow = {fake_ray.n_calls + 2}
    with pytest.warns(UserWarning, match=r"environment 1: 'step' did not return within 0.1 s, call"):
        _, _, dones, infos = env.step([0, 0])
    assert dones.tolist() == [False, True]
    assert [LOST in info for info in infos] == [False, True]
    assert env.log_values() == {"workers/restarts": 1, "workers/lost_transitions": 1}


def test_a_worker_that_is_lost_does_not_hide_that_another_one_takes_long(fake_ray, monkeypatch):
    monkeypatch.setattr(ray_calls, "PATIENCE", 0.1)
    for dying in (set(), {2}):
        env = RayVecEnv([Numbered] * 3, backoff=0)
        env.reset()
        fake_ray.slow, fake_ray.dying = ({fake_ray.n_calls + number for number in of} for of in ({1}, dying))
        with pytest.warns(UserWarning, match=r"environment 0: 'step' did not .* 0.1 s, .* \(now None\)") as all_:
            rewards = env.step([0, 0, 0])[1]
        assert len(all_) == 1
        assert rewards.tolist() == [1, 0 if dying else 1, 1]


def test_a_call_timeout_ends_a_step_after_the_warning(fake_ray, monkeypatch):
    monkeypatch.setattr(ray_calls, "PATIENCE", 0.1)
    env = RayVecEnv([Numbered] * 2, backoff=0, call_timeout=0.3)
    env.reset()
    fake_ray.slow = {fake_ray.n_calls + 2}
    with pytest.warns(UserWarning, match="environment 1") as all_:
        assert env.step([0, 0])[2].tolist() == [False, True]
    assert [("now 0.3" in str(one.message), "0.3 s, call_timeout" in str(one.message)) for one in all_] == [
        (True, False),
        (False, True),
    ]


def test_steps_that_have_not_begun_and_closed_environments_are_errors(fake_ray):
    env = RayVecEnv([partial(Everything, SPACES["box"])] * 2)
    env.reset()
    with pytest.raises(ValueError, match=r"call step_async\(\) before"):
        env.step_wait()
    env.step_async(np.zeros((2, 3)))
    env.step_wait()
    with pytest.raises(ValueError, match=r"call step_async\(\) before"):
        env.step_wait()
    with pytest.raises(ValueError, match="actions must be those of 2 environments, got 3"):
        env.step(np.zeros((3, 3)))
    env.step_async(np.zeros((2, 3)))
    closing = [worker.actor.instance._envs.envs[0] for worker in env.workers.all]
    env.close()
    env.close()
    assert [one.is_closed for one in closing] == [True, True]
    assert fake_ray.killed == 2
    actions = np.zeros((2, 3))
    for call in (
        env.reset,
        env.step_wait,
        env.get_images,
        lambda: env.step(actions),
        lambda: env.get_attr("steps"),
        lambda: env.set_attr("steps", 1),
        lambda: env.has_attr("steps"),
        lambda: env.env_method("add", 1),
        lambda: env.env_is_wrapped(Monitor),
    ):
        with pytest.raises(ValueError, match="have been closed"):
            call()


# The file of a worker that is killed is not closed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_monitor_files_of_a_lost_worker_are_continued(fake_ray, tmp_path):
    env = make_vec_env(
        lambda: Numbered(length=3),
        n_envs=1,
        monitor_dir=str(tmp_path),
        vec_env_cls=RayVecEnv,
        vec_env_kwargs=dict(backoff=0),
    )
    env.reset()
    for step in range(12):
        if step == 7:
            fake_ray.dying = {fake_ray.n_calls + 1}
        env.step([0])
    # The fourth episode began after the loss
    assert load_results(str(tmp_path))["l"].tolist() == [3, 3, 3]
    assert load_results(str(tmp_path))["t"].is_monotonic_increasing


def test_buffers_of_this_package_leave_lost_transitions_out(fake_ray):
    env = VecNormalize(RayVecEnv([Numbered] * 2, backoff=0))
    buffer = DecayedReplayBuffer(20, env.observation_space, env.action_space, "cpu", n_envs=2, n_steps=3)
    obs = env.reset()
    for step in range(6):
        if step == 3:
            fake_ray.dying = {fake_ray.n_calls + 1}
        next_obs, rewards, dones, infos = env.step([0, 0])
        buffer.add(obs, next_obs, np.zeros((2, 1)), rewards, dones, infos)
        obs = next_obs
    assert buffer.size() == 5
    assert buffer.timeouts[2].tolist() == [1, 1]
    assert buffer.timeouts.sum() == 2


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"sb3-reptile\[ray\]"):
        RayVecEnv([Numbered])
    with pytest.raises(ImportError, match=r"sb3-reptile\[ray\]"):
        map_on_cluster(str, [1])


def test_the_package_never_imports_ray():
    modules = "sb3_reptile, sb3_reptile.callbacks, sb3_reptile.checkpoint, sb3_reptile.evaluation.runner"
    modules += ", sb3_reptile.vec_env.ray_asynchronous, sb3_reptile.zoo.patches"
    code = f"import {modules}, sys; assert 'ray' not in sys.modules, 'it does'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_worker_that_was_started_again_between_steps_is_not_stepped_before_its_reset_is_delivered(fake_ray):
    env = RayVecEnv([Numbered] * 2, backoff=0)
    env.reset()
    fake_ray.dying = {fake_ray.n_calls + 2}
    env.get_attr("gain")
    obs, _, dones, _ = env.step([0, 0])
    assert dones.tolist() == [False, True]
    assert obs[:, 1].tolist() == [1, 0]
    assert env.step([0, 0])[0][:, 1].tolist() == [2, 1]


def test_workers_that_are_lost_together_pause_as_long_as_the_one_lost_most_often(fake_ray, monkeypatch):
    pauses = []
    monkeypatch.setattr(ray_workers.time, "sleep", pauses.append)
    env = RayVecEnv([Numbered] * 2, backoff=0.5)
    env.reset()
    for lost in ([1], [1], [1, 2]):
        fake_ray.dying = {fake_ray.n_calls + number for number in lost}
        env.step([0, 0])
    # The environments sleep for 0 s in their steps
    assert [pause for pause in pauses if pause] == [0.5, 1, 2]


def test_a_step_whose_message_is_late_or_lost_is_done_once():
    worker = ray_worker.EnvWorker()
    worker.build(cloudpickle.dumps([Numbered] * 2), 2, False)
    worker.reset([None] * 2, cloudpickle.dumps([{}] * 2))
    actions = cloudpickle.dumps(np.zeros(2, int))

    def rewards(packed):
        return ray_worker.unpack(packed)[1].tolist()

    def message(number):
        return number.to_bytes(8, "big") + actions

    assert rewards(worker.step_in_channel(message(1))) == [1, 1]
    # A call comes first, and the message after it
    worker.await_step(2, actions)
    assert worker.call("get_attr", cloudpickle.dumps((("step_number",), {"indices": [0, 1]}))) == cloudpickle.dumps(
        [2, 2]
    )
    assert rewards(worker.result_of_step(2, actions)) == [2, 2]
    assert rewards(worker.step_in_channel(message(2))) == [2, 2]
    assert rewards(worker.step_in_channel(message(3))) == [3, 3]
    worker.close()
