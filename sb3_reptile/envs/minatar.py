"""MinAtar's games as one task that switches between them (extra ``minatar``)."""

import colorsys
from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_reptile.envs.drift import DriftWrapper, Period

# Saved models and checkpoints name the class by this module
from sb3_reptile.networks import MinAtarCnn as MinAtarCnn

GAMES = ("breakout", "asterix", "freeway", "space_invaders", "seaquest")


class MinAtarGames(gym.Env):
    """
    MinAtar's games (Young & Tian, arXiv:1903.03176) with common spaces, one game at a time. There are six actions; a
    game ignores those that it does not use. Images are 10 x 10 with the largest number of channels of the games; unused
    channels are 0. A channel shows one type of object: 255 where there is one, 0 elsewhere.

    :param games: Names of games, from ``GAMES``
    :param sticky_action_prob: Probability that the previous action is repeated instead of the chosen one
    :param difficulty_ramping: Whether games become faster during an episode
    :param render_mode: ``"rgb_array"``, or ``None``
    :raises ImportError: without the extra ``minatar``
    :raises ValueError: if ``games`` is not a list of names of ``GAMES``
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's declaration)

    def __init__(
        self,
        games: Sequence[str] = GAMES,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        render_mode: str | None = None,
    ) -> None:
        try:
            from minatar import Environment
        except ImportError as error:
            raise ImportError(
                "DriftingMinAtar-v0 needs the extra `minatar`: pip install 'sb3-reptile[minatar]'"
            ) from error
        if isinstance(games, str) or not games or not set(games) <= set(GAMES):
            raise ValueError(f"games must be a list of one or more of {', '.join(GAMES)}, got {games!r}")
        self._games = [Environment(game, sticky_action_prob, difficulty_ramping) for game in games]
        self._game = self._games[0]
        self._shape = (max(game.n_channels for game in self._games), 10, 10)
        self.observation_space = spaces.Box(0, 255, self._shape, dtype=np.uint8)
        self.action_space = spaces.Discrete(6)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """
        :param seed: Seeds all games
        :param options: ``{"game": i}`` changes to the i-th of the games
        :return: Observation and info
        """
        super().reset(seed=seed)
        if seed is not None:
            for game in self._games:
                game.seed(int(self.np_random.integers(2**32)))
        self._game = self._games[options["game"]] if options and "game" in options else self._game
        self._game.reset()
        self._game.last_action = 0  # otherwise MinAtar could repeat the last action of the previous episode
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward, terminated = self._game.act(int(action))
        return self._observation(), float(reward), bool(terminated), False, {}

    def _observation(self) -> np.ndarray:
        observation = np.zeros(self._shape, dtype=np.uint8)
        observation[: self._game.n_channels] = self._game.state().transpose(2, 0, 1) * np.uint8(255)
        return observation

    def render(self) -> np.ndarray | None:
        """
        :return: An image of 160 x 160, with one color for each channel
        """
        if self.render_mode is None:
            return None
        seen = self._observation() > 0
        colours = [colorsys.hsv_to_rgb(channel / len(seen), 0.6, 1) for channel in range(len(seen))]
        picture = np.zeros((10, 10, 3), dtype=np.uint8)
        for where, colour in zip(seen, colours, strict=True):
            picture[where] = np.multiply(colour, 255)
        return picture.repeat(16, axis=0).repeat(16, axis=1)


class GamesInTurn(DriftWrapper):
    """
    Switch to the next game in each phase. At the end of a phase the episode is truncated, so that each game is played
    for exactly ``period`` steps.

    :param env: The games
    :param period: Steps between two changes, over all episodes, or a list of such numbers
    :param recurring: Whether the first game follows the last; otherwise the last one stays
    """

    def __init__(self, env: MinAtarGames, period: Period, recurring: bool = True) -> None:
        super().__init__(env, period, len(env._games), recurring=recurring)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed, options={**(options or {}), "game": self.phase % self.n_phases})

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        phase = self.phase
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated or self.phase != phase, info
