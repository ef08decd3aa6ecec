"""docs/explanation/results.md follows from the records of benchmarks/learning.py --learner."""

import importlib

import pytest

import tests.benchmarks  # noqa: F401
from sb3_reptile.evaluation import statistics
from tests.benchmarks.test_learning import TASKS, Run, made_up_record

pytest.importorskip("rliable")
learners = importlib.import_module("learner_report")
methods = importlib.import_module("methods")
AUTO, DEFAULT, UNIFORM = methods.AUTO.name, methods.DEFAULT.name, methods.UNIFORM.name


def made_up(returns, seeds=3, learner=learners.LEARNER):
    """Records of runs with constant returns, by task and method."""
    runs = {
        Run(task, method, seed, None, learner): value
        for (task, method), value in returns.items()
        for seed in range(seeds)
    }
    return {run: made_up_record(run, value) for run, value in runs.items()}


def rows_of(page, title):
    """The cells of the tables below a title, by their first cell."""
    section = page[page.index(f"\n## {title}\n") :].split("\n## ")[1]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [(row[0], row[1:]) for row in cells]


def test_the_page_is_that_of_the_records(tmp_path):
    assert learners.report(learners.all_records(), tmp_path) == learners.PAGE.read_text(encoding="utf-8")
    page = learners.PAGE.read_text(encoding="utf-8")
    for picture in tmp_path.iterdir():
        assert f"](../images/{picture.name})" in page
        assert (learners.IMAGES / picture.name).exists()


def test_tasks_are_in_the_group_that_they_belong_to_and_tried_ones_count_as_tuning(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    names = ("rooms", "lunarlander-gravity", "acrobot", "cartpole-physics", "pendulum")
    page = learners.report(made_up({(name, UNIFORM): -100 for name in names}), tmp_path)
    groups = {title: [name for name, _ in rows_of(page, title) if name.startswith("`")] for title in learners.GROUPS}
    assert groups == {
        "Reporting tasks whose phases conflict": ["`rooms`"],
        "Other reporting tasks that drift": ["`lunarlander-gravity`"],
        "Reporting tasks that do not drift": ["`acrobot`"],
        "Tuning tasks": ["`pendulum`", "`cartpole-physics`"],
    }
    roles = {row[0]: row[1][1] for row in rows_of(page, "How it is measured")[1:]}
    assert roles["`cartpole-physics`"] == "tuning"
    assert roles["`rooms`"] == "reporting"


def test_auto_is_compared_with_the_best_other_method_of_each_task_and_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    returns = {
        ("cartpole-long", UNIFORM): 150,
        ("cartpole-long", DEFAULT): 200,
        ("cartpole-long", "fifo-3000"): 250,
        ("cartpole-long", AUTO): 300,
        ("cartpole-long", f"oracle-{DEFAULT}"): 400,
        ("acrobot-torques", UNIFORM): -300,
        ("acrobot-torques", DEFAULT): -150,
        ("acrobot-torques", AUTO): -200,
    }
    page = learners.report(made_up(returns) | made_up({("cartpole-long", UNIFORM): 60}, learner=None), tmp_path)
    rows = rows_of(page, "Reporting tasks whose phases conflict")
    compared = {name: cells for name, cells in rows if len(cells) == 5 and cells[3] != "steps to 90 %"}

    def score(task, value):
        return TASKS[task].scores([value], [])[0]

    def first_number(text):
        return float(text.split()[0])

    difference, ratio, _, best, to_best = compared["`cartpole-long`"]
    assert best == "FIFO 3,000"
    expected = [score("cartpole-long", value) for value in (300, 150, 250)]
    assert first_number(difference) == pytest.approx(expected[0] - expected[1], abs=0.02)
    assert first_number(ratio) == pytest.approx(expected[0] / expected[1], abs=0.05)
    assert first_number(to_best) == pytest.approx(expected[0] / expected[2], abs=0.03)
    assert compared["`acrobot-torques`"][3] == "default"
    # Of all tasks, only methods with runs on each of them
    assert compared["all"][3] == "default"
    scores = dict(rows[: [name for name, _ in rows].index("`auto` compared with")])
    header = scores["score"]
    assert scores["all"][header.index("FIFO 3,000")] == ""
    # An oracle is not the best
    assert "**" in scores["`cartpole-long`"][header.index("auto")]
    of_returns = dict(rows_of(page, "What multi-step returns are worth"))["`cartpole-long`"]
    assert [cell.endswith("(3)") for cell in of_returns] == [True, True, False, True, False, True]
    assert first_number(of_returns[0]) == pytest.approx(score("cartpole-long", 60), abs=0.02)


def test_a_ratio_to_a_score_close_to_that_of_random_actions_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    random_return = TASKS["cartpole-long"].random_return
    returns = {("cartpole-long", UNIFORM): random_return, ("cartpole-long", AUTO): 300}
    page = learners.report(made_up(returns), tmp_path)
    rows = [
        cells for name, cells in rows_of(page, "Reporting tasks whose phases conflict") if name == "`cartpole-long`"
    ]
    assert [cells[1] for cells in rows if cells[3:4] == ["uniform"]] == [""]


def test_what_artificial_alarms_cost_is_stated_and_they_are_no_method_of_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    returns = {("cartpole", AUTO): 400, ("cartpole", UNIFORM): 300, ("cartpole", methods.FALSE_ALARMS.name): 380}
    page = learners.report(made_up(returns), tmp_path)
    assert "auto, false alarms" not in [cell for _, cells in rows_of(page, "Tuning tasks") for cell in cells]
    (alarms, _, _, less), *_ = [
        cells for name, cells in rows_of(page, "What a false alarm costs") if name == "`cartpole`"
    ]
    # Every 10,000 of 50,000 steps
    assert alarms == "4"
    assert float(less.split()[0]) == pytest.approx(-20, abs=5)


def test_what_replaying_the_contradicted_gains_is_stated_and_it_is_no_method_of_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    levels = {UNIFORM: 100, methods.DEFAULT.name: 200, AUTO: 250, methods.KEEPING.name: 300}
    page = learners.report(made_up({("cartpole-long", method): level for method, level in levels.items()}), tmp_path)
    assert methods.KEEPING.label not in [
        cell for _, cells in rows_of(page, "Reporting tasks whose phases conflict") for cell in cells
    ]
    (row,) = [cells for name, cells in rows_of(page, "Replaying what is contradicted") if name == "`cartpole-long`"]
    assert [float(cell.split()[0]) for cell in row] == pytest.approx(list(levels.values()), abs=5)


def test_the_headline_compares_on_tasks_with_runs_of_all_methods_and_leaves_tuning_tasks_out_of_those_that_conflict(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    values = dict(zip(learners.SHOWN, (100, 200, 200, 300), strict=True))
    tasks = ("cartpole-long", "cartpole-actions", "cartpole")
    returns = {(task, method): value for task in tasks for method, value in values.items()}
    results = learners.with_learner(made_up(returns | {("rooms", UNIFORM): 0.5}))
    assert {title: tasks for title, (tasks, _) in learners.glance(results).items()} == {
        "tasks whose phases conflict": ["cartpole-long"],
        "tasks that never change": ["cartpole"],
    }
    table = {row.split(" | ")[0].strip("| "): row.split(" | ")[1:] for row in learners.glance_table(results)[:-2]}
    assert table["IQM of the score"][0] == "1 tasks whose phases conflict (3 seeds or more)"
    score = TASKS["cartpole"].scores([300.0, 100.0], [])
    assert [float(cell.split()[0]) for cell in table["auto"]] == pytest.approx([score[0]] * 2, abs=0.02)
    assert float(table["auto / uniform"][1].split()[0]) == pytest.approx(score[0] / score[1], abs=0.2)


def test_a_task_with_fewer_runs_than_an_interval_needs_is_shown_and_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    values = dict(zip(learners.SHOWN, (100, 200, 200, 300), strict=True))
    many = made_up({("cartpole-long", method): value for method, value in values.items()})
    few = made_up({("lunarlander-long", method): value for method, value in values.items()}, 2)
    page = learners.report(many | few, tmp_path)
    names = [name for name, _ in rows_of(page, "Reporting tasks whose phases conflict")]
    assert {"`lunarlander-long`", "`cartpole-long`", "all but `lunarlander-long`"} <= set(names)
    assert "all" not in names
    assert "1 tasks whose phases conflict (3 seeds or more)" in page


def test_old_and_new_reporting_tasks_are_each_put_together_and_sac_has_one_step_returns(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)

    def scored(task, score):
        """A return with this score."""
        of = TASKS[task]
        return of.random_return + score * (of.reference_return - of.random_return)

    one_step = {("cartpole-gradual", 0.1), ("pendulum-motor", 0.4), ("lunarlander-gravity", 0.1)}
    one_step |= {("acrobot-torques", 0.2), ("pendulum-td3", 0.5)}
    others = {("cartpole-gradual", 0.8), ("lunarlander-gravity", 0.6), ("acrobot-torques", 0.9), ("rooms", 0.0)}
    records = [
        made_up({(task, AUTO): scored(task, score) for task, score in of}, seeds, learner)
        for of, seeds, learner in ((one_step, 4, None), (others, 3, learners.LEARNER))
    ]
    # One that does not drift does not count
    records.append(made_up({("cartpole", AUTO): 400}, learner=None))
    page = learners.report(records[0] | records[1] | records[2], tmp_path)
    first, blind = [row for name, row in rows_of(page, "What multi-step returns are worth") if name == "auto"]
    assert [cell.split()[0] for cell in first] == ["0.15", "0.60"]
    assert [cell.split()[0] for cell in blind] == ["0.20", "0.90"]
    assert "nothing had been tried: `acrobot-torques`. Number of runs of each method on each task: 3 or more." in page
    assert "There are 3 seeds or more." in page
    assert "λ-returns had been tried on `cartpole-gradual`." in page


def test_other_learners_are_next_to_that_of_the_defaults_on_tasks_with_runs_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    records = made_up({("cartpole-actions", AUTO): 400, ("cartpole", AUTO): 300})
    records |= made_up({("cartpole-actions", AUTO): 200}, seeds=1, learner="3-step-lambda-0.7")
    records |= made_up({("cartpole-actions", UNIFORM): 100}, seeds=1, learner="10-step-lambda-0.9-cut")
    records |= made_up({("cartpole-actions", AUTO): 350}, seeds=1, learner="10-step-lambda-0.7-rollout-64")
    page = learners.report(records, tmp_path)
    section = page[page.index("### Other learners on cartpole-actions") :]
    assert "### Other learners on cartpole\n" not in page
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    auto = rows[0].index("auto")
    found = {row[0]: row[auto] for row in rows[2:]}
    assert list(found) == [
        "3 steps, λ = 0.7",
        "10 steps, λ = 0.7",
        "10 steps, λ = 0.9, cut at actions that are not greedy",
        "10 steps, λ = 0.7, target network updated every 64 steps",
    ]
    values = [float(cell.split()[0]) for cell in found.values() if cell]
    assert values == pytest.approx([200, 400, 350], abs=20)
