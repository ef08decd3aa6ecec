"""Every constant of change detection, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """
    Constants of ``half_life="auto"``. The defaults were chosen once, for all tasks; lengths are in transitions.

    *Features*

    :param max_features: Longest feature vector that is compared as it is; longer ones are projected (numbers)
    :param projected_features: Length of a projected feature vector (numbers)
    :param max_categories: Largest number of discrete observations or actions that are distinguished one by one; if
        there are more, they are hashed (categories)
    :param image_side: Images are averaged down to at most this height and width first (pixels)
    :param max_groups: Largest number of ``MultiDiscrete`` actions for which only equal actions are compared; with more
        of them, actions are compared as numbers (actions)

    *Samples*

    :param chunk_size: Transitions between two comparisons
    :param compare_every: One of every ``compare_every`` transitions is compared, as successive ones carry nearly the
        same information; of those that repeat a situation, only the first
    :param segment_size: Length of a new segment
    :param max_segments: Neighbouring segments are joined while there are more than this (segments)
    :param sample_size: Largest sample kept of a segment
    :param present_size: Number of newest transitions that represent the present

    *Outcome model*

    :param warm_up: Transitions before the model is first fitted, and between a change and the next fit
    :param max_refit_interval: Longest interval between two fits; before that, the interval is the number of transitions
        seen so far
    :param fit_iterations: Iterations of the robust fit (iterations)
    :param ridge: Ridge penalty of the fit, on standardized features (no unit)
    :param feature_limit: Standardized features are clipped to plus and minus this, because distances and extrapolation
        mean nothing far outside the known range (standard deviations)
    :param group_distance: Coordinate that separates the groups, so that a member of another group is further away than
        any member of the same one (standard deviations)

    *Comparison*

    :param neighbours: Nearest neighbours in a sample; the most similar outcome among them counts (transitions)
    :param max_distance_ratio: A segment is silent if its neighbours are further away than this times the distance of
        the present's neighbours, plus ``distance_margin`` (no unit)
    :param distance_margin: See ``max_distance_ratio``; situations that are not further apart are the same (standard
        deviations)
    :param same_neighbours: If there are more of the same situation than ``neighbours``, up to this many count
        (transitions)
    :param near: Situations that are further apart than this times the distance of unrelated ones are far (share)
    :param mean_neighbours: Nearest neighbours over which noisy outcomes are averaged (transitions)
    :param tolerance: Outcomes differ if they are further apart than this (share of the spread of outcomes)

    *Evidence*

    :param contradiction_rate: Assumed probability that an outdated segment contradicts a new transition (probability)
    :param initial_false_alarm_rate: First estimate of the probability that a valid segment contradicts a new transition
        (probability)
    :param min_false_alarm_rate: Lower limit of the estimate where it is used (probability)
    :param max_false_alarm_rate: Upper limit of the estimate where it is used (probability)
    :param false_alarm_step: Weight of the newest comparison in the running estimates; near and far situations share it
        by their number (share, per chunk)
    :param first_estimate_weight: Number of comparisons of a transition with a segment that the first estimate counts
        for (comparisons)
    :param noisy_above: An outcome is noisy, and compared with means of similar situations, too, if the estimate for
        near situations, or that for the same situation, is above this (probability)
    :param noisy_from: No outcome is noisy before
    :param mean_evidence: Share of the log-likelihood ratio of means that counts, as successive transitions are compared
        with the same neighbours (share)
    :param allowance: Subtracted from the evidence of means, so that small differences count for a segment (nats)
    :param outlier: A noisy outcome further from a mean than this counts as this far (standard errors)
    :param silent_step: Share of the distance to their neighbours' cusum that silent segments move (share, per chunk)
    :param doubt: Cusum above which the consistency of a segment falls (nats)
    :param bound: Upper limit of the cusum (nats)

    *Changes*

    :param witnesses: Number of last segments of a regime that decide for it (segments)
    :param alarm_below: A change is noticed when their mean consistency is below this; a single segment below it is
        inconsistent, and the model is not fitted to it (consistency)
    :param recognized_above: An older regime is recognized when the mean consistency of its witnesses is above this
        (consistency)
    :param confirmations: Confirmations of the witnesses that recognition needs (confirmations)
    :param recognize_from: Earliest recognition after a change was noticed
    :param recognize_until: No recognition from this on: an older regime that becomes consistent so late may be the next
        change
    """

    max_features: int = 64
    projected_features: int = 32
    max_categories: int = 1_024
    image_side: int = 12
    max_groups: int = 64

    chunk_size: int = 32
    compare_every: int = 4
    segment_size: int = 512
    max_segments: int = 24
    sample_size: int = 128
    present_size: int = 160

    warm_up: int = 256
    max_refit_interval: int = 4_096
    fit_iterations: int = 4
    ridge: float = 1e-2
    feature_limit: float = 5.0
    group_distance: float = 30.0

    neighbours: int = 3
    max_distance_ratio: float = 1.3
    distance_margin: float = 0.05
    same_neighbours: int = 12
    near: float = 0.25
    mean_neighbours: int = 12
    tolerance: float = 0.3

    contradiction_rate: float = 0.5
    initial_false_alarm_rate: float = 0.3
    min_false_alarm_rate: float = 0.03
    max_false_alarm_rate: float = 0.3
    false_alarm_step: float = 0.02
    first_estimate_weight: int = 64
    noisy_above: float = 0.1
    noisy_from: int = 2_048
    mean_evidence: float = 0.5
    allowance: float = 0.1
    outlier: float = 3.0
    silent_step: float = 0.01
    doubt: float = 8.0
    bound: float = 16.0

    witnesses: int = 3
    alarm_below: float = 0.5
    recognized_above: float = 0.9
    confirmations: int = 16
    recognize_from: int = 128
    recognize_until: int = 4_096


DEFAULTS = Settings()
