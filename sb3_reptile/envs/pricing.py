"""A shop that sets the price of fresh goods day by day, and sells to customers who come at random."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_reptile.replay.checks import check_whole_number

DAYS_OF_WEEK, DAYS_OF_YEAR = 7, 364
WEEKEND = (5, 6)


class Pricing(gym.Env, RecordConstructorArgs):
    """
    Each step is a day of a shop, an action is the price of that day, and the reward is the revenue. Goods arrive in the
    morning; what is left in the evening is lost. The number of customers who want to buy is Poisson distributed with
    the mean::

        customers * weekend * (1 + season * sin(2 pi day / 364)) * exp(elasticity * (1 - price))

    where ``weekend`` is 1 from Monday to Friday. With a price of 1, demand falls by ``elasticity`` per cent for each
    per cent that the price rises. As long as there are goods enough, ``1 / elasticity`` is the best price.

    The observation is what the shop knows in the morning: goods on hand, day of the week, season, and yesterday's
    price, sales and whether everything was sold; the last three are 0 on the first day. An episode has no end of its
    own and begins on a random day of the year.

    :class:`DriftingPhysics` can change the attributes ``elasticity``, ``weekend``, ``season`` and ``customers``.

    ``info`` holds expected revenues of the day, from which regret can be computed: ``revenue`` at the price that was
    set, ``oracle_revenue`` at the best price for this day and these goods, and ``random_revenue`` at a price drawn at
    random. Days do not depend on each other, so that no policy has a higher mean return than the best price of each.

    :param n_prices: Number of prices, evenly spaced from 0.4 to 2
    :param customers: Mean demand on a weekday at a price of 1
    :param goods: Mean number of goods that arrive in the morning, Poisson distributed
    :param elasticity: Price elasticity of demand at a price of 1
    :param weekend: Demand on Saturday and Sunday, relative to other days
    :param season: How much demand varies over the year, in [0, 1)
    :raises ValueError: if a number is outside its range
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- as Gymnasium has it

    LOWEST, HIGHEST = 0.4, 2.0

    def __init__(
        self,
        n_prices: int = 9,
        customers: float = 6.0,
        goods: float = 9.0,
        elasticity: float = 1.0,
        weekend: float = 1.0,
        season: float = 0.3,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            n_prices=n_prices,
            customers=customers,
            goods=goods,
            elasticity=elasticity,
            weekend=weekend,
            season=season,
        )
        check_whole_number("n_prices", n_prices, 2)
        for name, value in dict(customers=customers, goods=goods, elasticity=elasticity, weekend=weekend).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {value!r}")
        if not 0 <= season < 1:
            raise ValueError(f"season must be in [0, 1), got {season!r}: demand stays above 0 all year")
        #: The prices, in the order of the actions
        self.prices = np.linspace(self.LOWEST, self.HIGHEST, n_prices)
        self.customers = customers
        self.goods = goods
        self.elasticity = elasticity
        self.weekend = weekend
        self.season = season
        # More goods than there ever are: a bound that needs no clipping in practice
        self._most = int(goods + 10 * math.sqrt(goods) + 10)
        self.action_space = spaces.Discrete(n_prices)
        self.observation_space = spaces.Box(-1.0, 2.0, (1 + DAYS_OF_WEEK + 2 + 3,), np.float32)
        self._day = 0
        self._on_hand = 0
        self._yesterday = (0.0, 0.0, 0.0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._day = int(self.np_random.integers(DAYS_OF_YEAR))
        self._yesterday = (0.0, 0.0, 0.0)
        return self._morning(), {}

    def demands(self) -> np.ndarray:
        """
        :return: Mean demand today at each price, shape (n_prices,)
        """
        day = self.weekend if self._day % DAYS_OF_WEEK in WEEKEND else 1.0
        year = 1 + self.season * math.sin(2 * math.pi * self._day / DAYS_OF_YEAR)
        return self.customers * day * year * np.exp(self.elasticity * (1 - self.prices))

    def revenues(self) -> np.ndarray:
        """
        :return: Expected revenue today at each price, shape (n_prices,)
        """
        demands, on_hand = self.demands()[:, None], self._on_hand
        # The mean of min(demand, on hand) is the sum of the probabilities that another one is sold
        sold = np.arange(on_hand)
        logarithms = sold * np.log(demands) - demands - np.array([math.lgamma(number + 1) for number in sold])
        return self.prices * (1 - np.exp(logarithms).cumsum(axis=1)).sum(axis=1)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        choice = int(action)
        revenues, price = self.revenues(), float(self.prices[choice])
        demand = int(self.np_random.poisson(self.demands()[choice]))
        sales = min(demand, self._on_hand)
        self._yesterday = (price, sales / self._most, float(sales == self._on_hand))
        self._day += 1
        info = {
            "revenue": float(revenues[choice]),
            "oracle_revenue": float(revenues.max()),
            "random_revenue": float(revenues.mean()),
        }
        return self._morning(), price * sales, False, False, info

    def _morning(self) -> np.ndarray:
        self._on_hand = min(int(self.np_random.poisson(self.goods)), self._most)
        week = np.eye(DAYS_OF_WEEK)[self._day % DAYS_OF_WEEK]
        angle = 2 * math.pi * self._day / DAYS_OF_YEAR
        parts = [[self._on_hand / self._most], week, [math.sin(angle), math.cos(angle)], self._yesterday]
        return np.concatenate(parts).astype(np.float32)
