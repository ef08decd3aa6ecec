"""The ring of rows that a replay buffer stores: which are filled, which can be drawn, and how old each is."""

import numpy as np


class Ring:
    """
    Arithmetic of row numbers, transition numbers (``row * n_envs + env``) and ages. The row that is added as number
    ``k`` is stored in row ``k % n_rows``.

    :param n_rows: Capacity in rows
    :param n_envs: Number of transitions in a row
    :param without_oldest: Whether the oldest row of a full ring cannot be drawn: with ``optimize_memory_usage``, its
        observation is overwritten by the next observation of the newest row
    """

    #: Number of times that it was emptied
    n_resets = 0

    def __init__(self, n_rows: int, n_envs: int, without_oldest: bool = False) -> None:
        self.n_rows = n_rows
        self.n_envs = n_envs
        self.without_oldest = without_oldest
        #: Number of rows added so far
        self.rows_added = 0

    def reset(self) -> None:
        """Forget all rows."""
        self.rows_added = 0
        self.n_resets += 1

    @property
    def size(self) -> int:
        """Number of rows stored."""
        return min(self.rows_added, self.n_rows)

    def n_drawable(self) -> int:
        """
        :return: Number of rows that can be drawn, from the newest on; 0 if there is none
        """
        if self.rows_added < self.n_rows:
            return self.rows_added
        return self.n_rows - self.without_oldest

    def checked_n_drawable(self) -> int:
        """
        :return: Number of rows that can be drawn, from the newest on
        :raises ValueError: if there is none
        """
        n_rows = self.n_drawable()
        if n_rows == 0:
            raise ValueError(
                f"the replay buffer holds {self.size} transitions per environment, of which none can be drawn: "
                "add some before sampling (learning_starts), or raise buffer_size if it is full"
            )
        return n_rows

    def row_ages(self, indices: np.ndarray) -> np.ndarray:
        """
        :param indices: Numbers of transitions
        :return: The ages of their rows, in rows, same shape
        """
        return (self.rows_added - 1 - indices // self.n_envs) % self.n_rows

    def ages_of(self, indices: np.ndarray) -> np.ndarray:
        """
        :param indices: Numbers of transitions
        :return: Their ages in transitions, same shape
        """
        return self.row_ages(indices) * self.n_envs

    def still_stored(self, indices: np.ndarray, drawn_at: int) -> np.ndarray:
        """
        :param indices: Numbers of transitions that were stored at some time
        :param drawn_at: Number of transitions added up to that time
        :return: Whether each has not been overwritten since, bool, same shape
        """
        rows_then = drawn_at // self.n_envs
        # Rows as they were counted when they were added
        numbers = rows_then - 1 - (rows_then - 1 - indices // self.n_envs) % self.n_rows
        kept: np.ndarray = (numbers >= max(self.rows_added - self.n_rows, 0)) & (rows_then <= self.rows_added)
        return kept

    def all_ages(self) -> np.ndarray:
        """
        :return: Age of each transition in transitions, int64, shape (n_rows, n_envs), by row of the storage; -1 where
            nothing is stored. O(size)
        """
        ages = (self.rows_added - 1 - np.arange(self.n_rows)) % self.n_rows * self.n_envs
        if self.rows_added < self.n_rows:
            ages[self.rows_added :] = -1
        return np.repeat(ages[:, None], self.n_envs, axis=1)
