"""The inner loops of sampling: compiled where numba is installed (extra ``fast``), vectorised where it is not."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np

# In a vectorised descent, one cumulative sum over this number of nodes replaces the levels above them
TOP = 4096


class Find(Protocol):
    def __call__(self, nodes: np.ndarray, targets: np.ndarray) -> np.ndarray: ...


class Update(Protocol):
    def __call__(self, nodes: np.ndarray, changed: np.ndarray) -> None: ...


class UpdateRange(Protocol):
    def __call__(self, nodes: np.ndarray, start: int, stop: int) -> None: ...


class Search(Protocol):
    def __call__(self, cumulative: np.ndarray, targets: np.ndarray) -> np.ndarray: ...


class Follow(Protocol):
    def __call__(
        self,
        dones: np.ndarray,
        timeouts: np.ndarray,
        rewards: np.ndarray,
        starts: np.ndarray,
        last_rows: np.ndarray,
        n_envs: int,
        factors: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...


class Missing(Protocol):
    def __call__(self, numbers: np.ndarray, versions: np.ndarray, version: int, scratch: np.ndarray) -> np.ndarray: ...


class Kernels(NamedTuple):
    """
    The loops. A tree is an array in which node ``i`` is the sum of nodes ``2 i`` and ``2 i + 1``; the root is node 1,
    and the leaves are the second half.

    :param find: The leaf in which each target in ``[0, total)`` lies, as the number of its node; never one that is 0
    :param update: Recompute the sums above nodes that have changed; the array of them is used up
    :param update_range: The same for neighbours, ``start`` to ``stop - 1``
    :param search: The first element greater than each target, or the last one, in an array that never falls
    :param follow: The fields of :class:`~sb3_reptile.replay.multi_step.Sequences` that begin with the transitions
        ``starts``. They end with an episode, in one of ``last_rows``, or after as many steps as there are factors of
        the rewards. What is stored is flat: transition ``i`` is in row ``i // n_envs``, and the first row follows the
        last one.
    :param missing: Each of these numbers once whose version is another one, in any order. ``scratch`` is as long as
        ``versions``; what is in it does not matter.
    """

    find: Find
    update: Update
    update_range: UpdateRange
    search: Search
    follow: Follow
    missing: Missing


@cache
def kernels() -> Kernels:
    """The fastest loops there are on this machine."""
    try:
        return _compiled()
    except ImportError:
        return VECTORISED


def _find(nodes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    width = min(len(nodes) // 2, TOP)
    top = nodes[width : 2 * width]
    sums = top.cumsum()
    found = sums.searchsorted(targets, side="right")
    if found.max(initial=0) == width:  # rounding: past the sum of all, take the last node that counts
        found[found == width] = np.flatnonzero(top)[-1]
    targets = targets - (sums[found] - top[found])
    found += width
    pairs = nodes.reshape(-1, 2)
    while width < len(nodes) // 2:
        left, right = pairs.take(found, axis=0).T
        go_right = (targets >= left) & (right > 0)
        targets -= left * go_right
        found *= 2
        found += go_right
        width *= 2
    return found


def _update(nodes: np.ndarray, changed: np.ndarray) -> None:
    pairs = nodes.reshape(-1, 2)
    width = len(nodes) // 2
    while width > 1:
        changed >>= 1
        nodes[changed] = pairs.take(changed, axis=0).sum(axis=1)
        width //= 2


def _update_range(nodes: np.ndarray, start: int, stop: int) -> None:
    while start > 1:
        start, stop = start // 2, (stop + 1) // 2
        np.add(nodes[2 * start : 2 * stop : 2], nodes[2 * start + 1 : 2 * stop : 2], out=nodes[start:stop])


def _search(cumulative: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.minimum(cumulative.searchsorted(targets, side="right"), len(cumulative) - 1)


def _follow(
    dones: np.ndarray,
    timeouts: np.ndarray,
    rewards: np.ndarray,
    starts: np.ndarray,
    last_rows: np.ndarray,
    n_envs: int,
    factors: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n_steps = len(factors)
    longest = ((last_rows[:, None] - starts // n_envs) % (len(dones) // n_envs)).min(axis=0)
    steps = np.add.outer(starts, np.arange(0, n_steps * n_envs, n_envs))
    # The ring's end is its beginning
    ends = dones.take(steps, mode="wrap")
    ends += timeouts.take(steps, mode="wrap")
    ends[:, -1] = 1
    last = np.minimum((ends > 0).argmax(axis=1), longest)
    np.minimum(steps, (starts + last * n_envs)[:, None], out=steps)
    steps %= len(dones)
    of_steps = rewards.take(steps)
    of_steps *= factors
    of_steps[np.arange(n_steps) > last[:, None]] = 0
    final = steps[:, -1]
    return steps, last, of_steps, dones.take(final) * (1 - timeouts.take(final))


def _missing(numbers: np.ndarray, versions: np.ndarray, version: int, scratch: np.ndarray) -> np.ndarray:
    found = numbers[versions.take(numbers) != version]
    # Without sorting: whichever is written last stays
    order = np.arange(len(found), dtype=scratch.dtype)
    scratch[found] = order
    distinct: np.ndarray = found[scratch[found] == order]
    return distinct


VECTORISED = Kernels(_find, _update, _update_range, _search, _follow, _missing)


def _compiled() -> Kernels:
    from numba import njit

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True)(function)
        except RuntimeError:  # there is no folder to keep the result in
            return njit(function)

    # All draws go down one level before any goes down the next: the loads of a level do not wait for each other, which
    # matters more than anything else in a tree that does not fit into the cache.

    @compiled
    def find(nodes: np.ndarray, targets: np.ndarray) -> np.ndarray:
        found = np.ones(len(targets), dtype=np.int64)
        rest = targets.copy()
        width = 1
        while width < len(nodes) // 2:
            for i in range(len(found)):
                left, right = nodes[2 * found[i]], nodes[2 * found[i] + 1]
                go_right = (rest[i] >= left) & (right > 0)  # `and` would branch, and mispredict half the time
                rest[i] -= left * go_right
                found[i] = 2 * found[i] + go_right
            width *= 2
        return found

    @compiled
    def update(nodes: np.ndarray, changed: np.ndarray) -> None:
        width = len(nodes) // 2
        while width > 1:
            for i in range(len(changed)):
                changed[i] >>= 1
                nodes[changed[i]] = nodes[2 * changed[i]] + nodes[2 * changed[i] + 1]
            width //= 2

    @compiled
    def update_range(nodes: np.ndarray, start: int, stop: int) -> None:
        while start > 1:
            start, stop = start // 2, (stop + 1) // 2
            for i in range(start, stop):
                nodes[i] = nodes[2 * i] + nodes[2 * i + 1]

    @compiled
    def search(cumulative: np.ndarray, targets: np.ndarray) -> np.ndarray:
        found = np.zeros(len(targets), dtype=np.int64)
        length = len(cumulative)
        while length > 1:
            half = length // 2
            for i in range(len(found)):
                found[i] += half if cumulative[found[i] + half - 1] <= targets[i] else 0
            length -= half
        return found

    @compiled
    def follow(
        dones: np.ndarray,
        timeouts: np.ndarray,
        rewards: np.ndarray,
        starts: np.ndarray,
        last_rows: np.ndarray,
        n_envs: int,
        factors: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        n, n_steps, n_rows = len(starts), len(factors), len(dones) // n_envs
        steps = np.empty((n, n_steps), dtype=np.int64)
        last = np.empty(n, dtype=np.int64)
        of_steps = np.zeros((n, n_steps), dtype=rewards.dtype)
        terminals = np.empty(n, dtype=dones.dtype)
        for i in range(n):
            at, k, most = starts[i], 0, n_steps - 1
            row = at // n_envs
            for last_row in last_rows:
                to_last = last_row - row
                most = min(most, to_last if to_last >= 0 else to_last + n_rows)
            while k < most and dones[at] == 0 and timeouts[at] == 0:
                steps[i, k], of_steps[i, k] = at, rewards[at] * factors[k]
                k += 1
                at += n_envs
                if at >= len(dones):
                    at -= len(dones)
            steps[i, k:], last[i], of_steps[i, k] = at, k, rewards[at] * factors[k]
            terminals[i] = dones[at] * (1 - timeouts[at])
        return steps, last, of_steps, terminals

    @compiled
    def missing(numbers: np.ndarray, versions: np.ndarray, version: int, scratch: np.ndarray) -> np.ndarray:
        found = np.empty(len(numbers), dtype=np.int64)
        n = 0
        for number in numbers:
            if versions[number] != version:
                # Where it is, if it has been found: scratch may hold anything else
                place = scratch[number]
                if not (0 <= place < n and found[place] == number):
                    found[n], scratch[number] = number, n
                    n += 1
        return found[:n]

    return Kernels(find, update, update_range, search, follow, missing)
