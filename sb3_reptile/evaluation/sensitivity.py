"""What ``half_life="auto"`` would notice in a recorded stream of transitions, and how often it would be wrong."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_reptile.replay.auto import Change, Consistency, Settings, Transitions
from sb3_reptile.replay.auto.features import rows_of
from sb3_reptile.replay.checks import check_whole_number

# Sizes of the changes that are tried, in standard deviations
SIZES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
# A change is tried at this number of places in the stream; it must be noticed at most of them
PLACES = 3


@dataclass(frozen=True)
class Sensitivity:
    """
    What ``half_life="auto"`` notices in a stream of transitions.

    :param n_transitions: Length of the stream
    :param within: A change counts as noticed if the alarm follows within this number of transitions
    :param alarms: Alarms in the stream as it was recorded
    :param accidental_alarms: Alarms in the stream in random order, in which nothing changes
    :param accidental_contradictions: Share of segments that are inconsistent with the present in the stream in random
        order, mean over time (in [0, 1])
    :param smallest_reward_change: The smallest of the shifts of all rewards that is noticed, in units of the reward;
        None if not even the largest is
    :param largest_reward_change: The largest shift that was tried
    :param smallest_dynamics_change: The smallest noticed shift of all numbers by which observations change, each up or
        down at random, in standard deviations of that number; None if not even the largest is
    :param largest_dynamics_change: The largest shift that was tried
    """

    n_transitions: int
    within: int
    alarms: tuple[Change, ...]
    accidental_alarms: int
    accidental_contradictions: float
    smallest_reward_change: float | None
    largest_reward_change: float
    smallest_dynamics_change: float | None
    largest_dynamics_change: float

    def sentences(self) -> list[str]:
        """
        :return: The result in words, one sentence each
        """
        reward, dynamics = self.smallest_reward_change, self.smallest_dynamics_change
        times = ", ".join(f"{alarm.noticed_at:,}" for alarm in self.alarms)
        of_reward = (
            f"No change of the reward up to {self.largest_reward_change:.3g} is noticed"
            if reward is None
            else f"The smallest change of the reward that is noticed is {reward:.3g}"
        )
        of_dynamics = (
            f"No change of the dynamics up to {self.largest_dynamics_change:.3g} standard deviations is noticed"
            if dynamics is None
            else f"The smallest change of the dynamics that is noticed is {dynamics:.3g} standard deviations"
        )
        return [
            f"Alarms in {self.n_transitions:,} transitions: {f'{len(self.alarms)}, at {times}' if times else 'none'}.",
            f"In random order, where nothing changes, there are {self.accidental_alarms} alarms, and "
            f"{self.accidental_contradictions:.1%} of the segments are contradicted by accident.",
            f"{of_reward} within {self.within:,} transitions.",
            f"{of_dynamics} within {self.within:,} transitions.",
        ]


def sensitivity_of_buffer(
    replay_buffer: ReplayBuffer, settings: Settings | None = None, within: int = 2_000, seed: int = 0
) -> Sensitivity:
    """
    Measure the sensitivity to changes in what a replay buffer holds, in order of arrival.

    :param replay_buffer: A replay buffer, decayed or not, that stores next observations
    :param settings: As for :func:`measure_sensitivity`
    :param within: As for :func:`measure_sensitivity`
    :param seed: As for :func:`measure_sensitivity`
    :raises ValueError: if it does not store next observations (``optimize_memory_usage``), or holds too little
    """
    if replay_buffer.optimize_memory_usage:
        raise ValueError(
            "the replay buffer has optimize_memory_usage=True and no next observations of its own: record the stream "
            "with optimize_memory_usage=False"
        )
    rows = np.arange(replay_buffer.size())
    if replay_buffer.full:
        rows = (rows + replay_buffer.pos) % replay_buffer.buffer_size
    return measure_sensitivity(
        rows_of(replay_buffer.observations, rows),
        replay_buffer.actions[rows],
        replay_buffer.rewards[rows],
        rows_of(replay_buffer.next_observations, rows),
        replay_buffer.observation_space,
        replay_buffer.action_space,
        settings,
        within,
        seed,
    )


def measure_sensitivity(
    observations: Any,
    actions: np.ndarray,
    rewards: np.ndarray,
    next_observations: Any,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    settings: Settings | None = None,
    within: int = 2_000,
    seed: int = 0,
) -> Sensitivity:
    """
    Measure which changes of a recorded stream of transitions ``half_life="auto"`` notices, and how often it is wrong.

    Nothing is trained. Changes of known size are injected from three places on: into the rewards, and into the numbers
    by which observations change. Accidents are counted in the same transitions in random order. Terminations are not
    needed: ``auto`` compares rewards and observations.

    :param observations: Observations as a replay buffer stores them, in order, shape (rows, n_envs, ...), or a dict of
        such arrays
    :param actions: Actions, shape (rows, n_envs, action_dim)
    :param rewards: Rewards, shape (rows, n_envs)
    :param next_observations: As the observations
    :param observation_space: Observation space
    :param action_space: Action space
    :param settings: Constants of ``auto``; the defaults if None
    :param within: Number of transitions within which a change must be noticed
    :param seed: Seed of the random order and of the directions of change
    :return: The result
    :raises ValueError: if the shapes do not agree, or the stream is shorter than twice ``within``
    """
    check_whole_number("within", within)
    if rewards.ndim != 2 or actions.shape[:2] != rewards.shape:
        raise ValueError(
            f"actions must have the shape (rows, n_envs, action_dim) and rewards (rows, n_envs), got {actions.shape} "
            f"and {rewards.shape}"
        )
    n_rows, n_envs = rewards.shape
    if n_rows * n_envs < 2 * within:
        raise ValueError(
            f"the stream must have at least {2 * within} transitions, twice as many as a change may take to be "
            f"noticed, got {n_rows * n_envs}: record more, or decrease `within`"
        )
    for values in (observations, next_observations):
        for array in values.values() if isinstance(values, dict) else (values,):
            if array.shape[:2] != rewards.shape:
                raise ValueError(
                    f"there must be an observation for each reward, got observations of shape {array.shape} and "
                    f"rewards of shape {rewards.shape}"
                )
    start = Consistency(observation_space, action_space, n_envs, settings or Settings())
    # Nothing is copied that is not changed: the rest of the stream is only read
    stream = start.transitions(observations, actions, rewards, next_observations)
    generator = np.random.default_rng(seed)

    last = n_rows - -(-within // n_envs)
    places = (
        np.linspace(last - (last - 1) // 2, last, PLACES).astype(int) // start.rows_per_chunk * start.rows_per_chunk
    )
    recorded, starts = copy.deepcopy(start), {}
    for place in places.tolist():
        _continue(recorded, stream, place)
        starts[place] = copy.deepcopy(recorded)
    _continue(recorded, stream, n_rows)

    shuffled = copy.deepcopy(start)
    order = generator.permutation(n_rows * n_envs)
    contradicted: list[float] = []
    _continue(shuffled, stream.take(order)._replace(rows=stream.rows), n_rows, contradicted)

    n_numbers = stream.outcomes.shape[1] - 1
    signs = np.where(generator.random(n_numbers) < 0.5, -1.0, 1.0)
    of_reward, of_dynamics = np.zeros(1 + n_numbers), np.zeros(1 + n_numbers)
    of_reward[0] = _unit(stream.outcomes[:, 0])
    of_dynamics[1:] = signs * np.array([_unit(column) for column in stream.outcomes[:, 1:].T])

    def is_noticed(shift: np.ndarray) -> bool:
        changed = stream._replace(outcomes=stream.outcomes + shift)
        n_noticed = 0
        for place, before in starts.items():
            n_before = sum(_is_within(alarm, place * n_envs, within) for alarm in recorded.changes)
            after = copy.deepcopy(before)
            _continue(after, changed, min(place + -(-within // n_envs), n_rows))
            n_noticed += sum(_is_within(alarm, place * n_envs, within) for alarm in after.changes) > n_before
        return n_noticed > len(starts) / 2

    reward = _smallest(lambda size: is_noticed(size * of_reward))
    dynamics = _smallest(lambda size: is_noticed(size * of_dynamics))
    return Sensitivity(
        n_transitions=n_rows * n_envs,
        within=within,
        alarms=tuple(recorded.changes),
        accidental_alarms=len(shuffled.changes),
        accidental_contradictions=float(np.mean(contradicted)),
        smallest_reward_change=None if reward is None else float(reward * of_reward[0]),
        largest_reward_change=float(SIZES[-1] * of_reward[0]),
        smallest_dynamics_change=dynamics,
        largest_dynamics_change=SIZES[-1],
    )


def _unit(values: np.ndarray) -> float:
    """Standard deviation; the size of values that do not vary."""
    return float(values.std()) or float(np.abs(values).mean())


def _is_within(alarm: Change, place: int, within: int) -> bool:
    return 0 < alarm.noticed_at - place <= within


def _continue(consistency: Consistency, stream: Transitions, end: int, contradicted: list[float] | None = None) -> None:
    """
    Let transitions arrive, from where it stands up to a row.

    :param consistency: Changed in place
    :param stream: All transitions, in order
    :param end: Number of the row after the last
    :param contradicted: Takes the share of inconsistent segments after each comparison
    """
    n_rows, n_envs = consistency.rows_per_chunk, consistency.n_envs
    for row in range(consistency.rows_seen, end - n_rows + 1, n_rows):
        consistency.observe_transitions(stream.take(slice(row * n_envs, (row + n_rows) * n_envs)), n_rows, 0)
        if contradicted is not None and consistency.model is not None:
            contradicted.append(float((consistency.consistencies < consistency.settings.alarm_below).mean()))


def _smallest(is_noticed: Callable[[float], bool]) -> float | None:
    """The smallest of ``SIZES`` that is noticed, by bisection: larger changes are noticed if smaller ones are."""
    low, high = 0, len(SIZES)
    while low < high:
        middle = (low + high) // 2
        if is_noticed(SIZES[middle]):
            high = middle
        else:
            low = middle + 1
    return SIZES[low] if low < len(SIZES) else None
