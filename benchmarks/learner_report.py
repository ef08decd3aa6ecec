"""
docs/explanation/results.md and its figures: replay methods with the same multi-step learner, from the records alone.

    python benchmarks/learner_report.py

The records are those of `python benchmarks/learning.py --learner ...`, and those of one-step returns. The prose is in
`benchmarks/templates/results.md`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import learning_figures as figures
import numpy as np
from learning import LEARNER_RECORDS, RECORDS, ROOT, Run, read_records
from learning_report import recoveries, tasks_table, titled
from learning_results import Matrices, Results, best_of, if_known
from methods import AUTO, DEFAULT, FALSE_ALARMS, KEEPING, LEARNERS, METHODS, ORACLE, UNIFORM
from tasks import TASKS, Task

from sb3_reptile.evaluation.records import Record
from sb3_reptile.evaluation.statistics import (
    FEWEST_FOR_INTERVAL,
    difference_of_iqms,
    iqm,
    probability_of_improvement,
    ratio_of_iqms,
)
from sb3_reptile.evaluation.tables import bold_if, cell, number, table
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
# In tables of their own
EXPERIMENTS = (FALSE_ALARMS.name, KEEPING.name)
# Compared with and without multi-step returns
COMPARED = (UNIFORM.name, DEFAULT.name, AUTO.name)
# A ratio to a score that is closer to that of random actions means little
SMALLEST = 0.05
# What belongs to each group if it is in none of those before, and the group's figure
GROUPS: dict[str, Callable[[Task], bool]] = {
    "Reporting tasks whose phases conflict": lambda task: not is_tuned(task) and task.conflicts,
    "Other reporting tasks that drift": lambda task: not is_tuned(task) and task.drifts,
    "Reporting tasks that do not drift": lambda task: not is_tuned(task),
    "Tuning tasks": lambda task: True,
}
PICTURES = dict(zip(GROUPS, ("conflict", "drift", "stationary", "tuning"), strict=True))

# What the headline shows: the first is a part of the first group
GLANCE: dict[str, Callable[[Task], bool]] = {
    "tasks whose phases conflict": lambda task: not is_tuned(task) and task.conflicts,
    "tasks that never change": lambda task: not task.drifts,
}

fill = PageTemplate(Path(__file__).parent / "templates" / "results.md").fill


def is_tuned(task: Task) -> bool:
    """Whether defaults were chosen on the task, or multi-step returns were tried on it."""
    return task.role == "tuning" or task.tried


def with_learner(records: dict[Run, Record], learner: str | None = LEARNER) -> Results:
    """
    :param records: Records of one-step returns and of other learners
    :param learner: Name of a learner; None for one-step returns
    :return: Those with this learner
    """
    return Results({run._replace(learner=None): record for run, record in records.items() if run.learner == learner})


def has_enough(results: Results, task: str, methods: Iterable[str]) -> bool:
    """Whether there are as many runs of each method as an interval needs."""
    return all(len(results.of(task, method)) >= FEWEST_FOR_INTERVAL for method in methods)


def of_group(results: Results, tasks: list[str]) -> dict[str, list[str]]:
    """Each task, and all that have enough runs of ``auto``."""
    titles = titled(tasks)
    enough = [task for task in tasks if has_enough(results, task, [AUTO.name])]
    if "all" in titles and 0 < len(enough) < len(tasks):
        del titles["all"]
        titles[f"all but {quoted(task for task in tasks if task not in enough)}"] = enough
    return titles


def glance(results: Results) -> dict[str, tuple[list[str], Matrices]]:
    """
    :param results: Records with one learner
    :return: For each group of the headline, the tasks with enough runs of all methods of the figures, and their scores
    """
    found = {}
    for title, belongs in GLANCE.items():
        tasks = [name for name, task in TASKS.items() if belongs(task) and has_enough(results, name, SHOWN)]
        if tasks:
            found[title] = tasks, results.score_matrices(tasks)
    return found


def glance_table(results: Results) -> list[str]:
    groups = glance(results)
    columns = [of for _, of in groups.values()]
    rows = [[METHODS[method].label, *(cell(if_known(iqm, of[method])) for of in columns)] for method in SHOWN]
    rows += [
        [f"auto / {METHODS[method].label}", *(ratio(of[AUTO.name], of[method]) for of in columns)]
        for method in SHOWN
        if method != AUTO.name
    ]
    header = [
        f"{len(tasks)} {title} ({min(len(of[method]) for method in SHOWN)} seeds or more)"
        for title, (tasks, of) in groups.items()
    ]
    names = [f"{title}: {quoted(tasks)}." for title, (tasks, _) in groups.items()]
    return [*table(["IQM of the score", *header], rows), *names] if groups else []


def quoted(tasks: Iterable[str]) -> str:
    return ", ".join(f"`{task}`" for task in tasks)


def report(records: dict[Run, Record], images: Path = IMAGES) -> str:
    """
    Draw the figures and write the page.

    :param records: Records of one-step returns and of other learners
    :param images: Folder of the figures
    :return: The page
    """
    results, one_step = with_learner(records), with_learner(records, None)
    methods = Results({run: found for run, found in results.records.items() if run.method not in EXPERIMENTS})
    page = fill(
        "page",
        n_records=len(results.records),
        hours=results.hours,
        learner=LEARNER,
        fewest=FEWEST_FOR_INTERVAL,
        glance=glance_table(results),
        tasks=tasks_table(results.with_records(TASKS), lambda task: "tuning" if is_tuned(task) else task.role),
        groups=join(
            group_section(methods, title, tasks, images) for title, tasks in results.grouped(GROUPS).items() if tasks
        ),
        false_alarms=false_alarms(results),
        returns=returns_table(one_step, results),
        one_setting=one_setting(one_step, results, blind=False),
        blind=one_setting(one_step, results, blind=True),
        keeping=keeping(results),
        choice=join(choice(records)),
    )
    return page + "\n"


def choice(records: dict[Run, Record]) -> Iterable[str]:
    """
    Tables of the tuning tasks with one-step returns and with the learner of the defaults, and of all learners on tasks
    with runs of others: the mean of the runs' returns, and how many there are.
    """
    tasks = [name for name in dict.fromkeys(run.task for run in records if run.learner) if is_tuned(TASKS[name])]
    for learner, title in ((None, "One-step returns"), (LEARNER, LEARNERS[LEARNER].label.capitalize())):
        results = with_learner(records, learner)
        rows = [[label(name), *(mean_cell(results.returns(task, name)) for task in tasks)] for name in CANDIDATES]
        if with_runs := [row for row in rows if any(row[1:])]:
            yield "\n".join([f"### {title}", "", *table(["method", *tasks], with_runs)])
    for task in tasks:
        tried = {run.learner for run in records if run.task == task} - {None, LEARNER}
        rows = [
            [learner.label, *(mean_cell(with_learner(records, name).returns(task, method)) for method in CANDIDATES)]
            for name, learner in LEARNERS.items()
            if name in {*tried, LEARNER}
        ]
        if tried:
            yield "\n".join([f"### Other learners on {task}", "", *table(["learner", *map(label, CANDIDATES)], rows)])


def label(method: str) -> str:
    return LABELS.get(method, METHODS[method].label)


def decimals_of(value: float) -> int:
    return 2 if abs(value) < 1 else 1 if abs(value) < 10 else 0


def mean_cell(returns: np.ndarray) -> str:
    if not len(returns):
        return ""
    mean = number(returns.mean(), decimals_of(returns.mean()))
    return mean if len(returns) == 1 else f"{mean} ({len(returns)})"


def group_section(results: Results, title: str, tasks: list[str], images: Path) -> str:
    picture = f"results_{PICTURES[title]}.png"
    shown = [method for method in SHOWN if method in results.methods(tasks)]
    figures.draw_curves(results, tasks, shown, images / picture)
    return fill(
        "group",
        title=title,
        picture=picture,
        scores=scores_table(results, tasks),
        ratios=ratios_table(results, tasks),
        recoveries=recoveries(results, tasks),
    )


def score_cell(matrix: np.ndarray | None, bold: bool = False) -> str:
    """The IQM and the number of runs; empty if there are none."""
    return "" if matrix is None else f"{bold_if(bold, number(iqm(matrix)[0], 2))} ({len(matrix)})"


def returns_table(one_step: Results, results: Results) -> list[str]:
    """What methods score with one-step returns, and with the learner of the defaults."""
    rows = []
    for task in results.with_records(TASKS):
        cells = [score_cell(found.score_matrix([task], name)) for name in COMPARED for found in (one_step, results)]
        if any(cells[::2]):
            rows.append([f"`{task}`", *cells])
    header = [f"{METHODS[method].label}, {returns}" for method in COMPARED for returns in ("one step", "λ-returns")]
    return table(["score", *header], rows)


def one_setting(one_step: Results, results: Results, blind: bool) -> str:
    """
    The same methods on all drifting reporting tasks of one-step returns: the first ones, or those of DQN that were
    added blind. Among the first, that of SAC has one-step returns in both columns, its default.
    """
    tasks = [
        name
        for name in one_step.with_records(TASKS, AUTO.name)
        if TASKS[name].role == "reporting" and TASKS[name].drifts and TASKS[name].blind == blind
        if TASKS[name].algorithm == "DQN" or not blind
    ]
    not_dqn = {run: record for run, record in one_step.records.items() if TASKS[run.task].algorithm != "DQN"}
    columns = [found.score_matrices(tasks) for found in (one_step, Results(results.records | not_dqn))]
    if not all(AUTO.name in of for of in columns):
        return ""
    names = [name for name in SHOWN if all(name in of for of in columns)]
    rows = [[METHODS[name].label, *(cell(if_known(iqm, of[name])) for of in columns)] for name in names]
    return fill(
        "blind" if blind else "one_setting",
        n=len(tasks),
        names=quoted(tasks),
        tried=quoted(name for name in tasks if TASKS[name].tried),
        seeds=min(len(of[name]) for of in columns for name in names),
        table=table(["IQM of the score", "one step", "λ-returns"], rows),
    )


def scores_table(results: Results, tasks: list[str]) -> list[str]:
    methods = results.methods(tasks)
    rows = []
    for title, chosen in of_group(results, tasks).items():
        found = results.score_matrices(chosen)
        best = max((iqm(matrix)[0] for name, matrix in found.items() if name != ORACLE.name), default=None)
        is_best = {name: iqm(matrix)[0] == best for name, matrix in found.items()}
        rows.append([title, *(score_cell(found.get(name), is_best.get(name, False)) for name in methods)])
    return table(["score", *(METHODS[method].label for method in methods)], rows)


def ratios_table(results: Results, tasks: list[str]) -> list[str]:
    """``auto`` next to uniform replay, and next to the best of the others in hindsight."""
    rows = []
    for title, chosen in of_group(results, tasks).items():
        found = results.score_matrices(chosen)
        if AUTO.name not in found or UNIFORM.name not in found:
            continue
        auto, uniform = found[AUTO.name], found[UNIFORM.name]
        others = [name for name in found if METHODS[name].family not in ("auto", "oracle")]
        best = best_of(found, others, fewest=1)
        difference = cell(if_known(difference_of_iqms, auto, uniform))
        better = cell(if_known(probability_of_improvement, auto, uniform))
        rows.append([title, difference, ratio(auto, uniform), better, METHODS[best].label, ratio(auto, found[best])])
    header = ["`auto` compared with", "uniform: difference", "ratio", "P(better)", "the best other", "ratio"]
    return table(header, rows) if rows else []


def ratio(scores: np.ndarray, others: np.ndarray) -> str:
    """The ratio of two scores; empty if that of the others is close to that of random actions."""
    return "" if iqm(others)[0] < SMALLEST else cell(if_known(ratio_of_iqms, scores, others))


def false_alarms(results: Results) -> str:
    """What alarms cost where nothing has changed."""
    tasks = results.with_records(TASKS, FALSE_ALARMS.name)
    if not tasks:
        return ""
    every = FALSE_ALARMS.callbacks["FalseAlarms"]["every"]
    rows = []
    for task in tasks:
        auto, with_alarms = (results.returns(task, method.name) for method in (AUTO, FALSE_ALARMS))
        found = if_known(iqm, auto), if_known(iqm, with_alarms), if_known(difference_of_iqms, with_alarms, auto)
        alarms = (TASKS[task].steps - 1) // every
        rows.append([f"`{task}`", f"{alarms}", *(cell(one, decimals_of(found[0].value)) for one in found)])
    header = ["task", "alarms", "auto", "auto, false alarms", "difference"]
    return fill("false_alarms", name=FALSE_ALARMS.name, every=f"{every:,}", table=table(header, rows))


def keeping(results: Results) -> str:
    """``auto`` that goes on to replay what is contradicted."""
    methods = (UNIFORM, DEFAULT, AUTO, KEEPING)
    rows = [
        [f"`{task}`", *(mean_cell(results.returns(task, method.name)) for method in methods)]
        for task in results.with_records(TASKS, KEEPING.name)
    ]
    return fill("keeping", table=table(["", *(m.label for m in methods)], rows)) if rows else ""


def all_records() -> dict[Run, Record]:
    return read_records(RECORDS) | read_records(LEARNER_RECORDS)


if __name__ == "__main__":
    PAGE.write_text(report(all_records()), encoding="utf-8")
    print(PAGE)
