"""docs/explanation/results_one_step.md follows from the records of benchmarks/learning.py alone."""

import importlib
import random
import re
import sys

import numpy as np
import pytest

from sb3_reptile.evaluation import statistics
from tests.benchmarks.test_learning import TASKS, Run, learning, made_up_record

methods = importlib.import_module("methods")


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
        report.report(records, tmp_path)


def test_tasks_of_an_aggregate_count_alike_and_all_must_be_there(report):
    runs = [Run("cartpole", "uniform", seed) for seed in range(4)]
    runs += [Run("mountaincar", "uniform", seed) for seed in range(2)] + [Run("cartpole", "exp-100", 0)]
    records = {run: made_up_record(run) for run in runs}
    matrices = report.Results(records).score_matrices(["cartpole", "mountaincar"])
    assert {method: matrix.shape for method, matrix in matrices.items()} == {"uniform": (2, 2)}
    expected = TASKS["cartpole"].scores([records[runs[1]]["auc"]], [])
    assert matrices["uniform"][1, 0] == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize(
    ("tasks", "missing"), [((), 7), (("cartpole-actions", "mountaincar"), 3), (("cartpole-physics", "cartpole"), 3)]
)
def test_the_report_is_rebuilt_byte_for_byte(report, tmp_path, monkeypatch, tasks, missing):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    chosen = {"uniform", "fifo-1000", methods.DEFAULT.name, methods.AUTO.name}
    runs = [run for run in learning.plan() if run.task in tasks and run.method in chosen]
    runs = [run for run in runs if run.seed < 4 or run.method != "uniform"]  # as when time was up
    written = []
    for number in range(2):
        records = tmp_path / f"records{number}"
        for run in runs:
            learning.append(made_up_record(run), records)
        random.Random(number).shuffle(runs)  # two processes finish in any order
        page = tmp_path / f"docs{number}" / "explanation" / "results_one_step.md"
        monkeypatch.setattr(sys, "argv", ["report", "--records", str(records), "--output", str(page)])
        report.main()
        written.append({path.name: path.read_bytes() for path in page.parent.parent.rglob("*") if path.is_file()})
    assert written[0] == written[1]
    page = written[0]["results_one_step.md"].decode()
    for picture in set(written[0]) - {"results_one_step.md"}:
        assert f"](../images/{picture})" in page
    assert ("| **default** |" in page) == bool(runs)
    assert page.count("No records yet") == missing


def test_tasks_without_records_are_not_on_the_page_and_small_returns_have_more_decimals(report, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    run = Run("cartpole", "uniform", 0)
    page = report.report({run: made_up_record(run)}, tmp_path)
    assert "| `cartpole` |" in page
    assert not [name for name in TASKS if name != "cartpole" and f"| `{name}` |" in page]
    assert [report.decimals_of(TASKS[name]) for name in ("cartpole", "minatar", "rooms")] == [0, 1, 2]


def test_the_best_published_method_is_one_as_published_with_runs_enough(report):
    levels = {"fifo-1000": (5, 0.9), "exp-300-uniform-0.1": (5, 0.8), "exp-100": (2, 0.7), "power-1": (3, 0.6)}
    levels |= {"exp-300": (5, 0.5), "power-100": (5, 0.9), "prioritized-exp-300": (5, 0.9)}
    matrices = {method: np.full((runs, 1), level) for method, (runs, level) in levels.items()}
    assert report.best_of(matrices, report.PUBLISHED) == "power-1"
    assert report.best_of(matrices, report.FIFO) == "fifo-1000"
    assert report.best_of({}, report.FIFO) is None


def test_the_page_says_where_the_default_loses_and_to_what_anybody_could_use(report, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    levels = {"uniform": (3, 50), "fifo-1000": (3, 300), methods.DEFAULT.name: (3, 200), "exp-100": (2, 400)}
    levels[methods.ORACLE.name] = (3, 400)  # an oracle
    records = {}
    for method, (seeds, value) in levels.items():
        for seed in range(seeds):
            run = Run("cartpole-actions", method, seed)
            records[run] = made_up_record(run, value)
    lines = report.limits_section(report.Results(records), ["cartpole-actions"]).splitlines()
    assert "* The default compared with uniform replay: better on `cartpole-actions`." in lines
    assert "* The default compared with the best FIFO: worse on `cartpole-actions`." in lines
    (row,) = (line for line in lines if line.startswith("| `cartpole-actions`"))
    assert row.split(" | ")[2] == "FIFO 1,000"
    ours, theirs, other, *_ = (
        line
        for line in report.task_table(report.Results(records), ["cartpole-actions"])
        if re.search("uniform|FIFO|100 ", line)
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
    assert report.capacity_section(report.Results({}), ["cartpole-actions"]) == ""
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    levels = {methods.DEFAULT.name: 100, methods.SMALLER[3_000].name: 70}
    runs = {Run("cartpole-actions", method, seed): value for method, value in levels.items() for seed in range(3)}
    records = {run: made_up_record(run, value) for run, value in runs.items()}
    section = report.capacity_section(report.Results(records), list(TASKS))
    rows = [line for line in section.splitlines() if re.match(r"\| [\d,]+ \|", line)]
    assert [(row.split()[1], float(row.split(" | ")[2].split(" ")[0])) for row in (rows[0], rows[-1])] == [
        ("3,000", pytest.approx(70, abs=2)),
        ("100,000", pytest.approx(100, abs=2)),
    ]


def test_the_parts_of_auto_are_judged_where_they_were_left_out(report, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    auto, forgets = methods.AUTO.name, f"{methods.AUTO.name}-forgets"
    values = {("cartpole-physics", auto): 200, ("cartpole-actions", auto): 200, ("cartpole-actions", forgets): 100}
    runs = {Run(*of, seed): value for of, value in values.items() for seed in range(3)}
    records = {run: made_up_record(run, value) for run, value in runs.items()}
    results = report.Results(records)
    page = report.auto_section(results, ["cartpole-physics"], [], tmp_path).splitlines()
    (start,) = (number for number, line in enumerate(page) if line.startswith("On `cartpole-actions`, minus the same"))
    (less,) = re.fullmatch(r"\* auto, forgets: (\S+) .*", page[start + 2]).groups()
    task = TASKS["cartpole-actions"]
    assert float(less) == pytest.approx(100 / (task.reference_return - task.random_return), abs=0.015)
    assert page[start + 3 :] == []
