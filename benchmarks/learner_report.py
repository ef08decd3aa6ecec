"""
benchmarks/results/learners.md: replay methods with multi-step learners on the tuning tasks, from the records alone.

    python benchmarks/learner_report.py

The records are those of `python benchmarks/learning.py --learner ...`, and those of one-step returns.
"""

from pathlib import Path
from statistics import fmean

from learning import LEARNER_RECORDS, RECORDS, Run, read_records
from methods import AUTO, DEFAULT, METHODS

from sb3_reptile.evaluation.records import Record
from sb3_reptile.evaluation.tables import number, table

PAGE = LEARNER_RECORDS.with_suffix(".md")
# Candidates for the default of ReptileDQN, and uniform replay
CANDIDATES = ("uniform", DEFAULT.name, AUTO.name, "auto-exp-10000", "auto-exp-1000000")
LABELS = {"auto-exp-1000000": "auto, no decay inside (half-life 1,000,000)"}
ONE_STEP = "1-step"
HEADER = """# Replay and learners

`python benchmarks/learner_report.py` makes this page from the records of
`python benchmarks/learning.py --learner {learners}`
and those of one-step returns. Mean return over training; in brackets the number of seeds if it is not 1. "auto" has the
default decay within a regime, and the detector of the runs' time. Few seeds: a bearing for the choice of defaults, not
a result.
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
    tasks = list(dict.fromkeys(run.task for run in multi_step))
    learners = list(dict.fromkeys(run.learner for run in multi_step if run.learner is not None))
    lines = [HEADER.format(learners=" ".join(learners))]
    for learner in (ONE_STEP, *learners):
        rows = [
            [LABELS.get(method, METHODS[method].label), *(cell(records, task, method, learner) for task in tasks)]
            for method in CANDIDATES
        ]
        with_runs = [row for row in rows if any(row[1:])]
        lines += [f"## {about(learner)}", "", *table(["method", *tasks], with_runs)]
    return "\n".join(lines).rstrip() + "\n"


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
