"""Which learners use the weights and indices of a batch, and warnings for those that do not."""

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


def check_learner(buffer: "DecayedSampling") -> None:
    """
    Warn, once, if options have no effect because the learner ignores weights, or never updates priorities.

    :param buffer: The buffer, which is about to be drawn from
    """
    if buffer not in _checked and _warn_of_learner(buffer):
        _checked.add(buffer)


def _warn_of_learner(buffer: "DecayedSampling") -> bool:
    """Warn if there is something to say, and return whether there is no need to look again."""
    is_used = buffer in _used
    if not is_used and buffer.weighting == "loss":
        warnings.warn(
            "weighting='loss' draws uniformly and acts through batch.weights, which the algorithms of SB3, sb3-contrib "
            "and SBX ignore: old transitions count as much as new ones with them. Use weighting='sampling', or "
            "ReptileDQN; "
            "your own learner, if it uses the weights, calls sb3_reptile.replay.use_weights(buffer)",
            stacklevel=4,
        )
        return True
    if not is_used and buffer.beta > 0:
        warnings.warn(
            f"beta={buffer.beta} acts through batch.weights, which the algorithms of SB3, sb3-contrib and SBX "
            "ignore: use beta=0, or ReptileDQN; your own learner, if it uses the weights, calls "
            "sb3_reptile.replay.use_weights(buffer)",
            stacklevel=4,
        )
        return True
    distribution = buffer.distribution
    if buffer.prioritized and distribution._updated == 0 and distribution.drawn >= PATIENCE:
        warnings.warn(
            f"prioritized=True has had no effect so far: {distribution.drawn:,} transitions were drawn, and "
            "update_priorities() was never called. The algorithms of SB3, sb3-contrib and SBX do not call it; use "
            "ReptileDQN(priority='td_error')",
            stacklevel=4,
        )
        return True
    return not buffer.prioritized or distribution._updated > 0
