"""How well stored segments agree with the present: similar situations should still have the same outcome."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_reptile.replay.auto.evidence import FalseAlarmRate, log_likelihood_ratios
from sb3_reptile.replay.auto.features import Actions, Embedding, Transitions, as_transitions, join
from sb3_reptile.replay.auto.neighbours import Neighbours, Placed
from sb3_reptile.replay.auto.outcome_model import OutcomeModel
from sb3_reptile.replay.auto.segments import Segment, Segments
from sb3_reptile.replay.auto.settings import DEFAULTS, Settings


class Change(NamedTuple):
    """
    A change of the environment.

    :param noticed_at: Number of transitions after which it was noticed
    :param happened_at: Estimated number of transitions after which it happened
    :param regime: Number of the regime that began: a known one if an old regime has come back
    """

    noticed_at: int
    happened_at: int
    regime: int


class Consistency:
    """
    Compares transitions as they arrive with what was stored before, segment by segment.

    For each new transition, similar situations (same action, close observation) are looked up in each segment and in
    the present, which is the newest transitions. Their outcomes (reward, change of the observation) are compared:

    * The outcome is that of the segment: the segment is confirmed.
    * The outcome is that of the present, but not that of the segment: the segment is contradicted.
    * The outcome is neither: this is noise or a rarely visited region, and no evidence.
    * The segment's neighbours are much further away than the present's: the segment is silent.

    Contradictions and confirmations of a segment are added up as log-likelihood ratios, for each number of the outcome,
    in a cumulative sum that stays between 0 and a bound (Page, Continuous inspection schemes, Biometrika 1954). The
    false-alarm rate in them is estimated from how often the present is contradicted where the segment is confirmed.
    The consistency is 1 while the largest sum is small, then falls exponentially with it. It recovers as confirmations
    arrive, because an old regime has come back or the contradictions were false.

    :param observation_space: Observation space
    :param action_space: Action space
    :param n_envs: Number of transitions in a row
    :param settings: Constants
    :param n_rows: Largest number of rows that can be compared at a time; those of a small buffer
    """

    COUNTERS = ("rows_seen", "chunks_seen", "n_regimes", "next_model")

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_envs: int,
        settings: Settings = DEFAULTS,
        n_rows: int = DEFAULTS.chunk_size,
    ) -> None:
        self.settings = settings
        self.embedding = Embedding(observation_space, settings)
        self.actions = Actions(action_space, settings)
        self.n_envs = n_envs
        self.rows_per_chunk = max(1, min(settings.chunk_size // n_envs, n_rows))
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        n_outcomes = 1 + self.embedding.length
        nothing = Transitions.empty(self.embedding.length + self.actions.length, n_outcomes)
        self.rows_seen = 0
        self.chunks_seen = 0
        self.false_alarm_rate = FalseAlarmRate.first(n_outcomes, self.settings)
        self.changes: list[Change] = []
        self.n_regimes = 1
        self.model: OutcomeModel | None = None
        self.next_model = self.settings.warm_up
        self.present = nothing
        first = Segment(0, 0, np.zeros(2 * n_outcomes), nothing)
        self.segments = Segments([first], np.random.default_rng(0), self.settings)
        self._neighbours: Neighbours | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "settings" in state:
            self.__dict__.update(state)
            if isinstance(state["false_alarm_rate"], np.ndarray):
                # A pickle from before near and far situations had estimates of their own
                self.false_alarm_rate = FalseAlarmRate.saved(state["false_alarm_rate"], None, self.settings)
                self._place_samples()
            return
        # A pickle from before there were settings: other names, and the placed samples as arrays
        state = {name: value for name, value in state.items() if name not in ("_present", "_places", "_residuals")}
        segments = Segments(state.pop("segments"), state.pop("generator"), DEFAULTS)
        rate = FalseAlarmRate.saved(state.pop("accidents"), None, DEFAULTS)
        self.__dict__.update(state, settings=DEFAULTS, segments=segments, false_alarm_rate=rate)
        self._place_samples()

    @property
    def starts(self) -> np.ndarray:
        """Number of the first row of each segment, from the oldest to the newest, int64."""
        return self.segments.starts

    @property
    def consistencies(self) -> np.ndarray:
        """How well each segment agrees with the present, from the oldest to the newest, in (0, 1]; the last has 1."""
        return self.segments.consistencies

    @property
    def regime(self) -> int:
        """Number of the present regime; the first is 0."""
        return self.segments[-1].regime

    @property
    def last_change(self) -> int | None:
        """Row at which the last change happened; None if none has been noticed."""
        return self.changes[-1].happened_at // self.n_envs if self.changes else None

    def mean(self) -> float:
        """Mean consistency of the rows seen so far that are still in the buffer, in (0, 1]."""
        lengths = np.diff(np.append(self.starts, max(self.rows_seen, self.segments[-1].start + 1)))
        return float((self.consistencies * lengths).sum() / lengths.sum())

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """
        :return: The complete state: arrays, and values that JSON can represent
        """
        samples = [self.present, *(segment.sample for segment in self.segments)]
        arrays = {f"sample_{name}": array for name, array in join(samples)._asdict().items()}
        arrays["sample_sizes"] = np.array([len(sample.rows) for sample in samples])
        # Names in files stay as they are
        arrays["accidents"] = self.false_alarm_rate.rates
        arrays["accident_counts"] = self.false_alarm_rate.counts
        arrays |= self.segments.arrays()
        if self.model is not None:
            arrays |= {f"model_{name}": getattr(self.model, name) for name in OutcomeModel.ARRAYS}
        values = {name: getattr(self, name) for name in self.COUNTERS}
        changes = [list(change) for change in self.changes]
        return arrays, {**values, "changes": changes, "generator": self.segments.generator.bit_generator.state}

    def set_state(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        """
        :param arrays: Arrays that ``state()`` returned, for the same spaces and number of environments
        :param values: Values that it returned
        """
        if arrays["sample_features"].shape[1] != self.embedding.length + self.actions.length:
            # Saved by a version that did not hash categories: learn from scratch
            self.reset()
            self.rows_seen = int(values["rows_seen"])
            self.next_model = self.rows_seen * self.n_envs + self.settings.warm_up
            return
        for name in self.COUNTERS:
            setattr(self, name, int(values[name]))
        self.changes = [Change(*map(int, change)) for change in values["changes"]]
        self.segments.generator.bit_generator.state = values["generator"]
        counts = arrays.get("accident_counts")
        self.false_alarm_rate = FalseAlarmRate.saved(arrays["accidents"], counts, self.settings)
        all_samples = Transitions(*(arrays[f"sample_{name}"] for name in Transitions._fields))
        ends = arrays["sample_sizes"].cumsum().tolist()
        self.present, *samples = (all_samples.take(slice(*bounds)) for bounds in zip([0, *ends], ends, strict=False))
        self.segments.set_arrays(arrays, samples)
        self.model = None
        if "model_center" in arrays:
            model_arrays = (arrays[f"model_{name}"] for name in OutcomeModel.ARRAYS)
            self.model = OutcomeModel.from_arrays(*model_arrays, settings=self.settings)
        self._place_samples()

    def observe(
        self,
        observations: Any,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: Any,
        is_known: np.ndarray,
        first_kept: int,
    ) -> None:
        """
        Take the next rows into account.

        :param observations: Observations of ``rows_per_chunk`` new rows, shape (rows, n_envs, ...), or a dict of such
            arrays
        :param actions: Actions, shape (rows, n_envs, action_dim)
        :param rewards: Rewards, shape (rows, n_envs)
        :param next_observations: As the observations
        :param is_known: Whether the next observation is that of the transition, shape (rows, n_envs)
        :param first_kept: Number of the oldest row that the buffer still holds
        """
        new = self.transitions(observations, actions, rewards, next_observations)
        self.observe_transitions(new.take(is_known.reshape(-1)), len(rewards), first_kept)

    def transitions(
        self, observations: Any, actions: np.ndarray, rewards: np.ndarray, next_observations: Any
    ) -> Transitions:
        """
        :param observations: As for ``observe``, of any number of new rows
        :param actions: As for ``observe``
        :param rewards: As for ``observe``
        :param next_observations: As for ``observe``
        :return: The transitions in the form in which they are compared, numbered from the next row on
        """
        rows = np.repeat(np.arange(self.rows_seen, self.rows_seen + len(rewards)), self.n_envs)
        vectors, next_vectors = self.embedding(observations), self.embedding(next_observations)
        groups, numbers = self.actions(actions.reshape(len(rows), -1))
        return as_transitions(rows, vectors, groups, numbers, rewards, next_vectors)

    def observe_transitions(self, new: Transitions, n_rows: int, first_kept: int) -> None:
        """
        Take the next rows into account.

        :param new: Transitions of these rows
        :param n_rows: Number of rows
        :param first_kept: Number of the oldest row that the buffer still holds
        """
        self.rows_seen += n_rows
        self.chunks_seen += 1
        if self.segments.forget(first_kept):
            self._place_samples()
        self._fit_if_due()
        placed = None if self._neighbours is None else self._neighbours.place(new)
        if placed is not None and len(new.rows) > 0:
            every = self.settings.compare_every
            compared = placed.take(slice(self.chunks_seen % every, None, every))
            # A policy that goes in a circle repeats what it said already
            self._compare(compared.without_repetitions())
            self._notice_change()
        self._keep(new, placed)

    def _fit_if_due(self) -> None:
        """Fit a new outcome model to the consistent segments and the present from time to time."""
        n_seen = self.rows_seen * self.n_envs
        if n_seen < self.next_model:
            return
        consistent = self.consistencies > self.settings.alarm_below
        kept = [segment.sample for segment, keep in zip(self.segments, consistent, strict=True) if keep]
        data = join([*kept, self.present])
        if len(data.rows) == 0:  # no next observation is known yet
            return
        self.model = OutcomeModel(data, self.actions.n_groups, self.settings)
        self.next_model = n_seen + min(n_seen, self.settings.max_refit_interval)
        self._place_samples()

    def _place_samples(self) -> None:
        """Place all samples by the present model, after the model or the segments have changed."""
        samples = (segment.sample for segment in self.segments)
        if self.model is None:
            self._neighbours = None
        else:
            self._neighbours = Neighbours(self.model, self.present, samples, self.embedding.is_category)

    def _compare(self, new: Placed) -> None:
        """Add what new transitions say about each segment to its cumulative sums."""
        assert self._neighbours is not None
        is_known = self.rows_seen * self.n_envs >= self.settings.noisy_from
        comparison = self._neighbours.compare(new, is_known & self.false_alarm_rate.noisy)
        cusum = self.segments.cusum
        self.false_alarm_rate.update(comparison, cusum)
        evidence = log_likelihood_ratios(comparison, self.false_alarm_rate, cusum, self.settings)
        cusum = np.clip(cusum + evidence, 0, self.settings.bound)
        self.segments.follow_neighbours(cusum, comparison.silent)
        self.segments.update(cusum, comparison.confirmations, self.rows_seen)

    def _notice_change(self) -> None:
        """Begin a new regime if the last segments of the present one are inconsistent; recognize an older one."""
        consistencies = self.consistencies
        witnesses = self.segments.witnesses(self.regime)
        alarm_below = self.settings.alarm_below
        if witnesses and consistencies[witnesses].mean() < alarm_below:
            agreed_at = [self.segments[i].agreed_at for i in witnesses if consistencies[i] < alarm_below]
            # A segment that has not agreed since the last change does not know when this one happened
            agreed_at = [row for row in agreed_at if self.last_change is None or row > self.last_change]
            happened_at = int(np.median(agreed_at)) if agreed_at else self.rows_seen - self.rows_per_chunk
            self._begin_regime(max(happened_at, self.segments[witnesses[-1]].start + 1))
            consistencies = self.consistencies
        if self.changes:
            since = self.rows_seen * self.n_envs - self.changes[-1].noticed_at
            if self.settings.recognize_from <= since < self.settings.recognize_until:
                self._recognize(consistencies)

    def _recognize(self, consistencies: np.ndarray) -> None:
        """Merge the present regime into an older one that is consistent: it has come back, or was never gone."""
        present = self.regime
        for regime in sorted({segment.regime for segment in self.segments} - {present}):
            witnesses = self.segments.witnesses(regime)
            n_confirmed = sum(self.segments[i].confirmations for i in witnesses)
            is_confirmed = n_confirmed >= self.settings.confirmations
            if is_confirmed and consistencies[witnesses].mean() > self.settings.recognized_above:
                for segment in self.segments:
                    if segment.regime == present:
                        segment.regime = regime
                self.changes[-1] = self.changes[-1]._replace(regime=regime)
                return

    def _begin_regime(self, row: int) -> None:
        """
        :param row: Number of the first row of the new regime
        """
        regime = self.n_regimes
        self.n_regimes += 1
        self.segments.split(row, regime)
        self.present = self.present.take(self.present.rows >= row)
        n_seen = self.rows_seen * self.n_envs
        self.changes.append(Change(n_seen, row * self.n_envs, regime))
        self.next_model = min(self.next_model, n_seen + self.settings.warm_up)
        self.segments.join_neighbours(self.rows_seen)
        self._place_samples()

    def _keep(self, chunk: Transitions, placed: Placed | None) -> None:
        """Add new transitions, which the present model has placed if there is one, to the samples."""
        row = self.rows_seen - self.rows_per_chunk
        if (row - self.segments[-1].start) * self.n_envs >= self.settings.segment_size:
            self.segments.open(row)
            self.segments.join_neighbours(self.rows_seen)
            self._place_samples()
        n_before = len(self.segments[-1].sample.rows)
        kept = self.segments.add_to_sample(chunk)
        self.present = join([self.present, chunk]).take(slice(-self.settings.present_size, None))
        if self._neighbours is not None and placed is not None:
            self._neighbours.add(placed, n_before, kept)
