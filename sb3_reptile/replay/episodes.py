"""Episodes in progress, and how they are ended where the next stored row does not follow."""

from functools import singledispatch

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer


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
