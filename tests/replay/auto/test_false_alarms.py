"""Where nothing changes there are hardly any alarms, on grids and in tables, too, where few situations are similar."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile.replay.auto import Consistency, Settings, Transitions
from sb3_reptile.replay.auto.evidence import FalseAlarmRate, log_likelihood_ratios
from sb3_reptile.replay.auto.neighbours import Comparison, Means, Neighbours, Placed
from sb3_reptile.replay.auto.outcome_model import OutcomeModel

SETTINGS = Settings()


def habits(name, n, seed, share, swapped_from=None, **kwargs):
    """
    Transitions of a policy that does in each state what it is used to do, but for random actions, and whose habits
    change: as one that learns.
    """
    env, generator = gym.make(name, **kwargs), np.random.default_rng(seed)
    n_actions = int(env.action_space.n)
    policy = generator.integers(n_actions, size=env.observation_space.n)
    obs, _ = env.reset(seed=seed)
    rows = []
    for step in range(n):
        if step % 100 == 0:
            other = generator.random(len(policy)) < 0.1
            policy[other] = generator.integers(n_actions, size=other.sum())
        action = int(policy[obs] if generator.random() < share else generator.integers(n_actions))
        is_swapped = swapped_from is not None and step >= swapped_from
        next_obs, reward, terminated, truncated, _ = env.step((action + n_actions // 2 * is_swapped) % n_actions)
        rows.append((obs, action, reward, next_obs))
        obs = env.reset()[0] if terminated or truncated else next_obs
    obs, actions, rewards, next_obs = map(np.array, zip(*rows, strict=True))
    return env, (obs[:, None], actions[:, None, None], rewards[:, None], next_obs[:, None])


def observe(env, stream):
    """The consistency, and its means over time."""
    consistency = Consistency(env.observation_space, env.action_space, 1)
    means, n = [], consistency.rows_per_chunk
    for row in range(0, len(stream[0]) - n + 1, n):
        consistency.observe(*(array[row : row + n] for array in stream), np.ones((n, 1), bool), 0)
        means.append(consistency.mean())
    return consistency, np.array(means)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["Taxi-v4", "FrozenLake-v1"])
def test_a_table_raises_no_alarm(name, seed):
    consistency, means = observe(*habits(name, 6_400, seed, 0.8))
    assert consistency.changes == []
    assert means.mean() > 0.95


def mean_consistency(consistency, n):
    """Of the first n transitions."""
    ends = np.append(consistency.starts, consistency.rows_seen)
    return np.repeat(consistency.consistencies, np.diff(ends))[:n].mean()


@pytest.mark.parametrize(
    ("name", "n", "seed", "share"), [("CliffWalking-v1", 9_600, 0, 0.5), ("FrozenLake-v1", 12_800, 1, 0.0)]
)
@pytest.mark.parametrize("swapped_from", [None, 6_400])
def test_a_change_of_a_table_is_not_overlooked_even_if_its_outcomes_are_random(name, n, seed, share, swapped_from):
    consistency, _ = observe(*habits(name, n, seed, share, swapped_from))
    before = mean_consistency(consistency, 6_400)
    assert before > 0.98 if swapped_from is None else before < 0.1


def transitions(features, outcomes, groups=0):
    n = len(features)
    features, outcomes = np.asarray(features, float), np.asarray(outcomes, float)
    return Transitions(np.arange(n), features, np.full(n, groups), outcomes.reshape(n, 1))


def identity_model(n_features, n_outcomes=1):
    """Features and outcomes as they are."""
    zeros, ones = np.zeros(n_features), np.ones(n_features)
    return OutcomeModel.from_arrays(
        zeros, ones, np.ones(n_outcomes), np.zeros((1, n_features + 1, n_outcomes)), settings=SETTINGS
    )


@pytest.mark.parametrize(("distance", "is_far"), [(0.49, False), (0.51, True)])
def test_situations_are_near_up_to_a_quarter_of_the_distance_of_unrelated_ones(distance, is_far):
    # Two features: unrelated situations are sqrt(2 * 2) = 2 apart
    model, no_noise = identity_model(2), np.zeros(1, bool)
    assert model.unrelated_distance == 2
    at_0, apart = transitions([[0, 0]] * 3, [0] * 3), transitions([[distance, 0]] * 3, [0] * 3)
    for present, segment in ((at_0, apart), (apart, at_0)):
        neighbours = Neighbours(model, present, [segment, segment])
        assert neighbours.compare(neighbours.place(at_0.take([0])), no_noise).far.tolist() == [[is_far] * 2]
    neighbours = Neighbours(model, at_0, [apart, at_0], only_near=True)
    assert neighbours.compare(neighbours.place(apart.take([0])), no_noise).speaks.tolist() == [[not is_far] * 2]


def test_a_feature_that_does_not_vary_does_not_count():
    model = OutcomeModel(transitions([[-1, 5], [1, 5], [-1, 5], [1, 5]], [0] * 4), 1)
    assert model.unrelated_distance == np.sqrt(2)


@pytest.mark.parametrize(("space", "is_category"), [(spaces.Discrete(5), True), (spaces.MultiDiscrete([5]), False)])
def test_only_the_same_category_is_compared(space, is_category):
    consistency = Consistency(space, spaces.Discrete(2), 1)
    generator = np.random.default_rng(0)
    for _ in range(9):
        obs = generator.integers(5, size=(32, 1))
        consistency.observe(obs, obs[:, None] % 2, np.zeros((32, 1)), obs, np.ones((32, 1), bool), 0)
    assert consistency._neighbours._only_near == is_category


@pytest.mark.parametrize("n_same", [3, 4, 12, 13, 30])
def test_up_to_twelve_of_the_same_situation_are_compared(n_same):
    """The most similar outcome is that of the last of them; further ones count only in the same situation."""
    outcomes = np.r_[np.full(n_same - 1, 5.0), 0.0]
    same = transitions(np.zeros((n_same, 2)), outcomes)
    model, no_noise = identity_model(2), np.zeros(1, bool)
    new = transitions(np.zeros((1, 2)), [0.0])
    neighbours = Neighbours(model, same, [same, same])
    comparison = neighbours.compare(neighbours.place(new), no_noise)
    assert comparison.differed.all() == comparison.differs_now.all() == (n_same > SETTINGS.same_neighbours)
    # Not quite the same: three
    apart = np.linspace(0.06, 0.5, n_same)
    neighbours = Neighbours(model, same, [transitions(np.stack([apart, 0 * apart], axis=1), outcomes)])
    assert neighbours.compare(neighbours.place(new), no_noise).differed.all() == (n_same > SETTINGS.neighbours)


def test_as_many_neighbours_of_the_present_count_as_of_the_segment():
    """Of ten same situations in the present, only as many as the segment has: three, and six."""
    present = transitions(np.zeros((10, 2)), np.r_[np.full(5, 5.0), np.zeros(5)])
    few = transitions(np.zeros((3, 2)), [5.0] * 3)
    some = transitions(np.zeros((6, 2)), [5.0] * 5 + [0.0])
    new = transitions(np.zeros((1, 2)), [0.0])
    neighbours = Neighbours(identity_model(2), present, [few, some])
    comparison = neighbours.compare(neighbours.place(new), np.zeros(1, bool))
    assert comparison.differs_now[0, :, 0].tolist() == [True, False]
    assert comparison.differed[0, :, 0].tolist() == [True, False]
    # The segment has more
    neighbours = Neighbours(identity_model(2), few, [present, some])
    comparison = neighbours.compare(neighbours.place(new), np.zeros(1, bool))
    assert comparison.differs_now.all()
    assert comparison.differed.all()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_fewer_transitions_than_neighbours_say_nothing(n):
    enough, few = (transitions(np.zeros((size, 2)), np.zeros(size)) for size in (5, n))
    for present, segment in ((few, enough), (enough, few)):
        neighbours = Neighbours(identity_model(2), present, [segment])
        comparison = neighbours.compare(neighbours.place(enough.take([0])), np.zeros(1, bool))
        assert comparison.speaks.all() == (n >= SETTINGS.neighbours)
        assert comparison.far.all() == (n == 0)


@pytest.mark.parametrize("only_near", [True, False])
def test_means_of_a_category_are_those_of_the_same_one(only_near):
    """Two of the same category, and ten of another one 3 apart."""
    sample = transitions(np.r_[np.zeros((2, 2)), np.full((10, 2), 3.0)], np.r_[1.0, 3.0, np.full(10, 50.0)])
    neighbours = Neighbours(identity_model(2), sample, [sample], only_near)
    new = neighbours.place(transitions(np.zeros((1, 2)), [0.0]))
    means = neighbours.compare(new, np.ones(1, bool)).means
    assert means.counts.item() == (2 if only_near else 12)
    assert means.means.item() == pytest.approx(2 if only_near else 504 / 12)


def comparison(far, differs_now, differed=False, same=0, nearest_differs_now=0, nearest_differed=False):
    """Ten transitions, one segment and the one that is still growing; how many of the ten."""
    n = 10
    nothing = np.zeros((n, 2, 0))
    means = Means(nothing, nothing, np.zeros((n, 2), np.int64), np.zeros((n, 2)))

    def first(count):
        return np.repeat((np.arange(n) < count)[:, None], 2, axis=1)

    speaks = np.repeat([[True, False]], n, axis=0)
    return Comparison(
        speaks=speaks,
        far=~first(n - far),
        differs_now=first(differs_now)[..., None],
        differed=np.full((n, 2, 1), differed),
        same=first(same),
        nearest_differs_now=first(nearest_differs_now)[:, :1, None],
        nearest_differed=np.full((n, 2, 1), nearest_differed),
        noisy=np.zeros(1, bool),
        means_now=means,
        means=means,
    )


NO_SUMS = np.zeros((2, 2))


def test_the_first_estimates_are_plain_means_apart_for_near_and_far_situations():
    rate = FalseAlarmRate.first(1, SETTINGS)
    assert rate.rates.tolist() == [[0.3], [0.3], [0]]
    # The first 4 of 10 differ; the last 2 are far
    rate.update(comparison(far=2, differs_now=4), NO_SUMS)
    weight = SETTINGS.first_estimate_weight
    assert rate.rates[0].item() == pytest.approx((weight * 0.3 + 4) / (weight + 8))
    assert rate.rates[1].item() == pytest.approx((weight * 0.3 + 0) / (weight + 2))
    assert rate.counts.tolist() == [[8], [2], [0]]
    for _ in range(4):
        rate.update(comparison(far=8, differs_now=4), NO_SUMS)
    assert rate.rates[0].item() == pytest.approx((weight * 0.3 + 4 + 4 * 2) / (weight + 8 + 4 * 2))
    assert rate.rates[1].item() == pytest.approx((weight * 0.3 + 0 + 4 * 2) / (weight + 2 + 4 * 8))


def test_later_estimates_forget_slowly_and_the_rarer_kind_more_slowly():
    rate = FalseAlarmRate(np.array([[0.1], [0.2], [0.3]]), np.full((3, 1), 1e6), SETTINGS)
    rate.update(comparison(far=2, differs_now=10, same=4, nearest_differs_now=3), NO_SUMS)
    step = SETTINGS.false_alarm_step
    expected = [0.1 + 0.8 * step * 0.9, 0.2 + 0.2 * step * 0.8, 0.3 + 0.4 * step * (3 / 4 - 0.3)]
    assert rate.rates[:, 0].tolist() == pytest.approx(expected)


def test_nothing_is_learned_from_what_is_contradicted_or_in_doubt():
    rate = FalseAlarmRate.first(1, SETTINGS)
    rate.update(comparison(2, 4, differed=True, same=5, nearest_differs_now=5, nearest_differed=True), NO_SUMS)
    for in_doubt in (SETTINGS.doubt, 0.75 * SETTINGS.doubt):
        rate.update(comparison(2, 4, same=5, nearest_differs_now=5), NO_SUMS + in_doubt)
    assert rate.rates.tolist() == [[0.3], [0.3], [0]]
    assert not rate.counts.any()


@pytest.mark.parametrize("near", [0.09, 0.11])
@pytest.mark.parametrize("far", [0.0, 0.9])
@pytest.mark.parametrize("nearest", [0.09, 0.11])
def test_an_outcome_is_noisy_if_near_situations_or_the_same_ones_say_so(near, far, nearest):
    rate = FalseAlarmRate(np.array([[near], [far], [nearest]]), np.zeros((3, 1)), SETTINGS)
    assert rate.noisy.tolist() == [max(near, nearest) > 0.1]


def test_that_the_nearest_one_of_the_same_situation_differs_is_counted_on_its_own():
    rate = FalseAlarmRate.first(1, SETTINGS)
    rate.update(comparison(far=2, differs_now=0, same=5, nearest_differs_now=3), NO_SUMS)
    assert rate.counts.tolist() == [[8], [2], [5]]
    assert rate.rates[0].item() < 0.3
    assert rate.rates[2].item() == pytest.approx(3 / (SETTINGS.first_estimate_weight + 5))


def test_a_contradiction_by_a_far_situation_counts_as_much_as_their_false_alarm_rate_says():
    rate = FalseAlarmRate(np.array([[0.05], [0.25], [0.0]]), np.zeros((3, 1)), SETTINGS)

    def evidence(far, differed):
        return log_likelihood_ratios(comparison(far, 0, differed), rate, NO_SUMS, SETTINGS)[0, 0]

    assert evidence(0, True) == pytest.approx(10 * np.log(0.5 / 0.05))
    assert evidence(10, True) == pytest.approx(10 * np.log(0.5 / 0.25))
    assert evidence(3, True) == pytest.approx(7 * np.log(0.5 / 0.05) + 3 * np.log(0.5 / 0.25))
    assert evidence(3, False) == pytest.approx(7 * np.log(0.5 / 0.95) + 3 * np.log(0.5 / 0.75))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_are_limited_where_they_are_used(rate):
    rates = FalseAlarmRate(np.full((3, 1), rate), np.zeros((3, 1)), SETTINGS)
    used = SETTINGS.max_false_alarm_rate if rate else SETTINGS.min_false_alarm_rate
    evidence = log_likelihood_ratios(comparison(0, 0, differed=True), rates, NO_SUMS, SETTINGS)[0, 0]
    assert evidence == pytest.approx(10 * np.log(0.5 / used))


def test_states_and_pickles_without_the_estimate_of_the_same_situation_load():
    env, stream = habits("FrozenLake-v1", 1_600, 0, 0.5)
    consistency, _ = observe(env, stream)
    arrays, values = consistency.state()
    former = {name: arrays[name][:2] for name in ("accidents", "accident_counts")}
    loaded = Consistency(env.observation_space, env.action_space, 1)
    loaded.set_state({**arrays, **former}, values)
    pickled = copy.deepcopy(vars(consistency.false_alarm_rate))
    unpickled = object.__new__(FalseAlarmRate)
    unpickled.__setstate__({**pickled, "rates": pickled["rates"][:2], "counts": pickled["counts"][:2]})
    for one in (loaded.false_alarm_rate, unpickled):
        assert one.rates.shape == consistency.false_alarm_rate.rates.shape
        np.testing.assert_array_equal(one.rates[:2], former["accidents"])
        np.testing.assert_array_equal(one.counts[:2], former["accident_counts"])
        assert not one.rates[2].any()
        assert not one.counts[2].any()


def test_states_and_pickles_with_one_estimate_for_all_distances_load():
    env, stream = habits("FrozenLake-v1", 1_600, 0, 0.5)
    consistency, _ = observe(env, stream)
    arrays, values = consistency.state()
    pooled = np.linspace(0, 0.5, consistency.false_alarm_rate.rates.shape[1])
    del arrays["accident_counts"]
    loaded = Consistency(env.observation_space, env.action_space, 1)
    loaded.set_state({**arrays, "accidents": pooled}, values)
    pickled = {**copy.deepcopy(vars(consistency)), "false_alarm_rate": pooled}
    unpickled = object.__new__(Consistency)
    unpickled.__setstate__(pickled)
    for one in (loaded, unpickled):
        np.testing.assert_array_equal(one.false_alarm_rate.rates, [pooled, pooled, 0 * pooled])
        assert not one.false_alarm_rate.counts.any()
        n = one.rows_per_chunk
        one.observe(*(array[:n] for array in stream), np.ones((n, 1), bool), 0)


@pytest.mark.parametrize("n_contexts", [1, 4])
@pytest.mark.parametrize("swapped_from", [None, 6_400])
def test_a_bandit_whose_arms_swap_is_noticed(n_contexts, swapped_from):
    """Of several same situations one has the same outcome by chance, so no single outcome is a contradiction."""
    generator, n = np.random.default_rng(0), 9_600
    contexts, actions = generator.integers(n_contexts, size=n), generator.integers(2, size=n)
    is_good = (contexts + actions) % 2 == 0
    if swapped_from is not None:
        is_good[swapped_from:] ^= True
    rewards = (generator.random(n) < np.where(is_good, 0.8, 0.2)).astype(float)
    consistency = Consistency(spaces.Discrete(n_contexts), spaces.Discrete(2), 1)
    for row in range(0, n, 32):
        rows = slice(row, row + 32)
        obs = contexts[rows, None]
        known = np.ones((32, 1), bool)
        consistency.observe(obs, actions[rows, None, None], rewards[rows, None], obs, known, 0)
    before = mean_consistency(consistency, 6_400)
    assert before > 0.95 if swapped_from is None else before < 0.1
    assert consistency.false_alarm_rate.noisy.tolist() == [True] + [False] * (consistency.embedding.length)


def test_what_a_policy_repeats_counts_once():
    places = np.array([[0.0, 30], [1, 30], [0, 30], [1, 0], [1, 30], [0, 30]])
    placed = Placed(places, (places**2).sum(axis=1), np.arange(6.0)[:, None])
    assert placed.without_repetitions().residuals[:, 0].tolist() == [0, 1, 3]
    assert len(placed.take(slice(0)).without_repetitions().places) == 0
