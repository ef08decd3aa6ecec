"""How well what was stored agrees with what is true now: similar situations should still have the same outcome."""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

# Observations of more numbers than this are projected
MAX_FEATURES = 64
PROJECTED = 32
# Images are averaged down to so many pixels a side before
IMAGE_SIDE = 12
# Numbers beyond this are taken for this, so that their squares are still numbers
LARGEST = 1e12
# Further away than anything
NOWHERE = 1e6


class Change(NamedTuple):
    """
    That the world has changed.

    :param noticed_at: After how many transitions it was noticed
    :param happened_at: After how many it happened, as far as can be told
    :param regime: Number of the regime that began: a known one if an old one has come back
    """

    noticed_at: int
    happened_at: int
    regime: int


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of two matrices, by PyTorch: NumPy's threads would have to wait until PyTorch's, which train, stop spinning."""
    return (th.from_numpy(a) @ th.from_numpy(b)).numpy()


@cache
def _averages(length: int) -> np.ndarray:
    """The matrix that averages ``length`` pixels down to ``IMAGE_SIDE`` neighbourhoods, or leaves fewer as they are."""
    n = min(length, IMAGE_SIDE)
    where = np.arange(length) * n // length
    members = (where == np.arange(n)[:, None]).astype(np.float32)
    return members / members.sum(axis=1, keepdims=True)


class Embedding:
    """
    Observations as vectors of moderate length: themselves, flattened as Gymnasium does where they are discrete or
    dicts, images averaged down, and what is still longer than ``MAX_FEATURES`` projected at random.

    :param space: Observation space
    """

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        self.parts: dict[Any, spaces.Space] = {None: space}
        if isinstance(space, spaces.Dict):
            self.parts = dict(space.spaces)
        length = sum(self._flatten_part(part, self._example(part)).shape[1] for part in self.parts.values())
        self.projection: np.ndarray | None = None
        if length > MAX_FEATURES:
            generator = np.random.default_rng(0)
            self.projection = generator.standard_normal((length, PROJECTED)) / math.sqrt(length)
        self.length = length if self.projection is None else PROJECTED

    @staticmethod
    def _example(space: spaces.Space) -> np.ndarray:
        start = int(space.start) if isinstance(space, spaces.Discrete) else 0
        return np.full((1, *(space.shape or ())), start, dtype=space.dtype)

    @staticmethod
    def _flatten_part(space: spaces.Space, values: np.ndarray) -> np.ndarray:
        """Shape (n, k), float64."""
        n = len(values)
        if isinstance(space, spaces.Discrete):
            return np.eye(int(space.n))[values.reshape(n).astype(np.int64) - int(space.start)]
        if isinstance(space, spaces.MultiDiscrete):
            columns = values.reshape(n, -1).astype(np.int64)
            sizes = space.nvec.reshape(-1)
            return np.concatenate([np.eye(int(size))[columns[:, i]] for i, size in enumerate(sizes)], axis=1)
        if len(space.shape or ()) == 3:
            # The two longest axes are height and width, channels come first or last
            channels = int(np.argmin(space.shape))  # type: ignore[arg-type]
            images = np.moveaxis(values, channels + 1, 1).astype(np.float32)
            rows, columns = (_averages(length) for length in images.shape[2:])
            values = rows @ (images @ columns.T) / (255 if is_image_space(space, check_channels=False) else 1)
        return values.reshape(n, -1).astype(np.float64)

    def __call__(self, observations: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        :param observations: As a replay buffer stores them, shape (n, ...), or a dict of such
        :return: Shape (n, length), float64
        """
        parts = []
        for key, part in self.parts.items():
            values: Any = observations if key is None else observations[key]
            # SB3 stores a discrete observation as an array of one number
            n_dimensions = 1 if isinstance(part, spaces.Discrete) else len(part.shape or ())
            parts.append(self._flatten_part(part, values.reshape(-1, *values.shape[values.ndim - n_dimensions :])))
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        flat = np.clip(np.nan_to_num(flat), -LARGEST, LARGEST)
        return flat if self.projection is None else _product(flat, self.projection)


class Actions:
    """
    Actions as groups, of which only members of the same are compared, and numbers.

    :param space: Action space
    """

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        if isinstance(space, spaces.Discrete):
            self.n_groups, self.length = int(space.n), 0
        elif isinstance(space, spaces.MultiDiscrete) and np.prod(space.nvec) <= 64:
            self.n_groups, self.length = int(np.prod(space.nvec)), 0
        else:
            self.n_groups, self.length = 1, int(np.prod(space.shape or (1,)))

    def __call__(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        :param actions: As a replay buffer stores them, shape (n, action_dim)
        :return: Their groups, int64, shape (n,), and numbers, shape (n, length)
        """
        n = len(actions)
        if isinstance(self.space, spaces.Discrete):
            return actions.reshape(n).astype(np.int64) - int(self.space.start), np.empty((n, 0))
        if self.length == 0:
            columns: Any = tuple(actions.reshape(n, -1).astype(np.int64).T)
            groups = np.ravel_multi_index(columns, self.space.nvec.reshape(-1))  # type: ignore[attr-defined]
            return np.asarray(groups, dtype=np.int64), np.empty((n, 0))
        return np.zeros(n, dtype=np.int64), actions.reshape(n, -1).astype(np.float64)


class Transitions(NamedTuple):
    """
    Transitions as they are compared.

    :param rows: Numbers of their rows, int64, shape (n,)
    :param features: Observation and, if it is continuous, action, shape (n, n_features)
    :param groups: Which of them may be compared with each other, int64, shape (n,)
    :param outcomes: Reward and change of the observation, shape (n, n_outcomes)
    """

    rows: np.ndarray
    features: np.ndarray
    groups: np.ndarray
    outcomes: np.ndarray

    def take(self, which: Any) -> "Transitions":
        return Transitions(*(array[which] for array in self))


def join(parts: list[Transitions]) -> Transitions:
    return Transitions(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class OutcomeModel:
    """
    Outcomes as a linear function of the features, for each group, fitted robustly: what lies far off is pulled in to
    twice the median error and the fit repeated. What it leaves is not noise, but varies less from one situation to a
    close one than the outcomes do.

    :param data: What to fit it to
    :param n_groups: How many groups there are
    """

    REPEATS = 4
    RIDGE = 1e-2
    # Far outside of what is known, distances and extrapolations mean nothing
    FAR = 5.0
    # How far apart groups are: further than any two members of one
    APART = 30.0

    ARRAYS = ("center", "scale", "spread", "coefficients")

    def __init__(self, data: Transitions, n_groups: int) -> None:
        self.center = data.features.mean(axis=0)
        self.scale = data.features.std(axis=0) + 1e-6
        low, high = np.quantile(data.outcomes, [0.05, 0.95], axis=0)
        # Of a normal distribution it is the standard deviation; what hardly varies counts by its size
        root_mean_square = np.sqrt((data.outcomes**2).mean(axis=0))
        smallest = np.maximum(0.01 * data.outcomes.std(axis=0), 0.1 * root_mean_square)
        self.spread = np.maximum((high - low) / 3.29, np.maximum(smallest, 1e-6))
        self.coefficients = np.zeros((n_groups, data.features.shape[1] + 1, data.outcomes.shape[1]))
        regressors = self._regressors(data.features)
        for group in range(n_groups):
            which = data.groups == group
            if which.sum() > regressors.shape[1]:
                self.coefficients[group] = self._fit(regressors[which], data.outcomes[which])

    @classmethod
    def of_arrays(cls, *arrays: np.ndarray) -> "OutcomeModel":
        """
        :param arrays: Its ``ARRAYS``
        :return: The model that had them
        """
        model = object.__new__(cls)
        model.center, model.scale, model.spread, model.coefficients = (array.copy() for array in arrays)
        return model

    def _regressors(self, features: np.ndarray) -> np.ndarray:
        regressors = np.ones((len(features), features.shape[1] + 1))
        regressors[:, 1:] = np.clip((features - self.center) / self.scale, -self.FAR, self.FAR)
        return regressors

    def _fit(self, regressors: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
        gram = regressors.T @ regressors + self.RIDGE * np.eye(regressors.shape[1])
        targets = np.clip(outcomes, *np.quantile(outcomes, [0.05, 0.95], axis=0))
        for _ in range(self.REPEATS):
            coefficients = np.linalg.solve(gram, regressors.T @ targets)
            predictions = regressors @ coefficients
            errors = outcomes - predictions
            limits = 2 * np.median(np.abs(errors), axis=0)
            targets = predictions + np.clip(errors, -limits, limits)
        return coefficients

    def __call__(self, transitions: Transitions) -> tuple[np.ndarray, np.ndarray]:
        """
        :param transitions: n transitions
        :return: Where they are, shape (n, n_features + n_groups), so that distances tell similar situations; and what
            the model leaves of their outcomes, in units of their spread, shape (n, n_outcomes)
        """
        regressors = self._regressors(transitions.features)
        places = np.zeros((len(regressors), regressors.shape[1] - 1 + len(self.coefficients)))
        places[:, : regressors.shape[1] - 1] = regressors[:, 1:]
        places[np.arange(len(places)), regressors.shape[1] - 1 + transitions.groups] = self.APART
        residuals = transitions.outcomes - np.matmul(regressors[:, None], self.coefficients[transitions.groups])[:, 0]
        return places, residuals / self.spread


class Segment:
    """
    A run of rows.

    :param first: Number of its first row
    :param regime: Number of its regime
    :param sums: Cumulative sums of what speaks against it, one for each number of the outcome
    :param sample: Some of its transitions
    """

    NUMBERS = ("first", "regime", "agreed_at", "confirmations", "sums")

    def __init__(self, first: int, regime: int, sums: np.ndarray, sample: Transitions) -> None:
        self.first = first
        self.regime = regime
        self.sums = sums
        self.sample = sample
        # The row at which no sum was more than a little above 0 last
        self.agreed_at = first
        # How often it has been confirmed since the last change
        self.confirmations = 0


class Consistency:
    """
    Compares transitions as they arrive with what was stored before, segment by segment.

    Where situations resemble a new one (the same action, a close observation) and had another outcome (reward, change
    of the observation) in a segment, but the same among the newest transitions, the segment has been contradicted.
    Where both had the same outcome, it has been confirmed. Where both had another one there is noise, or a corner that
    is hardly known; and where the segment holds nothing that is about as close as what the present holds, it is silent.

    Contradictions and confirmations of each segment, for each number of the outcome, are added up as log-likelihood
    ratios in a cumulative sum that stays between 0 and a bound (Page, Continuous inspection schemes, Biometrika 1954).
    How often the present is contradicted where the segment is confirmed tells how often that happens by accident. The
    consistency is 1 while the largest sum is small, then falls exponentially with it. It recovers as
    confirmations arrive, when an old regime has come back or the contradictions were an accident.

    :param observation_space: Observation space
    :param action_space: Action space
    :param n_envs: Number of transitions in a row
    """

    COUNTERS = ("rows_seen", "chunks_seen", "n_regimes", "next_model")
    # All in transitions, or in points of a sample
    CHUNK = 32  # compared at a time
    EVERY = 4  # every so many of them, as neighbours in time say nearly the same
    SEGMENT = 512
    SAMPLE = 128
    PRESENT = 160
    WARM_UP = 256
    MODEL_LASTS = 4_096
    MAX_SEGMENTS = 24
    # Of so many similar situations the one with the most similar outcome counts
    NEIGHBOURS = 3
    # A segment is silent where its neighbours are further than that many times those of the present
    FURTHER = 1.3
    NEARBY = 0.05
    # Outcomes are different if they differ by more than this share of their spread
    TOLERANCE = 0.3
    # How often a segment is contradicted that is no longer true, and by accident at least and at most
    CONTRADICTED = 0.5
    FEWEST_ACCIDENTS, MOST_ACCIDENTS = 0.03, 0.3
    # How fast a silent segment follows its neighbours, for each chunk
    SUPPOSED = 0.01
    # The sum, in nats, from which on consistency falls, and its bound
    DOUBT = 8.0
    BOUND = 16.0
    # The world has changed if of the last so many segments of a regime less than half is consistent
    WITNESSES = 3
    # From when on after a change and how long, and with how many confirmations, an old regime may be recognized
    RECONSIDER, RECOGNIZE = 128, 4_096
    CONFIRMATIONS = 16

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int) -> None:
        self.embedding = Embedding(observation_space)
        self.actions = Actions(action_space)
        self.n_envs = n_envs
        self.rows_per_chunk = max(1, self.CHUNK // n_envs)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.generator = np.random.default_rng(0)
        self.rows_seen = 0
        self.chunks_seen = 0
        self.accidents = np.full(1 + self.embedding.length, 0.1)
        self.changes: list[Change] = []
        self.n_regimes = 1
        self.model: OutcomeModel | None = None
        self.next_model = self.WARM_UP
        self.present = self._nothing()
        self.segments = [Segment(0, 0, np.zeros_like(self.accidents), self._nothing())]

    def _nothing(self) -> Transitions:
        n_features, n_outcomes = self.embedding.length + self.actions.length, 1 + self.embedding.length
        integers = np.zeros(0, dtype=np.int64)
        return Transitions(integers, np.zeros((0, n_features)), integers, np.zeros((0, n_outcomes)))

    @property
    def firsts(self) -> np.ndarray:
        """Number of the first row of each segment, from the oldest on, int64."""
        return np.array([segment.first for segment in self.segments])

    @property
    def consistencies(self) -> np.ndarray:
        """How well each segment agrees with the present, from the oldest on, in (0, 1]; that of the last is 1."""
        largest = np.array([segment.sums.max() for segment in self.segments])
        largest[-1] = 0
        return np.exp(-np.maximum(largest - self.DOUBT, 0))

    @property
    def regime(self) -> int:
        """Number of the present regime; the first is 0."""
        return self.segments[-1].regime

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """
        :return: All that it knows: arrays, and values as JSON
        """
        samples = [self.present, *(segment.sample for segment in self.segments)]
        arrays = {f"sample_{name}": array for name, array in join(samples)._asdict().items()}
        arrays["sample_sizes"] = np.array([len(sample.rows) for sample in samples])
        arrays["accidents"] = self.accidents
        for name in Segment.NUMBERS:
            arrays[name] = np.array([getattr(segment, name) for segment in self.segments])
        if self.model is not None:
            arrays |= {f"model_{name}": getattr(self.model, name) for name in OutcomeModel.ARRAYS}
        values = {name: getattr(self, name) for name in self.COUNTERS}
        changes = [list(change) for change in self.changes]
        return arrays, {**values, "changes": changes, "generator": self.generator.bit_generator.state}

    def set_state(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        """
        :param arrays: What ``state()`` returned of one for the same spaces and number of environments
        :param values: Likewise
        """
        for name in self.COUNTERS:
            setattr(self, name, int(values[name]))
        self.changes = [Change(*map(int, change)) for change in values["changes"]]
        self.generator.bit_generator.state = values["generator"]
        self.accidents = arrays["accidents"].copy()
        all_samples = Transitions(*(arrays[f"sample_{name}"] for name in Transitions._fields))
        ends = arrays["sample_sizes"].cumsum().tolist()
        self.present, *samples = (all_samples.take(slice(*bounds)) for bounds in zip([0, *ends], ends, strict=False))
        self.segments = []
        for index, sample in enumerate(samples):
            first, regime, agreed_at, confirmations = (int(arrays[name][index]) for name in Segment.NUMBERS[:-1])
            segment = Segment(first, regime, arrays["sums"][index].copy(), sample)
            segment.agreed_at, segment.confirmations = agreed_at, confirmations
            self.segments.append(segment)
        self.model = None
        if "model_center" in arrays:
            self.model = OutcomeModel.of_arrays(*(arrays[f"model_{name}"] for name in OutcomeModel.ARRAYS))
            self._place_all()

    def mean(self) -> float:
        """The mean consistency of the rows seen so far, as far as they are kept, in (0, 1]."""
        lengths = np.diff(np.append(self.firsts, max(self.rows_seen, self.segments[-1].first + 1)))
        return float((self.consistencies * lengths).sum() / lengths.sum())

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
        :param observations: The observations of ``rows_per_chunk`` new rows, shape (rows, n_envs, ...), or a dict
        :param actions: Their actions, shape (rows, n_envs, action_dim)
        :param rewards: Their rewards, shape (rows, n_envs)
        :param next_observations: As the observations
        :param is_known: Where the next observation is that of the transition, shape (rows, n_envs)
        :param first_kept: Number of the oldest row that the buffer still holds
        """
        chunk = self._as_transitions(observations, actions, rewards, next_observations).take(is_known.reshape(-1))
        self.rows_seen += len(rewards)
        self.chunks_seen += 1
        self._forget(first_kept)
        n_seen = self.rows_seen * self.n_envs
        if n_seen >= self.next_model:
            self._fit()
            self.next_model = n_seen + min(n_seen, self.MODEL_LASTS)
        if self.model is not None and len(chunk.rows) > 0:
            self._compare(chunk.take(slice(self.chunks_seen % self.EVERY, None, self.EVERY)))
            self._notice_change()
        self._keep(chunk)

    def _as_transitions(self, observations: Any, actions: Any, rewards: Any, next_observations: Any) -> Transitions:
        n_rows = len(rewards)
        rows = np.repeat(np.arange(self.rows_seen, self.rows_seen + n_rows), self.n_envs)
        places, next_places = self.embedding(observations), self.embedding(next_observations)
        groups, numbers = self.actions(actions.reshape(n_rows * self.n_envs, -1))
        limited_rewards = np.clip(np.nan_to_num(rewards.reshape(-1, 1).astype(np.float64)), -LARGEST, LARGEST)
        outcomes = np.concatenate([limited_rewards, next_places - places], axis=1)
        return Transitions(rows, np.concatenate([places, numbers], axis=1), groups, outcomes)

    def _fit(self) -> None:
        """A new model, of what is consistent."""
        kept = [s.sample for s, c in zip(self.segments, self.consistencies, strict=True) if c > 0.5]
        self.model = OutcomeModel(join([*kept, self.present]), self.actions.n_groups)
        self._place_all()

    def _place_all(self) -> None:
        """Where all samples are, by the present model."""
        assert self.model is not None
        n, (places, residuals) = len(self.segments), self.model(self.present)
        self._present = places[None], residuals[None]
        self._places = np.full((n, self.SAMPLE, places.shape[1]), NOWHERE)
        self._residuals = np.zeros((n, self.SAMPLE, residuals.shape[1]))
        for index in range(n):
            self._place(index)

    def _place(self, index: int) -> None:
        assert self.model is not None
        sample = self.segments[index].sample
        count = len(sample.rows)
        self._places[index, :count], self._residuals[index, :count] = self.model(sample)

    def _compare(self, new: Transitions) -> None:
        """Add up what new transitions say of each segment."""
        assert self.model is not None
        places, residuals = self.model(new)
        present, present_distances = self._most_similar(places, residuals, *self._present)
        stored, distances = self._most_similar(places, residuals, self._places, self._residuals)
        differs_now, differed = present > self.TOLERANCE, stored > self.TOLERANCE
        speaks = distances <= self.FURTHER * present_distances + self.NEARBY
        speaks &= np.isfinite(present_distances) & np.isfinite(distances)
        speaking = speaks[:, :, None]
        sums = np.stack([segment.sums for segment in self.segments])

        # What the present says wrong and a segment in good standing does not happens by accident
        trusted = speaking & (sums.max(axis=1) < self.DOUBT / 2)[None, :, None] & ~differed
        n_trusted = trusted.sum(axis=(0, 1))
        share = (trusted & differs_now).sum(axis=(0, 1)) / np.maximum(n_trusted, 1)
        self.accidents += np.where(n_trusted > 0, 0.02, 0) * (share - self.accidents)

        by_accident = np.clip(self.accidents, self.FEWEST_ACCIDENTS, self.MOST_ACCIDENTS)
        contradiction = np.log(self.CONTRADICTED / by_accident)
        confirmation = np.log((1 - self.CONTRADICTED) / (1 - by_accident))
        steps = np.where(differed, np.where(differs_now, 0, contradiction), confirmation)
        sums = np.clip(sums + np.where(speaking, steps, 0).sum(axis=0), 0, self.BOUND)
        # Of the silent, it is supposed that they are as true as their neighbours
        silent = np.logical_not(np.asarray(speaks.any(axis=0)))
        silent[-1] = False
        sums[silent] += self.SUPPOSED * (self._around(sums)[silent] - sums[silent])
        confirmed = (speaks & ~differed.any(axis=2) & ~differs_now.any(axis=2)).sum(axis=0)
        for segment, new_sums, n_confirmed in zip(self.segments, sums, confirmed.tolist(), strict=True):
            segment.sums = new_sums
            segment.confirmations += n_confirmed
            if new_sums.max() < self.DOUBT / 4:
                segment.agreed_at = self.rows_seen

    def _around(self, sums: np.ndarray) -> np.ndarray:
        """For each segment, the mean of the sums of its neighbours in the same regime, or its own if it has none."""
        regimes = np.array([segment.regime for segment in self.segments])
        # The last one says nothing of what was before
        same = (regimes[1:] == regimes[:-1])[:, None].astype(np.float64)
        same[-1:] = 0
        total, count = np.zeros_like(sums), np.zeros((len(sums), 1))
        total[1:] += same * sums[:-1]
        total[:-1] += same * sums[1:]
        count[1:] += same
        count[:-1] += same
        return np.where(count > 0, total / np.maximum(count, 1), sums)

    def _most_similar(
        self, places: np.ndarray, residuals: np.ndarray, stored_places: np.ndarray, stored_residuals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        :param places: Shape (n, d)
        :param residuals: Shape (n, k)
        :param stored_places: Shape (segments, points, d)
        :param stored_residuals: Shape (segments, points, k)
        :return: By how much the outcome of the most similar among the nearest differs, shape (n, segments, k), and how
            far these are on average, shape (n, segments); infinite where there are not enough in the same group
        """
        n, (n_segments, n_points, d) = len(places), stored_places.shape
        squares = _product(-2 * places, stored_places.reshape(-1, d).T).reshape(n, n_segments, n_points)
        squares += (stored_places**2).sum(axis=2)
        squares += (places**2).sum(axis=1)[:, None, None]
        item, segment = np.arange(n)[:, None], np.arange(n_segments)[None]
        smallest = np.full((n, n_segments, residuals.shape[1]), np.inf)
        distance = np.zeros((n, n_segments))
        for _ in range(min(self.NEIGHBOURS, n_points)):
            nearest = squares.argmin(axis=2)
            square = squares[item, segment, nearest]
            squares[item, segment, nearest] = np.inf
            difference = np.abs(stored_residuals[segment, nearest] - residuals[:, None])
            smallest = np.minimum(smallest, difference)
            distance += np.where(square < OutcomeModel.APART**2, np.sqrt(np.maximum(square, 0)), np.inf)
        return smallest, distance / self.NEIGHBOURS

    def _notice_change(self) -> None:
        """Begin a new regime where the present one's last segments are no longer consistent; name it."""
        consistencies = self.consistencies
        of_regime = [i for i, s in enumerate(self.segments[:-1]) if s.regime == self.regime]
        witnesses = of_regime[-self.WITNESSES :]
        if witnesses and consistencies[witnesses].mean() < 0.5:
            contradicted = [self.segments[i].agreed_at for i in witnesses if consistencies[i] < 0.5]
            self._cut(max(int(np.median(contradicted)), self.segments[witnesses[-1]].first + 1))
            consistencies = self.consistencies
        if self.changes:
            since = self.rows_seen * self.n_envs - self.changes[-1].noticed_at
            # Later on, what begins to agree with an older regime may be the next change
            if self.RECONSIDER <= since < self.RECOGNIZE:
                self._recognize(consistencies)

    def _recognize(self, consistencies: np.ndarray) -> None:
        """Take the present regime for an older one that is consistent: it has come back, or was never gone."""
        for regime in sorted({s.regime for s in self.segments} - {self.regime}):
            witnesses = [i for i, s in enumerate(self.segments) if s.regime == regime][-self.WITNESSES :]
            n_confirmed = sum(self.segments[i].confirmations for i in witnesses)
            if n_confirmed >= self.CONFIRMATIONS and consistencies[witnesses].mean() > 0.9:
                present = self.regime
                for segment in self.segments:
                    if segment.regime == present:
                        segment.regime = regime
                self.changes[-1] = self.changes[-1]._replace(regime=regime)
                return

    def _cut(self, row: int) -> None:
        """Begin a new regime at a row."""
        index = int(np.searchsorted(self.firsts, row, side="right")) - 1
        old = self.segments[index]
        is_new = old.sample.rows >= row
        regime = self.n_regimes
        self.n_regimes += 1
        new = Segment(row, regime, np.zeros_like(old.sums), old.sample.take(is_new))
        contradicted = self.segments[max(index - 1, 0)].sums
        old.sample, old.sums = old.sample.take(~is_new), np.maximum(old.sums, contradicted)
        for segment in self.segments[index + 1 :]:
            segment.regime, segment.sums = regime, np.zeros_like(old.sums)
        self.segments.insert(index + 1, new)
        for segment in self.segments:
            segment.confirmations = 0
        self.present = self.present.take(self.present.rows >= row)
        self.changes.append(Change(self.rows_seen * self.n_envs, row * self.n_envs, regime))
        self.next_model = min(self.next_model, self.rows_seen * self.n_envs + self.WARM_UP)
        self._limit()
        self._place_all()

    def _keep(self, chunk: Transitions) -> None:
        """Add new transitions to the samples."""
        row = self.rows_seen - self.rows_per_chunk
        if (row - self.segments[-1].first) * self.n_envs >= self.SEGMENT:
            last = self.segments[-1]
            self.segments.append(Segment(row, last.regime, last.sums.copy(), self._nothing()))
            self._limit()
            if self.model is not None:
                self._place_all()
        segment = self.segments[-1]
        picked = chunk.take(self.generator.random(len(chunk.rows)) < self.SAMPLE / self.SEGMENT)
        sample = join([segment.sample, picked])
        if len(sample.rows) > self.SAMPLE:
            sample = sample.take(np.sort(self.generator.permutation(len(sample.rows))[: self.SAMPLE]))
        segment.sample = sample
        self.present = join([self.present, chunk]).take(slice(-self.PRESENT, None))
        if self.model is not None:
            self._place(len(self.segments) - 1)
            places, residuals = self.model(self.present)
            self._present = places[None], residuals[None]

    def _forget(self, first_kept: int) -> None:
        """Drop segments that have left the buffer."""
        n_gone = int(np.searchsorted(self.firsts[1:], first_kept, side="right"))
        if n_gone > 0:
            del self.segments[:n_gone]
            if self.model is not None:
                self._place_all()

    def _limit(self) -> None:
        """Join two neighbours that are small for their age and agree, while there are too many segments."""
        while len(self.segments) > self.MAX_SEGMENTS:
            firsts, c = self.firsts, self.consistencies
            lengths = np.diff(firsts)
            # The last one is still growing
            costs = (lengths[:-1] + lengths[1:]) / (self.rows_seen - firsts[:-2] + 1) + 10 * np.abs(np.diff(c)[:-1])
            index = int(costs.argmin())
            first, second = self.segments[index], self.segments[index + 1]
            sample = join([first.sample, second.sample])
            share = np.repeat(lengths[[index, index + 1]], [len(first.sample.rows), len(second.sample.rows)])
            share = share / np.repeat(
                [max(len(s.sample.rows), 1) for s in (first, second)], [len(first.sample.rows), len(second.sample.rows)]
            )
            size = min(self.SAMPLE, len(sample.rows))
            if size > 0:
                picked = self.generator.choice(len(share), size, replace=False, p=share / share.sum())
                sample = sample.take(np.sort(picked))
            second.first, second.sample, second.sums = first.first, sample, np.maximum(first.sums, second.sums)
            second.agreed_at = min(first.agreed_at, second.agreed_at)
            second.confirmations += first.confirmations
            del self.segments[index]
