"""A service desk that opens and closes counters while customers arrive and wait."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_reptile.replay.checks import check_whole_number

STEPS_OF_DAY = 48


class Queue(gym.Env, RecordConstructorArgs):
    """
    Each step is a quarter of an hour, and action ``a`` opens ``a + 1`` counters for it. Customers who arrive are
    Poisson distributed with the mean ``arrivals * (1 + rush * sin(2 pi time))``, where ``time`` is the share of the
    day that has passed; those who find no room go away. The number of customers that the counters can serve is Poisson
    distributed with the mean ``service`` for each open counter. The reward is the number of customers served, minus
    0.1 for each who still waits, minus 1 for each open counter.

    The observation is the number of customers who wait, as a share of the room for them, the time, as a sine and a
    cosine, and the number of counters that were open before, as a share of all. A day has 48 steps; an episode begins
    in the morning with an empty room and has no end of its own.

    :class:`DriftingPhysics` can change the attributes ``arrivals``, ``rush`` and ``service``.

    :param n_counters: Number of counters
    :param arrivals: Mean number of arrivals in a step
    :param rush: How much arrivals vary over the day, in [0, 1)
    :param service: Mean number of customers that a counter can serve in a step
    :param room: Largest number of customers who wait
    :raises ValueError: if a number is outside its range
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- as Gymnasium has it

    COST_OF_WAITING, COST_OF_COUNTER = 0.1, 1.0

    def __init__(
        self,
        n_counters: int = 4,
        arrivals: float = 5.0,
        rush: float = 0.5,
        service: float = 3.0,
        room: int = 30,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, n_counters=n_counters, arrivals=arrivals, rush=rush, service=service, room=room
        )
        for name, number, least in (("n_counters", n_counters, 2), ("room", room, 1)):
            check_whole_number(name, number, least)
        for name, value in dict(arrivals=arrivals, service=service).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {value!r}")
        if not 0 <= rush < 1:
            raise ValueError(f"rush must be in [0, 1), got {rush!r}: customers arrive all day")
        self.n_counters = n_counters
        self.arrivals = arrivals
        self.rush = rush
        self.service = service
        self.room = room
        self.action_space = spaces.Discrete(n_counters)
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self._time = 0
        self._waiting = 0
        self._open = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._time, self._waiting, self._open = 0, 0, 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._open = int(action) + 1
        mean = self.arrivals * (1 + self.rush * math.sin(2 * math.pi * self._time / STEPS_OF_DAY))
        present = min(self._waiting + int(self.np_random.poisson(mean)), self.room)
        served = min(present, int(self.np_random.poisson(self.service * self._open)))
        self._waiting = present - served
        self._time = (self._time + 1) % STEPS_OF_DAY
        reward = served - self.COST_OF_WAITING * self._waiting - self.COST_OF_COUNTER * self._open
        return self._look(), reward, False, False, {"served": served, "waiting": self._waiting}

    def _look(self) -> np.ndarray:
        angle = 2 * math.pi * self._time / STEPS_OF_DAY
        parts = self._waiting / self.room, math.sin(angle), math.cos(angle), self._open / self.n_counters
        return np.array(parts, dtype=np.float32)
