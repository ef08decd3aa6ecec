"""A recommender made from a shop's log of its visitors and their clicks (extra ``logs``)."""

import csv
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_reptile.envs.drift import DriftWrapper, Period

CAMPAIGNS = ("all", "men", "women")
USER_FEATURES = [f"user_feature_{number}" for number in range(4)]


class LoggedRecommender(gym.Env, RecordConstructorArgs):
    """
    The visitors of a fashion shop, logged for a week: the Open Bandit Dataset (Saito et al., arXiv:2008.07146). An
    action is the item that a visitor is shown, the reward is 1 for a click, and the observation is the visitor's four
    features, hashed by the shop and one-hot here. Time is the attribute ``day``, which is constant unless
    :class:`DaysInTurn` changes it.

    The visitors and the counts of clicks are *real*. The probability of a click on an item is *estimated* from all
    impressions within ``window`` hours around the visitor::

        (clicks + smoothing * mean) / (times shown + smoothing)

    where ``mean`` is taken over all items and the whole log. A click is drawn with this probability. Items were shown
    at random in this log, so apart from the smoothing this is the replay estimate (Li et al., arXiv:1003.5956) of
    always showing this item. It depends on the item and the time only: clicks are too rare for a model with user
    features.

    An agent therefore learns the log, not the shop. With 38 to 46 clicks on 10,000 impressions, differences between
    items or days are not significant: if the clicks were assigned at random, the best item would lead by about as much.
    A large ``smoothing`` reflects this but leaves little to learn; the whole data set can be given as ``path``.

    ``info`` holds click probabilities, from which regret can be computed: ``click_rate`` of the item shown,
    ``oracle_click_rate`` of the best item now, and ``random_click_rate`` of an item drawn at random.

    :param campaign: ``"men"`` with 34 items, ``"women"`` with 46, or ``"all"`` with 80
    :param window: Length in hours of the time window around the visitor whose impressions are used
    :param smoothing: Number of impressions with the mean click rate that are added to those of each item
    :param day: Time in days: 2.5 is half way through the visitors of the third day. The first day follows the last
    :param path: Folder of the log, ``open_bandit_dataset/random`` of the whole data set; by default the sample of
        10,000 impressions for each campaign in the package obp
    :raises ImportError: if neither ``path`` is given nor the extra ``logs`` is installed
    :raises ValueError: if ``campaign`` is unknown, or a number is outside its range
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- as Gymnasium has it

    def __init__(
        self,
        campaign: str = "men",
        window: float = 24.0,
        smoothing: float = 1.0,
        day: float = 0.0,
        path: str | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, campaign=campaign, window=window, smoothing=smoothing, day=day, path=path)
        if campaign not in CAMPAIGNS:
            raise ValueError(f"campaign must be one of {', '.join(CAMPAIGNS)}, got {campaign!r}")
        if not 0 < window < math.inf:
            raise ValueError(f"window must be > 0 and finite (hours), got {window!r}")
        if not 0 < smoothing < math.inf:
            raise ValueError(f"smoothing must be > 0 and finite (impressions), got {smoothing!r}")
        if not 0 <= day < math.inf:
            raise ValueError(f"day must be >= 0 and finite (days since the log began), got {day!r}")
        self.window = window
        self.smoothing = smoothing
        self.day = day
        times, self._items, self._clicks, users = _read(_folder(path) / campaign / f"{campaign}.csv")
        self._hours = (times - times[0]) / np.timedelta64(1, "h")
        self._mean = self._clicks.mean()
        # The first row of each day, and the number of rows
        self._days = [*np.unique(times.astype("datetime64[D]"), return_index=True)[1], len(times)]
        #: Number of days in the log
        self.n_days = len(self._days) - 1
        self._users = np.concatenate([_one_hot(feature) for feature in users.T], axis=1)
        self._n_items = int(self._items.max()) + 1
        self.action_space = spaces.Discrete(self._n_items)
        self.observation_space = spaces.Box(0.0, 1.0, self._users.shape[1:], np.float32)
        self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._next_visitor(), {}

    def click_rates(self) -> np.ndarray:
        """
        :return: Probability of a click on each item now, shape (n_items,)
        """
        now = self._hours[self._row]
        first, end = np.searchsorted(self._hours, [now - self.window / 2, now + self.window / 2])
        shown = np.bincount(self._items[first:end], minlength=self._n_items)
        clicks = np.bincount(self._items[first:end], self._clicks[first:end], self._n_items)
        return (clicks + self.smoothing * self._mean) / (shown + self.smoothing)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        rates = self.click_rates()
        rate = float(rates[int(action)])
        clicked = self.np_random.random() < rate
        info = {
            "click_rate": rate,
            "oracle_click_rate": float(rates.max()),
            "random_click_rate": float(rates.mean()),
        }
        return self._next_visitor(), float(clicked), False, False, info

    def _next_visitor(self) -> np.ndarray:
        # `DaysInTurn` sets the day before a step, so visitors appear one step late: negligible among thousands in a day
        number, part = divmod(self.day, 1)
        today = int(number) % self.n_days
        first, end = self._days[today : today + 2]
        self._row = int(first + part * (end - first))
        return self._users[self._row].copy()


class DaysInTurn(DriftWrapper, RecordConstructorArgs):
    """
    Play the days of a log in order, one day per phase; the first day follows the last. A day lasts ``period`` steps,
    regardless of its number of visitors. Visitors appear in chronological order; if there are fewer of them than steps,
    each is repeated for several steps.

    ``info["phase"]`` is the phase in which the step was taken. See ``DriftWrapper`` for phases and the clock.

    :param env: The log
    :param period: Length of a day in steps, over all episodes, or lengths of successive days. A day of obp's sample has
        about 1,430 visitors
    :raises ValueError: if ``period`` is not a whole number >= 1 or a list of them
    """

    def __init__(self, env: LoggedRecommender, period: Period = 10_000) -> None:
        RecordConstructorArgs.__init__(self, period=period)
        # At least two phases: with a single one, the time of a log of one day would not pass
        super().__init__(env, period, max(2, env.n_days), kind="gradual")
        self._log = env
        self._visits = 0

    def drift_env(self) -> None:
        passed = self.progress
        if self._is_held:
            # Otherwise all visitors would be one and the same: those that follow, of the same day
            passed = (passed + self._visits / self._place_at(self._time)[2]) % 1
            self._visits += 1
        self._log.day = self.phase + passed

    def set_drift_clock(self, clock: Mapping[str, Any], held: bool) -> None:
        super().set_drift_clock(clock, held)
        self._visits = 0


def _folder(path: str | None) -> Path:
    if path is not None:
        return Path(path)
    # Not `import obp`: only its data files are needed, and its reader fails with pandas 2
    obp = importlib.util.find_spec("obp")
    if obp is None or obp.origin is None:
        raise ImportError("LoggedRecommender needs the extra `logs`: pip install 'sb3-reptile[logs]'")
    return Path(obp.origin).parent / "dataset" / "obd" / "random"


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    :param path: CSV file of a campaign
    :return: Times, items, clicks and users, shape (n, 4), in chronological order
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            (row["timestamp"], int(row["item_id"]), int(row["click"]), [row[name] for name in USER_FEATURES])
            for row in csv.DictReader(file)
        ]
    rows.sort(key=lambda row: row[0])
    times, items, clicks, users = zip(*rows, strict=True)
    # NumPy does not parse time zones; that of the log is the same everywhere
    naive = [time.partition("+")[0] for time in times]
    return np.array(naive, "datetime64[us]"), np.array(items), np.array(clicks), np.array(users)


def _one_hot(categories: np.ndarray) -> np.ndarray:
    numbers = np.unique(categories, return_inverse=True)[1]
    return np.eye(numbers.max() + 1, dtype=np.float32)[numbers]
