"""What ReptileDQN does with files of SB3's DQN, and with a replay buffer that was loaded."""

import math
import warnings
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.replay import DecayedSampling
from sb3_reptile.replay.taking_over import DECAYED_COUNTERPARTS, differing_options
from sb3_reptile.reptile_dqn.buffer_options import warn_of_buffer_without_decay

if TYPE_CHECKING:
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN


def was_saved_by_dqn(model: "ReptileDQN") -> bool:
    """
    :param model: A model that is not set up yet
    :return: Whether its attributes were loaded from a file of SB3's DQN
    """
    attributes = vars(model)
    return "exploration_schedule" in attributes and "beta_schedule" not in attributes


def decay_what_dqn_saved(model: "ReptileDQN") -> None:
    """
    Replace the class of replay buffer that DQN had selected by the one that decays, with a warning. Files of SB3 from
    before n-step returns have no ``n_steps``: it is 1.

    :param model: A model with the attributes of a DQN
    """
    if model.n_steps is None:
        model.n_steps = 1
    decayed = DECAYED_COUNTERPARTS.get(model.replay_buffer_class)  # type: ignore[arg-type]
    if decayed is not None:
        model.replay_buffer_class = decayed
        if model.half_life != math.inf:
            warnings.warn(
                f"the model was saved by DQN: its replay decays from now on ({decayed.__name__}, "
                f"half_life={model.half_life}); load it with half_life=float('inf') for uniform replay",
                stacklevel=4,
            )


def buffer_in_file(model: "ReptileDQN") -> ReplayBuffer | None:
    """
    :param model: A model that is not set up yet, whose ``replay_buffer_class`` is set
    :return: The replay buffer that was in its file, by ``save(..., include=["replay_buffer"])``. None if there was
        none, or the model is loaded without its environments, to predict; ``learn()`` refuses what does not fit
    """
    buffer: ReplayBuffer | None = model.replay_buffer
    assert model.replay_buffer_class is not None
    needs_env = issubclass(model.replay_buffer_class, HerReplayBuffer) and model.env is None
    return buffer if buffer is not None and buffer.n_envs == model.n_envs and not needs_env else None


def hand_options_to_buffer(model: "ReptileDQN", present: ReplayBuffer, path: Any) -> None:
    """
    Let a replay buffer that was loaded replay as the model's options say.

    :param model: The model that has the buffer
    :param present: The buffer that the model made by its options
    :param path: Where the buffer was loaded from
    :raises ValueError: if it has no priorities and the model needs them
    """
    buffer = model.replay_buffer
    if model.priority is not None and not getattr(buffer, "prioritized", False):
        raise ValueError(
            f"priority={model.priority!r} needs a replay buffer with priorities, {path} has none: "
            "load the model with priority=None, or begin with an empty buffer"
        )
    if not isinstance(buffer, DecayedSampling):
        warn_of_buffer_without_decay(type(buffer), model.half_life)
        return
    # What could not be taken over into the model's own buffer
    differing = differing_options(buffer, present)
    kept = [f"{name}={theirs} instead of {ours}" for name, (theirs, ours) in differing.items()]
    if not isinstance(present, DecayedSampling):
        kept = [f"its class {type(buffer).__name__} instead of {type(present).__name__}"]
    if kept:
        warnings.warn(
            f"the replay buffer in {path} keeps {' and '.join(kept)}: begin with an empty buffer for replay as the "
            "model's options say",
            stacklevel=4,
        )
