"""Discrete spaces that SB3's networks can number."""

import numpy as np
from gymnasium import spaces


def check_discrete_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    SB3 takes actions and discrete observations as indices from 0 on, whatever their space says.

    :param observation_space: The model's observation space
    :param action_space: The model's action space
    :raises ValueError: if one of them begins elsewhere
    """
    if _begins_elsewhere(action_space):
        raise ValueError(
            f"actions must be numbered from 0, got {action_space}: wrap the environment in "
            "sb3_reptile.envs.DiscreteActions"
        )
    is_dict = isinstance(observation_space, spaces.Dict)
    parts = observation_space.spaces.values() if is_dict else [observation_space]  # type: ignore[attr-defined]
    for part in parts:
        if _begins_elsewhere(part):
            raise ValueError(
                f"discrete observations must be numbered from 0, got {part}: subtract its start in a "
                "gymnasium.wrappers.TransformObservation"
            )


def _begins_elsewhere(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and bool(np.any(space.start != 0))
