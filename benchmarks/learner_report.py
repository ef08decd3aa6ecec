"""
benchmarks/results/learners.md: replay methods with the same multi-step learner, from the records alone.

    python benchmarks/learner_report.py

The records are those of `python benchmarks/learning.py --learner ...`, and those of one-step returns.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import numpy as np
from learning import LEARNER_RECORDS, RECORDS, Run, read_records
from learning_results import Results
from methods import AUTO, DEFAULT, FALSE_ALARMS, METHODS, ORACLE, UNIFORM
from tasks import TASKS

from sb3_reptile.evaluation import tables
from sb3_reptile.evaluation.records import Record
from sb3_reptile.evaluation.statistics import (
    FEWEST_FOR_INTERVAL,
    Estimate,
    difference_of_iqms,
    estimates,
    iqm,
    probability_of_improvement,
    ratio_of_iqms,
)
from sb3_reptile.evaluation.tables import number, table

PAGE = LEARNER_RECORDS.with_suffix(".md")
# The learner of ReptileDQN's defaults
LEARNER = "10-step-lambda-0.7"
# Candidates for the default of ReptileDQN, and uniform replay
CANDIDATES = (UNIFORM.name, DEFAULT.name, AUTO.name, "auto-exp-10000", "auto-exp-1000000")
LABELS = {"auto-exp-1000000": "auto, no decay inside (half-life 1,000,000)"}
ONE_STEP = "1-step"
HEADER = """# Replay and learners

`python benchmarks/learner_report.py` makes this page from the records of
`python benchmarks/learning.py --learner {learners}`
and those of one-step returns. "auto" has the default decay within a regime. Its runs from before 27 November 2026
are of an earlier detector: those of the tuning tasks.
"""
COMPARED = """## The same learner for all methods

Returns of 10 steps, λ = 0.7: the defaults of `ReptileDQN`, except that replay differs. Scores are 0 for random actions
and 1 for a solved task; the score of a run is the mean over training. Interquartile means over the runs, 95 %
stratified bootstrap intervals where there are at least {fewest} runs of both; in brackets the number of runs.
"""
GROUPS = {
    "Tuning tasks": lambda task: task.role == "tuning" or task.tried,
    "Reporting tasks whose phases conflict": lambda task: task.conflicts,
    "Other reporting tasks that drift": lambda task: task.drifts,
    "Reporting tasks that do not drift": lambda task: True,
}
FALSE = """### What a false alarm costs

`{name}` is `auto` with an alarm every {every:,} steps that nothing in the environment gives a reason for: all that is
stored counts as contradicted, and the detector has to find out that it is not. Mean returns over training:
"""
CHOICE = """## How the defaults were chosen

Mean return over training; in brackets the number of runs if it is not 1. These are tuning tasks, and the runs with
other learners have one seed: a bearing, not a result.
"""


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


def report(records: dict[Run, Record]) -> str:
    """
    :param records: Records of one-step returns and of other learners
    :return: The page
    """
    multi_step = [run for run in records if run.learner is not None]
    learners = list(dict.fromkeys(run.learner for run in multi_step if run.learner is not None))
    lines = [HEADER.format(learners=" ".join(learners)), *compared(records), CHOICE]
    tasks = [name for name in dict.fromkeys(run.task for run in multi_step) if is_for_tuning(name)]
    for learner in (ONE_STEP, *learners):
        rows = [
            [LABELS.get(method, METHODS[method].label), *(cell(records, task, method, learner) for task in tasks)]
            for method in CANDIDATES
        ]
        with_runs = [row for row in rows if any(row[1:])]
        lines += [f"### {about(learner)}", "", *table(["method", *tasks], with_runs)]
    return "\n".join(lines).rstrip() + "\n"


def is_for_tuning(task: str) -> bool:
    return next(iter(GROUPS.values()))(TASKS[task])


def compared(records: dict[Run, Record]) -> list[str]:
    """What the methods are worth with the learner of the defaults, by groups of tasks."""
    results = Results({run._replace(learner=None): record for run, record in records.items() if run.learner == LEARNER})
    lines = [COMPARED.format(fewest=FEWEST_FOR_INTERVAL)]
    left = results.with_records(TASKS)
    for title, belongs in GROUPS.items():
        group = [name for name in left if belongs(TASKS[name])]
        left = [name for name in left if name not in group]
        if group:
            lines += [f"### {title}", "", *scores_table(results, group), *ratios_table(results, group)]
    return [*lines, *false_alarms(results)]


def scores_of(results: Results, task: str, method: str) -> np.ndarray | None:
    """Scores of the runs, shape (runs, 1)."""
    return results.score_matrix([task], method)


def scores_table(results: Results, tasks: Iterable[str]) -> list[str]:
    methods = [name for name in results.methods(tasks) if name != FALSE_ALARMS.name]
    rows = []
    for task in tasks:
        found = {method: scores_of(results, task, method) for method in methods}
        values = {method: iqm(matrix)[0] for method, matrix in found.items() if matrix is not None}
        best = max((value for method, value in values.items() if method != ORACLE.name), default=None)
        cells = [
            ""
            if matrix is None
            else f"{tables.bold_if(values[method] == best, number(values[method], 2))} ({len(matrix)})"
            for method, matrix in found.items()
        ]
        rows.append([f"`{task}`", *cells])
    return table(["score", *(METHODS[method].label for method in methods)], rows)


def ratios_table(results: Results, tasks: Iterable[str]) -> list[str]:
    """``auto`` next to uniform replay, and next to the best of the others in hindsight."""
    rows = []
    for task in tasks:
        auto, uniform = (scores_of(results, task, method.name) for method in (AUTO, UNIFORM))
        others = {
            METHODS[method].label: matrix
            for method in results.methods([task])
            if METHODS[method].family not in ("auto", "oracle")
            and (matrix := scores_of(results, task, method)) is not None
        }
        if auto is None or uniform is None:
            continue
        best = max(others, key=lambda label: iqm(others[label])[0])
        rows.append(
            [
                f"`{task}`",
                tables.cell(estimates(difference_of_iqms, auto, uniform)[0]),
                ratio(auto, uniform),
                tables.cell(estimates(probability_of_improvement, auto, uniform)[0]),
                best,
                ratio(auto, others[best]),
            ]
        )
    header = ["`auto` next to", "uniform: difference", "ratio", "P(better)", "the best other", "ratio"]
    return table(header, rows) if rows else []


def ratio(scores: np.ndarray, others: np.ndarray) -> str:
    """The ratio of two scores; empty if that of the others is so near to random actions that it means little."""
    if iqm(others)[0] < 0.05:
        return ""
    return tables.cell(Estimate(*estimates(ratio_of_iqms, scores, others)[0]))


def false_alarms(results: Results) -> list[str]:
    """What alarms cost where nothing has changed."""
    tasks = results.with_records(TASKS, FALSE_ALARMS.name)
    if not tasks:
        return []
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
    text = FALSE.format(name=FALSE_ALARMS.name, every=every)
    return [text, *table(["task", "alarms", "auto", "auto, false alarms", "difference"], rows)]


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
