"""Episodes in progress, and how they are ended where the next stored row does not follow."""

from functools import singledispatch
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer

#: Key of the info of a transition whose outcome is unknown, because the environment was lost before it answered
LOST = "RayVecEnv.lost"


@singledispatch
def end_running_episodes(buffer: ReplayBuffer, envs: np.ndarray | None = None) -> None:
    """
    End episodes at the newest row, as if they were cut off by a time limit: no return and no hindsight goal reaches
    across it. Storing classes that keep episodes register their own function.

    :param buffer: A replay buffer that keeps its rows as SB3's does
    :param envs: Numbers of the environments whose episodes end, None for all
    """
    if buffer.size() == 0:
        return
    row = (buffer.pos - 1) % buffer.buffer_size, slice(None) if envs is None else envs
    if buffer.optimize_memory_usage:
        buffer.dones[row] = 1  # its next observation will be that of another episode
    else:
        buffer.timeouts[row] = np.maximum(buffer.timeouts[row], buffer.dones[row] == 0)


def differs_from_newest(buffer: ReplayBuffer, obs: Any) -> np.ndarray | None:
    """
    :param buffer: A replay buffer that keeps its rows as SB3's does
    :param obs: The observations of the next row
    :return: In which environments these are not the next observation of the newest row, bool, shape (n_envs,); None if
        they are the same bytes in all of them. Observations that the buffer's class keeps in another form are not
        compared: they differ nowhere.
    """
    # Row -1 is the last one. If nothing is stored, it holds zeros or what was stored before reset(): both are harmless
    stored: Any = buffer.observations if buffer.optimize_memory_usage else buffer.next_observations
    row = buffer.pos if buffer.optimize_memory_usage else buffer.pos - 1
    if not isinstance(stored, dict):
        return _differing(stored[row], obs, buffer.n_envs)
    differing = None
    for key, values in stored.items():
        envs = _differing(values[row], obs[key], buffer.n_envs)
        if envs is not None:
            differing = envs if differing is None else differing | envs
    return differing


def end_what_is_not_continued(buffer: ReplayBuffer, differing: np.ndarray) -> None:
    """
    Before a row is stored: end the episodes that it does not continue. The environment was reset in between, or is
    another one.

    :param buffer: A replay buffer that keeps its rows as SB3's does
    :param differing: In which environments the row's observation is not the next observation of the newest row
    """
    if buffer.size() == 0:
        return
    newest = (buffer.pos - 1) % buffer.buffer_size
    broken = np.flatnonzero(differing & (buffer.dones[newest] == 0) & (buffer.timeouts[newest] == 0))
    if len(broken) > 0:
        end_running_episodes(buffer, broken)


def _differing(stored: Any, given: Any, n_envs: int) -> np.ndarray | None:
    """In which environments two rows of observations differ; None if their bytes are equal."""
    is_stored_so = type(given) is np.ndarray and given.dtype is getattr(stored, "dtype", None)
    if is_stored_so and given.tobytes() == stored.tobytes():
        return None  # as within an episode; what follows is rarer
    if not isinstance(given, np.ndarray):
        given = np.asarray(given)
    if not isinstance(stored, np.ndarray) or stored.dtype.hasobject or stored.size != given.size:
        return np.zeros(n_envs, dtype=bool)
    if given.dtype != stored.dtype:
        with np.errstate(over="ignore", invalid="ignore"):
            given = given.astype(stored.dtype)
    # Bytes are equal where numbers are not, if these are NaN
    if given.tobytes() == stored.tobytes():
        return None
    rows = zip(given.reshape(n_envs, -1), stored.reshape(n_envs, -1), strict=True)
    return np.array([one.tobytes() != other.tobytes() for one, other in rows])
