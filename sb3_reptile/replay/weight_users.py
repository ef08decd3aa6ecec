"""Which learners use the weights and indices of a batch; warnings for those that do not, and errors for SBX's."""

import sys
import warnings
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb3_reptile.replay.decayed_sampling import DecayedSampling

# Buffers whose learners multiply losses by the weights of a batch. Not attributes: pickles go to other learners
_used: "weakref.WeakSet[DecayedSampling]" = weakref.WeakSet()
# Those that need not be looked at again
_checked: "weakref.WeakSet[DecayedSampling]" = weakref.WeakSet()
# Transitions drawn until priorities should have been updated
PATIENCE = 10_000


def use_weights(buffer: "DecayedSampling") -> None:
    """
    Say that a learner multiplies the loss of each transition by ``batch.weights``. ``ReptileDQN`` does; your
    own learner, if it does, calls this once to avoid a warning.

    :param buffer: The replay buffer that the learner draws from
    """
    _used.add(buffer)


def refuse_what_sbx_ignores(buffer: "DecayedSampling") -> None:
    """
    :param buffer: The replay buffer of one of SBX's algorithms
    :raises ValueError: if one of its options has no effect there
    """
    ignored = {
        "weighting='loss'": (buffer.weighting == "loss", "weighting='sampling'"),
        f"beta={buffer.beta}": (buffer.beta > 0, "beta=0"),
        "prioritized=True": (buffer.prioritized, "prioritized=False"),
    }
    for option, (is_ignored, instead) in ignored.items():
        if is_ignored:
            raise ValueError(
                f"{option} has no effect with SBX's algorithms, which neither use the weights of a batch nor update "
                f"priorities: use {instead}, or ReptileDQN"
            )


def _is_drawn_by_sbx() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("sb3_reptile."):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").startswith("sbx.")


def check_learner(buffer: "DecayedSampling") -> None:
    """
    Warn, once, if options have no effect because the learner ignores weights, or never updates priorities.

    :param buffer: The buffer, which is about to be drawn from
    :raises ValueError: if that is so, and the learner is one of SBX's
    """
    if buffer not in _checked and _warn_of_learner(buffer):
        _checked.add(buffer)


def _warn_of_learner(buffer: "DecayedSampling") -> bool:
    """Warn if there is something to say, and return whether there is no need to look again."""
    is_used = buffer in _used
    if not is_used and _is_drawn_by_sbx():
        refuse_what_sbx_ignores(buffer)
        return True
    if not is_used and buffer.weighting == "loss":
        warnings.warn(
            "weighting='loss' draws uniformly and acts through batch.weights, which SB3's and sb3-contrib's algorithms "
            "ignore: old transitions count as much as new ones with them. Use weighting='sampling', or ReptileDQN; "
            "your own learner, if it uses the weights, calls sb3_reptile.replay.use_weights(buffer)",
            stacklevel=4,
        )
        return True
    if not is_used and buffer.beta > 0:
        warnings.warn(
            f"beta={buffer.beta} acts through batch.weights, which SB3's and sb3-contrib's algorithms ignore: use "
            "beta=0, or ReptileDQN; your own learner, if it uses the weights, calls "
            "sb3_reptile.replay.use_weights(buffer)",
            stacklevel=4,
        )
        return True
    distribution = buffer.distribution
    if buffer.prioritized and distribution._updated == 0 and distribution.drawn >= PATIENCE:
        warnings.warn(
            f"prioritized=True has had no effect so far: {distribution.drawn:,} transitions were drawn, and "
            "update_priorities() was never called. SB3's and sb3-contrib's algorithms do not call it; use "
            "ReptileDQN(priority='td_error')",
            stacklevel=4,
        )
        return True
    return not buffer.prioritized or distribution._updated > 0
