"""
docs/explanation/results.md and its figures: replay methods with the same multi-step learner, from the records alone.

    python benchmarks/learner_report.py

The records are those of `python benchmarks/learning.py --learner ...`, and those of one-step returns. The prose is in
`benchmarks/templates/results.md`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

import learning_figures as figures
import numpy as np
from learning import LEARNER_RECORDS, RECORDS, ROOT, Run, read_records
from learning_report import recovery_table, tasks_table, titled
from learning_results import Matrices, Results
from methods import AUTO, DEFAULT, FALSE_ALARMS, KEEPING, METHODS, ORACLE, UNIFORM
from tasks import TASKS, Task

from sb3_reptile.evaluation import tables
from sb3_reptile.evaluation.records import Record
from sb3_reptile.evaluation.statistics import (
    FEWEST_FOR_INTERVAL,
    difference_of_iqms,
    estimates,
    iqm,
    probability_of_improvement,
    ratio_of_iqms,
)
from sb3_reptile.evaluation.tables import number, table
from sb3_reptile.evaluation.templates import PageTemplate, join

PAGE = ROOT / "docs" / "explanation" / "results.md"
IMAGES = ROOT / "docs" / "images"
# The learner of ReptileDQN's defaults
LEARNER = "10-step-lambda-0.7"
# Candidates for the default of ReptileDQN, and uniform replay
CANDIDATES = (UNIFORM.name, DEFAULT.name, AUTO.name, "auto-exp-10000", "auto-exp-1000000")
LABELS = {"auto-exp-1000000": "auto, no decay inside (half-life 1,000,000)"}
# In figures
SHOWN = (UNIFORM.name, "fifo-3000", DEFAULT.name, AUTO.name)
ONE_STEP = "1-step"
# In tables of their own
EXPERIMENTS = (FALSE_ALARMS.name, KEEPING.name)
# A ratio to a score that is closer to that of random actions means little
SMALLEST = 0.05
# Title and figure of each group, and what belongs to it if it is in none of those before
GROUPS: dict[str, tuple[str, Callable[[Task], bool]]] = {
    "Reporting tasks whose phases conflict": ("conflict", lambda task: not is_tuned(task) and task.conflicts),
    "Other reporting tasks that drift": ("drift", lambda task: not is_tuned(task) and task.drifts),
    "Reporting tasks that do not drift": ("stationary", lambda task: not is_tuned(task)),
    "Tuning tasks": ("tuning", lambda task: True),
}

# What the headline shows: the first is a part of the first group
GLANCE: dict[str, Callable[[Task], bool]] = {
    "tasks whose phases conflict": lambda task: not is_tuned(task) and task.conflicts,
    "tasks that never change": lambda task: not task.drifts,
}

fill = PageTemplate(Path(__file__).parent / "templates" / "results.md").fill


def is_tuned(task: Task) -> bool:
    """Whether defaults were chosen on the task, or multi-step returns were tried on it."""
    return task.role == "tuning" or task.tried


def cell(records: dict[Run, Record], task: str, method: str, learner: str) -> str:
    """The mean of the runs' returns, and how many there are."""
    name = None if learner == ONE_STEP else learner
    returns = [
        record["auc"]
        for run, record in records.items()
        if (run.task, run.method, run.learner) == (task, method, name) and run.volume is None
    ]
    if not returns:
        return ""
    mean = number(fmean(returns), 1 if abs(fmean(returns)) < 10 else 0)
    return mean if len(returns) == 1 else f"{mean} ({len(returns)})"


def with_learner(records: dict[Run, Record]) -> Results:
    """
    :param records: Records of one-step returns and of other learners
    :return: Those with the learner of ReptileDQN's defaults
    """
    return Results({run._replace(learner=None): record for run, record in records.items() if run.learner == LEARNER})


def glance(results: Results) -> dict[str, tuple[list[str], Matrices]]:
    """
    :param results: Records with one learner
    :return: For each group of the headline, the tasks with runs of all methods of the figures, and their scores
    """
    found = {}
    for title, belongs in GLANCE.items():
        tasks = [name for name, task in TASKS.items() if belongs(task) and all(results.of(name, m) for m in SHOWN)]
        if tasks:
            found[title] = tasks, results.score_matrices(tasks)
    return found


def glance_table(results: Results) -> list[str]:
    groups = glance(results)
    rows = [
        [METHODS[method].label, *(tables.cell(estimates(iqm, of[method])[0]) for _, of in groups.values())]
        for method in SHOWN
    ]
    rows += [
        [f"auto / {METHODS[method].label}", *(ratio(of[AUTO.name], of[method]) for _, of in groups.values())]
        for method in SHOWN
        if method != AUTO.name
    ]
    header = [
        f"{len(tasks)} {title} ({min(len(of[method]) for method in SHOWN)} seeds or more)"
        for title, (tasks, of) in groups.items()
    ]
    names = [f"{title}: {', '.join(f'`{task}`' for task in tasks)}." for title, (tasks, _) in groups.items()]
    return [*table(["IQM of the score", *header], rows), *names] if groups else []


def report(records: dict[Run, Record], images: Path = IMAGES) -> str:
    """
    Draw the figures and write the page.

    :param records: Records of one-step returns and of other learners
    :param images: Folder of the figures
    :return: The page
    """
    results = with_learner(records)
    left = results.with_records(TASKS)
    groups = {}
    for title, (_, belongs) in GROUPS.items():
        groups[title] = [name for name in left if belongs(TASKS[name])]
        left = [name for name in left if name not in groups[title]]
    page = fill(
        "page",
        n_records=len(results.records),
        hours=f"{sum(record['cpu_seconds'] for record in results.records.values()) / 3600:.1f}",
        learner=LEARNER,
        fewest=FEWEST_FOR_INTERVAL,
        glance=glance_table(results),
        tasks=tasks_table(results.with_records(TASKS), lambda task: "tuning" if is_tuned(task) else task.role),
        groups=join(group_section(results, title, tasks, images) for title, tasks in groups.items() if tasks),
        false_alarms=false_alarms(results),
        returns=returns_table(records, results),
        one_setting=one_setting(records, results),
        keeping=keeping(results),
        choice=join(choice(records)),
    )
    return page + "\n"


def choice(records: dict[Run, Record]) -> Iterable[str]:
    """A table of the tuning tasks for each learner."""
    multi_step = [run for run in records if run.learner is not None]
    tasks = [name for name in dict.fromkeys(run.task for run in multi_step) if is_tuned(TASKS[name])]
    for learner in (ONE_STEP, *dict.fromkeys(run.learner for run in multi_step)):
        assert learner is not None
        rows = [
            [LABELS.get(method, METHODS[method].label), *(cell(records, task, method, learner) for task in tasks)]
            for method in CANDIDATES
        ]
        with_runs = [row for row in rows if any(row[1:])]
        if with_runs:
            yield "\n".join([f"### {about(learner)}", "", *table(["method", *tasks], with_runs)]).strip()


def group_section(results: Results, title: str, tasks: list[str], images: Path) -> str:
    picture = f"results_{GROUPS[title][0]}.png"
    shown = [method for method in SHOWN if method in results.methods(tasks)]
    figures.draw_curves(results, tasks, shown, images / picture)
    drifting = [task for task in tasks if TASKS[task].drifts]
    return fill(
        "group",
        title=title,
        picture=picture,
        scores=scores_table(results, tasks),
        ratios=ratios_table(results, tasks),
        recoveries=join(fill("recovery", task=task, table=recovery_table(results, task)) for task in drifting),
    )


def returns_table(records: dict[Run, Record], results: Results) -> list[str]:
    """What the methods of the figures score with one-step returns, and with the learner of the defaults."""
    one_step = Results({run: record for run, record in records.items() if run.learner is None})
    methods = (UNIFORM.name, DEFAULT.name, AUTO.name)
    rows = []
    for task in results.with_records(TASKS):
        cells = [
            "" if matrix is None else f"{number(iqm(matrix)[0], 2)} ({len(matrix)})"
            for method in methods
            for found in (one_step, results)
            for matrix in [found.score_matrix([task], method)]
        ]
        if any(cells[::2]):
            rows.append([f"`{task}`", *cells])
    header = [f"{METHODS[method].label}, {returns}" for method in methods for returns in ("one step", "λ-returns")]
    return table(["score", *header], rows)


def one_setting(records: dict[Run, Record], results: Results) -> str:
    """
    The methods of :func:`returns_table` on all drifting reporting tasks of one-step returns. Those of SAC have
    one-step returns in both columns, its default.
    """
    one_step = Results({run: record for run, record in records.items() if run.learner is None})
    tasks = [
        name
        for name in one_step.with_records(TASKS, AUTO.name)
        if TASKS[name].role == "reporting" and TASKS[name].drifts
    ]
    not_dqn = {run: record for run, record in one_step.records.items() if TASKS[run.task].algorithm != "DQN"}
    methods = (UNIFORM.name, DEFAULT.name, AUTO.name)
    columns = [
        {name: matrix for name, matrix in found.score_matrices(tasks).items() if name in methods}
        for found in (one_step, Results(results.records | not_dqn))
    ]
    rows = [
        [METHODS[name].label, *(tables.cell(estimates(iqm, of[name])[0]) if name in of else "" for of in columns)]
        for name in methods
    ]
    if not all(AUTO.name in of for of in columns):
        return ""
    names, tried = (
        ", ".join(f"`{name}`" for name in of) for of in (tasks, [name for name in tasks if TASKS[name].tried])
    )
    seeds = min(len(matrix) for matrix in columns[1].values())
    table_of_all = table(["IQM of the score", "one step", "λ-returns"], rows)
    return fill("one_setting", n=len(tasks), names=names, tried=tried, seeds=seeds, table=table_of_all)


def compared_methods(results: Results, tasks: list[str]) -> Matrices:
    """Scores of the methods with runs on all of the tasks, without experiments."""
    return {name: matrix for name, matrix in results.score_matrices(tasks).items() if name not in EXPERIMENTS}


def scores_table(results: Results, tasks: list[str]) -> list[str]:
    methods = [name for name in results.methods(tasks) if name not in EXPERIMENTS]
    rows = []
    for title, chosen in titled(tasks).items():
        found = compared_methods(results, chosen)
        values = {name: iqm(matrix)[0] for name, matrix in found.items()}
        best = max((value for name, value in values.items() if name != ORACLE.name), default=None)
        cells = [
            f"{tables.bold_if(values[name] == best, number(values[name], 2))} ({len(found[name])})"
            if name in found
            else ""
            for name in methods
        ]
        rows.append([title, *cells])
    return table(["score", *(METHODS[method].label for method in methods)], rows)


def ratios_table(results: Results, tasks: list[str]) -> list[str]:
    """``auto`` next to uniform replay, and next to the best of the others in hindsight."""
    rows = []
    for title, chosen in titled(tasks).items():
        found = compared_methods(results, chosen)
        if AUTO.name not in found or UNIFORM.name not in found:
            continue
        auto, uniform = found[AUTO.name], found[UNIFORM.name]
        others = {name: matrix for name, matrix in found.items() if METHODS[name].family not in ("auto", "oracle")}
        best = max(others, key=lambda name: iqm(others[name])[0])
        rows.append(
            [
                title,
                tables.cell(estimates(difference_of_iqms, auto, uniform)[0]),
                ratio(auto, uniform),
                tables.cell(estimates(probability_of_improvement, auto, uniform)[0]),
                METHODS[best].label,
                ratio(auto, others[best]),
            ]
        )
    header = ["`auto` next to", "uniform: difference", "ratio", "P(better)", "the best other", "ratio"]
    return table(header, rows) if rows else []


def ratio(scores: np.ndarray, others: np.ndarray) -> str:
    """The ratio of two scores; empty if that of the others is close to that of random actions."""
    return "" if iqm(others)[0] < SMALLEST else tables.cell(estimates(ratio_of_iqms, scores, others)[0])


def false_alarms(results: Results) -> str:
    """What alarms cost where nothing has changed."""
    tasks = results.with_records(TASKS, FALSE_ALARMS.name)
    if not tasks:
        return ""
    every = FALSE_ALARMS.callbacks["FalseAlarms"]["every"]
    rows = []
    for task in tasks:
        auto, with_alarms = (results.returns(task, method.name) for method in (AUTO, FALSE_ALARMS))
        decimals = 1 if abs(iqm(auto)[0]) < 10 else 0
        rows.append(
            [
                f"`{task}`",
                f"{(TASKS[task].steps - 1) // every}",
                *(tables.cell(estimates(iqm, returns)[0], decimals) for returns in (auto, with_alarms)),
                tables.cell(estimates(difference_of_iqms, with_alarms, auto)[0], decimals),
            ]
        )
    header = ["task", "alarms", "auto", "auto, false alarms", "difference"]
    return fill("false_alarms", name=FALSE_ALARMS.name, every=f"{every:,}", table=table(header, rows))


def keeping(results: Results) -> str:
    """``auto`` that goes on to replay what is contradicted."""
    methods = (UNIFORM, DEFAULT, AUTO, KEEPING)
    rows = [
        [f"`{task}`", *(tables.cell(estimates(iqm, results.returns(task, m.name))[0], decimals) for m in methods)]
        for task in results.with_records(TASKS, KEEPING.name)
        for decimals in [1 if abs(iqm(results.returns(task, KEEPING.name))[0]) < 10 else 0]
    ]
    return fill("keeping", name=KEEPING.name, table=table(["", *(m.label for m in methods)], rows)) if rows else ""


def about(learner: str) -> str:
    if learner == ONE_STEP:
        return "One-step returns"
    made = learner.partition("-lambda-")
    return f"Returns of {made[0].removesuffix('-step')} steps" + (f", λ = {made[2]}" if made[1] else "")


def all_records(one_step: Path = RECORDS, others: Path = LEARNER_RECORDS) -> dict[Run, Record]:
    return read_records(one_step) | read_records(others)


if __name__ == "__main__":
    PAGE.write_text(report(all_records()), encoding="utf-8")
    print(PAGE)
