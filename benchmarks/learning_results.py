"""Returns, scores, comparisons and best methods, computed from the records of `benchmarks/learning.py`."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from learning import Run
from methods import METHODS
from tasks import TASKS, Task

from sb3_reptile.evaluation.records import Record
from sb3_reptile.evaluation.statistics import FEWEST_FOR_INTERVAL, Estimate, estimate, iqm

FIFO = [name for name, method in METHODS.items() if method.family == "fifo"]
PUBLISHED = [name for name, method in METHODS.items() if method.published]
# Methods that do not need to know the changes in advance
USABLE = [name for name, method in METHODS.items() if method.family != "oracle"]

Matrices = dict[str, np.ndarray]
# A function of matrices of scores
Statistic = Callable[..., np.ndarray]


class Results:
    """
    The records by task, method and replay volume; a volume of None is that of the task.

    :param records: What ``learning.read_records()`` returns
    """

    def __init__(self, records: dict[Run, Record]) -> None:
        self.records = records

    @property
    def hours(self) -> str:
        """Processor time of all runs."""
        return f"{sum(record['cpu_seconds'] for record in self.records.values()) / 3600:.1f}"

    def methods(self, tasks: Iterable[str], volume: float | None = None) -> list[str]:
        """Methods with a record of one of these tasks."""
        present = {run.method for run in self.records if run.task in tasks and run.volume == volume}
        return [method for method in METHODS if method in present]

    def with_records(self, tasks: Iterable[str], method: str | None = None) -> list[str]:
        """The tasks that have a record, or a record of ``method``."""
        present = {run.task for run in self.records if run.volume is None and method in (None, run.method)}
        return [task for task in tasks if task in present]

    def grouped(self, groups: Mapping[str, Callable[[Task], bool]]) -> dict[str, list[str]]:
        """The tasks that have a record, each in the first group that it belongs to."""
        found: dict[str, list[str]] = {title: [] for title in groups}
        for name in self.with_records(TASKS):
            found[next(title for title, belongs in groups.items() if belongs(TASKS[name]))].append(name)
        return found

    def of(self, task: str, method: str, volume: float | None = None) -> list[Record]:
        return [record for run, record in self.records.items() if run[:4] == (task, method, run.seed, volume)]

    def returns(self, task: str, method: str, volume: float | None = None) -> np.ndarray:
        """Area under the return curve of each run (the mean over its points), shape (runs, 1)."""
        return np.array([[record["auc"]] for record in self.of(task, method, volume)])

    def estimate(self, task: str, method: str, volume: float | None = None) -> Estimate | None:
        """IQM of the returns, if there are any."""
        found = self.returns(task, method, volume)
        return if_known(iqm, found if len(found) else None)

    def score_matrix(self, tasks: Iterable[str], method: str) -> np.ndarray | None:
        """
        Scores of the areas, shape (runs, tasks); None if a task has no run. If the numbers of runs differ, the last
        runs of some tasks are left out, so that all tasks have the same influence.
        """
        return side_by_side([[np.mean(scores(record)) for record in self.of(task, method)] for task in tasks])

    def score_matrices(self, tasks: Collection[str]) -> Matrices:
        matrices = {method: self.score_matrix(tasks, method) for method in self.methods(tasks)}
        return {method: matrix for method, matrix in matrices.items() if matrix is not None}

    def best_of_each(self, tasks: Iterable[str], methods: Collection[str]) -> np.ndarray | None:
        """Scores of the best of some methods on each task, in hindsight, shape (runs, tasks)."""
        matrices = [self.score_matrices([task]) for task in tasks]
        return side_by_side([of_task[best_of(of_task, methods, fewest=1)][:, 0] for of_task in matrices])


def scores(record: Record) -> np.ndarray:
    """The learning curve as scores, shape (BINS,)."""
    return np.array(TASKS[record["task"]].scores(record["curve"], record["changes"]))


def side_by_side(columns: list[Sequence[float]]) -> np.ndarray | None:
    """A matrix of as many runs as the shortest column has; None if that has none."""
    runs = min(map(len, columns), default=0)
    return np.array([column[:runs] for column in columns]).T if runs else None


def if_known(function: Statistic, *matrices: np.ndarray | None) -> Estimate | None:
    """A statistic with its interval; None if a matrix is missing."""
    return None if any(matrix is None for matrix in matrices) else estimate(function, *matrices)


def best_of(matrices: Matrices, among: Collection[str], fewest: int = FEWEST_FOR_INTERVAL) -> str | None:
    """The method with the highest IQM, in hindsight, among those with enough runs."""
    enough = [method for method in matrices if method in among and len(matrices[method]) >= fewest]
    return max(enough, key=lambda method: iqm(matrices[method])[0], default=None)
