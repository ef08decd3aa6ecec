"""Hindsight replay with decay: what is drawn, against a reference that looks at every transition, and against SB3's."""

import pickle

import numpy as np
import pytest
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile.replay import DecayedHerReplayBuffer, DecayedReplayBuffer, DecayedSampling
from tests.conftest import assert_trained, parameters
from tests.replay.hindsight import (
    ALGORITHMS,
    DECAYS,
    FILLS,
    INF,
    N_ROWS,
    STRATEGIES,
    UNFINISHED,
    WEIGHTS,
    Goals,
    assert_drawn_from,
    assert_fields_match_indices,
    bits,
    episode_of,
    expected_probabilities,
    fill,
    initial_weight,
    make_buffer,
    make_model,
    one_long_episode_at_the_end,
    weigh,
)


@pytest.mark.parametrize("n_envs", [1, 3, 8])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("n_steps", FILLS.values(), ids=FILLS.keys())
def test_frequencies_are_those_of_the_transitions_of_finished_episodes(n_steps, decay, weights, n_envs):
    options, f = DECAYS[decay]
    options = options(n_envs) | WEIGHTS[weights]
    buffer = make_buffer(n_envs=n_envs, **options)
    # Priorities are set once, and the newest rows come later, at the largest of them
    n_before = n_steps - 5
    fill(buffer, n_before)
    if buffer.prioritized:
        indices = np.arange(buffer.size() * n_envs)
        buffer.update_priorities(indices, 1 + indices % 4)
    fill(buffer, 5, start=n_before)

    def p(step, env):
        priority = 4
        if step < n_before:
            priority = 1 + (step % N_ROWS * n_envs + env) % 4
        return (initial_weight(step, env) if "initial_weights" in options else 1) * (
            priority if buffer.prioritized else 1
        )

    expected = expected_probabilities(n_steps, n_envs, lambda age: f(age, n_envs), p, buffer.uniform_fraction)
    np.random.seed(0)
    batch = buffer.sample(12_000)
    assert_drawn_from(batch.indices, expected)
    steps, envs = assert_fields_match_indices(buffer, batch, n_steps)
    # The real ones alone too: a fifth of the batch, with 4 goals sampled for each
    real = batch.observations["observation"].numpy().astype(int)[:2_400]
    assert_drawn_from(real[:, 0] % N_ROWS * n_envs + real[:, 1], expected)
    terminated = [episode_of(step, env)[1] == step + 1 and step % 2 == 0 for step, env in zip(steps, envs, strict=True)]
    assert np.array_equal(batch.dones.numpy().ravel(), terminated)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("options", [dict(half_life=50), dict(half_life=50, prioritized=True), dict(half_life=INF)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_goals_come_from_the_episode_of_the_transition(strategy, options, n_envs):
    n_steps = 3 * N_ROWS + 17
    buffer = make_buffer(n_envs=n_envs, goal_selection_strategy=strategy, **options)
    fill(buffer, n_steps)
    np.random.seed(1)
    batch = buffer.sample(2_000)
    steps, envs = assert_fields_match_indices(buffer, batch, n_steps)
    goals = batch.observations["desired_goal"].numpy()[:, 0]
    chosen = set()
    for step, env, goal in list(zip(steps, envs, goals, strict=True))[400:]:
        start, end = episode_of(step, env)
        first = {"future": step + 1, "final": end, "episode": start + 1}[strategy]
        assert first <= goal <= end
        chosen.add((step == end - 1, goal - step))
    # Not only the next step, nor always the last one
    assert len(chosen) > 5


@pytest.mark.parametrize("n_sampled_goal", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 32])
def test_real_transitions_come_before_relabelled_ones(batch_size, n_sampled_goal):
    for options in (dict(half_life=20), dict(half_life=20, prioritized=True), dict(half_life=INF)):
        buffer = make_buffer(n_envs=2, n_sampled_goal=n_sampled_goal, **options)
        fill(buffer, 70)
        np.random.seed(2)
        batch = buffer.sample(batch_size)
        assert batch.indices.shape == (batch_size,)
        assert batch.weights.shape == batch.rewards.shape == batch.dones.shape == (batch_size, 1)
        assert_fields_match_indices(buffer, batch, 70)


def test_importance_weights_undo_the_probabilities():
    for weights in WEIGHTS.values():
        buffer = make_buffer(n_envs=3, half_life=30, beta=0.7, **weights)
        fill(buffer, 100)
        p = initial_weight if "initial_weights" in weights else lambda step, env: 1
        expected = expected_probabilities(100, 3, lambda age: 0.5 ** (age / 30), p).reshape(-1)
        np.random.seed(3)
        batch = buffer.sample(64)
        drawn = expected[batch.indices]
        assert batch.weights.numpy().ravel() == pytest.approx((drawn / drawn.min()) ** -0.7, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        dict(half_life=15),
        dict(decay={"linear": {"horizon": 60, "floor": 0.1}}),
        dict(decay={"power_law": {"scale": 10}}),
        dict(half_life=15, prioritized=True),
        dict(decay={"linear": {"horizon": 60}}, initial_weights=lambda obs, *others: np.full(len(others[-1]), 2.0)),
    ],
)
def test_recent_episodes_count_more(options):
    buffer = make_buffer(n_rows=64, **options)
    fill(buffer, 67, length=lambda number, env: 8)
    np.random.seed(4)
    batch = buffer.sample(20_000)
    # The first episode is overwritten in part, the last is not finished
    numbers, counts = np.unique(batch.observations["observation"].numpy()[:, 0] // 8, return_counts=True)
    assert numbers.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (np.diff(counts) > 0).all()
    assert counts[-1] > 2 * counts[0]


@pytest.mark.parametrize("n_envs", [1, 3, 8])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_steps", FILLS.values(), ids=FILLS.keys())
def test_half_life_inf_draws_what_sb3_draws(n_steps, strategy, n_envs):
    batches = []
    for buffer_class, options in [(HerReplayBuffer, {}), (DecayedHerReplayBuffer, dict(half_life=INF))]:
        buffer = make_buffer(buffer_class, n_envs, goal_selection_strategy=strategy, **options)
        fill(buffer, n_steps)
        np.random.seed(5)
        batches.append([buffer.sample(batch_size) for batch_size in (32, 7, 1)])
    for theirs, ours in zip(*batches, strict=True):
        for field in ("observations", "next_observations"):
            assert getattr(ours, field).keys() == getattr(theirs, field).keys()
            for key, value in getattr(theirs, field).items():
                assert th.equal(getattr(ours, field)[key], value)
        for field in ("actions", "dones", "rewards"):
            assert th.equal(getattr(ours, field), getattr(theirs, field))
        assert_fields_match_indices(buffer, ours, n_steps)


@pytest.mark.parametrize("case", UNFINISHED)
def test_draws_are_right_where_nearly_all_probability_lies_on_an_unfinished_episode(case):
    options, f = UNFINISHED[case]
    buffer = make_buffer(**options)
    # 24 steps of finished episodes and then 14 of one that goes on
    fill(buffer, 38, length=one_long_episode_at_the_end)
    if buffer.prioritized:
        buffer.update_priorities(np.arange(38), np.where(np.arange(38) % 3 == 0, 5.0, 1.0))

    def p(step, env):
        if buffer.prioritized:
            return 5 if step % 3 == 0 else 1
        return initial_weight(step, env) if "initial_weights" in options else 1

    expected = expected_probabilities(38, 1, f, p, length=one_long_episode_at_the_end)
    np.random.seed(6)
    indices = np.concatenate([buffer.sample(batch_size).indices for batch_size in (1, 6_000, 3, 6_000)])
    assert len(indices) == 12_004
    assert_drawn_from(indices, expected)
    # The real ones, which come first, are no others
    assert_drawn_from(np.concatenate([buffer.sample(20).indices[:4] for _ in range(500)]), expected)


@pytest.mark.parametrize("options", [dict(), dict(prioritized=True)], ids=["equal weights", "priorities"])
# In double precision 2 ** -1_000 is exact, 2 ** -1_070 has few digits and 2 ** -1_180 is 0
@pytest.mark.parametrize("n_unfinished", [1_000, 1_070, 1_180])
def test_draws_are_right_however_many_half_lives_the_unfinished_episode_is_long(n_unfinished, options):
    buffer = make_buffer(n_rows=1_300, half_life=1, **options)
    fill(buffer, 24 + n_unfinished, length=lambda number, env: 4 if number < 6 else 5_000)
    probabilities = np.zeros(1_300)
    probabilities[:24] = 0.5 ** np.arange(23, -1, -1)
    np.random.seed(10)
    assert_drawn_from(buffer.sample(12_000).indices, probabilities / probabilities.sum())


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer will be truncated")
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("decay", [{"window": {"size": 10}}, {"linear": {"horizon": 10, "floor": 0}}])
def test_a_decay_that_reaches_no_finished_episode_is_refused(decay, weights, n_envs):
    ((name, arguments),) = decay.items()
    arguments = {key: value * n_envs for key, value in arguments.items()}
    buffer = make_buffer(n_envs=n_envs, decay={name: arguments}, **WEIGHTS[weights])
    fill(buffer, 38, length=one_long_episode_at_the_end)
    with pytest.raises(RuntimeError, match=r"before the end of the first episode that counts.*forgets less"):
        buffer.sample(8)
    # Of 10 rows at least one is of a finished episode once this one has ended
    buffer.truncate_last_trajectory()
    assert len(buffer.sample(8).indices) == 8


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("half_life", [0.5, 100, INF])
def test_sampling_before_the_first_episode_has_ended_is_refused(half_life, weights, n_envs):
    buffer = make_buffer(n_envs=n_envs, half_life=half_life, **WEIGHTS[weights])
    for n_steps, start in [(0, 0), (1, 0), (4, 1)]:
        fill(buffer, n_steps, start=start, length=lambda number, env: 6)
        with pytest.raises(RuntimeError, match=r"DecayedHerReplayBuffer cannot be sampled.*raise learning_starts"):
            buffer.sample(4)
    fill(buffer, 1, start=5, length=lambda number, env: 6)
    assert set(buffer.sample(4).indices // n_envs) <= set(range(6))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("half_life", [20, INF])
def test_a_reset_buffer_draws_as_a_new_one(half_life, weights):
    used, new = (make_buffer(n_envs=2, half_life=half_life, **WEIGHTS[weights]) for _ in range(2))
    # In the middle of an episode
    fill(used, 57)
    used.reset()
    with pytest.raises(RuntimeError, match="before the end of the first episode"):
        used.sample(4)
    batches = []
    for buffer in (used, new):
        fill(buffer, 25)
        np.random.seed(9)
        batches.append(buffer.sample(200))
    assert np.array_equal(batches[0].indices, batches[1].indices)
    assert th.equal(batches[0].rewards, batches[1].rewards)


def test_combined_replay_is_refused():
    with pytest.raises(ValueError, match="combined must be False with hindsight replay"):
        make_buffer(combined=True)


def test_decay_in_the_loss_is_refused_when_it_is_set_later_too():
    with pytest.raises(ValueError, match="weighting must be 'sampling' with hindsight replay, got 'loss'"):
        make_buffer(weighting="loss")
    buffer = make_buffer()
    with pytest.raises(ValueError, match="weighting must be 'sampling' with hindsight replay, got 'loss'"):
        buffer.weighting = "loss"
    assert buffer.weighting == "sampling"


def test_n_steps_are_refused():
    with pytest.raises(ValueError, match=r"n_steps must be 1 with hindsight replay, .* got 3"):
        make_buffer(n_steps=3)
    make_buffer(n_steps=1)


def test_reported_probabilities_are_those_of_the_draws():
    buffer = make_buffer(n_envs=3, half_life=20, initial_weights=weigh)
    fill(buffer, 3 * N_ROWS + 17)
    expected = expected_probabilities(3 * N_ROWS + 17, 3, lambda age: 0.5 ** (age / 20), initial_weight)
    assert buffer.sampling_probabilities() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_pickled_buffer_draws_the_same_once_it_has_an_environment(weights):
    buffer = make_buffer(n_envs=2, half_life=25, **WEIGHTS[weights])
    fill(buffer, 90)
    if buffer.prioritized:
        buffer.update_priorities(np.arange(0, 80, 3), np.arange(1, 28))
    loaded = pickle.loads(pickle.dumps(buffer))
    with pytest.raises(AssertionError, match="You must initialize HerReplayBuffer with a VecEnv"):
        loaded.sample(10)
    loaded.set_env(DummyVecEnv([Goals]))
    for start in (90, 103):
        batches = []
        for each in (buffer, loaded):
            np.random.seed(7)
            batches.append(each.sample(200))
            fill(each, 13, start=start)
        assert np.array_equal(batches[0].indices, batches[1].indices)
        assert th.equal(batches[0].rewards, batches[1].rewards)
        assert_fields_match_indices(loaded, batches[1], start)
    assert np.array_equal(buffer.sampling_probabilities(), loaded.sampling_probabilities())


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    "options",
    [
        dict(half_life=30),
        dict(decay={"linear": {"horizon": 100, "floor": 0.1}}, initial_weights={"random": {"seed": 0}}),
        dict(half_life=50, prioritized=True, goal_selection_strategy="final", copy_info_dict=True),
        dict(decay={"ere": {"eta": 0.999, "minimum": 40, "cycle": 10}}, goal_selection_strategy="episode"),
    ],
    ids=["half-life", "linear and random weights", "priorities and final goals", "ere and goals of the episode"],
)
def test_algorithms_train(options, name, n_envs):
    model = make_model(name, n_envs, **options)
    before = parameters(model)
    model.learn(240)
    assert_trained(model, before)
    buffer = model.replay_buffer
    assert buffer.diagnostics().replay_volume > 0
    batch = buffer.sample(40)
    assert (buffer.ep_length.reshape(-1)[batch.indices] > 0).all()
    stored = buffer.observations["observation"].reshape(-1, 4)[batch.indices]
    assert np.array_equal(batch.observations["observation"].numpy(), stored)
    if buffer.prioritized:
        buffer.update_priorities(batch.indices, 1 + np.arange(40))
        model.learn(24)
        assert all(bool(th.isfinite(value).all()) for value in parameters(model).values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_half_life_inf_trains_bit_for_bit_as_sb3(name):
    models = [
        make_model(name, 2, buffer_class, **options)
        for buffer_class, options in [
            (HerReplayBuffer, {}),
            (DecayedHerReplayBuffer, dict(half_life=INF)),
            (DecayedHerReplayBuffer, dict(half_life=20)),
        ]
    ]
    for model in models:
        set_random_seed(0)
        model.learn(240)
    theirs, ours, decayed = (parameters(model) for model in models)
    assert all(th.equal(ours[key], value) for key, value in theirs.items())
    # The comparison can fail: with a decay the parameters end elsewhere
    assert not all(th.equal(decayed[key], value) for key, value in theirs.items())


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer will be truncated")
@pytest.mark.parametrize("name", ["DQN", "SAC"])
def test_training_goes_on_from_a_saved_buffer(name, tmp_path):
    options = dict(half_life=40, prioritized=True, initial_weights={"random": {"seed": 0}})
    model = make_model(name, 2, **options)
    model.learn(200)
    model.replay_buffer.update_priorities(np.arange(0, 120, 3), np.arange(1, 41))
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = ALGORITHMS[name].load(tmp_path / "model", env=bits(name, 2), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    assert type(loaded.replay_buffer) is DecayedHerReplayBuffer
    assert loaded.replay_buffer is not model.replay_buffer
    before = parameters(loaded)
    for each in (model, loaded):
        each.set_random_seed(3)
        # What was drawn for an episode that will not go on stays away from the comparison
        each.replay_buffer.truncate_last_trajectory()
        each.learn(100)
    assert_trained(loaded, before)
    assert all(th.equal(parameters(loaded)[key], value) for key, value in parameters(model).items())
    probabilities = [each.replay_buffer.sampling_probabilities() for each in (model, loaded)]
    assert np.array_equal(*probabilities)
    assert len(np.unique(probabilities[0])) > 50


def test_an_episode_that_was_cut_off_on_loading_can_be_drawn(tmp_path):
    model = make_model("DQN", 1, half_life=5)
    model.learn(102)
    buffer = model.replay_buffer
    unfinished = np.flatnonzero(buffer.ep_length.reshape(-1)[: buffer.pos] == 0)
    assert len(unfinished) > 0
    model.save_replay_buffer(tmp_path / "buffer")
    with pytest.warns(UserWarning, match="The last trajectory in the replay buffer will be truncated"):
        model.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=True)
    np.random.seed(8)
    indices = model.replay_buffer.sample(10_000).indices
    ages = buffer.ages().reshape(-1)
    p = np.where(ages >= 0, 0.5 ** (ages / 5), 0)
    assert_drawn_from(indices, p / p.sum())
    assert set(unfinished) <= set(indices)


def test_a_mixin_that_would_not_relabel_goals_is_refused():
    wrong = "Wrong would not relabel goals: derive it from DecayedHerReplayBuffer"
    with pytest.raises(TypeError, match=wrong) as error:

        class Wrong(DecayedSampling, HerReplayBuffer):
            """Draws by age, but would return transitions with their own goals only."""

    # A refused class, alive as long as its error, must not change what Python knows of the others
    assert not issubclass(DecayedReplayBuffer, HerReplayBuffer)
    assert issubclass(DecayedReplayBuffer, DecayedSampling)
    assert error.tb is not None


def test_a_wrong_order_of_bases_is_refused_when_the_class_is_made():
    class Storing(ReplayBuffer):
        pass

    with pytest.raises(TypeError, match=r"Wrong would not decay: .*write class Wrong\(DecayedSampling, Storing\)"):

        class Wrong(Storing, DecayedSampling):
            pass

    class Right(DecayedSampling, Storing):
        pass

    class Derived(Right, Storing):
        pass

    assert issubclass(Derived, DecayedSampling)
