"""A site that shows one advertisement to each visitor, who may click on it."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_reptile.replay.checks import check_whole_number


class Clicks(gym.Env, RecordConstructorArgs):
    """
    Each step is a visitor, an action is the advertisement that is shown, and the reward is 1 for a click. The
    probability of a click is::

        1 / (1 + exp(-intercept - slope * appeal[ad] @ visitor))

    The observation is the visitor: independent numbers, uniform in [-1, 1]. The next visitor does not depend on the
    action. The appeal of the advertisements is interpolated between two sets of unit vectors, which do not depend on
    the seed of the episodes.

    :class:`DriftingPhysics` can change the attributes ``fashion``, from 0 to 1, which interpolates between the sets,
    ``intercept`` and ``slope``.

    ``info`` holds click probabilities, from which regret can be computed: ``click_rate`` of the advertisement shown,
    ``oracle_click_rate`` of the best one for this visitor, and ``random_click_rate`` of one drawn at random.

    :param n_ads: Number of advertisements
    :param n_features: Length of a visitor's feature vector
    :param intercept: Log-odds of a click of a visitor to whom the advertisement means nothing
    :param slope: How much the log-odds depend on the visitor
    :param fashion: Which appeal the advertisements have, in [0, 1]
    :param world: Seed of the appeal
    :raises ValueError: if a number is outside its range
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- as Gymnasium has it

    def __init__(
        self,
        n_ads: int = 4,
        n_features: int = 3,
        intercept: float = -2.0,
        slope: float = 3.0,
        fashion: float = 0.0,
        world: int = 0,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            n_ads=n_ads,
            n_features=n_features,
            intercept=intercept,
            slope=slope,
            fashion=fashion,
            world=world,
        )
        for name, number, least in (("n_ads", n_ads, 2), ("n_features", n_features, 1)):
            check_whole_number(name, number, least)
        for name, value in dict(intercept=intercept, slope=slope).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value!r}")
        if not 0 <= fashion <= 1:
            raise ValueError(f"fashion must be in [0, 1], got {fashion!r}: it moves between two sets of advertisements")
        appeals = np.random.default_rng(world).standard_normal((2, n_ads, n_features))
        self._appeals = appeals / np.linalg.norm(appeals, axis=2, keepdims=True)
        self.intercept = intercept
        self.slope = slope
        self.fashion = fashion
        self.action_space = spaces.Discrete(n_ads)
        self.observation_space = spaces.Box(-1.0, 1.0, (n_features,), np.float32)
        self._visitor = np.zeros(n_features, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._next_visitor(), {}

    def click_rates(self) -> np.ndarray:
        """
        :return: Probability that the present visitor clicks on each advertisement, shape (n_ads,)
        """
        appeal = (1 - self.fashion) * self._appeals[0] + self.fashion * self._appeals[1]
        return np.asarray(1 / (1 + np.exp(-self.intercept - self.slope * (appeal @ self._visitor))))

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        rates, ad = self.click_rates(), int(action)
        clicked = self.np_random.random() < rates[ad]
        info = {
            "click_rate": float(rates[ad]),
            "oracle_click_rate": float(rates.max()),
            "random_click_rate": float(rates.mean()),
        }
        return self._next_visitor(), float(clicked), False, False, info

    def _next_visitor(self) -> np.ndarray:
        self._visitor = self.np_random.uniform(-1, 1, self._visitor.shape).astype(np.float32)
        return self._visitor.copy()
