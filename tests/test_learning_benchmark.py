"""benchmarks/learning.py keeps its records whatever happens, and its report follows from them alone."""

import dataclasses
import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
learning = importlib.import_module("learning")
BINS, TASKS, Run = learning.BINS, learning.TASKS, learning.Run

# A harness of its own: one task with three methods, whose runs do nothing but write that they began, and take 0.4 s
HARNESS = f"""
import sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
import learning

METHODS = ("uniform", "fifo-10", "exp-10")
learning.TASKS = {{
    "tiny": learning.Task("", "tuning", True, "", {{}}, 1_000, learning.CARTPOLE, 0.0, 1.0, 2, METHODS, 1.0)
}}
learning.VOLUME_TASK, learning.VOLUME_METHODS = "tiny", ()
learning.PROGRAM = __file__

def train(run, on_step=lambda step: None):
    with open("begun", "a") as file:
        file.write(f"{{run.method}} {{run.seed}}\\n")
    for step in range(10, 1_001, 10):
        time.sleep(0.004)
        on_step(step)
    return {{**run._asdict(), "setup": learning.set_up(run), "cpu_seconds": 0.4}}

learning.train = train
learning.main()
"""
ALL = {(method, seed) for method in ("uniform", "fifo-10", "exp-10") for seed in (0, 1)}


@pytest.fixture
def harness(tmp_path):
    script = tmp_path / "harness.py"
    script.write_text(HARNESS)

    def start(*arguments):
        command = [sys.executable, script, "--records", "records", "--method", "uniform", "fifo-10", "exp-10"]
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *arguments], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)

    return start


def finished(folder):
    path = folder / "records" / "tiny.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(record["method"], record["seed"]) for record in map(json.loads, lines)]


def begun(folder):
    path = folder / "begun"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(method, int(seed)) for method, seed in map(str.split, lines)]


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_harness_that_was_stopped_goes_on_where_it_was(harness, tmp_path, number):
    process = harness("--jobs", "2")
    wait_until(lambda: len(finished(tmp_path)) >= 1 and len(begun(tmp_path)) > len(finished(tmp_path)))
    process.send_signal(number)
    assert process.wait() != 0
    time.sleep(0.6)  # longer than a run: nothing goes on by itself
    there = finished(tmp_path)
    assert 1 <= len(there) < len(ALL)

    process = harness("--jobs", "2")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    after = finished(tmp_path)
    assert after[: len(there)] == there
    assert set(after) == ALL
    assert len(after) == len(ALL)
    # What was finished is not begun again, what was under way is
    times = Counter(begun(tmp_path))
    assert all(times[run] == 1 for run in there)
    assert max(times.values()) <= 2


def test_no_run_is_started_after_the_time_is_up(harness, tmp_path):
    assert harness("--hours", "0").wait() == 0
    assert finished(tmp_path) == []


def test_two_harnesses_do_not_write_to_the_same_folder(harness, tmp_path):
    first = harness("--jobs", "1")
    wait_until(lambda: begun(tmp_path))
    _, errors = harness().communicate()
    assert "another harness" in errors
    first.terminate()
    first.wait()


def made_up_record(run, value=None):
    """A record as ``train()`` makes it, without training."""
    task, rng = TASKS[run.task], random.Random(repr(run))
    low = value if value is not None else rng.uniform(20, 400)
    curve = [round(low + rng.gauss(0, 10), 2) for _ in range(BINS)]
    changes = [step + 1 for step in range(task.steps // 4, task.steps, task.steps // 4)] if task.drifts else []
    auc = round(sum(curve) / BINS, 3)
    return {**run._asdict(), "steps": task.steps, "auc": auc, "changes": changes, "curve": curve} | {
        "setup": learning.set_up(run),
        "cpu_seconds": 60.0,
    }


@pytest.mark.parametrize(("there", "said"), [({"processor": "A"}, "another kind .* [(]A; here: B[)]"), ({}, "unknown")])
def test_it_is_said_if_another_processor_may_be_why_a_run_is_not_repeated(there, said):
    known = {"curve": [1.0], "versions": there}
    again = {"curve": [1.0], "versions": {"processor": "B"}}
    assert learning.compared(again, known) == "the curve is that of the record there is"
    again["curve"] = [2.0]
    assert re.search(f"is not that of the record there is: .*{said}", learning.compared(again, known))
    same = {"curve": [3.0], "versions": {"processor": "B"}}
    assert learning.compared(again, same) == "the curve is not that of the record there is"


RUNS = [Run("cartpole", "uniform", seed) for seed in range(3)]


def test_a_torn_line_is_left_out_and_spoils_no_other(tmp_path, capsys):
    for run in RUNS[:2]:
        learning.append(made_up_record(run), tmp_path)
    path = tmp_path / "cartpole.jsonl"
    os.truncate(path, path.stat().st_size - 100)
    assert list(learning.read_records(tmp_path)) == RUNS[:1]
    assert "1 torn" in capsys.readouterr().err
    for run in RUNS[1:]:
        learning.append(made_up_record(run), tmp_path)
    assert learning.read_records(tmp_path) == {run: made_up_record(run) for run in RUNS}


def test_a_repeated_run_and_one_of_another_set_up_are_left_out(tmp_path, monkeypatch):
    first, again = made_up_record(RUNS[0], 100), made_up_record(RUNS[0], 200)
    for record in (first, again):
        learning.append(record, tmp_path)
    assert learning.read_records(tmp_path) == {RUNS[0]: first}
    monkeypatch.setitem(TASKS, "cartpole", dataclasses.replace(TASKS["cartpole"], steps=1_000))
    assert learning.read_records(tmp_path) == {}


def test_the_plan_has_tuning_tasks_first_and_takes_turns_in_the_seeds():
    runs = learning.plan()
    assert len(set(runs)) == len(runs)
    first = [run for run in runs if TASKS[run.task].role == "tuning" and run.volume is None and run.seed < 3]
    assert runs[: len(first)] == first
    assert [run.seed for run in first] == sorted(run.seed for run in first)
    for name, task in TASKS.items():
        own = [run for run in runs if run.task == name and run.volume is None]
        tried = [method for method in task.methods if method in learning.TRIED]
        assert len(own) == task.seeds * (len(task.methods) - len(tried)) + min(task.seeds, 5) * len(tried)
        assert {run.method for run in own[: len(task.methods)]} == set(task.methods)
    volumes = {(run.task, run.volume) for run in runs if run.volume is not None}
    assert volumes == {(learning.VOLUME_TASK, volume) for volume in (2, 8, 64)}


def package_default():
    from sb3_reptile import ReptileDQN

    return ReptileDQN("MlpPolicy", "CartPole-v1", device="cpu").replay_buffer.decay


def test_a_window_has_the_mean_age_of_the_default():
    ages = np.arange(100_000)
    weights = package_default()(ages)
    mean_age = (weights * ages).sum() / weights.sum()
    assert min(abs((window - 1) / 2 / mean_age - 1) for window in learning.WINDOWS) <= 0.05


@pytest.mark.parametrize("volume", [2, 8, 64])
def test_a_volume_is_what_is_replayed_per_step(volume):
    task = TASKS[learning.VOLUME_TASK]
    settings = learning.settings_with_volume(task, volume)
    assert settings["batch_size"] * settings["gradient_steps"] == volume * settings["train_freq"]
    assert dataclasses.replace(task, settings=settings).volume == volume
    with pytest.raises(ValueError, match="do not make a volume"):
        learning.settings_with_volume(task, volume + 0.3)


def test_a_learning_curve_has_the_mean_return_of_the_episodes_that_end_in_each_part():
    width = 10
    episodes = [(21, 4.0), (29, 5.0), (30, 9.0), (31, 7.0), (BINS * width + 1, 1_000.0)]
    curve = learning.learning_curve(episodes, BINS * width)
    assert len(curve) == BINS
    assert curve[:5] == [6.0, 6.0, 6.0, 7.0, 7.0]  # nothing ends before step 21 nor after step 31
    assert set(curve[5:]) == {7.0}
    with pytest.raises(ValueError, match="no episode"):
        learning.learning_curve([], 1_000)


def test_scores_are_0_for_random_actions_and_1_for_the_reference_of_the_phase():
    task = dataclasses.replace(TASKS["cartpole"], steps=4 * BINS, random_return=20.0, reference_return=120.0)
    assert task.scores([20.0, 70.0, 120.0, 220.0], []) == [0, 0.5, 1, 2]
    by_phase = dataclasses.replace(task, random_return=(0.0, -100.0), reference_return=(10.0, 0.0))
    # The third phase is like the first
    assert by_phase.scores([5.0, -75.0, -75.0, 5.0], [BINS + 1, 3 * BINS + 1]) == [0.5, 0.25, 0.25, 0.5]


def test_a_record_is_made_again_by_its_command(monkeypatch):
    few = dict(learning_starts=100, train_freq=64, gradient_steps=4, policy_kwargs=dict(net_arch=[16]))
    settings = {**TASKS["cartpole-actions"].settings, **few}
    task = dataclasses.replace(TASKS["cartpole-actions"], steps=600, env_kwargs=dict(period=250), settings=settings)
    monkeypatch.setitem(TASKS, "cartpole-actions", task)
    run = Run("cartpole-actions", "exp-100", 3)
    steps = []
    first, second, other = learning.train(run, steps.append), learning.train(run), learning.train(run._replace(seed=4))
    measured = {"wall_seconds", "cpu_seconds", "finished"}
    assert {k: v for k, v in first.items() if k not in measured} == {
        k: v for k, v in second.items() if k not in measured
    }
    assert other["curve"] != first["curve"]
    assert first["changes"] == [251, 501]
    assert first["auc"] == pytest.approx(np.mean(first["curve"]), abs=1e-3)
    assert steps[:600] == list(range(1, 601))
    assert first["command"] == "python benchmarks/learning.py --run cartpole-actions exp-100 3"
    assert {"python", "torch", "stable_baselines3", "gymnasium", "numpy", "sb3_reptile", "processor"} <= set(
        first["versions"]
    )
    assert len(json.dumps(first)) < 2_500


@pytest.mark.parametrize("method", learning.METHODS)
def test_every_method_can_be_built(method):
    model = learning.build(Run("cartpole", method, 0))
    _, arguments = learning.arguments_of(method)
    assert {name: getattr(model, name) for name in arguments if name != "replay_buffer_class"} == {
        name: value for name, value in arguments.items() if name != "replay_buffer_class"
    }


@pytest.mark.parametrize("method", TASKS["pendulum-motor"].methods)
def test_methods_of_sac_have_the_buffer_of_those_of_dqn(method):
    ours, theirs = (learning.build(Run(task, method, 0)).replay_buffer for task in ("cartpole", "pendulum-motor"))
    assert type(ours) is type(theirs)
    assert ours.buffer_size == theirs.buffer_size
    if hasattr(ours, "decay"):
        assert (ours.decay, ours.consistency is None) == (theirs.decay, theirs.consistency is None)


def test_variants_of_auto_differ_from_it_as_they_should():
    import variants
    from gymnasium import spaces

    arguments = dict(buffer_size=3_000, observation_space=spaces.Box(-9, 9, (1,)), action_space=spaces.Discrete(2))
    arguments |= dict(device="cpu", decay={"exponential": {"half_life": 30}})

    def fill(buffer, phase, n, start):
        for step in range(start, start + n):
            obs, next_obs = np.full((1, 1), step % 7), np.full((1, 1), (step + 1) % 7)
            reward = np.array([1.0 if phase else -1.0])
            buffer.add(obs, next_obs, np.zeros(1), reward, np.zeros(1), [{"phase": phase}])

    oracle = variants.OracleReplayBuffer(**arguments)
    for phase in range(3):
        fill(oracle, phase, 100, 100 * phase)
    ages = np.concatenate([100 + np.arange(100)[::-1], np.full(100, 100), np.arange(100)[::-1]])
    weights = 0.5 ** (ages / 30)
    weights[100:200] *= variants.LEAST
    found = oracle.sampling_probabilities()[:300, 0]
    assert found[:100] == pytest.approx((weights / weights.sum())[:100], rel=0.02)
    assert found[200:] == pytest.approx((weights / weights.sum())[200:], rel=0.02)
    assert found[100:200].sum() < 0.01

    shares = []
    arguments["decay"] = {"exponential": {"half_life": 1_000}}
    for name in ("DetectionReplayBuffer", "OrdinaryClockReplayBuffer", "DecayedReplayBuffer"):
        buffer = getattr(variants, name)(half_life="auto", **arguments)
        for phase, start in ((0, 0), (1, 1_000), (0, 2_000)):
            fill(buffer, phase, 1_000, start)
        assert buffer.consistency.changes
        shares.append(buffer.sampling_probabilities()[:1_000].sum())
    # What has come back counts for nothing, as old as it is, or as if nothing had been in between
    forgets, ordinary, auto = shares
    assert forgets < 0.01 < 0.1 < ordinary < auto / 1.4


@pytest.fixture
def report():
    pytest.importorskip("rliable")
    import learning_report

    return learning_report


def test_references_are_the_last_thirds_of_the_games_alone(report, tmp_path):
    records = {}
    for game, level in (("breakout", 3.0), ("space_invaders", 20.0)):
        for seed in range(2):
            run = learning.Run(f"minatar-{game}", "uniform", seed)
            records[run] = {"curve": [0.0] * 80 + [level + seed] * 40, "cpu_seconds": 1.0}
    assert learning.reference_returns(records) == (3.5, 20.5)
    with pytest.raises(ValueError, match=r"must be \(3.5, 20.5\)"):
        report.report(records, tmp_path, "")


def test_recovery_and_regret_of_a_change(report):
    width = 10
    curve = np.full(BINS, 0.8)
    curve[60:70] = 0.3  # a change at the border of point 60; from 70 on all is well again
    (change,) = report.after_changes(curve, [60 * width + 1], BINS * width)
    assert change.before == pytest.approx(0.8)
    assert change.after == pytest.approx((10 * 0.3 + 50 * 0.8) / 60)
    assert change.recovery == 10 * width
    assert change.length == 60 * width
    assert change.regret(0.8) == pytest.approx(10 * width * 0.5)
    assert change.regret(1.0) == pytest.approx(10 * width * 0.5 + 60 * width * 0.2)

    # Within point 60: that point belongs to neither phase
    (change,) = report.after_changes(curve, [60 * width + 4], BINS * width)
    assert change.before == pytest.approx(0.8)
    assert change.regret(0.8) == pytest.approx(9 * width * 0.5)

    # One good point is luck, and the next change comes before the recovery
    curve[64] = 0.8
    first, second = report.after_changes(curve, [60 * width + 1, 68 * width + 1], BINS * width)
    assert first.recovery is None
    assert first.length == 8 * width
    # Two points are as bad as those before the change; good enough is 90 % of its level, not its level
    assert second.before == pytest.approx((5 * 0.3 + 0.8) / 6)
    assert second.recovery == 1 * width


def test_a_task_that_goes_on_as_before_has_recovered_at_once(report):
    (change,) = report.after_changes(np.full(BINS, 0.5), [61], BINS)
    assert (change.recovery, change.regret(0.5)) == (1, 0)


def test_the_statistics_are_those_of_rliable(report):
    from rliable import metrics

    scores, others = np.random.default_rng(0).normal(size=(2, 7, 3)).round(1)
    assert report.iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores))
    assert report.iqm_of_points(scores[:, None]) == pytest.approx([metrics.aggregate_iqm(s) for s in scores.T])
    expected = metrics.probability_of_improvement(scores, others)
    assert report.probability_of_improvement(scores, others) == pytest.approx(expected)
    assert np.isnan(report.ratio_of_iqms(np.ones((3, 1)), np.full((3, 1), -1.0)))


def test_tasks_of_an_aggregate_count_alike_and_all_must_be_there(report):
    runs = [Run("cartpole", "uniform", seed) for seed in range(4)]
    runs += [Run("mountaincar", "uniform", seed) for seed in range(2)] + [Run("cartpole", "exp-100", 0)]
    records = {run: made_up_record(run) for run in runs}
    matrices = report.score_matrices(records, ["cartpole", "mountaincar"])
    assert {method: matrix.shape for method, matrix in matrices.items()} == {"uniform": (2, 2)}
    expected = TASKS["cartpole"].scores([records[runs[1]]["auc"]], [])
    assert matrices["uniform"][1, 0] == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize(
    ("tasks", "missing"), [((), 6), (("cartpole-actions", "mountaincar"), 2), (("cartpole-physics", "cartpole"), 2)]
)
def test_the_report_is_rebuilt_byte_for_byte(report, tmp_path, monkeypatch, tasks, missing):
    monkeypatch.setattr(report, "RESAMPLES", 10)
    methods = {"uniform", "fifo-1000", learning.DEFAULT, learning.AUTO[0]}
    runs = [run for run in learning.plan() if run.task in tasks and run.method in methods]
    runs = [run for run in runs if run.seed < 4 or run.method != "uniform"]  # as when time was up
    written = []
    for number in range(2):
        records = tmp_path / f"records{number}"
        for run in runs:
            learning.append(made_up_record(run), records)
        random.Random(number).shuffle(runs)  # two processes finish in any order
        page = tmp_path / f"docs{number}" / "results.md"
        monkeypatch.setattr(sys, "argv", ["report", "--records", str(records), "--output", str(page)])
        report.main()
        written.append({path.name: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()})
    assert written[0] == written[1]
    page = written[0]["results.md"].decode()
    for picture in set(written[0]) - {"results.md"}:
        assert f"](images/{picture})" in page
    assert ("1/(age + 100)^1.5" in page) == bool(runs)
    assert page.count("No records yet") == missing


def test_the_best_published_method_is_one_as_published_with_runs_enough(report):
    levels = {"fifo-300": (5, 0.9), "exp-300-uniform-0.1": (5, 0.8), "exp-100": (2, 0.7), "power-1": (3, 0.6)}
    levels |= {"exp-300": (5, 0.5), "power-100": (5, 0.9), "prioritized-exp-300": (5, 0.9)}
    matrices = {method: np.full((runs, 1), level) for method, (runs, level) in levels.items()}
    assert report.best_of(matrices, report.PUBLISHED) == "power-1"
    assert report.best_of(matrices, report.WINDOWS) == "fifo-300"
    assert report.best_of({}, report.WINDOWS) is None


def test_the_page_says_where_the_default_loses_and_to_what_anybody_could_use(report, monkeypatch):
    monkeypatch.setattr(report, "RESAMPLES", 50)
    levels = {"uniform": (3, 50), "fifo-1000": (3, 300), learning.DEFAULT: (3, 200), "exp-100": (2, 400)}
    levels[learning.AUTO[1]] = (3, 400)  # an oracle
    records = {}
    for method, (seeds, value) in levels.items():
        for seed in range(seeds):
            run = Run("cartpole-actions", method, seed)
            records[run] = made_up_record(run, value)
    lines = report.limits_section(records, ["cartpole-actions"])
    assert "* The default next to uniform replay: better on `cartpole-actions`." in lines
    assert "* The default next to the best FIFO: worse on `cartpole-actions`." in lines
    (row,) = (line for line in lines if line.startswith("| `cartpole-actions`"))
    assert row.split(" | ")[2] == "FIFO 1,000"
    ours, theirs, other, *_ = (
        line for line in report.task_table(records, ["cartpole-actions"]) if re.search("uniform|FIFO|100 ", line)
    )
    assert "**" not in ours.split(" | ")[1]
    assert theirs.split(" | ")[1].startswith("**")
    assert "**" not in other.split(" | ")[1]


def test_what_a_smaller_buffer_loses_is_as_the_package_would_draw_it(report, monkeypatch):
    from gymnasium import spaces

    from sb3_reptile import DecayedReplayBuffer

    buffer = DecayedReplayBuffer(500, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), device="cpu")
    for _ in range(500):
        buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    older = buffer.ages().ravel() >= 100
    assert report.share_beyond(100, 500) == pytest.approx(buffer.sampling_probabilities().ravel()[older].sum())
    assert report.capacity_section({}, ["cartpole-actions"]) == []
    monkeypatch.setattr(report, "RESAMPLES", 10)
    methods = {learning.DEFAULT: 100, learning.SMALLER[0]: 70}
    runs = {Run("cartpole-actions", method, seed): value for method, value in methods.items() for seed in range(3)}
    records = {run: made_up_record(run, value) for run, value in runs.items()}
    rows = [line for line in report.capacity_section(records, list(TASKS)) if re.match(r"\| [\d,]+ \|", line)]
    assert [(row.split()[1], round(float(row.split(" | ")[2].split(" ")[0]))) for row in (rows[0], rows[-1])] == [
        ("3,000", 70),
        ("100,000", 100),
    ]


def test_the_parts_of_auto_are_judged_where_they_were_left_out(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESAMPLES", 10)
    auto, forgets = learning.AUTO[0], f"{learning.AUTO[0]}-forgets"
    values = {("cartpole-physics", auto): 200, ("cartpole-actions", auto): 200, ("cartpole-actions", forgets): 100}
    runs = {Run(*of, seed): value for of, value in values.items() for seed in range(3)}
    records = {run: made_up_record(run, value) for run, value in runs.items()}
    page = report.auto_section(records, ["cartpole-physics"], [], tmp_path, "")
    (start,) = (number for number, line in enumerate(page) if line.startswith("On `cartpole-actions`, less what it is"))
    (less,) = re.fullmatch(r"\* auto, .*, forgets: (\S+) .*", page[start + 2]).groups()
    task = TASKS["cartpole-actions"]
    assert float(less) == pytest.approx(100 / (task.reference_return - task.random_return), abs=0.015)
    assert page[start + 3] == ""


def test_the_default_under_test_is_that_of_the_package():
    from sb3_reptile import ReptileDQN

    assert learning.build(Run("cartpole", learning.DEFAULT, 0)).replay_buffer.decay == package_default()
    auto = ReptileDQN("MlpPolicy", "CartPole-v1", device="cpu", half_life="auto").replay_buffer
    assert learning.build(Run("cartpole", learning.AUTO[0], 0)).replay_buffer.decay == auto.decay
