"""The outer loop: what it computes, what it keeps, and what it refuses."""

import copy
import gc
import tempfile
import weakref

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.meta import (
    JointTasks,
    MetaCheckpoint,
    Navigation,
    Regression,
    ReptileMetaLearner,
    SineWaves,
    resume,
)
from sb3_reptile.meta.inner_runs import Processes
from sb3_reptile.meta.learned_parameters import learned_parameters, optimizer_states
from sb3_reptile.meta.navigation import HiddenGoal
from sb3_reptile.meta.sine_waves import SineWave
from sb3_reptile.vec_env import ray_cluster
from tests.meta.learners import (
    DQN_ARGUMENTS,
    Normalized,
    Pulls,
    Written,
    assert_equal,
    dqn_learner,
    goal,
    left,
    right,
    sine_learner,
    up,
)
from tests.vec_env.conftest import cluster  # noqa: F401 -- a fixture


@pytest.mark.parametrize(
    ("algorithm", "make", "kwargs"),
    [
        (ReptileDQN, goal, {}),
        (DQN, goal, dict(policy_kwargs=dict(net_arch=[8], features_extractor_class=Normalized))),
        (SAC, Pulls, {}),
    ],
)
@pytest.mark.parametrize("n_envs", [1, 8])
def test_one_run_on_one_task_is_the_algorithm(algorithm, make, kwargs, n_envs):
    arguments = copy.deepcopy({**DQN_ARGUMENTS, **kwargs})
    if algorithm is SAC:
        del arguments["target_update_interval"]
    inner_timesteps = 24 * n_envs
    learner = ReptileMetaLearner(
        algorithm,
        [make],
        inner_timesteps=inner_timesteps,
        meta_batch_size=1,
        n_envs=n_envs,
        algorithm_kwargs=arguments,
        seed=5,
        device="cpu",
    )
    before = learned_parameters(learner.model)
    learner.learn(1)
    env = make() if n_envs == 1 else DummyVecEnv([make] * n_envs)
    model = algorithm("MlpPolicy", env, seed=5, device="cpu", **arguments)
    model.learn(inner_timesteps)
    expected = learned_parameters(model)
    assert_equal(learner.parameters, expected)
    assert_equal(learned_parameters(learner.model), expected)
    assert any(not th.equal(before[name], value) for name, value in expected.items())
    assert learner.num_timesteps == model.num_timesteps


@pytest.mark.parametrize("optimizer", [th.optim.SGD, th.optim.Adam])
def test_one_gradient_step_at_a_time_on_one_task_is_its_optimizer(optimizer):
    def wave():
        return SineWave(1.5, 0.5, np.linspace(-5, 5, 10))

    state = "fresh" if optimizer is th.optim.SGD else "carried"
    kwargs = dict(policy_kwargs=dict(net_arch=[16], optimizer_class=optimizer), batch_size=10)
    learner = sine_learner([wave], kwargs, inner_timesteps=1, optimizer_state=state)
    learner.learn(30)
    model = Regression("MlpPolicy", wave(), seed=3, device="cpu", **kwargs)
    inputs, targets = (th.as_tensor(wave().reset()[1][key]) for key in ("inputs", "targets"))
    for run in range(30):
        # The same order of the points, in which their losses are summed
        th.manual_seed(3 if run == 0 else int(np.random.SeedSequence([3, run]).generate_state(1)[0]))
        Regression("MlpPolicy", wave(), device="cpu", **kwargs)
        chosen = th.randperm(10)
        model.policy.optimizer.zero_grad()
        th.nn.functional.mse_loss(model.policy(inputs[chosen]), targets[chosen]).backward()
        model.policy.optimizer.step()
    assert_equal(learner.parameters, learned_parameters(model))


def test_with_one_inner_step_it_is_joint_training_in_expectation():
    """Nichol et al. 2018, section 5: the mean update of k = 1 is a gradient step on the mean loss of all tasks."""
    waves = [SineWave(amplitude, 0.3 * amplitude, np.linspace(-5, 5, 8)) for amplitude in (0.5, 1.0, 2.0, 4.0)]
    kwargs = dict(batch_size=8, learning_rate=0.1)
    updates = []
    for seed in range(40):
        learner = sine_learner(waves, kwargs, inner_timesteps=1, meta_batch_size=1, seed=seed)
        if seed == 0:
            start = learner.parameters
        learner.set_parameters(start)
        learner.learn(1)
        updates.append(learner.parameters)
    drawn = {round(float(update["policy.net.0.weight"].sum()), 4) for update in updates}
    assert len(drawn) == len(waves)
    learner = sine_learner(waves, kwargs, inner_timesteps=1, meta_batch_size=4)
    learner.set_parameters(start)
    policy = learner.policy
    losses = [
        th.nn.functional.mse_loss(policy(th.as_tensor(points["inputs"])), th.as_tensor(points["targets"]))
        for points in (wave.reset()[1] for wave in waves)
    ]
    th.stack(losses).mean().backward()
    joint = {name: value - 0.1 * value.grad for name, value in policy.net.named_parameters()}
    learner.learn(1)
    for name, value in joint.items():
        th.testing.assert_close(learner.parameters[f"policy.net.{name}"], value.detach(), atol=1e-5, rtol=1e-4)
    # The mean over random tasks is the mean over all of them
    for name in joint:
        full = f"policy.net.{name}"
        moved = th.stack([update[full] - start[full] for update in updates])
        expected = learner.parameters[full] - start[full]
        error = moved.std(0) / len(updates) ** 0.5
        assert ((moved.mean(0) - expected).abs() <= 5 * error + 1e-6).all()


def test_batched_updates_move_to_the_mean_of_the_tasks():
    learner = dqn_learner([left, right], meta_step_size=0.5)
    start = learner.parameters
    adapted = []
    for number, run in enumerate(learner._inner_runs()):
        env = (left, right)[run.task.number]()
        model = ReptileDQN("MlpPolicy", env, seed=run.seed, device="cpu", **DQN_ARGUMENTS)
        other = learner.make_model(env, seed=run.seed)
        assert_equal(learned_parameters(other), start)
        model.policy.load_state_dict(other.policy.state_dict())
        model.learn(32, log_interval=None)
        adapted.append(learned_parameters(model))
        assert (run.seed == 3) == (number == 0)
    learner.learn(1)
    for name, value in start.items():
        mean = (adapted[0][name] + adapted[1][name]) / 2
        th.testing.assert_close(learner.parameters[name], value + 0.5 * (mean - value))


def test_two_processes_give_the_result_of_one():
    results = []
    for n_processes in (1, 2):
        learner = dqn_learner(
            [left, right, up], n_processes=n_processes, replay_buffer="task", optimizer_state="carried"
        )
        learner.learn(3)
        results.append(learner)
    assert_equal(results[1].parameters, results[0].parameters)
    for task, buffer in results[0].replay_buffers.items():
        assert np.array_equal(results[1].replay_buffers[task].observations, buffer.observations)
    assert results[0].num_timesteps == results[1].num_timesteps == 192


@pytest.mark.ray
def test_ray_gives_the_result_of_one_process(cluster):  # noqa: F811
    learner, on_ray = dqn_learner(), dqn_learner(ray=cluster.address)
    for one in (learner, on_ray):
        one.learn(2)
    assert_equal(on_ray.parameters, learner.parameters)


def test_nodes_of_a_cluster_train_on_the_tasks_of_a_meta_iteration(monkeypatch):
    """What a node gets and returns is bytes; no Ray is needed to see this."""
    calls, users = [], []

    def map_on_cluster(function, items, address):
        assert address == "host:6379"
        calls.append(len(items))
        results = [function(item) for item in items]
        assert {type(result) for result in results} == {bytes}
        return results

    monkeypatch.setattr(ray_cluster, "connect", lambda address: users.append(address))
    monkeypatch.setattr(ray_cluster, "disconnect", lambda connection: users.pop())
    monkeypatch.setattr(ray_cluster, "map_on_cluster", map_on_cluster)
    n_threads = []
    monkeypatch.setattr(th, "set_num_threads", n_threads.append)
    learner, on_cluster = dqn_learner(), dqn_learner(ray="host:6379")
    for one in (learner, on_cluster):
        one.learn(1)
    assert_equal(on_cluster.parameters, learner.parameters)
    assert calls == [2]
    assert not users
    # Results depend on the number of threads
    assert n_threads == [th.get_num_threads()] * 2


def test_processes_end_with_training():
    processes = Processes(2)
    processes.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        processes.run_all(dqn_learner()._inner_runs())


def test_every_run_has_another_seed_and_every_meta_iteration_other_tasks():
    learner = sine_learner(meta_batch_size=3)
    runs = []
    for _ in range(3):
        runs += learner._inner_runs()
        learner.learn(1)
    assert len({run.seed for run in runs}) == len({run.task.seed for run in runs}) == 9


def test_runs_leave_no_folders_of_loggers(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    learner = sine_learner()
    learner.set_logger(Logger(None, []))
    learner.learn(1)
    assert not list(tmp_path.iterdir())


def test_copies_of_a_task_are_monitored():
    learner, writer = dqn_learner(n_envs=2), Written()
    learner.set_logger(Logger(None, [writer]))
    learner.learn(1)
    assert -40 < writer.rows[0]["rollout/ep_rew_mean"] < 0


def test_kept_replay_buffers_of_hindsight_have_the_environment_of_the_run(tmp_path):
    def bits():
        return BitFlippingEnv(4, max_steps=4)

    arguments = dict(replay_buffer_class=HerReplayBuffer, policy_kwargs=dict(net_arch=[4]))
    learner = dqn_learner([bits], DQN, arguments, policy="MultiInputPolicy", meta_batch_size=1, replay_buffer="task")
    learner.learn(1)
    first = learner.replay_buffers[0].env
    learner.learn(1, callback=MetaCheckpoint(1, tmp_path))
    buffer = learner.replay_buffers[0]
    assert buffer.env is not first
    assert buffer.size() == 64
    resumed = resume(tmp_path, [bits], device="cpu")
    for one in (learner, resumed):
        one.learn(1, reset_num_timesteps=False)
    assert_equal(resumed.parameters, learner.parameters)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_returns_do_not_reach_from_one_run_into_the_next_in_buffers_of_sb3(n_steps):
    # No episode ends within a run
    tasks = [lambda: HiddenGoal((-0.8, 0.0), max_steps=1000)]
    learner = dqn_learner(tasks, DQN, dict(n_steps=n_steps), meta_batch_size=1, replay_buffer="task")
    learner.learn(2)
    buffer = learner.replay_buffers[0]
    assert buffer.size() == 64
    assert buffer.timeouts[31].all()
    assert not buffer.timeouts[:31].any()


def test_kept_replay_buffers_give_batches_on_the_device_of_the_model():
    learner = dqn_learner([left], meta_batch_size=1, replay_buffer="task")
    learner.learn(1)
    learner.replay_buffers[0].device = th.device("meta")
    learner.learn(1)
    assert learner.replay_buffers[0].device == th.device("cpu")


def test_ray_without_the_extra_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"the extra `ray`"):
        dqn_learner(ray="local").learn(1)
    with pytest.raises(ValueError, match="n_processes is for processes of this machine"):
        dqn_learner(ray="local", n_processes=2)


def test_the_same_seed_gives_the_same_result_and_another_one_does_not():
    first, second, other = (sine_learner(seed=seed).learn(3).parameters for seed in (1, 1, 2))
    assert_equal(first, second)
    assert not th.equal(first["policy.net.0.weight"], other["policy.net.0.weight"])
    assert sine_learner(seed=None).seed != sine_learner(seed=None).seed


def test_training_goes_on_with_new_tasks_after_a_reset_of_the_counters():
    learner, written = sine_learner(), []
    for _ in range(2):
        learner.learn(1)
        written.append(learner.parameters)
        assert learner.num_meta_iterations == 1
        assert learner.num_timesteps == 3
    learner.set_parameters(sine_learner().parameters)
    learner.learn(1, reset_num_timesteps=False)
    assert learner.num_meta_iterations == 2
    assert not th.equal(learner.parameters["policy.net.0.weight"], written[0]["policy.net.0.weight"])


def test_the_meta_step_size_is_annealed():
    learner, writer = sine_learner(meta_step_size=LinearSchedule(1.0, 0.0, 1.0)), Written()
    learner.set_logger(Logger(None, [writer]))
    learner.learn(4)
    assert [row["meta/step_size"] for row in writer.rows] == [1.0, 0.75, 0.5, 0.25]
    assert [row["step"] for row in writer.rows] == [1, 2, 3, 4]


def test_what_is_logged():
    learner, writer = dqn_learner(), Written()
    learner.set_logger(Logger(None, [writer]))
    learner.learn(3, log_interval=2)
    (row,) = writer.rows
    assert row["meta/distance"] > 0
    assert -40 < row["rollout/ep_rew_mean"] < 0
    assert row["train/loss"] > 0
    assert row["time/meta_iterations"] == 2
    assert row["time/total_timesteps"] == 128
    assert "train/n_updates" not in row


def test_a_fresh_optimizer_and_one_that_is_carried_over_differ():
    adam = dict(policy_kwargs=dict(net_arch=[16], optimizer_class=th.optim.Adam), learning_rate=0.01)
    fresh, carried = (sine_learner(None, adam, optimizer_state=state) for state in ("fresh", "carried"))
    for learner in (fresh, carried):
        learner.learn(2)
    assert fresh.optimizers is None
    assert carried.optimizers["policy.optimizer"][0]["step"].item() == 6
    assert not th.equal(fresh.parameters["policy.net.0.weight"], carried.parameters["policy.net.0.weight"])


def test_adam_without_momentum_as_in_the_paper():
    learner = dqn_learner(
        None,
        algorithm_kwargs=dict(policy_kwargs=dict(net_arch=[8], optimizer_kwargs=dict(betas=(0.0, 0.999)))),
        optimizer_state="carried",
    )
    learner.learn(1)
    model = learner.make_model(goal())
    assert model.policy.optimizer.param_groups[0]["betas"] == (0.0, 0.999)


def test_tasks_keep_their_replay_buffers_and_share_their_size():
    learner = dqn_learner([left, right], algorithm_kwargs=dict(buffer_size=100), replay_buffer="task")
    learner.learn(1)
    assert {buffer.buffer_size for buffer in learner.replay_buffers.values()} == {50}
    first = {task: buffer.observations[0].copy() for task, buffer in learner.replay_buffers.items()}
    assert [buffer.size() for buffer in learner.replay_buffers.values()] == [32, 32]
    learner.learn(1)
    for task, buffer in learner.replay_buffers.items():
        assert buffer.full  # of 64 transitions
        assert buffer.pos == 14
        assert not np.array_equal(buffer.observations[0], first[task])
        # A return does not reach from one run into the next
        assert buffer.timeouts[31] or buffer.dones[31]


def test_kept_replay_buffers_change_training():
    fresh, kept = (dqn_learner([left, right], replay_buffer=which) for which in ("fresh", "task"))
    for learner in (fresh, kept):
        learner.learn(2)
    assert not fresh.replay_buffers
    assert not th.equal(*(learner.parameters["policy.q_net.q_net.0.weight"] for learner in (fresh, kept)))


def test_memory_does_not_grow_with_the_number_of_tasks():
    learner = dqn_learner(meta_batch_size=1)
    buffers = []

    class Seen(DecayedReplayBuffer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            buffers.append(weakref.ref(self))

    learner.inner_learner.arguments["replay_buffer_class"] = Seen
    learner.learn(4)
    gc.collect()
    assert learner.model.replay_buffer is None
    assert len(buffers) == 4
    assert not any(buffer() for buffer in buffers)


def test_environments_are_closed_also_after_errors():
    opened, closed = [], []

    class Door(HiddenGoal):
        fails = False

        def __init__(self):
            super().__init__((0.5, 0.5), max_steps=10)
            opened.append(self)

        def step(self, action):
            if self.fails:
                raise RuntimeError("stuck")
            return super().step(action)

        def close(self):
            closed.append(self)

    learner = dqn_learner([Door, Door], n_envs=2, inner_timesteps=60)
    learner.learn(2)
    assert len(opened) == 2 + 2 * 2 * 2
    Door.fails = True
    before = learner.parameters
    with pytest.raises(RuntimeError, match="stuck"):
        learner.learn(1)
    assert_equal(learner.parameters, before)
    assert {id(env) for env in opened} == {id(env) for env in closed}


def test_environments_are_copied_and_left_alone():
    env = goal()
    env.reset(seed=1)
    position = env._position.copy()
    learner = dqn_learner([env], meta_batch_size=1)
    learner.learn(1)
    assert np.array_equal(env._position, position)
    other = dqn_learner([goal], meta_batch_size=1)
    other.learn(1)
    assert_equal(learner.parameters, other.parameters)


def test_registered_environments_are_tasks_by_their_ids():
    learner = dqn_learner(["CartPole-v1"], meta_batch_size=1)
    learner.learn(1)
    assert learner.observation_space.shape == (4,)


class Dictionary(gym.ObservationWrapper):
    def __init__(self):
        super().__init__(goal())
        self.observation_space = gym.spaces.Dict(place=self.env.observation_space)

    def observation(self, observation):
        return {"place": observation}


def test_dict_observations():
    learner = dqn_learner([Dictionary, Dictionary], policy="MultiInputPolicy", replay_buffer="task")
    start = learner.parameters
    learner.learn(2)
    assert learner.replay_buffers[0].size() == 64
    assert not any(th.equal(start[name], value) for name, value in learner.parameters.items())


def test_callbacks_see_each_meta_iteration_and_can_stop():
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            seen.append((self.model.num_meta_iterations, self.num_timesteps, self.n_calls))
            return self.n_calls < 2

    sine_learner().learn(5, callback=Watch())
    assert seen == [(1, 3, 1), (2, 6, 2)]
    calls = []
    sine_learner().learn(2, callback=lambda local, _: calls.append(local["self"]) or True)
    assert len(calls) == 2


def test_sb3s_checkpoint_callback_saves_it(tmp_path):
    learner = sine_learner()
    learner.learn(4, callback=[CheckpointCallback(2, str(tmp_path), "meta")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta_12_steps.zip", "meta_6_steps.zip"]


def test_progress_bar(capsys):
    sine_learner().learn(3, progress_bar=True)
    assert "3/3" in capsys.readouterr().out


def test_it_predicts_and_makes_models_that_adapt():
    learner = dqn_learner()
    learner.learn(1)
    obs = np.zeros((5, 2), np.float32)
    actions, _ = learner.predict(obs, deterministic=True)
    model = learner.make_model(goal(), learning_rate=0.5)
    assert np.array_equal(model.predict(obs, deterministic=True)[0], actions)
    assert model.learning_rate == 0.5
    model.learn(30)
    with pytest.raises(ValueError, match="the parameters differ"):
        learner.make_model(gym.make("CartPole-v1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(inner_timesteps=0), "inner_timesteps must be a whole number >= 1, got 0"),
        (dict(meta_batch_size=2.5), "meta_batch_size must be a whole number >= 1, got 2.5"),
        (dict(n_envs=True), "n_envs must be a whole number >= 1, got True"),
        (dict(seed=-1), "seed must be a whole number >= 0, got -1"),
        (dict(meta_step_size=1.5), r"meta_step_size must be in \[0, 1\].*1.5"),
        (dict(meta_step_size=float("nan")), r"meta_step_size must be in \[0, 1\].*nan"),
        (dict(optimizer_state="kept"), "optimizer_state must be 'fresh' or 'carried', got 'kept'"),
        (dict(replay_buffer="shared"), "replay_buffer must be 'fresh' or 'task', got 'shared'"),
        (dict(replay_buffer="task"), "needs an off-policy algorithm and a sequence of tasks"),
        (dict(n_processes=3), "n_processes must be at most meta_batch_size, 2"),
        (dict(algorithm_kwargs=dict(env=None)), "algorithm_kwargs must not contain env"),
        (dict(tasks=[left]), "meta_batch_size must be at most the number of tasks, 1"),
        (dict(tasks=[left, right], replay_buffer="task", algorithm_kwargs=dict(buffer_size=1)), "buffer_size=1 is too"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        dqn_learner(**options)


def test_algorithms_that_are_not_allowed():
    with pytest.raises(TypeError, match="algorithm must be the class of an off-policy algorithm"):
        ReptileMetaLearner("DQN", Navigation())
    with pytest.raises(ValueError, match="needs an off-policy algorithm"):
        ReptileMetaLearner(
            Regression, [lambda: SineWaves()(np.random.default_rng(0))], replay_buffer="task", meta_batch_size=1
        )
    with pytest.raises(TypeError, match="algorithm must be the class of an off-policy algorithm"):
        ReptileMetaLearner(PPO, Navigation())


class OfAnotherLibrary(DQN):
    """Has no parameters of PyTorch, as SBX's algorithms."""

    def _get_torch_save_params(self):
        return [], []


@pytest.mark.parametrize("normalize", [False, True])
def test_an_algorithm_without_parameters_of_pytorch_is_an_error_that_says_what_to_use(normalize):
    with pytest.raises(TypeError, match=r"OfAnotherLibrary has no PyTorch parameters.*: use an algorithm of SB3"):
        dqn_learner(algorithm=OfAnotherLibrary, normalize=normalize)


def test_a_schedule_out_of_range_is_an_error_when_it_is_used():
    with pytest.raises(ValueError, match=r"got 2\.0"):
        sine_learner(meta_step_size=lambda progress: 2.0).learn(1)
    with pytest.raises(ValueError, match="total_meta_iterations must be a whole number >= 0, got -1"):
        sine_learner().learn(-1)
    with pytest.raises(ValueError, match="log_interval must be a whole number >= 1, got 0"):
        sine_learner().learn(1, log_interval=0)


def test_numbers_of_numpy_are_numbers(tmp_path):
    learner = sine_learner(seed=np.int64(3), meta_step_size=np.float32(0.5), inner_timesteps=np.int32(3))
    learner.learn(1)
    assert_equal(learner.parameters, sine_learner(meta_step_size=0.5).learn(1).parameters)
    learner.save(tmp_path / "meta.zip")
    assert ReptileMetaLearner.load(tmp_path / "meta.zip", SineWaves(10)).meta_step_size == 0.5


def test_zero_meta_iterations_change_nothing():
    learner = sine_learner()
    before = learner.parameters
    assert_equal(learner.learn(0).parameters, before)


def test_a_run_without_a_gradient_step_is_an_error():
    with pytest.raises(
        ValueError, match=r"no gradient step in 32 steps on the task of seed .* learning_starts, which is 50"
    ):
        dqn_learner(algorithm_kwargs=dict(learning_starts=50)).learn(1)


def test_a_run_that_diverges_is_an_error_and_changes_nothing():
    learner = sine_learner(None, dict(learning_rate=1e30), inner_timesteps=8)
    before = learner.parameters
    with pytest.raises(ValueError, match=r"diverged, policy\.net\.0\.weight is not finite"):
        learner.learn(1)
    assert_equal(learner.parameters, before)
    assert learner.num_meta_iterations == 0


def test_tasks_with_other_spaces_are_an_error():
    learner = dqn_learner([goal, lambda: gym.make("CartPole-v1")])
    with pytest.raises(ValueError, match=r"task \d has the spaces .* all tasks must have the same"):
        learner.learn(1)


def test_optimizer_states_need_tensors():
    class Odd(th.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["words"] = "none"

    learner = sine_learner(None, dict(policy_kwargs=dict(net_arch=[4], optimizer_class=Odd)), optimizer_state="carried")
    with pytest.raises(ValueError, match="the state of Odd holds more than tensors"):
        learner.learn(1)
    assert optimizer_states(learner.model)["policy.optimizer"] == {}


def test_joint_tasks_are_another_task_in_each_episode():
    env = JointTasks(Navigation(), seed=0)
    env.reset(seed=3)
    goals = []
    for _ in range(5):
        env.reset()
        goals.append(tuple(env.unwrapped.goal))
    assert len(set(goals)) == 5
    again = JointTasks(Navigation(), seed=1)
    again.reset(seed=3)
    again.reset()
    assert tuple(again.unwrapped.goal) == goals[0]
    # Also the episodes are the same
    starts = []
    for joint in (env, again):
        joint.reset(seed=5)
        starts.append([joint.reset()[0].tolist() for _ in range(3)])
    assert starts[0] == starts[1]
    other = JointTasks([goal, lambda: gym.make("CartPole-v1")], seed=0)
    with pytest.raises(ValueError, match="all tasks must have the same spaces"):
        reset_often(other)


def test_joint_tasks_are_drawn_from_another_stream_than_that_of_the_environment():
    env = JointTasks([left, right], seed=0)
    drawn = []
    for seed in range(20):
        env.reset(seed=seed)
        of_environment = np.random.default_rng(seed).choice(2, size=1, replace=False)[0]
        drawn.append((bool(env.unwrapped.goal[0] > 0), bool(of_environment)))
    assert len(set(drawn)) == 4


def test_joint_tasks_close_the_environments_of_former_episodes():
    opened, closed = [], []

    class Door(HiddenGoal):
        def __init__(self):
            super().__init__((0.5, 0.5))
            opened.append(self)

        def close(self):
            closed.append(self)

    env = JointTasks([Door], seed=0)
    reset_often(env)
    env.close()
    assert len(opened) == 21
    assert closed == opened


def reset_often(env):
    for _ in range(20):
        env.reset()


def test_arguments_stay_as_they_were_given():
    """SB3's actor-critics add to the policy's arguments."""
    policy_kwargs = dict(net_arch=[8])
    learner = dqn_learner([Pulls, Pulls], SAC, dict(policy_kwargs=policy_kwargs, target_update_interval=1))
    learner.learn(1)
    assert policy_kwargs == dict(net_arch=[8])
    assert learner.algorithm_kwargs["policy_kwargs"] == policy_kwargs
