"""Pages of benchmarks/results are those of the committed records, and docs state the numbers of pages and records."""

import csv
import importlib
import math
import re
from pathlib import Path

import numpy as np
import pytest

import tests.benchmarks  # noqa: F401
from sb3_reptile.replay import PowerLaw
from sb3_reptile.replay.auto import Settings

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def read(path):
    """The text of a page, its lines joined."""
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


def records(name):
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


# The text of each page, from its records
PAGES = {
    "detection": lambda module: module.page(module.read(module.RESULTS / "detection.jsonl")),
    "sampling": lambda module: module.markdown(records("sampling")),
    "training": lambda module: module.markdown(records("training")),
    "checkpoint": lambda module: module.markdown(records("checkpoint")),
    "vec_env": lambda module: module.markdown(records("vec_env")),
    "meta": lambda module: module.page(module.read_records()),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_that_of_the_records(name):
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert PAGES[name](importlib.import_module(name)) == page


def test_the_page_of_add_is_that_of_the_records_and_its_ratios_are_in_the_docs():
    page = (RESULTS / "adds.md").read_text(encoding="utf-8")
    assert importlib.import_module("sampling").markdown(records("adds")) == page
    ratios = {row["buffer"]: f"{float(row['ratio']):.2f}" for row in records("adds")}
    text = read("docs/explanation/cost.md")
    for name, of_dict in (("8 floats", ""), ("Dict of 2 keys", ", Dict of 2 keys")):
        one, eight = (ratios[f"default options, {n}{of_dict}"] for n in ("1 environment", "8 environments"))
        assert f"| {name} | {one} | {eight} |" in text


def test_the_page_of_several_steps_is_that_of_the_records_and_its_ratios_are_in_the_docs():
    page = (RESULTS / "steps.md").read_text(encoding="utf-8")
    assert importlib.import_module("sampling").markdown(records("steps")) == page
    ratios = {(row["buffer"], row["batch"]): f"{float(row['ratio']):.2f}" for row in records("steps")}
    text = read("docs/explanation/cost.md")
    for name in dict.fromkeys(buffer for buffer, _ in ratios):
        assert f"| {name} | {ratios[name, '32']} | {ratios[name, '256']} |" in text


@pytest.mark.parametrize("task", ["DriftingCartPoleActions-v0", "DriftingPricing-v0", "CartPole-v1"])
def test_choice_states_the_returns_and_verdicts_of_the_comparisons(task):
    report = RESULTS / "compare" / "reptile_dqn" / task / "comparison.md"
    returns = [row[1].split()[0] for row in rows_of(report).values() if len(row) == 5 and row[0] == "5"]
    assert len(returns) == 4
    text = (ROOT / "docs/explanation/choice.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if f"{task}/comparison.md" in line)
    assert line.endswith(f"| {' | '.join(returns)} |")
    verdict = next(line for line in report.read_text(encoding="utf-8").splitlines() if line.startswith("**"))
    assert f": *{verdict.strip('*')}*" in text


def test_applications_have_the_table_of_their_records(monkeypatch, tmp_path):
    report = importlib.import_module("application_report")
    page = (RESULTS / "applications.md").read_text(encoding="utf-8")
    found = report.runs.read_records()
    parts = {part.__name__: part(found) for part in (report.table, report.between_changes, report.evaluations)}
    assert report.fill("page", **parts) + "\n" == page


def rows_of(page):
    """Cells of a page's tables by their first cell."""
    lines = re.findall(r"^\| (.*) \|$", (RESULTS / page).read_text(encoding="utf-8"), re.MULTILINE)
    rows = [[cell.strip() for cell in line.split(" | ")] for line in lines if not set(line) <= set("-:| ")]
    return {row[0]: row[1:] for row in rows[1:]}


def test_auto_states_how_well_changes_are_detected():
    text = read("docs/explanation/auto.md")
    rows = rows_of("detection.md")
    seeds = {row[0] for row in rows.values()}
    assert f"on {seeds.pop()} seeds of each of {len(rows)} tasks" in text
    assert not seeds
    assert f"[5 seeds of {len(rows)} tasks](auto.md" in read("docs/explanation/promises.md")
    noticed = {task: row[1] for task, row in rows.items() if row[1]}
    delay = {task: int(row[2]) for task, row in rows.items() if row[2]}

    acrobot, minatar = "Acrobot, link masses change", "MinAtar, breakout and space_invaders in turn"
    engines, windy = "LunarLander, side engines swap", "LunarLander, gravity and wind change"
    pricing, clicks = "Pricing, price elasticity changes", "Clicks, other advertisements are liked"
    queue, goal = "Queue, arrivals and service change", "Rooms, the goal moves"
    noisy, known = {pricing, clicks, queue}, {acrobot, minatar, windy, pricing, clicks, queue, goal}

    def times(task):
        return noticed[task].replace("of", "times of")

    assert {noticed[task] for task in noticed.keys() - known} == {"15 of 15"}
    assert (
        f"those of LunarLander's gravity {times(windy)}, of Acrobot's masses {noticed[acrobot].split()[0]} times."
        in text
    )
    delays = [delay[task] for task in delay.keys() - noisy]
    assert f"The median delays are {min(delays)} to {max(delays)} steps" in text
    assert f"MinAtar's game is noticed {times(minatar)}" in text
    assert f"elasticity is noticed {times(pricing)}, after {delay[pricing]} steps" in text
    assert f"queue change: {noticed[clicks].split()[0]} and {times(queue)}." in text
    assert f"their mean consistency is {rows[clicks][5]} and {rows[queue][5]}." in text
    assert f"A goal that moves on a grid is not noticed ({times(goal)})" in text

    # Of the task that drifts all the time, no alarm is false
    false = {task: float(row[3]) for task, row in rows.items() if "alarms" not in row[3]}
    stationary = [rate for task, rate in false.items() if task not in noticed]
    assert f"at most {max(stationary):g} false alarms in 100,000 transitions**, on {len(stationary)} tasks" in text
    most = max(false[task] for task in noticed.keys() - {engines, windy, minatar})
    assert (
        f"Between changes there are at most {most:g}, but {false[engines]:g} with LunarLander's engines, "
        f"{false[windy]:g} with hidden wind, and {false[minatar]:g} with MinAtar's two games"
    ) in text
    valid = {task: float(row[4]) for task, row in rows.items() if row[4]}
    others = [valid[task] for task in valid.keys() - {minatar, windy}]
    assert (
        f"is {min(others):g} to {max(others):g} on most tasks, {valid[minatar]:g} on MinAtar's two games and "
        f"{valid[windy]:g} on LunarLander with hidden wind"
    ) in text


def test_auto_states_the_constants_of_its_settings():
    text = read("docs/explanation/auto.md")
    settings = Settings()
    assert settings.mean_evidence == 0.5, "the evidence is half of the log-likelihood ratio"
    least = math.exp(settings.doubt - settings.bound)
    for sentence in (
        f"there are never more than {settings.max_segments}.",
        f"a sample of up to {settings.sample_size} transitions of each segment",
        f"Every {settings.chunk_size} transitions, some of the new ones are compared",
        f"The newest {settings.present_size} transitions, the present,",
        f"is 1 up to a sum of {settings.doubt:g} nats, then falls exponentially, down to {least:.4f}.",
        "An outcome is **noisy** (sales or clicks, for example) if its false-alarm rate in near situations stays above "
        f"{settings.noisy_above:g}",
        f"the mean of the {settings.mean_neighbours} most similar situations",
        f"minus {settings.allowance:g} nats",
        f"if they are more than {settings.tolerance:g} apart",
        f"averaged down to {settings.image_side} x {settings.image_side} pixels",
        f"Vectors of more than {settings.max_features} numbers",
    ):
        assert sentence in text, sentence


def test_what_logs_show_states_what_was_logged():
    text = read("docs/explanation/what_logs_show.md")
    logs = importlib.import_module("reading_logs")
    runs = {
        name: [
            {key: float(row[key] or "nan") for key in logs.KEYS}
            for row in records("reading_logs")
            if row["run"] == name
        ]
        for name in logs.RUNS
    }
    step, returns, size = "time/total_timesteps", "rollout/ep_rew_mean", "replay/effective_sample_size"

    assert "levels off near 700 transitions" in text
    assert all(600 < row[size] < 800 for row in runs["healthy"][-20:])
    alarm = next(row for row in runs["change"] if row["replay/alarms"] > 0)
    assert f"in the next entry of the log, {alarm[step] - logs.SWAP:.0f} steps later" in text
    assert f"swap at step {logs.SWAP:,} (dashed)" in text
    after = [row for row in runs["change"] if row[step] > logs.SWAP]
    low = min(range(len(after)), key=lambda number: after[number][returns])
    back = next(row for row in after[low:] if row[returns] >= 90)
    assert f'the run with `"auto"` above is back at 90 after {round(back[step] - logs.SWAP, -2):,.0f}' in text
    assert {round(row[size]) for row in runs["too_short"][10:]} == {29}
    assert "The effective sample size is 29, less than one batch" in text
    stuck = [row for row in runs["too_long"] if logs.SWAP + 1_000 < row[step] < logs.SWAP + 5_000]
    assert "The return stays near 10 for more than 5,000 steps" in text
    assert stuck
    assert all(8 < row[returns] < 20 for row in stuck)


def test_returns_of_single_runs_are_those_of_the_records():
    pendulum = [round(float(row["mean_return"])) for row in records("pendulum")]
    means = f"{pendulum[0]}, {pendulum[1]} and {pendulum[2]}"
    steps, episodes = {(int(row["steps"]), row["episodes"]) for row in records("pendulum")}.pop()
    text = read("docs/explanation/applications.md")
    assert f"mean returns of {means} over {episodes} episodes after {steps:,} steps (seeds 0 to 2;" in text

    cartpole = [(int(row["seed"]), int(row["steps"]), float(row["mean_return"])) for row in records("zoo_cartpole")]
    first = {seed: min(step for of, step, mean in cartpole if of == seed and mean == 500) for seed in (1, 2)}
    last = {seed: mean for seed, step, mean in cartpole if step == 50_000}
    assert last[1] == last[2] == 500
    text = read("docs/explanation/promises.md")
    assert f"first after {first[1]:,} and {first[2]:,} of 50,000 steps, and again in the last" in text
    assert f"with seed 0 the last evaluation was {last[0]:.0f} (" in text


def test_the_memory_of_the_default_is_stated_as_it_is():
    weight = PowerLaw(scale=100, exponent=1.5)(np.arange(100_000)).cumsum()
    share = weight / weight[-1]
    text = read("docs/explanation/how_replay_forgets.md")
    assert "from a buffer of 100,000. " in text
    assert "the default decay from those older than 300." in text
    assert share[300] == pytest.approx(0.5, abs=0.02)
    older = f"{1 - share[10_000]:.0%}".replace("%", " %")
    assert f"{older} of the draws are older than 10,000" in text
    assert f"a buffer of 10,000 misses {older} of the draws from 100,000" in read("docs/how_to/save_memory.md")


def test_save_memory_states_the_speed_of_buffers_on_disk():
    rows = rows_of("checkpoint.md")
    slow, fast = (float(rows[f"disk, {name}"][1]) for name in ("uniform", "half-life 10,000"))
    assert f"training runs at {slow:.1f} to {fast:.1f} times the speed" in read("docs/how_to/save_memory.md")
