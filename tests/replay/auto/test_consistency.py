"""Changes of a small world are noticed, and nothing else is mistaken for a change."""

import copy
import pickle

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_reptile import (
    DecayedDictReplayBuffer,
    DecayedHerReplayBuffer,
    DecayedReplayBuffer,
    ReptileDQN,
)
from sb3_reptile.callbacks import HalfLifeSchedule
from sb3_reptile.replay import Exponential, Window
from sb3_reptile.replay.auto import Consistency, Segment, Settings
from sb3_reptile.replay.auto.evidence import FalseAlarmRate

PHASE = 2_000


class World:
    """
    A point in the plane that actions push around, with some noise in the push and a reward for being right of 0.

    :param seed: Seed
    :param kind: Kind of observations and actions
    :param n_envs: Number of copies
    :param noise: Standard deviation of the push, as a share of it
    :param start: Both coordinates at the beginning
    """

    def __init__(self, seed=0, kind="box", n_envs=1, noise=0.0, start=0.0):
        self.generator = np.random.default_rng(seed)
        self.kind, self.n_envs, self.noise = kind, n_envs, noise
        self.position = np.full((n_envs, 2), start)
        self.action_space = spaces.Box(-1, 1, (1,)) if kind == "continuous" else spaces.Discrete(2)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,))
        if kind == "dict":
            self.observation_space = spaces.Dict({"x": spaces.Box(-9, 9, (1,)), "y": spaces.Box(-9, 9, (1,))})
        elif kind == "image":
            self.observation_space = spaces.Box(0, 255, (1, 20, 20), np.uint8)

    def observe(self):
        if self.kind == "dict":
            return {"x": self.position[:, :1].copy(), "y": self.position[:, 1:].copy()}
        if self.kind == "image":
            images = np.zeros((self.n_envs, 1, 20, 20), np.uint8)
            for image, (x, y) in zip(images, self.position, strict=True):
                i, j = int(np.clip(3 * x + 10, 0, 16)), int(np.clip(3 * y + 10, 0, 16))
                image[0, i : i + 4, j : j + 4] = 255
            return images
        return self.position.copy()

    def step(self, sign=1.0, reward_sign=1.0, pull=0.0):
        """
        :param sign: Direction in which actions push; a change of the world changes it
        :param reward_sign: Which side is rewarded; a change of the world changes it
        :param pull: How strongly the policy keeps the point near 0
        :return: The arguments of ``add()``
        """
        obs = self.observe()
        wants_left = self.generator.random(self.n_envs) < 0.5 + pull * np.sign(self.position[:, 0])
        push = np.where(wants_left, -0.3, 0.3) * (1 + self.noise * self.generator.standard_normal(self.n_envs))
        angle = self.generator.random(self.n_envs) * 0.2
        self.position = 0.95 * self.position + sign * np.stack([push, 0.5 * push + 0.2 * (angle - 0.1)], axis=1)
        action = np.where(wants_left, 0, 1)[:, None]
        if self.kind == "continuous":
            action = (push / 0.5)[:, None]
        reward = reward_sign * np.sign(self.position[:, 0])
        return obs, self.observe(), action, reward, np.zeros(self.n_envs), [{}] * self.n_envs


def make_buffer(world, rows=10_000, **kwargs):
    buffer_class = DecayedDictReplayBuffer if world.kind == "dict" else DecayedReplayBuffer
    kwargs = {"half_life": "auto", **kwargs}
    return buffer_class(
        rows * world.n_envs, world.observation_space, world.action_space, "cpu", n_envs=world.n_envs, **kwargs
    )


def live(buffer, world, n_transitions, **changed):
    for _ in range(n_transitions // world.n_envs):
        buffer.add(*world.step(**changed))
    return buffer


def share_of_rows(buffer, first, last):
    """Share of the samples that are transitions number ``first`` to ``last - 1``."""
    newest = buffer.distribution.rows_added * buffer.n_envs
    ages = buffer.ages()
    inside = (ages < newest - first) & (ages >= newest - last) & (ages >= 0)
    return buffer.sampling_probabilities()[inside].sum()


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("kind", ["box", "continuous", "dict", "image"])
def test_outdated_transitions_are_not_replayed_soon_after_a_change(kind, n_envs):
    world = World(kind=kind, n_envs=n_envs)
    buffer = live(make_buffer(world, decay=Window(1e9)), world, PHASE)
    assert buffer.consistency.changes == []
    assert share_of_rows(buffer, 0, PHASE // 2) == pytest.approx(0.5, abs=0.01)
    live(buffer, world, 400, sign=-1)
    (change,) = buffer.consistency.changes
    assert 0 < change.noticed_at - PHASE <= 320
    assert abs(change.happened_at - PHASE) <= 160
    assert buffer.consistency.regime == change.regime == 1
    # 400 of 2,400 transitions, nearly all of the draws
    assert share_of_rows(buffer, PHASE, PHASE + 400) > 0.9


def test_the_present_begins_with_the_change():
    world = World()
    buffer = live(make_buffer(world), world, PHASE)
    while not buffer.consistency.changes:
        live(buffer, world, 1, sign=-1)
    assert buffer.consistency.present.rows.min() >= buffer.consistency.changes[0].happened_at > PHASE - 100


def test_a_changed_reward_is_noticed_too():
    world = World()
    buffer = live(make_buffer(world), world, PHASE)
    live(buffer, world, 400, reward_sign=-1)
    assert len(buffer.consistency.changes) == 1


def test_an_old_regime_comes_back_with_its_experience_and_its_clock():
    world = World()
    buffer = live(make_buffer(world, decay=Window(1_500)), world, PHASE)
    live(buffer, world, PHASE, sign=-1)
    assert share_of_rows(buffer, 0, PHASE) == pytest.approx(0, abs=0.01)
    live(buffer, world, 500)
    assert [change.regime for change in buffer.consistency.changes] == [1, 0]
    assert buffer.consistency.regime == 0
    # The time in between does not count: of the newest 1,500 transitions of the regime 500 are new and 1,000 old
    assert share_of_rows(buffer, PHASE, 2 * PHASE) == pytest.approx(0, abs=0.05)
    assert share_of_rows(buffer, 0, PHASE) == pytest.approx(2 / 3, abs=0.1)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_another_policy_is_not_mistaken_for_a_change(noise):
    world = World(noise=noise)
    buffer = make_buffer(world)
    for pull in (0.2, -0.1, -0.4, 0.45, -0.5, 0.0):
        live(buffer, world, 1_500, pull=pull)
    assert buffer.consistency.changes == []
    assert buffer.consistency.mean() > 0.95


def test_gradual_drift_makes_old_segments_less_consistent_than_recent_ones():
    world = World()
    buffer = make_buffer(world)
    for sign in np.linspace(1, -1, 200):
        live(buffer, world, 40, sign=sign)
    consistencies = buffer.consistency.consistencies
    assert consistencies[: len(consistencies) // 2].mean() < 0.2
    assert consistencies[-2:].mean() > 0.9


def test_segments_that_have_left_the_buffer_are_forgotten():
    world = World()
    buffer = live(make_buffer(world, rows=1_000), world, 5_000)
    starts = buffer.consistency.starts
    assert starts[1] > 4_000 - 2
    assert len(starts) <= 4
    assert buffer.sampling_probabilities().sum() == pytest.approx(1)


def test_the_number_of_segments_is_bounded():
    world = World()
    buffer = live(make_buffer(world, rows=30_000), world, 20_000)
    consistency = buffer.consistency
    assert len(consistency.segments) == consistency.settings.max_segments
    assert all(len(segment.sample.rows) <= consistency.settings.sample_size for segment in consistency.segments)
    assert consistency.starts[0] == 0
    assert (np.diff(consistency.starts) > 0).all()


def test_draws_and_weights_are_exactly_those_of_the_segments():
    world = World(n_envs=2)
    buffer = live(make_buffer(world, rows=1_500, decay={"linear": {"horizon": 900, "floor": 0.2}}), world, 2_400)
    live(buffer, world, 300, sign=-1)
    consistency = buffer.consistency
    assert consistency.consistencies.min() < 0.5
    # Row by row, from the newest to the oldest
    expected, clock, row = np.zeros((buffer.buffer_size, 2)), 0.0, buffer.distribution.rows_added - 1
    for first, c in zip(consistency.starts[::-1], consistency.consistencies[::-1], strict=True):
        start, length = round(clock), 0
        while row >= max(first, buffer.distribution.rows_added - buffer.size()):
            expected[row % buffer.buffer_size] = c * max(0.2, 1 - 2 * (start + length) / 900)
            row, length = row - 1, length + 1
        clock += c * length
    expected /= expected.sum()
    np.testing.assert_allclose(buffer.sampling_probabilities(), expected, rtol=1e-9)
    np.random.seed(0)
    indices = np.concatenate([buffer.sample(1_000).indices for _ in range(200)])
    counts = np.bincount(indices, minlength=expected.size)
    of_draws = expected.reshape(-1) * len(indices)
    enough = of_draws > 5
    statistic = ((counts - of_draws)[enough] ** 2 / of_draws[enough]).sum()
    assert statistic < enough.sum() + 5 * np.sqrt(2 * enough.sum())


def test_priorities_multiply_consistency():
    world = World()
    buffer = live(make_buffer(world, rows=3_000, prioritized=True, decay=Window(1e9)), world, PHASE)
    live(buffer, world, 400, sign=-1)
    unprioritized = buffer.sampling_probabilities().copy()
    priorities = np.random.default_rng(0).random(buffer.size()) + 0.1
    buffer.update_priorities(np.arange(buffer.size()), priorities)
    expected = unprioritized[: buffer.size(), 0] * priorities
    expected /= expected.sum()
    np.testing.assert_allclose(buffer.sampling_probabilities()[: buffer.size(), 0], expected, rtol=1e-9)
    counts = np.bincount(np.concatenate([buffer.sample(1_000).indices for _ in range(50)]), minlength=len(expected))
    new = slice(PHASE, None)
    assert counts[new].sum() / counts.sum() == pytest.approx(expected[new].sum(), abs=0.01)


@pytest.mark.parametrize("half_life", [float("inf"), 300.0])
def test_draws_are_those_without_consistency_while_nothing_changes(half_life):
    batches = []
    for arguments in (
        {"half_life": half_life},
        {"half_life": "auto", "decay": {"exponential": {"half_life": half_life}}},
    ):
        world = World(seed=1)
        buffer = live(make_buffer(world, rows=1_000, **arguments), world, 2_500)
        np.random.seed(3)
        batches.append(buffer.sample(5_000).indices)
    np.testing.assert_array_equal(*batches)


class Alarming(Consistency):
    """Notices a change at every opportunity."""

    def _notice_change(self):
        self._begin_regime(self.rows_seen - 3)


def adversarial_streams():
    generator = np.random.default_rng(0)
    yield "constant", lambda i: (np.zeros(3), 1.0)
    yield "huge", lambda i: (generator.standard_normal(3) * 1e300, generator.standard_normal() * 1e37)
    yield "largest single precision", lambda i: (np.full(3, 3.4e38) * (-1) ** i, 3.4e38)
    yield "one jump", lambda i: (np.full(3, 0.0 if i < 1_000 else 1e9), 0.0)
    yield "another world at each step", lambda i: (generator.standard_normal(3) * 10 ** (i % 9), float(i % 7))
    yield "three states", lambda i: (np.eye(3)[i % 3], float(i % 3))


@pytest.mark.parametrize("always_alarmed", [False, True])
@pytest.mark.parametrize("name", [name for name, _ in adversarial_streams()])
def test_no_stream_leaves_the_sampler_without_transitions(name, always_alarmed):
    outcome = dict(adversarial_streams())[name]
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    buffer = DecayedReplayBuffer(700, space, spaces.Discrete(2), "cpu", half_life="auto")
    if always_alarmed:
        buffer._consistency = Alarming(space, buffer.action_space, 1)
    observation, _ = outcome(0)
    for i in range(2_000):
        following, reward = outcome(i + 1)
        buffer.add(observation, following, np.array([i % 2]), reward, False, [{}])
        observation = following
        if i % 97 == 0:
            indices = buffer.sample(64).indices
            assert indices.min() >= 0
            assert indices.max() < buffer.size()
            probabilities = buffer.sampling_probabilities()
            assert probabilities.sum() == pytest.approx(1)
            assert probabilities[(buffer.pos - 1) % 700] > 0
    assert np.isfinite(list(buffer.log_values().values())).all()
    assert len(buffer.consistency.changes) > 0 or not always_alarmed


def pickled(buffer, folder):
    return pickle.loads(pickle.dumps(buffer))


def saved(buffer, folder):
    buffer.save(folder)
    return type(buffer).load(folder, "cpu")


@pytest.mark.parametrize("save", [pickled, saved])
@pytest.mark.parametrize("n_before", [20, 300, PHASE + 115])
def test_a_saved_buffer_continues_like_the_original(save, n_before, tmp_path):
    world = World()
    buffer = live(make_buffer(world, decay=Window(1_500)), world, min(PHASE, n_before))
    live(buffer, world, max(n_before - PHASE, 0), sign=-1)
    loaded = save(buffer, tmp_path / "buffer")
    np.testing.assert_array_equal(loaded.sampling_probabilities(), buffer.sampling_probabilities())
    for one in (buffer, loaded):
        live(one, World(seed=5), 1_000, sign=-1)
        live(one, World(seed=6), 1_000)
    assert loaded.consistency.changes == buffer.consistency.changes != []
    np.testing.assert_array_equal(loaded.sampling_probabilities(), buffer.sampling_probabilities())


def test_reset_forgets_regimes_too():
    world = World()
    buffer = live(make_buffer(world), world, PHASE)
    live(buffer, world, 400, sign=-1)
    buffer.reset()
    assert buffer.consistency.changes == []
    assert len(buffer.consistency.segments) == 1
    live(buffer, world, 50)
    assert buffer.sample(8).indices.max() < 50


def test_terminal_observations_that_are_overwritten_are_left_out():
    """With optimize_memory_usage the next observation of a last step is the first of the next episode."""
    world = World()
    buffer = make_buffer(world, optimize_memory_usage=True, handle_timeout_termination=False)
    for i in range(2_000):
        obs, next_obs, action, reward, _, infos = world.step()
        done = i % 10 == 9
        buffer.add(obs, next_obs, action, reward, np.array([done]), infos)
        if done:
            world.position = world.generator.standard_normal((1, 2)) * 2
    assert len(buffer.consistency.present.rows) == buffer.consistency.settings.present_size
    assert not (buffer.consistency.present.rows % 10 == 9).any()
    assert buffer.consistency.changes == []


@pytest.mark.parametrize("algorithm", [ReptileDQN, DQN, QRDQN, SAC, TD3, TQC])
def test_one_option_switches_it_on(algorithm):
    env = "Pendulum-v1" if algorithm in (SAC, TD3, TQC) else "CartPole-v1"
    arguments = {"replay_buffer_class": DecayedReplayBuffer, "replay_buffer_kwargs": {"half_life": "auto"}}
    if algorithm is ReptileDQN:
        arguments = {"half_life": "auto"}
    model = algorithm("MlpPolicy", env, learning_starts=290, seed=0, policy_kwargs={"net_arch": [8]}, **arguments)
    model.learn(300)
    assert model.replay_buffer.consistency.model is not None


def test_n_step_returns_and_priorities_go_with_it():
    model = ReptileDQN(
        "MlpPolicy", "CartPole-v1", half_life="auto", n_steps=3, priority="td_error", learning_starts=290, seed=0
    )
    model.learn(320)
    assert model.replay_buffer.n_steps == 3
    assert model.replay_buffer.consistency.rows_seen == 320


def test_hindsight_replay_goes_with_it():
    env = BitFlippingEnv(n_bits=4, continuous=False, max_steps=8)
    model = DQN(
        "MultiInputPolicy",
        env,
        replay_buffer_class=DecayedHerReplayBuffer,
        replay_buffer_kwargs={"half_life": "auto", "n_sampled_goal": 2},
        learning_starts=300,
        seed=0,
    )
    model.learn(400)
    assert model.replay_buffer.consistency.model is not None
    assert model.replay_buffer.sampling_probabilities().sum() == pytest.approx(1)


def test_a_schedule_sets_the_half_life_within_the_regime():
    model = ReptileDQN("MlpPolicy", "CartPole-v1", half_life="auto", learning_starts=10, seed=0)
    model.learn(40, callback=HalfLifeSchedule(lambda progress: 70.0))
    assert model.half_life == "auto"
    assert model.replay_buffer.decay == Exponential(70.0)
    assert model.replay_buffer.consistency.rows_seen == 32


def test_a_saved_model_takes_its_replay_buffer_up_again(tmp_path):
    model = ReptileDQN("MlpPolicy", "CartPole-v1", half_life="auto", learning_starts=10, seed=0)
    model.learn(300)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = ReptileDQN.load(tmp_path / "model", env=model.get_env())
    assert loaded.half_life == "auto"
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.consistency.rows_seen == 288
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.replay_buffer.consistency.rows_seen == 384


def test_regime_alarms_and_consistency_are_logged(tmp_path):
    model = ReptileDQN("MlpPolicy", "CartPole-v1", half_life="auto", learning_starts=10, seed=0)
    model.learn(300)
    model.dump_logs()
    values = model.replay_buffer.log_values()
    assert values["replay/regime"] == 0
    assert values["replay/alarms"] == 0
    assert values["replay/consistency"] == 1
    assert 0 < values["replay/effective_half_life"] < 300
    assert "replay/half_life" not in values


@pytest.mark.parametrize("wrong", ["automatic", "", "1e3"])
def test_other_words_are_refused(wrong):
    with pytest.raises(TypeError, match="half_life must be a number"):
        DecayedReplayBuffer(10, spaces.Discrete(2), spaces.Discrete(2), half_life=wrong)


def test_an_old_regime_without_comparable_transitions_is_not_recognized():
    world = World()
    buffer = live(make_buffer(world), world, PHASE)
    live(buffer, world, 200, sign=-1)
    for elapsed in range(0, 300, 30):
        # Far away from all that was stored
        live(buffer, World(seed=1, start=80.0), 30)
        if elapsed == 60:
            # As if all old segments were consistent
            for segment in buffer.consistency.segments[:-1]:
                segment.cusum[:] = 0
    assert buffer.consistency.consistencies.min() == 1
    assert buffer.consistency.regime == 1


def test_a_regime_that_has_lasted_is_not_mistaken_for_an_older_one_when_the_next_change_begins():
    world = World()
    buffer = live(make_buffer(world), world, PHASE)
    live(buffer, world, PHASE, sign=-1)
    live(buffer, world, 3 * PHASE)
    for segment in buffer.consistency.segments:
        if segment.regime == 1:  # as in the first steps after a change back to it, with false confirmations
            segment.cusum[:] = 0
            segment.confirmations = 1_000
    assert [change.regime for change in buffer.consistency.changes] == [1, 0]
    live(buffer, world, 400, sign=-1)
    assert [change.regime for change in buffer.consistency.changes] == [1, 0, 1]


def old_pickle_state(consistency):
    """The attributes that a Consistency had before there were settings."""
    state = {name: value for name, value in vars(consistency).items() if name not in ("settings", "_neighbours")}
    state["generator"] = consistency.segments.generator
    state["accidents"] = state.pop("false_alarm_rate").rates[0]
    segments = []
    for segment in consistency.segments:
        attributes = dict(vars(segment))
        attributes["first"], attributes["sums"] = attributes.pop("start"), attributes.pop("cusum")
        segments.append(set_state(Segment, attributes))
    state["segments"] = segments
    for name in ("embedding", "model"):
        if state[name] is not None:
            attributes = {key: value for key, value in vars(state[name]).items() if key != "settings"}
            state[name] = set_state(type(state[name]), attributes)
    if consistency.model is not None:
        state |= {"_present": None, "_places": None, "_residuals": None}
    return copy.deepcopy(state)


def set_state(cls, attributes):
    made = object.__new__(cls)
    made.__setstate__(attributes)
    return made


def assert_equal_states(one, other):
    (arrays, values), (other_arrays, other_values) = one.state(), other.state()
    assert values == other_values
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name])


@pytest.mark.parametrize("n_before", [20, 300, PHASE + 115])
def test_pickles_from_before_there_were_settings_load(n_before):
    world = World()
    buffer = live(make_buffer(world), world, min(PHASE, n_before))
    live(buffer, world, max(n_before - PHASE, 0), sign=-1)
    # They had one estimate for near and far situations
    rates = buffer.consistency.false_alarm_rate.rates
    buffer.consistency.false_alarm_rate = FalseAlarmRate.saved(rates[0], None, Settings())
    loaded = set_state(Consistency, old_pickle_state(buffer.consistency))
    assert loaded.settings == Settings()
    assert not vars(loaded).keys() & {"accidents", "generator", "_present", "_places", "_residuals"}
    assert all(vars(segment).keys() == vars(buffer.consistency.segments[0]).keys() for segment in loaded.segments)
    assert_equal_states(loaded, buffer.consistency)
    original = buffer.consistency
    for consistency in (original, loaded):
        buffer._consistency = consistency
        buffer.pos = buffer.distribution.rows_added = n_before
        live(buffer, World(seed=5), 1_000, sign=-1)
        live(buffer, World(seed=6), 500)
    assert loaded.changes
    assert_equal_states(loaded, original)


def test_names_in_files_stay_as_they_are():
    """Folders saved by earlier versions have these names."""
    world = World()
    arrays, values = live(make_buffer(world), world, 300).consistency.state()
    samples = {f"sample_{name}" for name in ("rows", "features", "groups", "outcomes", "sizes")}
    model = {f"model_{name}" for name in ("center", "scale", "spread", "coefficients")}
    numbers = {"accidents", "accident_counts", "first", "regime", "agreed_at", "confirmations", "sums"}
    assert arrays.keys() == samples | model | numbers
    assert values.keys() == {"rows_seen", "chunks_seen", "n_regimes", "next_model", "changes", "generator"}


def test_settings_reach_every_part():
    world = World()
    settings = Settings(chunk_size=16, warm_up=64, sample_size=20, present_size=50, max_segments=3, segment_size=100)
    buffer = make_buffer(world)
    buffer._consistency = Consistency(world.observation_space, world.action_space, 1, settings)
    live(buffer, world, 16 * 50)
    consistency = buffer.consistency
    assert consistency.rows_per_chunk == 16
    assert consistency.rows_seen == 16 * 50
    assert len(consistency.segments) == 3
    assert max(len(segment.sample.rows) for segment in consistency.segments) == 20
    assert len(consistency.present.rows) == 50
    assert {consistency.embedding.settings, consistency.model.settings, consistency.segments.settings} == {settings}


def test_the_row_of_the_last_change_is_known():
    world = World(n_envs=4)
    buffer = live(make_buffer(world), world, PHASE)
    assert buffer.consistency.last_change is None
    live(buffer, world, 400, sign=-1)
    assert buffer.consistency.last_change == buffer.consistency.changes[-1].happened_at // 4
    assert buffer.consistency.last_change == buffer.consistency.starts[buffer.consistency.starts > 450][0]


@pytest.mark.parametrize("n_envs", [1, 3])
def test_auto_learns_with_many_states_and_actions_at_a_fixed_cost(n_envs):
    space, actions = spaces.MultiDiscrete([10**6, 40], start=[7, -3]), spaces.Discrete(10**6, start=2)
    buffer = DecayedReplayBuffer(1_200, space, actions, device="cpu", n_envs=n_envs, half_life="auto")
    generator = np.random.default_rng(0)
    places = np.array([[7, -3], [10**6 + 6, 36], [500_000, 0]])
    for step in range(1_200 // n_envs):
        visited = generator.integers(3, size=n_envs)
        chosen = generator.integers(2, size=n_envs)
        # Rewards swap in the middle
        rewards = (chosen == (step >= 600 // n_envs)).astype(float) + 0.1 * visited
        done, infos = np.zeros(n_envs), [{}] * n_envs
        buffer.add(places[visited], places[(visited + 1) % 3], 2 + 999_000 * chosen, rewards, done, infos)
    assert [abs(change.happened_at - 600) < 200 for change in buffer.consistency.changes] == [True]
    assert buffer.sample(8).observations.shape == (8, 2)


def test_a_state_from_before_categories_were_hashed_is_learned_from_scratch():
    one = Consistency(spaces.Discrete(3_000), spaces.Discrete(2), 1)
    arrays, values = one.state()
    arrays["sample_features"] = np.zeros((0, 33))
    values["rows_seen"] = 5_000
    one.set_state(arrays, values)
    assert one.rows_seen == 5_000
    assert one.next_model == 5_000 + one.settings.warm_up
    assert one.starts.tolist() == [0]


@pytest.mark.parametrize(
    ("size", "n_envs", "optimize_memory_usage"),
    # A memory-optimised buffer needs two rows to hold one
    [
        *((size, n_envs, False) for size in (1, 10, 31, 32, 40) for n_envs in (1, 8)),
        *((size, n_envs, True) for size in (31, 32, 40) for n_envs in (1, 8)),
        (2, 1, True),
    ],
)
def test_each_transition_is_compared_once_however_small_the_buffer_is(size, n_envs, optimize_memory_usage):
    space, generator, n = spaces.Box(-9, 9, (2,)), np.random.default_rng(0), 200
    buffer = DecayedReplayBuffer(
        size,
        space,
        spaces.Discrete(2),
        n_envs=n_envs,
        half_life="auto",
        optimize_memory_usage=optimize_memory_usage,
        handle_timeout_termination=not optimize_memory_usage,
    )
    seen, observe = [], buffer.consistency.observe
    buffer.consistency.observe = lambda *rows: (seen.append(rows), observe(*rows))
    observations = generator.random((n + 1, n_envs, 2)).astype(np.float32)
    rewards = generator.random((n, n_envs)).astype(np.float32)
    for row in range(n):
        obs, next_obs = observations[row : row + 2]
        buffer.add(obs, next_obs, np.zeros((n_envs, 1)), rewards[row], np.zeros(n_envs), [{}] * n_envs)
    obs, _, reward, next_obs, is_known, _ = (np.concatenate(parts) for parts in zip(*map(as_arrays, seen), strict=True))
    assert len(obs) == n // buffer.consistency.rows_per_chunk * buffer.consistency.rows_per_chunk
    np.testing.assert_array_equal(obs, observations[: len(obs)])
    np.testing.assert_array_equal(next_obs, observations[1 : len(obs) + 1])
    np.testing.assert_array_equal(reward, rewards[: len(obs)])
    assert is_known.all()


def as_arrays(rows):
    return [np.array(part, copy=True, ndmin=1) for part in rows]


def test_steps_without_a_known_next_observation_are_not_compared():
    """Episodes of one step in a memory-optimised buffer: each next observation is overwritten by the next episode."""
    buffer = DecayedReplayBuffer(
        2_000,
        spaces.Box(-1, 1, (3,)),
        spaces.Discrete(2),
        half_life="auto",
        optimize_memory_usage=True,
        handle_timeout_termination=False,
    )
    generator, observations = np.random.default_rng(0), np.random.default_rng(1).random((801, 1, 3), dtype=np.float32)
    for row in range(800):
        # From the 600th on, episodes have two steps
        is_last = row < 600 or row % 2 == 1
        next_obs = generator.random((1, 3), dtype=np.float32) if is_last else observations[row + 1]
        buffer.add(observations[row], next_obs, np.zeros((1, 1)), np.ones(1), np.array([is_last]), [{}])
        if row == 599:
            assert buffer.consistency.model is None
    assert buffer.consistency.model is not None
    assert buffer.consistency.changes == []


@pytest.mark.parametrize("seed", [1, 4, 6])
def test_a_change_is_placed_where_it_was_though_an_older_regime_had_come_back(seed):
    generator = np.random.default_rng(seed)
    space = spaces.Box(-9, 9, (2,))
    buffer = DecayedReplayBuffer(4_000, space, spaces.Discrete(2), half_life="auto")
    sign, next_change, changes, obs = 1, 700, [], generator.normal(size=(1, 2)).astype(np.float32)
    for row in range(9_000):
        if row == next_change:
            sign, next_change = -sign, row + int(generator.integers(150, 1_500))
            changes.append(row)
        next_obs = np.clip(obs * 0.9 + generator.normal(size=(1, 2)) * 0.2, -9, 9).astype(np.float32)
        action = generator.integers(0, 2, 1)
        buffer.add(obs, next_obs, action, sign * (action * 2 - 1.0) + obs[0, :1], np.zeros(1), [{}])
        obs = next_obs
    noticed = buffer.consistency.changes
    assert len(noticed) > 0.6 * len(changes)
    happened_at = np.array([change.happened_at for change in noticed])
    # No alarm creeps along with the former one
    assert np.diff(happened_at).min() > 32
    errors = np.abs(np.array(changes)[:, None] - happened_at).min(axis=0)
    assert np.median(errors) < 130


@pytest.mark.parametrize("n_envs", [4, 8])
def test_transitions_of_all_environments_are_compared_in_turn(n_envs, monkeypatch):
    consistency = Consistency(spaces.Box(-9, 9, (1,)), spaces.Discrete(2), n_envs)
    compared, compare = [], consistency._compare
    monkeypatch.setattr(consistency, "_compare", lambda new: (compared.append(new.places[:, 0]), compare(new)))
    n_rows = consistency.rows_per_chunk
    # Each environment has one observation
    obs = np.tile(np.arange(n_envs, dtype=float)[None, :, None], (n_rows, 1, 1))
    for _ in range(20):
        known = np.ones((n_rows, n_envs), bool)
        consistency.observe(obs, np.zeros((n_rows, n_envs, 1)), np.zeros((n_rows, n_envs)), obs, known, 0)
    in_turn = compared[: consistency.settings.compare_every]
    assert len(np.unique(np.concatenate(in_turn).round(6))) == n_envs
