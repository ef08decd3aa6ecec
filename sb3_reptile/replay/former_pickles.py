"""What pickles of former versions need: the modules they name, and the attributes that their buffers had."""

import importlib
import sys
from typing import TYPE_CHECKING

from sb3_reptile.replay.bad_transitions import BadTransitions
from sb3_reptile.replay.distribution import SamplingDistribution

if TYPE_CHECKING:
    from sb3_reptile.replay.decayed_sampling import DecayedSampling

# Names in sb3_reptile.replay, and the modules that hold their classes now
FORMER_MODULES = {
    "samplers": "former_samplers",
    "consistency": "auto",
    "segments": "auto",
    "weights": "initial_weights",
    "scratch": "memmap",
    "finite": "bad_transitions",
}
# Classes that were in sb3_reptile.replay.buffers, and the modules that hold them now
FORMER_BUFFERS = {
    "DecayedHerReplayBuffer": "hindsight",
    "DecayedReplayBufferSamples": "decayed_sampling",
    "ReplayDiagnostics": "diagnostics",
}


def alias_former_modules() -> None:
    """Let pickles of former versions find their classes."""
    package = __name__.rpartition(".")[0]
    for former, present in FORMER_MODULES.items():
        sys.modules[f"{package}.{former}"] = importlib.import_module(f"{package}.{present}")
    buffers = importlib.import_module(f"{package}.buffers")
    for name, present in FORMER_BUFFERS.items():
        setattr(buffers, name, getattr(importlib.import_module(f"{package}.{present}"), name))


def take_over_attributes(buffer: "DecayedSampling") -> None:
    """
    Give a buffer of a former version a distribution.

    :param buffer: The buffer as it was unpickled, changed in place
    """
    former = vars(buffer)
    decay, initial_weights = former.pop("_decay"), former.get("_initial_weights")
    consistency = former.setdefault("_consistency", None)
    beta, weighting = former.pop("_beta", 0.0), former.pop("weighting", "sampling")
    distribution = SamplingDistribution(
        buffer.buffer_size,
        buffer.n_envs,
        decay=decay,
        uniform_fraction=former.pop("_uniform_fraction", 0.0),
        combined=former.pop("combined", False),
        has_initial_weights=initial_weights is not None,
        prioritized=former.pop("prioritized", False),
        has_segments=consistency is not None,
        without_oldest=buffer.optimize_memory_usage,
    )
    values = {
        "largest_priority": former.pop("_largest_priority", 1.0),
        "drawn": former.pop("_drawn", 0),
        "added": former.pop("_added", buffer.size() * buffer.n_envs),
        "updated": former.pop("_updated", 0),
        "beta": beta,
        "weighting": weighting,
        "ages": former.pop("_ages").state(),
    }
    arrays, _ = distribution.state()
    weighted, initial = former.pop("_weighted", None), former.pop("_prior", None)
    if weighted is not None:
        arrays["weights"][:] = weighted.p
        values["weighted"] = weighted.state()
    if initial is not None:
        arrays["prior"][:] = initial.reshape(arrays["prior"].shape)
    buffer.distribution = distribution
    distribution.set_state(values)
    buffer._bad_transitions = BadTransitions(
        former.pop("on_bad_transition", "raise"), buffer.observation_space, buffer.rewards.dtype, buffer.n_envs
    )
    buffer._bad_transitions.n_skipped = former.pop("n_skipped", 0)
    for name in ("_diagnosed", "_floats"):
        former.pop(name, None)
    if consistency is not None:
        buffer._set_segments(consistency)
