"""A recommender's task: users come one after another, are shown items, and click or do not."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class Recommender(gym.Env, RecordConstructorArgs):
    """
    An episode is a user, an action the item that is shown, and a reward of 1 a click.

    Items have features, users have interests in them: those of one of a few groups, and something of their own. The
    probability of a click is ``1 / (1 + exp(3 - 8 interest))`` with the cosine of the item's features and the user's
    interests, less 5 % for each of the last ``memory`` times that the item was shown. The observation is what was shown
    and what was clicked in the last ``memory`` steps, so who the user is has to be found out by trying.

    The groups' interests lie between those of two moods of the public. ``mood`` (an attribute, 0 to 1) is for
    :class:`DriftingPhysics` to move. Items, groups and moods are the same for every seed of the episodes.

    ``info`` tells the probabilities of a click: ``click_rate`` of the item that was shown, ``oracle_click_rate`` of the
    best one for this user now, ``random_click_rate`` of one drawn at random, so that regret can be drawn.

    :param n_items: Number of items
    :param n_groups: Number of groups of users
    :param n_features: Length of the items' features
    :param memory: Steps that the observation tells of, and that an item shown is remembered
    :param own_taste: How much of a user's interests is of their own: 0 nothing, 1 as much as the group's
    :param mood: The mood of the public, in [0, 1]
    :param world: Seed of items, groups and moods
    :raises ValueError: if a number is outside its range
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- as Gymnasium has it

    SLOPE, INTERCEPT, FATIGUE = 8.0, 3.0, 0.95

    def __init__(
        self,
        n_items: int = 20,
        n_groups: int = 3,
        n_features: int = 8,
        memory: int = 8,
        own_taste: float = 0.3,
        mood: float = 0.0,
        world: int = 0,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            n_items=n_items,
            n_groups=n_groups,
            n_features=n_features,
            memory=memory,
            own_taste=own_taste,
            mood=mood,
            world=world,
        )
        for name, value, least in (
            ("n_items", n_items, 2),
            ("n_groups", n_groups, 1),
            ("n_features", n_features, 1),
            ("memory", memory, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        if not own_taste >= 0:
            raise ValueError(f"own_taste must be >= 0, got {own_taste!r}: 0 makes all users of a group alike")
        if not 0 <= mood <= 1:
            raise ValueError(f"mood must be in [0, 1], got {mood!r}: it moves between two sets of interests")
        generator = np.random.default_rng(world)
        #: Features of the items, unit vectors, shape (n_items, n_features)
        self.items = _unit(generator.standard_normal((n_items, n_features)))
        self._moods = _unit(generator.standard_normal((2, n_groups, n_features)))
        self.memory = memory
        self.own_taste = own_taste
        self.mood = mood
        self.action_space = spaces.Discrete(n_items)
        self.observation_space = spaces.Box(-1.0, 1.0, (memory * (n_features + 1),), np.float32)
        self._group = 0
        self._own = np.zeros(n_features)
        self._shown: list[int] = []
        self._history = np.zeros((memory, n_features + 1), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._group = int(self.np_random.integers(self._moods.shape[1]))
        self._own = _unit(self.np_random.standard_normal((self.items.shape[1],)))
        self._shown.clear()
        self._history[:] = 0
        return self._history.ravel().copy(), {}

    def click_rates(self) -> np.ndarray:
        """
        :return: Probability that the user would click on each item now, shape (n_items,)
        """
        before, after = self._moods[:, self._group]
        interests = _unit(_unit((1 - self.mood) * before + self.mood * after) + self.own_taste * self._own)
        rates = 1 / (1 + np.exp(self.INTERCEPT - self.SLOPE * (self.items @ interests)))
        return rates * self.FATIGUE ** np.bincount(self._shown, minlength=len(self.items))

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        item = int(action)
        rates = self.click_rates()
        clicked = bool(self.np_random.random() < rates[item])
        self._shown.append(item)
        del self._shown[: -self.memory]
        # The newest comes first
        self._history[1:] = self._history[:-1].copy()
        self._history[0, :-1] = self.items[item]
        self._history[0, -1] = 1.0 if clicked else -1.0
        info = {
            "click_rate": float(rates[item]),
            "oracle_click_rate": float(rates.max()),
            "random_click_rate": float(rates.mean()),
        }
        return self._history.ravel().copy(), float(clicked), False, False, info


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1 along the last axis."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
