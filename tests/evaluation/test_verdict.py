"""The verdict of a comparison states what the intervals allow, and agrees with our own results."""

import json
import math
import re
from pathlib import Path

import pytest

from sb3_reptile.evaluation import statistics
from sb3_reptile.evaluation.methods import make_methods
from sb3_reptile.evaluation.verdict import results_of, verdict

ROOT = Path(__file__).parent.parent.parent
METHODS = make_methods(["uniform", "default", "auto"], 100_000)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


def results(random=0.0, **areas):
    runs = {name: [{"auc": area, "last": area} for area in found] for name, found in areas.items()}
    return results_of(METHODS, runs, {"auc": random})


UNIFORM = [98.0, 99.0, 100.0, 101.0, 102.0]


def test_a_method_that_is_better_in_every_run_is_ahead_by_its_interval():
    found = results(uniform=UNIFORM, auto=[area + 25 for area in UNIFORM], default=UNIFORM[::-1])
    _, default, auto = found
    assert (auto.gain.value, auto.gain.low > 20, auto.gain.high < 30) == (pytest.approx(25), True, True)
    assert auto.probability.value == 1
    assert auto.p == pytest.approx(2 / math.comb(10, 5))
    assert default.gain.value == 0
    expected = f"auto is ahead of uniform replay by {auto.gain.low:.0f} to {auto.gain.high:.0f} %; "
    assert verdict(found) == f"{expected}more seeds would hardly change that."


def test_a_better_method_whose_runs_overlap_needs_more_seeds():
    found = results(uniform=UNIFORM, default=[101.5, 105.0, 106.0, 107.0, 108.0])
    assert verdict(found).startswith("Default is ahead of uniform replay by ")
    assert verdict(found).endswith("; more seeds would make that more certain.")


def test_the_unit_of_returns_does_not_change_the_verdict():
    other = [101.5, 105.0, 106.0, 107.0, 108.0]
    small = results(uniform=[area * 1e-7 for area in UNIFORM], default=[area * 1e-7 for area in other])
    assert verdict(small) == verdict(results(uniform=UNIFORM, default=other))
    # Uniform replay gains nothing over random actions: differences are stated in return
    found = results(random=1.0, uniform=[area * 1e-5 for area in UNIFORM], default=[area * 1e-5 for area in other])
    assert re.search(r"by 0\.0000[1-9]\d* to 0\.0000[1-9]\d* in return", verdict(found))


def test_gains_are_relative_to_random_actions():
    (_, default) = results(random=90.0, uniform=UNIFORM, default=[area + 5 for area in UNIFORM])
    assert default.gain.value == pytest.approx(50)
    found = results(random=90.0, uniform=[-area for area in UNIFORM], default=UNIFORM)
    (_, default) = found
    assert math.isnan(default.gain.value)
    assert verdict(found).count(" in return") == 1


def test_equal_methods_exclude_the_larger_differences():
    found = results(uniform=UNIFORM, default=[*UNIFORM[1:], 97.5], auto=UNIFORM[::-1])
    limit = max(abs(bound) for result in found[1:] for bound in (result.gain.low, result.gain.high))
    assert 1 < limit < 5
    shown = math.ceil(limit * 10 - 1e-9) / 10
    assert verdict(found) == (
        "No method is significantly better than uniform replay; differences larger than "
        f"{shown:.1f} % can be excluded: keep uniform replay."
    )


def test_wide_intervals_are_no_equivalence():
    found = results(uniform=[10, 60, 100, 140, 190], default=[20, 50, 110, 150, 170])
    assert "but 5 seeds only exclude differences larger than" in verdict(found)
    assert "keep uniform replay, and use more seeds" in verdict(found)


def test_worse_methods_are_named():
    worse = [area - 30 for area in UNIFORM]
    found = verdict(results(uniform=UNIFORM, default=worse))
    assert found.startswith("Uniform replay is ahead of default (")
    assert found.endswith(" % behind): keep uniform replay.")
    found = results(uniform=UNIFORM, default=worse, auto=UNIFORM[::-1])
    assert "(significantly worse: default); differences" in verdict(found)


def test_too_few_runs_give_no_verdict():
    assert verdict(results(uniform=[1.0], auto=[9.0])).startswith("Too few runs for a verdict: 1 run of a method")
    assert verdict(results(uniform=UNIFORM, auto=[900.0, 901.0])).startswith("Too few runs for a verdict: 2 runs")
    assert verdict(results(uniform=UNIFORM)).startswith("Nothing is compared yet")


# Names of benchmarks/methods.py
RECORDED = {"uniform": "uniform", "default": "power-100-1.5", "auto": "auto-power-100-1.5"}


def verdict_on(task, random, fifo):
    """The verdict on the first five seeds of a task of benchmarks/tasks.py."""
    recorded = RECORDED | {"fifo": fifo}
    runs = {name: {} for name in recorded}
    for line in (ROOT / "benchmarks" / "results" / "learning" / f"{task}.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, recorded_as in recorded.items():
            if record["method"] == recorded_as and record["volume"] is None and record["seed"] < 5:
                runs[name].setdefault(record["seed"], record | {"last": record["curve"][-1]})
    runs = {name: list(found.values()) for name, found in runs.items()}
    assert {name: len(found) for name, found in runs.items()} == dict.fromkeys(recorded, 5)
    return verdict(results_of(make_methods(None, 100_000), runs, {"auc": random}))


@pytest.mark.parametrize(
    ("task", "random", "fifo", "expected"),
    [
        # docs/explanation/results_one_step.md: the default minus uniform replay 0.28 (0.22 to 0.33): better
        ("cartpole-actions", 22.3, "fifo-3000", "auto is ahead of uniform replay by "),
        # no significant difference
        ("cartpole", 22.3, "fifo-1000", "No method is significantly better than uniform replay, but 5 seeds only "),
        # worse by 0.02, and auto barely worse or not significantly
        (
            "acrobot",
            -499.9,
            "fifo-1000",
            (
                "No method is significantly better than uniform replay (significantly worse: FIFO 3,000 and default)",
                "Uniform replay is ahead of FIFO 3,000 ",
            ),
        ),
    ],
    ids=["cartpole-actions", "cartpole", "acrobot"],
)
def test_the_verdict_on_our_own_records_is_that_of_the_results(task, random, fifo, expected):
    assert verdict_on(task, random, fifo).startswith(expected)
