"""Returns, scores and best methods, computed from the records for `benchmarks/learning_report.py`."""

from collections.abc import Collection, Iterable

import numpy as np
from learning import Run
from methods import METHODS
from tasks import TASKS

from sb3_reptile.evaluation.records import Record
from sb3_reptile.evaluation.statistics import FEWEST_FOR_INTERVAL, Estimate, estimates, iqm

FIFO = [name for name, method in METHODS.items() if method.family == "fifo"]
PUBLISHED = [name for name, method in METHODS.items() if method.published]
# Methods that do not need to know the changes in advance
USABLE = [name for name, method in METHODS.items() if method.family != "oracle"]

Matrices = dict[str, np.ndarray]


class Results:
    """
    The records by task, method and replay volume; a volume of None is that of the task.

    :param records: What ``learning.read_records()`` returns
    """

    def __init__(self, records: dict[Run, Record]) -> None:
        self.records = records

    def methods(self, tasks: Iterable[str], volume: float | None = None) -> list[str]:
        """Methods with a record of one of these tasks."""
        present = {run.method for run in self.records if run.task in tasks and run.volume == volume}
        return [method for method in METHODS if method in present]

    def with_records(self, tasks: Iterable[str], method: str | None = None) -> list[str]:
        """The tasks that have a record, or a record of ``method``."""
        present = {run.task for run in self.records if run.volume is None and method in (None, run.method)}
        return [task for task in tasks if task in present]

    def of(self, task: str, method: str, volume: float | None = None) -> list[Record]:
        return [record for run, record in self.records.items() if run[:4] == (task, method, run.seed, volume)]

    def returns(self, task: str, method: str, volume: float | None = None) -> np.ndarray:
        """Area under the return curve of each run (the mean over its points), shape (runs, 1)."""
        return np.array([[record["auc"]] for record in self.of(task, method, volume)])

    def estimate(self, task: str, method: str, volume: float | None = None) -> Estimate | None:
        """IQM of the returns, if there are any."""
        found = self.returns(task, method, volume)
        return estimates(iqm, found)[0] if len(found) else None

    def score_matrix(self, tasks: Iterable[str], method: str) -> np.ndarray | None:
        """
        Scores of the areas, shape (runs, tasks); None if a task has no run. If the numbers of runs differ, the last
        runs of some tasks are left out, so that all tasks have the same influence.
        """
        columns = [[np.mean(scores(record)) for record in self.of(task, method)] for task in tasks]
        runs = min(map(len, columns), default=0)
        return np.array([column[:runs] for column in columns]).T if runs else None

    def score_matrices(self, tasks: Collection[str]) -> Matrices:
        matrices = {method: self.score_matrix(tasks, method) for method in self.methods(tasks)}
        return {method: matrix for method, matrix in matrices.items() if matrix is not None}


def scores(record: Record) -> np.ndarray:
    """The learning curve as scores, shape (BINS,)."""
    return np.array(TASKS[record["task"]].scores(record["curve"], record["changes"]))


def best_of(matrices: Matrices, among: Collection[str]) -> str | None:
    """The method with the highest IQM, in hindsight, among those with enough runs."""
    enough = [method for method in matrices if method in among and len(matrices[method]) >= FEWEST_FOR_INTERVAL]
    return max(enough, key=lambda method: iqm(matrices[method])[0], default=None)
