"""Initial weights: the sampling weights of new transitions. Decay and priorities multiply them."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from sb3_reptile.replay.functions import pickled_function, unpickled_function

#: Weights and priorities outside this range are refused: their products with a decay must stay within double precision.
SMALLEST, LARGEST = 1e-50, 1e50

InitialWeights: TypeAlias = Callable[[Any, Any, np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]], Any]
#: The option, as Python and YAML spell it
InitialWeightsOption: TypeAlias = (
    Literal["uniform", "random", "info"] | Mapping[Literal["random"], Mapping[str, int | None] | None] | InitialWeights
)


def check_weights(name: str, weights: Any, n: int) -> np.ndarray:
    """
    :param name: Name of the argument, for the message
    :param weights: Numbers, or one for all
    :param n: Number of weights needed
    :return: The weights, float64, shape (n,)
    :raises ValueError: if their number is wrong, or one is not between 1e-50 and 1e50
    """
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {n} numbers > 0, got {weights!r}") from None
    if values.shape != (n,):
        values = values.reshape(-1)
        if len(values) not in (1, n):
            raise ValueError(f"{name} must be one for each of {n} transitions, got {len(values)} of them")
        values = np.broadcast_to(values, (n,))
    # A few numbers, as when a row is added, are compared faster one by one. NaN fails either way.
    few_and_fine = n <= 8 and all(SMALLEST <= value <= LARGEST for value in values.tolist())
    if not few_and_fine and not (values.min(initial=1.0) >= SMALLEST and values.max(initial=1.0) <= LARGEST):
        bad = values[~((values >= SMALLEST) & (values <= LARGEST))][0]
        raise ValueError(
            f"{name} must be > 0 and finite (between {SMALLEST:g} and {LARGEST:g}), got {bad}; "
            "add a small constant to what may be 0"
        )
    return values


class RandomWeights:
    """
    Draws each initial weight uniformly from (0, 1], by a random generator of its own.

    :param seed: Seed of the generator; ``None`` draws it by NumPy's global generator, which a model's ``seed=`` sets
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        if seed is None:
            # A copy, so that the global generator draws what it would have drawn
            of_model = np.random.RandomState()
            of_model.set_state(np.random.get_state())
            seed = int(of_model.randint(2**32, dtype=np.uint64))
        self.generator = np.random.default_rng(seed)

    def __call__(self, obs: Any, next_obs: Any, action: Any, reward: np.ndarray, done: Any, infos: Any) -> np.ndarray:
        return 1 - self.generator.random(len(infos))


class FunctionWeights:
    """
    Initial weights by a function of the user's.

    :param function: Takes the arguments of ``add()`` and returns a weight for each environment
    """

    def __init__(self, function: InitialWeights) -> None:
        self.function = function

    def __reduce__(self) -> Any:
        return _unpickled_weights, (pickled_function(self.function),)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FunctionWeights":
        return FunctionWeights(copy.deepcopy(self.function, memo))

    def __call__(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> Any:
        return self.function(obs, next_obs, action, reward, done, infos)


def _unpickled_weights(pickled: Any) -> FunctionWeights:
    return FunctionWeights(unpickled_function(pickled))


def info_weights(
    obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]
) -> list[Any]:
    """The initial weights in ``info["replay_weight"]``, 1 for environments that do not set it."""
    return [info.get("replay_weight", 1.0) for info in infos]


def make_initial_weights(initial_weights: Any) -> InitialWeights | None:
    """
    :param initial_weights: ``"uniform"``, ``"random"``, ``{"random": {"seed": 0}}``, ``"info"``, or a function of the
        arguments of ``add()`` that returns one weight for each environment
    :return: The function, None for uniform weights
    :raises ValueError: if it is something else
    """
    is_word = isinstance(initial_weights, str)  # comparing an array with a word says nothing
    if is_word and initial_weights == "uniform":
        return None
    if is_word and initial_weights == "random":
        return RandomWeights()
    if is_word and initial_weights == "info":
        return info_weights
    if isinstance(initial_weights, dict) and list(initial_weights) == ["random"]:
        arguments = initial_weights["random"] or {}
        if not isinstance(arguments, dict) or not set(arguments) <= {"seed"}:
            raise ValueError(f"initial_weights 'random' takes seed, got {arguments!r}")
        seed = arguments.get("seed")
        if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
            raise ValueError(f"the seed of initial_weights 'random' must be a whole number >= 0, got {seed!r}")
        return RandomWeights(**arguments)
    if callable(initial_weights):
        return FunctionWeights(initial_weights)
    raise ValueError(
        f"unknown initial_weights {initial_weights!r}; known: 'uniform', 'random', {{'random': {{'seed': 0}}}}, "
        "'info', or a function of (obs, next_obs, action, reward, done, infos)"
    )


def spell_initial_weights(weights: InitialWeights | None) -> Any:
    """
    :param weights: A function that :func:`make_initial_weights` returned, or None
    :return: The option that it was made from
    """
    if weights is None:
        return "uniform"
    if weights is info_weights:
        return "info"
    if type(weights) is RandomWeights:
        return {"random": {"seed": weights.seed}}
    return weights.function if isinstance(weights, FunctionWeights) else weights
