"""What is written to the logger about replay."""

from typing import TYPE_CHECKING

import numpy as np
import torch as th

from sb3_reptile.replay.decay import Exponential

if TYPE_CHECKING:
    from sb3_reptile.replay.decayed_sampling import DecayedSampling


def replay_log(buffer: "DecayedSampling") -> dict[str, float]:
    """
    :param buffer: The replay buffer
    :return: What replay is doing, by the logger's keys
    :raises ValueError: if the buffer is empty
    """
    diagnostics = buffer.diagnostics()
    values = {
        "replay/mean_age": diagnostics.expected_age,
        "replay/entropy": diagnostics.entropy,
        "replay/effective_sample_size": diagnostics.effective_sample_size,
        "replay/volume": diagnostics.replay_volume,
    }
    if buffer.consistency is not None:
        values |= {
            "replay/effective_half_life": diagnostics.median_age,
            "replay/regime": buffer.consistency.regime,
            "replay/alarms": len(buffer.consistency.changes),
            "replay/consistency": buffer.consistency.mean(),
        }
    elif isinstance(buffer.decay, Exponential):
        values["replay/half_life"] = buffer.half_life
    if buffer.on_bad_transition == "skip":
        values["replay/skipped"] = buffer.n_skipped
    return values


def batch_log(weights: th.Tensor, ages: np.ndarray, td_errors: th.Tensor) -> dict[str, float]:
    """
    :param weights: Importance or loss weights of a batch
    :param ages: Ages of its transitions
    :param td_errors: Their absolute TD errors: those of recent transitions jump when the environment changes
    :return: Mean weight, and the mean TD error of each quarter by age, by the logger's keys
    """
    values = {"replay/mean_weight": weights.mean().item()}
    by_age = td_errors[th.from_numpy(ages.argsort())]
    for quarter, errors in enumerate(by_age.tensor_split(4), start=1):
        if len(errors) > 0:
            values[f"replay/td_error_age_q{quarter}"] = errors.mean().item()
    return values
