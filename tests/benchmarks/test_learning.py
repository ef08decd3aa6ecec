"""benchmarks/learning.py keeps its records whatever happens."""

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

import sb3_reptile
from tests.benchmarks import BENCHMARKS

learning = importlib.import_module("learning")
BINS, TASKS, Run = learning.BINS, learning.TASKS, learning.Run
RIVALS = importlib.import_module("methods").RIVALS

# Its own harness: one task with three methods, whose runs do nothing but write that they began, and take 0.4 s
HARNESS = f"""
import dataclasses, sys, time, types
sys.path.insert(0, {str(BENCHMARKS)!r})
# Without the package's __init__.py, which imports torch
package = sys.modules["sb3_reptile"] = types.ModuleType("sb3_reptile")
package.__path__ = [{str(Path(sb3_reptile.__file__).parent)!r}]
import learning, methods
# It would take seconds of each of the many processes
assert "torch" not in sys.modules

for method in (methods.fifo(10), methods.exponential(10)):
    learning.METHODS[method.name] = method
METHODS = ("uniform", "fifo-10", "exp-10")
cartpole = learning.TASKS["cartpole"]
learning.TASKS = {{"tiny": dataclasses.replace(cartpole, role="tuning", steps=1_000, seeds=2, methods=METHODS)}}
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
    time.sleep(0.6)  # longer than a run: nothing continues without a parent
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
    assert "another process is writing records" in errors
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


@pytest.mark.parametrize(
    ("there", "said"), [({"processor": "A"}, "another processor [(]A; this one: B[)]"), ({}, "unknown")]
)
def test_another_processor_is_named_when_a_run_is_not_reproduced(there, said):
    known = {"curve": [1.0], "versions": there}
    again = {"curve": [1.0], "versions": {"processor": "B"}}
    assert learning.compared(again, known) == "the curve equals that of the existing record"
    again["curve"] = [2.0]
    assert re.search(f"differs from that of the existing record, .*{said}", learning.compared(again, known))
    same = {"curve": [3.0], "versions": {"processor": "B"}}
    assert learning.compared(again, same) == "the curve differs from that of the existing record"


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


def test_the_blind_tasks_are_for_reporting_and_the_long_ones_change_eight_times():
    blind = [name for name, task in TASKS.items() if set(task.methods) >= {rival.name for rival in RIVALS}]
    assert len(blind) == 9
    assert all(TASKS[name].role == "reporting" and TASKS[name].drifts for name in blind)
    assert {TASKS[name].algorithm for name in blind} == {"DQN", "TD3"}
    for name in ("cartpole-long", "lunarlander-long"):
        task = TASKS[name]
        ends = np.cumsum(task.env_kwargs["period"])
        assert (task.steps, len(ends), ends[-1]) == (200_000, 9, 200_000)
        assert task.settings["exploration_fraction"] * task.steps < ends[0]


@pytest.mark.parametrize("volume", [2, 8, 64])
def test_volume_is_the_number_of_transitions_replayed_per_step(volume):
    task = TASKS[learning.VOLUME_TASK]
    settings = learning.settings_with_volume(task, volume)
    assert settings["batch_size"] * settings["gradient_steps"] == volume * settings["train_freq"]
    assert dataclasses.replace(task, settings=settings).volume == volume
    with pytest.raises(ValueError, match="cannot have a volume"):
        learning.settings_with_volume(task, volume + 0.3)


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
