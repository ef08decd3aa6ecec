"""compare(): what it refuses before anything is trained, what identifies a run, what a report says, and notebooks."""

import asyncio
import csv
import functools
import json
import math
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TransformReward
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import sb3_reptile
from sb3_reptile import DecayedReplayBuffer, compare
from sb3_reptile.envs import DiscreteActions
from sb3_reptile.evaluation import runner, trained_run
from sb3_reptile.evaluation.comparing import read_runs, setup_of
from sb3_reptile.evaluation.comparison_report import write_report
from sb3_reptile.evaluation.methods import make_methods
from sb3_reptile.evaluation.notices import auto_section
from sb3_reptile.evaluation.records import BINS, append, read
from sb3_reptile.evaluation.runner import Job, train_all
from sb3_reptile.storage import InUseError


def make_model(**arguments):
    return DQN("MlpPolicy", "CartPole-v1", **{"buffer_size": 500, **arguments})


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (make_model, dict(steps=0), ValueError, "steps must be a whole number >= 1, got 0"),
        (make_model, dict(n_jobs=1.5), ValueError, "n_jobs must be a whole number >= 1, got 1.5"),
        (make_model, dict(seeds=0), ValueError, "seeds must be the number of runs of each method, >= 1"),
        (make_model, dict(seeds=[1, 1]), ValueError, "all different"),
        (make_model, dict(seeds="12"), ValueError, "seeds must be"),
        (make_model, dict(methods=["autos"]), ValueError, "unknown method 'autos'"),
        (lambda seed, **_: make_model(seed=seed), {}, ValueError, "method fifo: make_model was passed buffer_size=50"),
        (lambda seed: make_model(seed=seed), {}, ValueError, "make_model must take seed, buffer_size and pass them on"),
        (
            lambda **arguments: DQN("MlpPolicy", "CartPole-v1", buffer_size=500, **arguments),
            {},
            ValueError,
            "overriding its own arguments.*multiple values",
        ),
        (
            lambda **_: PPO("MlpPolicy", "CartPole-v1"),
            {},
            TypeError,
            "off-policy algorithm, such as DQN or SAC, got PPO",
        ),
        (
            lambda **arguments: DQN("MlpPolicy", "CartPole-v1", **{"replay_buffer_class": ReplayBuffer, **arguments}),
            dict(methods=[{"half_life": math.inf, "n_steps": 3}]),
            ValueError,
            "n_steps=3 has no effect with the replay buffer ReplayBuffer, which has n_steps=1",
        ),
        (lambda **_: DQN("MlpPolicy", None, _init_setup_model=False), {}, ValueError, "with an environment"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(make, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        compare(make, **{"steps": 1_000, "folder": tmp_path / "report", **options})
    assert not (tmp_path / "report").exists()


def test_a_model_that_cannot_travel_is_refused(tmp_path):
    opened = (tmp_path / "file").open("w")

    def with_file(**arguments):
        opened.flush()
        return make_model(**arguments)

    with opened, pytest.raises(ValueError, match="make environments and open files inside of it"):
        compare(with_file, steps=1_000, folder=tmp_path / "report")


def test_missing_packages_are_named_first(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "rliable" else name)
    with pytest.raises(ImportError, match=r"needs the extra `compare`.*'rliable'"):
        compare(make_model)


def test_the_set_up_changes_with_what_matters_only():
    def set_up(steps=100, **arguments):
        return setup_of(make_model(**arguments), steps)

    assert set_up(seed=1) == set_up(seed=2)
    others = [
        set_up(),
        set_up(steps=101),
        set_up(learning_rate=1e-3),
        set_up(learning_rate=lambda progress: progress),
        set_up(learning_rate=lambda progress: 2 * progress),
        set_up(replay_buffer_class=DecayedReplayBuffer),
        set_up(replay_buffer_class=DecayedReplayBuffer, replay_buffer_kwargs=dict(half_life=3)),
        setup_of(DQN("MlpPolicy", "MountainCar-v0", buffer_size=500), 100),
    ]
    assert len(set(others)) == len(others)
    assert set_up(tensorboard_log="logs") == set_up()


SCRIPT = """
def half(progress):
    return progress * FACTOR

def schedule(progress):
    inner = lambda: half(progress) + 1
    return inner()

class Schedule:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, progress):
        return progress * self.factor

    method = __call__
"""


def of_script(name, factor=1.0, script=SCRIPT):
    module = {"__name__": "script", "FACTOR": factor}
    exec(script, module)
    return module[name]


@pytest.mark.parametrize(
    "make",
    [
        lambda number: of_script("schedule", number),
        lambda number: of_script("schedule", script=SCRIPT.replace("+ 1", f"+ {number}")),
        lambda number: of_script("Schedule")(number),
        lambda number: of_script("Schedule")(number).method,
        lambda number: functools.partial(lambda factor, progress: factor * progress, number),
        lambda number: lambda progress, *, factor=number: factor * progress,
        lambda number: lambda progress: (lambda: number * progress)(),
    ],
)
def test_the_set_up_changes_with_what_a_schedule_refers_to(make):
    two, again, three = (setup_of(make_model(learning_rate=make(number)), 100) for number in (2.0, 2.0, 3.0))
    assert two == again != three


def test_the_set_up_does_not_change_with_the_place_of_a_function_nor_with_states_around_it():
    first, second = (of_script("schedule", script=script) for script in (SCRIPT, f"\n\n\n{SCRIPT}"))
    second.__globals__["progress"] = second.__globals__["half"].__globals__["_state"] = object()
    assert setup_of(make_model(learning_rate=first), 100) == setup_of(make_model(learning_rate=second), 100)


def test_a_schedule_that_calls_itself_has_a_set_up():
    def schedule(progress):
        return schedule(0.5) if progress > 0.5 else 1e-3

    module_wide = of_script("half", script="def half(p):\n    return half(p / 2) if p > 0.5 else p")
    assert len({setup_of(make_model(learning_rate=each), 100) for each in (schedule, module_wide)}) == 2


class Scaled(gym.Wrapper):
    """Keeps no record of its arguments."""

    def __init__(self, env, scale=1.0):
        super().__init__(env)
        self.scale = scale


class Unregistered(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)

    def __init__(self, difficulty):
        self.difficulty = difficulty


class Plane(Unregistered):
    action_space = gym.spaces.Box(-1, 1, (2,))


def normalized(**arguments):
    return VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]), **arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda number: Monitor(Scaled(gym.make("CartPole-v1"), float(number))),
        lambda number: Monitor(Scaled(gym.make("CartPole-v1"), lambda reward: number * reward)),
        lambda number: Monitor(TransformReward(gym.make("CartPole-v1"), lambda reward: number * reward)),
        lambda number: Monitor(TransformReward(gym.make("CartPole-v1"), of_script("half", number))),
        lambda number: Monitor(DiscreteActions(Plane(0), bins=[number, 5 - number])),
        lambda number: Monitor(Unregistered(number)),
        lambda number: normalized(gamma=number / 10),
        lambda number: normalized(epsilon=number / 1000),
    ],
)
def test_the_set_up_changes_with_the_arguments_of_wrappers_and_of_environments_without_a_spec(make):
    two, again, three = (setup_of(DQN("MlpPolicy", make(number), buffer_size=50), 100) for number in (2, 2, 3))
    assert two == again != three


def test_attributes_that_always_differ_are_no_arguments(tmp_path, monkeypatch):
    class Timed(Unregistered):
        def __init__(self, difficulty):
            super().__init__(difficulty)
            self.started = time.perf_counter()

    def set_ups(difficulty):
        def make(**arguments):
            return DQN("MlpPolicy", Timed(difficulty), **{"buffer_size": 500, **arguments})

        with pytest.raises(RuntimeError, match="runs failed"):  # none was trained
            compare(make, ["uniform", "fifo:50"], steps=100, folder=tmp_path)
        return seen[-1]

    monkeypatch.setattr("sb3_reptile.evaluation.comparing.train_all", lambda jobs, *_, **__: jobs)
    monkeypatch.setattr(
        "sb3_reptile.evaluation.comparing.read_runs", lambda folder, task, setups: seen.append(setups) or {}
    )
    seen = []
    two, again, three = map(set_ups, (2, 2, 3))
    assert two == again
    assert two["uniform"] != three["uniform"]


def run_here(plan, method, seed=0):
    return trained_run.train(trained_run.Plan.from_text(plan.to_text()), method, seed)


@pytest.mark.parametrize("arguments", [{"train_freq": 8}, {"train_freq": (1, "episode")}, {"device": "cpu"}])
def test_arguments_that_sb3_converts_are_methods(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_reptile.evaluation.comparing.train_all", lambda jobs, *_, **__: jobs)
    with pytest.raises(RuntimeError, match="runs failed"):  # none was trained
        compare(make_model, ["uniform", arguments], seeds=1, steps=1_000, folder=tmp_path)


def test_what_an_environment_prints_is_no_record(tmp_path):
    printed = ["{'reset': 1}", '{"reset": 1}', "{" * 3_000_000, "é", '{"setup": "s", "task": "t"}', '{"end": 1}']
    (tmp_path / "job.py").write_text(f"for line in {printed!r}:\n    print(line)\nprint('x' * 3_000_000, end='')")
    assert not train_all([Job("run", [str(tmp_path / "job.py")], 1)], tmp_path)
    assert json.loads((tmp_path / "t.jsonl").read_text()) == {"setup": "s", "task": "t"}


def test_a_record_is_found_after_a_line_that_does_not_end(capfd):
    with_dots = "from sb3_reptile.evaluation import trained_run\nprint('..', end='')\n"
    with_dots += "trained_run.train = lambda *_: {'task': 'task'}\ntrained_run.main()"
    job = Job("run", ["-c", with_dots, plan_of(make_model).to_text(), "uniform", "0"], 1)
    assert asyncio.run(job.run()) == {"task": "task"}


def test_a_command_that_prints_no_record_is_named(tmp_path, capfd):
    (failed,) = train_all([Job("half_life:300 2", ["-c", "print('done')"], 1)], tmp_path)
    assert failed.name == "half_life:300 2"
    assert "half_life:300 2: the command has ended without printing a record" in capfd.readouterr().err


def test_a_task_can_have_any_name(tmp_path):
    append({"task": "shop/spring: 1", "setup": "s"}, tmp_path)
    assert list(read(tmp_path, ["shop/spring: 1"], lambda record: record["task"], lambda task: "s")) == [
        "shop/spring: 1"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["shop-spring- 1.jsonl"]


def test_a_folder_in_use_is_an_error_that_scripts_can_catch(tmp_path, monkeypatch):
    def in_use(folder):
        raise InUseError

    monkeypatch.setattr("sb3_reptile.evaluation.records.FolderLock", in_use)
    with pytest.raises(InUseError, match="another process is writing records to"):
        compare(make_model, ["uniform"], seeds=1, steps=1_000, folder=tmp_path)


def plan_of(make, steps=300, **arguments):
    methods = make_methods(["uniform", "auto"], 500)
    of_methods = {method.name: method.arguments(make()) for method in methods}
    setups = {"uniform": "u", "auto": "a", trained_run.RANDOM: "u"}
    return trained_run.Plan(make, of_methods, setups, steps, "task", "command")


def test_a_run_travels_with_its_model_and_its_record_says_what_happened(capfd):
    record = run_here(plan_of(make_model), "uniform", seed=3)
    assert {name: record[name] for name in ("task", "method", "seed", "steps", "setup", "changes")} == {
        **dict(task="task", method="uniform", seed=3, steps=300, setup="u", changes=[])
    }
    assert record["auc"] == pytest.approx(np.mean(record["curve"]), abs=1e-3)
    assert record["last"] == pytest.approx(np.mean(record["curve"][-BINS // 10 :]), abs=1e-3)
    assert [line for line in capfd.readouterr().out.split() if line.isdigit()][-1] == "300"
    of_auto = run_here(plan_of(make_model), "auto")
    assert of_auto["alarms"] == []
    assert "must have at least 4000 transitions" in of_auto["sensitivity"]


def test_random_actions_learn_nothing():
    plan = plan_of(lambda **arguments: make_model(learning_starts=10, **arguments))
    model = trained_run.build(plan, trained_run.RANDOM, seed=0)
    before = {name: value.clone() for name, value in model.q_net.state_dict().items()}
    model.learn(plan.steps)
    assert all((value == before[name]).all() for name, value in model.q_net.state_dict().items())


def test_random_actions_are_uniform_whatever_explores():
    noise = NormalActionNoise(np.zeros(1), np.ones(1))

    def make(**arguments):
        options = dict(use_sde=True, use_sde_at_warmup=True, action_noise=noise, buffer_size=500)
        return SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), **{**options, **arguments})

    model = trained_run.build(plan_of(make), trained_run.RANDOM, seed=0).learn(400)
    actions = model.replay_buffer.actions[:400].ravel()
    assert np.quantile(actions, [0.1, 0.9]) == pytest.approx([-0.8, 0.8], abs=0.1)


def test_environments_that_do_not_state_returns_are_refused(tmp_path):
    def unmonitored(**arguments):
        return DQN("MlpPolicy", DummyVecEnv([lambda: gym.make("CartPole-v1")]), **arguments)

    with pytest.raises(ValueError, match="wrap the environments of make_model in Monitor"):
        compare(unmonitored, steps=1_000, folder=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_environments_whose_spec_cannot_travel_are_refused(tmp_path):
    gym.register("Untravelled-v0", entry_point=lambda: gym.make("CartPole-v1").unwrapped)

    def in_a_process(**arguments):
        env = SubprocVecEnv([lambda: Monitor(gym.make("Untravelled-v0"))], start_method="fork")
        return DQN("MlpPolicy", env, **{"buffer_size": 500, **arguments})

    try:
        with pytest.raises(ValueError, match="register it with an entry point"):
            compare(in_a_process, steps=1_000, folder=tmp_path / "report")
    finally:
        del gym.registry["Untravelled-v0"]


def test_a_lost_life_is_no_episode():
    """Atari's wrappers end an episode of the agent where Monitor states no return."""
    recorder = trained_run.Recorder(steps=10)
    recorder.num_timesteps = 3
    recorder.locals = {"infos": [{}, {"episode": {"r": 2.0}}], "dones": np.array([True, True])}
    recorder._on_step()
    assert recorder.episodes == [(3, 2.0)]


class Rewards(gym.Env):
    """Episodes of ten steps; the reward of one step is NaN."""

    observation_space = action_space = gym.spaces.Discrete(2)

    def __init__(self, bad_steps):
        self.bad_steps, self.now = bad_steps, 0

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        self.now += 1
        return 0, math.nan if self.now in self.bad_steps else 1.0, self.now % 10 == 0, False, {}


@pytest.mark.filterwarnings("ignore:the reward of environment 0 is nan")
@pytest.mark.parametrize("method", ["uniform", trained_run.RANDOM])
def test_an_episode_whose_return_is_not_finite_is_left_out(method, tmp_path):
    def make(bad_steps, **arguments):
        options = dict(on_bad_transition="skip", half_life=math.inf)
        arguments = {**arguments, "replay_buffer_class": DecayedReplayBuffer, "replay_buffer_kwargs": options}
        return DQN("MlpPolicy", Rewards(bad_steps), **{"buffer_size": 500, **arguments})

    found = run_here(plan_of(functools.partial(make, [15])), method)
    assert (found["auc"], found["last"], found["not_finite"]) == (10, 10, 1)
    assert "not_finite" not in run_here(plan_of(functools.partial(make, [])), method)
    with pytest.raises(SystemExit, match=r"no episode ended within 300 steps.*; 30 had a return that is not finite"):
        run_here(plan_of(functools.partial(make, range(0, 301, 10))), method)


def test_a_record_whose_return_is_not_finite_is_trained_again(tmp_path, capsys):
    for seed, auc in enumerate([1.0, math.nan]):
        append(record("uniform", seed, auc, setup="u"), tmp_path)
    assert list(read_runs(tmp_path, "task", {"uniform": "u"})) == [("uniform", 0)]
    assert "1 torn, repeated or outdated lines left out" in capsys.readouterr().err


def test_a_run_without_the_end_of_an_episode_ends_with_one_line():
    with pytest.raises(SystemExit, match="no episode ended within 5 steps"):
        run_here(plan_of(make_model, steps=5), "uniform")


def record(method, seed, level, **others):
    return {
        **dict(task="task", method=method, seed=seed, steps=6_000, auc=level, last=level, curve=[level] * BINS),
        **dict(changes=[], wall_seconds=1.0, versions={"python": "3"}),
        **others,
    }


SENSITIVITY = dict(
    n_transitions=6_000,
    within=2_000,
    accidental_alarms=1,
    accidental_contradictions=0.034,
    smallest_reward_change=0.5,
    largest_reward_change=5.0,
    smallest_dynamics_change=None,
    largest_dynamics_change=4.0,
)


# The last rollout goes past the end, where no change of the phase is recorded
AFTER = [6_064, 6_001, 3]


def test_alarms_are_compared_with_the_changes_of_the_phase():
    records = [
        record(
            "auto",
            0,
            1.0,
            changes=[2_001],
            alarms=[[2_512, 2_000, 1], [5_800, 5_600, 2], AFTER],
            sensitivity=SENSITIVITY,
        ),
        record("auto", 1, 1.0, changes=[2_001], alarms=[], sensitivity=SENSITIVITY | {"smallest_reward_change": 0.7}),
    ]
    section = auto_section(records)
    assert "| 0 | 2,512 | 2,000 | 1 | 512 steps after a change |" in section
    assert "| 0 | 5,800 | 5,600 | 2 | no change before it |" in section
    assert "6,064" not in section
    assert '1 of 2 changes of `info["phase"]` were noticed within 3,000 steps; 1 alarms have no such change' in section
    assert "| 0 | 6,000 | 3.4 % | 1 | 0.5 | more than 4 |" in section
    assert (
        "Changes of the reward by 0.7 or more are noticed with every seed, not even changes of the dynamics by 4"
        in section
    )


def test_without_phases_alarms_are_listed_and_not_judged():
    section = auto_section([record("auto", 0, 1.0, alarms=[[900, 700, 1]], sensitivity="the stream is too short")])
    assert "| 0 | 900 | 700 | 1 |\n" in section
    assert "No change is known" in section
    assert "was not measured: the stream is too short" in section
    assert "auto` was not trained" in auto_section([])


def test_a_report_has_picture_table_and_verdict(tmp_path):
    methods = make_methods(["uniform", "auto", "fifo"], 1_000)
    runs = {(trained_run.RANDOM, 0): record(trained_run.RANDOM, 0, 10.0, not_finite=2)}
    for seed in range(3):
        runs["uniform", seed] = record("uniform", seed, 20.0 + seed)
        found = record("auto", seed, 40.0 + seed, alarms=[[900, 700, 1]], sensitivity=SENSITIVITY)
        runs["auto", seed] = found
    found = write_report(tmp_path, r"$\task", methods, runs, "the command über", n_planned=10)
    page = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert f"**{found.verdict}**" in page
    assert "3 of 10 runs are missing" in page
    assert "| auto | 3 | 41.0 (40.0 to 42.0) | 41.0 (40.0 to 42.0) | 182 (" in page
    assert "one run of 6,000 steps; their mean return is 10.0" in page
    assert "`the command über`" in page
    assert "* 2 episodes whose return is NaN or infinite are left out" in page
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert [row["method"] for row in rows] == ["uniform", "auto"]
    assert float(rows[1]["percent_to_uniform"]) == pytest.approx(100 * 20 / 11, abs=0.01)
    assert float(rows[1]["probability_above_uniform"]) == 1
    assert rows[0]["percent_to_uniform"] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.csv", "comparison.md", "comparison.png"]


def test_runs_are_trained_also_where_an_event_loop_is_running(tmp_path):
    line = json.dumps({"task": "task"})
    jobs = [Job("one", ["-c", f"print({line!r})"], 1)]

    async def notebook():
        return train_all(jobs, tmp_path)

    assert asyncio.run(notebook()) == []
    assert json.loads((tmp_path / "task.jsonl").read_text()) == {"task": "task"}


@pytest.mark.parametrize("notebook", [False, True])
def test_no_child_process_goes_on_after_a_record_could_not_be_written(notebook, tmp_path, monkeypatch):
    alive = tmp_path / "alive"
    write_and_wait = f"import time, pathlib\nwhile True: pathlib.Path({str(alive)!r}).touch(); time.sleep(0.05)"
    jobs = [Job("slow", ["-c", write_and_wait], 1), Job("one", ["-c", 'print(\'{"task": "task"}\')'], 1)]

    def append(record, folder):
        while not alive.exists():
            time.sleep(0.05)
        raise OSError("no space left")

    monkeypatch.setattr(runner, "append", append)

    async def in_notebook():
        return train_all(jobs, tmp_path)

    with pytest.raises(OSError, match="no space left"):
        asyncio.run(in_notebook()) if notebook else train_all(jobs, tmp_path)
    alive.unlink(missing_ok=True)
    time.sleep(0.3)
    assert not alive.exists()


def test_it_is_public():
    assert sb3_reptile.compare is compare
    assert sys.modules["sb3_reptile.evaluation.comparing"].compare is compare
