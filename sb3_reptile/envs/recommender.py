"""A simulated recommender: each episode is a user, who is shown items and may click on them."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_reptile.replay.checks import check_whole_number


class Recommender(gym.Env, RecordConstructorArgs):
    """
    An episode is a user, an action is the item that is shown, and the reward is 1 for a click.

    Items have feature vectors. A user's interest vector is the sum of that of a group and an individual part. The
    probability of a click is ``1 / (1 + exp(3 - 8 interest))``, where ``interest`` is the cosine of the item's features
    and the user's interests; it is reduced by 5 % for each time that the item was shown in the last ``memory`` steps.
    The observation is the items shown and the clicks in the last ``memory`` steps: the agent must infer the user's
    interests from them.

    The groups' interests are interpolated between two sets, the moods of the public. :class:`DriftingPhysics` can
    change the attribute ``mood``, from 0 to 1. Items, groups and moods do not depend on the seed of the episodes.

    ``info`` holds click probabilities, from which regret can be computed: ``click_rate`` of the item shown,
    ``oracle_click_rate`` of the best item for this user now, and ``random_click_rate`` of an item drawn at random.

    :param n_items: Number of items
    :param n_groups: Number of groups of users
    :param n_features: Length of the feature vectors
    :param memory: Number of steps in the observation, and for which an item shown reduces its click probability
    :param own_taste: Length of the individual part of a user's interests relative to the group's
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
            check_whole_number(name, value, least)
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
        :return: Probability of a click on each item now, shape (n_items,)
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
    """Normalize to length 1 along the last axis."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
