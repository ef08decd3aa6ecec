"""How fast a model adapts to a task: the return against the number of training episodes."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_reptile.meta.normalization import for_evaluation

# More steps than the episodes of adaptation have
MANY_STEPS = 10**9


class EvaluateAfterEpisodes(BaseCallback):
    """
    Evaluates the deterministic policy after numbers of episodes, and stops training after the last of them.

    :param env: Environment of the task, for evaluation only
    :param episodes: Numbers of episodes, increasing
    :param n_eval_episodes: Episodes of each evaluation
    :param seed: Seed of each evaluation
    """

    def __init__(self, env: gym.Env, episodes: Sequence[int], n_eval_episodes: int, seed: int) -> None:
        super().__init__()
        self.env, self.episodes = env, episodes
        self.n_eval_episodes, self.seed = n_eval_episodes, seed
        self.returns: list[float] = []
        self._n_episodes = 0

    def _on_training_start(self) -> None:
        self._evaluate()

    def _on_step(self) -> bool:
        self._n_episodes += int(np.sum(self.locals["dones"]))
        self._evaluate()
        return len(self.returns) < len(self.episodes)

    def _evaluate(self) -> None:
        while len(self.returns) < len(self.episodes) and self._n_episodes >= self.episodes[len(self.returns)]:
            self.env.reset(seed=self.seed)
            env = for_evaluation(self.env, self.model)
            mean, _ = evaluate_policy(self.model, env, self.n_eval_episodes, warn=False)
            self.returns.append(float(mean))  # type: ignore[arg-type]


def adaptation_curve(
    model: Any,
    env: gym.Env,
    episodes: Sequence[int] = (0, 1, 2, 5, 10),
    n_eval_episodes: int = 5,
    seed: int = 0,
) -> list[float]:
    """
    Train a model on a task, and evaluate it on the way. Time limits of exploration and schedules that depend on the
    total number of steps stay at their beginning, as this number is not known.

    :param model: The model, with the environment that it trains in
    :param env: Another environment of the same task, for evaluation. It is not closed. If the model trains in
        VecNormalize, its observations are normalized with the statistics of the model at this time, and its rewards
        are not.
    :param episodes: Numbers of training episodes after which the model is evaluated, increasing; 0 is before training
    :param n_eval_episodes: Episodes of each evaluation
    :param seed: Seed of each evaluation
    :return: Mean return of the deterministic policy after each number of episodes
    :raises ValueError: if ``episodes`` is empty or does not increase, or ``n_eval_episodes`` is not >= 1
    """
    if not episodes or list(episodes) != sorted(set(episodes)) or episodes[0] < 0:
        raise ValueError(f"episodes must be increasing whole numbers >= 0, got {episodes!r}")
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be >= 1, got {n_eval_episodes!r}")
    callback = EvaluateAfterEpisodes(env, episodes, n_eval_episodes, seed)
    model.learn(MANY_STEPS, callback=callback, log_interval=None)
    return callback.returns


def area_under_curve(returns: Sequence[float], episodes: Sequence[int] = (0, 1, 2, 5, 10)) -> float:
    """
    :param returns: Returns after numbers of episodes
    :param episodes: These numbers
    :return: Mean return over the episodes, linear between the points; that of a single point is its return
    """
    if len(episodes) == 1:
        return float(returns[0])
    # NumPy 1 has trapz() for it, NumPy 2 has trapezoid()
    heights = np.asarray(returns)
    area = (np.diff(episodes) * (heights[1:] + heights[:-1]) / 2.0).sum()
    return float(area / (episodes[-1] - episodes[0]))
