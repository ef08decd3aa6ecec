"""ReptileDQN: SB3's DQN when it does not decay, and everything that SB3's users do with a model."""

import inspect
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_reptile import (
    DecayedDictReplayBuffer,
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    DecayedSampling,
    ReptileDQN,
)
from sb3_reptile.callbacks import HalfLifeSchedule
from sb3_reptile.envs import DiscreteActions
from sb3_reptile.replay import taking_over
from sb3_reptile.replay.decay import DEFAULT_DECAY, Exponential, PowerLaw, make_decay
from sb3_reptile.replay.persistence import arguments_of
from tests.conftest import INF, Written, assert_same_parameters, cartpole, small

WINDOW = {"window": {"size": 50}}


def of_buffer(**options):
    return dict(replay_buffer_kwargs=options)


def differ(ours, theirs):
    theirs = theirs.get_parameters()["policy"]
    return any(not th.equal(value, theirs[key]) for key, value in ours.get_parameters()["policy"].items())


def test_one_step_and_half_life_inf_is_bitwise_dqn():
    reference = DQN("MlpPolicy", "CartPole-v1", seed=1, device="cpu").learn(5_000)
    ours = ReptileDQN("MlpPolicy", "CartPole-v1", seed=1, device="cpu", half_life=INF, n_steps=1).learn(5_000)
    assert_same_parameters(ours, reference)
    plugged_in = DQN(
        "MlpPolicy",
        "CartPole-v1",
        seed=1,
        device="cpu",
        replay_buffer_class=DecayedReplayBuffer,
        replay_buffer_kwargs=dict(half_life=INF),
    ).learn(5_000)
    assert_same_parameters(plugged_in, reference)
    # The comparison can fail: with a decay, or with λ-returns, the parameters end elsewhere
    for kwargs in (dict(half_life=None, n_steps=1), dict(half_life=INF)):
        assert differ(ReptileDQN("MlpPolicy", "CartPole-v1", seed=1, device="cpu", **kwargs).learn(5_000), reference)


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(n_steps=3),
        dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
    ],
    ids=["plain", "n-step", "memory-optimised"],
)
def test_half_life_inf_is_bitwise_dqn_in_every_variant(kwargs, normalize, n_envs):
    models = [
        model_class("MlpPolicy", cartpole(n_envs, normalize), **small(**kwargs), **decay).learn(1_000)
        for model_class, decay in [(ReptileDQN, dict(half_life=INF)), (DQN, {})]
    ]
    assert_same_parameters(*models)


def images():
    env = FakeImageEnv(screen_height=40, screen_width=40)
    env.observation_space.seed(0)  # it draws its observations from there
    return env


@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("CnnPolicy", images),
        ("MultiInputPolicy", lambda: SimpleMultiObsEnv(random_start=False)),
    ],
    ids=["images", "Dict"],
)
def test_half_life_inf_is_bitwise_dqn_with_images_and_dict_observations(policy, env):
    models = []
    for model_class, decay in [(ReptileDQN, dict(half_life=INF)), (DQN, {})]:
        wrapped = DummyVecEnv([env])
        wrapped.seed(0)
        models.append(model_class(policy, wrapped, **small(buffer_size=300), **decay).learn(120))
    assert_same_parameters(*models)


def test_arguments_are_those_of_dqn_and_then_ours():
    ours, theirs = (inspect.signature(model_class.__init__).parameters for model_class in (ReptileDQN, DQN))
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == (None if name == "n_steps" else parameter.default)
        assert ours[name].kind == parameter.kind
    added = {name: ours[name].default for name in list(ours)[len(theirs) :]}
    assert added == dict(
        half_life="auto",
        weighting="sampling",
        priority=None,
        alpha=0.6,
        beta=0.4,
        loss="huber",
        double_q=False,
        pretrained=None,
        transfer=None,
        learner="auto",
        q_lambda=None,
    )


@pytest.mark.parametrize(
    ("policy", "env"), [("MlpPolicy", "CartPole-v1"), ("MultiInputPolicy", SimpleMultiObsEnv)], ids=["Box", "Dict"]
)
@pytest.mark.parametrize("n_envs", [1, 8])
def test_by_default_what_still_holds_is_learned_from_by_mixed_returns_of_ten_steps(policy, env, n_envs, tmp_path):
    vec_env = make_vec_env(env, n_envs=n_envs, seed=0)
    model = ReptileDQN(policy, vec_env, learning_starts=50, seed=0, device="cpu", buffer_size=2_000).learn(200)
    assert (model.half_life, model.n_steps, model.q_lambda) == ("auto", 10, 0.7)
    assert model.replay_buffer.n_steps == 10
    assert model.replay_buffer.consistency is not None
    assert model.replay_buffer.decay == DEFAULT_DECAY
    spelled = dict(half_life="auto", n_steps=10, q_lambda=0.7, replay_buffer_kwargs=dict(decay=DEFAULT_DECAY))
    vec_env.seed(0)
    same = ReptileDQN(policy, vec_env, learning_starts=50, seed=0, device="cpu", buffer_size=2_000, **spelled)
    assert_same_parameters(same.learn(200), model)
    model.save(tmp_path / "model")
    loaded = ReptileDQN.load(tmp_path / "model")
    assert (loaded.half_life, loaded.n_steps, loaded.q_lambda) == ("auto", 10, 0.7)


def test_steps_that_are_given_are_those_of_sb3_unless_they_are_mixed():
    for n_steps in (1, 3):
        model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=n_steps))
        assert (model.n_steps, model.q_lambda) == (n_steps, 1)
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=None, replay_buffer_kwargs=dict(n_steps=3)))
    assert (model.n_steps, model.q_lambda) == (3, 1)
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=None), q_lambda=0.5)
    assert (model.n_steps, model.q_lambda) == (10, 0.5)


@pytest.mark.filterwarnings("ignore:`half_life=auto` is ignored")
def test_where_the_buffer_has_no_multi_step_returns_one_step_is_the_default():
    model = ReptileDQN(
        "MlpPolicy", "CartPole-v1", learning_starts=50, replay_buffer_class=ReplayBuffer, device="cpu"
    ).learn(100)
    assert (model.n_steps, model.q_lambda) == (1, 1)


@pytest.mark.parametrize("given", [dict(n_steps=3), dict(q_lambda=0.5)], ids=str)
def test_files_from_before_these_defaults_keep_what_they_had(given, tmp_path):
    """DQN's files, and those of ReptileDQN that have no λ."""
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=3, half_life=None))
    del model.q_lambda
    model.save(tmp_path / "model")
    loaded = ReptileDQN.load(tmp_path / "model")
    assert (loaded.n_steps, loaded.q_lambda, loaded.half_life) == (3, 1, None)
    assert loaded.replay_buffer.consistency is None
    assert ReptileDQN.load(tmp_path / "model", **given).q_lambda == given.get("q_lambda", 1)


@pytest.mark.parametrize(
    ("policy", "env", "kwargs", "buffer_class"),
    [
        ("MlpPolicy", "CartPole-v1", {}, DecayedReplayBuffer),
        ("MlpPolicy", "CartPole-v1", dict(n_steps=4), DecayedReplayBuffer),
        ("MultiInputPolicy", SimpleMultiObsEnv(), dict(n_steps=4), DecayedDictReplayBuffer),
    ],
)
def test_the_decayed_buffer_is_selected(policy, env, kwargs, buffer_class, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ReptileDQN(policy, env, **small(half_life=77, **kwargs))
        assert type(model.replay_buffer) is buffer_class
        assert model.replay_buffer.half_life == 77
        if "n_steps" in kwargs:
            assert model.replay_buffer.n_steps == 4
            assert model.replay_buffer.gamma == model.gamma
        model.save(tmp_path / "model")
        loaded = ReptileDQN.load(tmp_path / "model")
        assert type(loaded.replay_buffer) is buffer_class
        assert loaded.replay_buffer.half_life == 77


def test_n_steps_leaves_the_kwargs_that_were_passed_alone():
    kwargs = dict(uniform_fraction=0.1)
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=3, replay_buffer_kwargs=kwargs))
    assert kwargs == dict(uniform_fraction=0.1)
    assert model.replay_buffer.uniform_fraction == 0.1


class MyNStepReplayBuffer(DecayedNStepReplayBuffer):
    pass


class SB3NStep(DecayedSampling, NStepReplayBuffer):
    pass


@pytest.mark.parametrize("buffer_class", [MyNStepReplayBuffer, DecayedNStepReplayBuffer, SB3NStep, NStepReplayBuffer])
@pytest.mark.filterwarnings("ignore:`half_life=auto` is ignored")
def test_gamma_and_n_steps_reach_any_buffer_with_n_step_returns(buffer_class, tmp_path):
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=5, gamma=0.9, replay_buffer_class=buffer_class))
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (5, 0.9)
    model.save(tmp_path / "model")
    loaded = ReptileDQN.load(tmp_path / "model")
    assert (loaded.replay_buffer.n_steps, loaded.replay_buffer.gamma, loaded.n_steps) == (5, 0.9, 5)


@pytest.mark.parametrize("buffer_class", [DecayedNStepReplayBuffer, NStepReplayBuffer])
@pytest.mark.filterwarnings("ignore:`half_life=auto` is ignored")
def test_n_steps_of_1_is_taken_and_without_n_steps_sb3s_buffer_keeps_its_own(buffer_class):
    options = small(gamma=0.9, replay_buffer_class=buffer_class)
    one = ReptileDQN("MlpPolicy", "CartPole-v1", **options)
    assert (one.replay_buffer.n_steps, one.replay_buffer.gamma, one.n_steps) == (1, 0.9, 1)
    open_ = ReptileDQN("MlpPolicy", "CartPole-v1", **options | {"n_steps": None})
    expected = 3 if buffer_class is NStepReplayBuffer else 10
    assert (open_.replay_buffer.n_steps, open_.n_steps) == (expected, expected)


def test_gamma_and_n_steps_that_are_set_during_training_reach_the_buffer():
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=3)).learn(100)
    model.gamma, model.n_steps = 0.5, 4
    model.learn(20, reset_num_timesteps=False)
    assert (model.replay_buffer.gamma, model.replay_buffer.n_steps) == (0.5, 4)


@pytest.mark.filterwarnings("ignore:`half_life=auto` is ignored")
def test_n_steps_that_is_set_with_a_buffer_without_returns_is_refused():
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(replay_buffer_class=ReplayBuffer)).learn(100)
    model.n_steps = 2
    with pytest.raises(ValueError, match="n_steps must be 1 with ReplayBuffer"):
        model.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(gamma=float("nan")), ValueError, r"gamma must be .*in \[0, 1\], got nan"),
        (dict(gamma=1.5), ValueError, r"gamma must be .*in \[0, 1\], got 1.5"),
        (dict(n_steps=None, replay_buffer_kwargs=dict(n_steps="x")), TypeError, "n_steps must be a whole number"),
        (dict(n_steps=None, replay_buffer_kwargs=dict(n_steps=None)), TypeError, "n_steps must be a whole number"),
        (dict(n_steps=1, replay_buffer_kwargs=dict(n_steps=5)), ValueError, "n_steps=1 and .* contradict each other"),
    ],
)
def test_returns_that_are_not_allowed_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small() | kwargs)


@pytest.mark.parametrize("batch_size", [0, -1, 32.0])
def test_a_batch_size_that_is_not_a_positive_whole_number_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number >= 1, got {batch_size}"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(batch_size=batch_size))


@pytest.mark.parametrize("half_life", ["auto", INF])
def test_a_file_of_sb3_from_before_n_step_returns_has_one_step(half_life, tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1")
    del model.n_steps
    model.save(tmp_path / "dqn")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = ReptileDQN.load(tmp_path / "dqn", half_life=half_life)
    assert (loaded.n_steps, loaded.q_lambda, loaded.replay_buffer.n_steps) == (1, 1.0, 1)
    assert any("replay decays from now on" in str(warning.message) for warning in said) == (half_life == "auto")


@pytest.mark.filterwarnings("ignore:`half_life=auto` is ignored", "ignore:.*transitions were taken over")
def test_a_loaded_buffer_has_the_returns_of_the_model_whatever_its_class(tmp_path):
    class Mine(DecayedSampling, ReplayBuffer):
        pass

    ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=10, gamma=0.9)).learn(60).save_replay_buffer(tmp_path / "b")
    for buffer_class in (Mine, ReplayBuffer, DecayedReplayBuffer):
        model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(replay_buffer_class=buffer_class))
        model.load_replay_buffer(tmp_path / "b")
        assert model.n_steps == getattr(model.replay_buffer, "n_steps", 1) == 1
        assert getattr(model.replay_buffer, "gamma", 0.99) == 0.99


@pytest.mark.parametrize(("name", "value"), [("n_steps", 4), ("gamma", 0.5)])
def test_contradicting_returns_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* contradict each other"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=3, replay_buffer_kwargs={name: value}))


def test_n_steps_with_a_buffer_without_such_returns_is_refused():
    with pytest.raises(ValueError, match="n_steps must be 1 with ReplayBuffer, which has no n-step returns, got 3"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(n_steps=3, replay_buffer_class=ReplayBuffer))


@pytest.mark.parametrize(("n_steps", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("3", TypeError)])
def test_n_steps_that_are_not_allowed_are_refused(n_steps, error):
    with pytest.raises(error, match="n_steps must be"):
        ReptileDQN("MlpPolicy", "CartPole-v1", n_steps=n_steps)


@pytest.mark.parametrize(
    ("half_life", "error"), [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1e3", TypeError)]
)
def test_bad_half_lives_are_refused(half_life, error):
    with pytest.raises(error, match="half_life must be"):
        ReptileDQN("MlpPolicy", "CartPole-v1", half_life=half_life)


def test_half_life_in_the_buffer_kwargs_overrides_that_of_the_model():
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(replay_buffer_kwargs=dict(half_life=30)))
    assert model.half_life == model.replay_buffer.half_life == 30


def test_a_loaded_model_takes_another_half_life_wherever_it_was_given_before(tmp_path):
    ReptileDQN("MlpPolicy", "CartPole-v1", **small(replay_buffer_kwargs=dict(half_life=30))).save(tmp_path / "model")
    assert ReptileDQN.load(tmp_path / "model").replay_buffer.half_life == 30
    for given in (dict(half_life=7), dict(replay_buffer_kwargs=dict(half_life=7))):
        loaded = ReptileDQN.load(tmp_path / "model", **given)
        assert loaded.half_life == loaded.replay_buffer.half_life == 7


def test_the_weighting_in_the_buffer_kwargs_is_that_of_the_model(tmp_path):
    kwargs = dict(weighting="loss")
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(replay_buffer_kwargs=kwargs)).learn(100)
    assert model.weighting == model.replay_buffer.weighting == "loss"
    assert kwargs == dict(weighting="loss")
    model.save_replay_buffer(tmp_path / "buffer")
    other = ReptileDQN("MlpPolicy", "CartPole-v1", **small())
    other.load_replay_buffer(tmp_path / "buffer")
    assert other.weighting == other.replay_buffer.weighting == "sampling"


def test_a_half_life_together_with_another_decay_is_refused():
    with pytest.raises(ValueError, match="half_life=300 is an exponential decay and decay='power_law' another one"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(half_life=300, replay_buffer_kwargs=dict(decay="power_law")))
    kwargs = small(half_life="auto", replay_buffer_kwargs=dict(decay="power_law"))
    auto = ReptileDQN("MlpPolicy", "CartPole-v1", **kwargs)
    assert auto.replay_buffer.decay == PowerLaw()


def test_a_scheduled_half_life_does_not_stand_beside_a_decay(tmp_path):
    decay = {"exponential": {"half_life": 30}}
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(replay_buffer_kwargs=dict(decay=decay)))
    model.learn(100, callback=HalfLifeSchedule(lambda progress: 500.0))
    assert model.replay_buffer.half_life == 500
    model.save(tmp_path / "model")
    assert ReptileDQN.load(tmp_path / "model").replay_buffer.half_life == 30


@pytest.mark.filterwarnings("ignore:.*were taken over")
@pytest.mark.parametrize("decay", ["power_law", {"exponential": {"half_life": 30}}])
def test_another_decay_overrides_the_half_life(decay, tmp_path):
    kwargs = small(half_life=None, replay_buffer_kwargs=dict(decay=decay))
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **kwargs).learn(200)
    assert model.replay_buffer.decay == make_decay(decay)
    model.save_replay_buffer(tmp_path / "buffer")
    other = ReptileDQN("MlpPolicy", "CartPole-v1", **small(half_life=50))
    other.load_replay_buffer(tmp_path / "buffer")
    assert other.replay_buffer.decay == Exponential(50)


@pytest.mark.parametrize(("saved", "present"), [(None, "auto"), ("auto", None), ("auto", 50)])
def test_a_loaded_buffer_becomes_one_that_detects_changes_or_stops_to_be_one(saved, present, tmp_path):
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(half_life=saved)).learn(200)
    model.save_replay_buffer(tmp_path / "buffer")
    other = ReptileDQN("MlpPolicy", "CartPole-v1", **small(half_life=present))
    auto = f"ReplayBuffer with half_life=auto{':' if saved == 'auto' else ', in their order'}"
    with pytest.warns(UserWarning, match=f"{auto}.*200 newest transitions|200 newest transitions.*{auto}") as said:
        other.load_replay_buffer(tmp_path / "buffer")
    assert said[0].filename == __file__
    assert (other.replay_buffer.consistency is not None) == (present == "auto")
    assert other.replay_buffer.size() == 200
    assert np.array_equal(other.replay_buffer.rewards[:200], model.replay_buffer.rewards[:200])
    if present == 50:
        assert other.replay_buffer.half_life == 50
    other.learn(100)


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, NStepReplayBuffer])
def test_a_buffer_that_does_not_decay_is_used_with_a_warning(buffer_class):
    with pytest.warns(UserWarning, match=f"half_life=auto.* is ignored because `{buffer_class.__name__}` does not"):
        model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(replay_buffer_class=buffer_class))
    model.learn(100, log_interval=1)
    assert type(model.replay_buffer) is buffer_class


def test_hindsight_replay_still_works():
    env = BitFlippingEnv(n_bits=4, continuous=False)
    with pytest.warns(UserWarning, match="is ignored because `HerReplayBuffer`"):
        model = ReptileDQN("MultiInputPolicy", env, **small(replay_buffer_class=HerReplayBuffer))
    model.learn(200)


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_vec_envs(vec_env, normalize, n_envs):
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=0, vec_env_cls=vec_env)
    env = VecNormalize(env) if normalize else env
    model = ReptileDQN("MlpPolicy", env, **small()).learn(416)
    assert model.num_timesteps == 416
    assert model.replay_buffer.size() == 416 // n_envs
    env.close()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_it_logs_the_age_and_the_effective_sample_size_of_replayed_transitions(n_envs):
    model = Written("MlpPolicy", cartpole(n_envs), **small(half_life=60, train_freq=1))
    model.learn(600, log_interval=1)
    logged = model.written[-1]
    # Long after the start: the mean age of a geometric distribution, and its effective sample size, per row
    rate = n_envs * np.log(2) / 60
    assert logged["replay/mean_age"] == pytest.approx(n_envs / np.expm1(rate), rel=0.02)
    assert logged["replay/effective_sample_size"] == pytest.approx(n_envs / np.tanh(rate / 2), rel=0.02)
    # Everything that SB3's DQN logs is there too
    assert {"train/loss", "train/n_updates", "rollout/exploration_rate", "rollout/ep_rew_mean"} <= set(logged)


def test_tensorboard_and_progress_bar(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = ReptileDQN("MlpPolicy", "CartPole-v1", tensorboard_log=str(tmp_path), **small())
    model.learn(400, progress_bar=True, log_interval=1)
    events = EventAccumulator(str(tmp_path / "ReptileDQN_1"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"replay/mean_age", "replay/effective_sample_size", "train/loss", "rollout/ep_rew_mean"} <= set(tags)


def test_callbacks_evaluate_and_stop_training(tmp_path):
    evaluate = EvalCallback(cartpole(), best_model_save_path=str(tmp_path), eval_freq=200, verbose=0)
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small())
    model.learn(10_000, callback=[evaluate, StopTrainingOnMaxEpisodes(max_episodes=20)])
    assert model._episode_num <= 21
    assert model.num_timesteps < 10_000
    assert type(ReptileDQN.load(tmp_path / "best_model").replay_buffer) is DecayedReplayBuffer


def test_same_seed_same_parameters():
    first, second = (ReptileDQN("MlpPolicy", "CartPole-v1", **small()).learn(500) for _ in range(2))
    assert_same_parameters(first, second)
    assert differ(first, ReptileDQN("MlpPolicy", "CartPole-v1", **small(seed=1)).learn(500))


def test_save_and_load(tmp_path):
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(half_life=123)).learn(500)
    model.save(tmp_path / "model")
    loaded = ReptileDQN.load(tmp_path / "model")
    assert loaded._last_batch is None  # batches have no place in the file
    assert loaded.half_life == loaded.replay_buffer.half_life == 123
    observations = np.stack([model.observation_space.sample() for _ in range(20)])
    for deterministic in (True, False):
        model.action_space.seed(0)
        loaded.action_space.seed(0)
        np.random.seed(0)
        ours, _ = model.predict(observations, deterministic=deterministic)
        np.random.seed(0)
        theirs, _ = loaded.predict(observations, deterministic=deterministic)
        assert np.array_equal(ours, theirs)
    assert ReptileDQN.load(tmp_path / "model", half_life=INF).replay_buffer.half_life == INF


@pytest.mark.parametrize("n_envs", [1, 3])
def test_training_goes_on_after_load_with_the_ages_intact(tmp_path, n_envs):
    model = ReptileDQN("MlpPolicy", cartpole(n_envs), **small(half_life=50, buffer_size=240)).learn(300)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")

    loaded = ReptileDQN.load(tmp_path / "model", env=cartpole(n_envs))
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.diagnostics().expected_age == model.replay_buffer.diagnostics().expected_age
    batches = []
    for buffer in (model.replay_buffer, loaded.replay_buffer):
        np.random.seed(7)
        batches.append(buffer.sample(200))
    assert all(th.equal(a, b) for a, b in zip(batches[0][:5], batches[1][:5], strict=True))

    loaded.learn(96, reset_num_timesteps=False)
    assert loaded.num_timesteps == 396
    assert loaded.replay_buffer.pos == 396 % 240 // n_envs


def test_a_loaded_buffer_takes_over_the_half_life_of_the_model(tmp_path):
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(half_life=50)).learn(100)
    model.save_replay_buffer(tmp_path / "buffer")
    other = ReptileDQN("MlpPolicy", "CartPole-v1", **small(half_life=500))
    other.load_replay_buffer(tmp_path / "buffer")
    assert other.replay_buffer.half_life == 500
    assert other.replay_buffer.size() == 100


def test_set_env_and_learning_twice():
    model = ReptileDQN("MlpPolicy", cartpole(2), **small()).learn(200)
    model.set_env(cartpole(2))
    model.learn(200, reset_num_timesteps=False)
    assert model.num_timesteps == 400
    assert model.replay_buffer.size() == 200


class Buttons(gym.Env):
    """MultiDiscrete actions; the reward is how many buttons are pressed as wanted."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(1, dtype=np.float32), float(action[0] == 1) + float(action[1] == 2), True, False, {}


@pytest.mark.parametrize("env", ["Pendulum-v1", Buttons()])
def test_other_actions_than_discrete_ones_are_refused_with_the_wrapper_to_use(env):
    with pytest.raises(AssertionError, match=r"only supports.*Discrete.*wrap the environment in sb3_reptile.envs.Disc"):
        ReptileDQN("MlpPolicy", env)


def test_multi_discrete_actions_are_learned_through_the_wrapper():
    model = ReptileDQN("MlpPolicy", DiscreteActions(Buttons()), **small(learning_rate=1e-2, train_freq=1)).learn(400)
    action, _ = model.predict(np.zeros(1, dtype=np.float32), deterministic=True)
    assert DiscreteActions(Buttons()).action(action).tolist() == [1, 2]


def test_discrete_observations():
    ReptileDQN("MlpPolicy", make_vec_env("FrozenLake-v1", n_envs=3), **small()).learn(200)


def test_it_follows_a_change_that_uniform_replay_does_not():
    """A two-armed bandit whose arms swap: after as many steps as before, only decayed replay prefers the better arm."""

    class Bandit(gym.Env):
        observation_space = spaces.Box(0, 1, (1,))
        action_space = spaces.Discrete(2)
        steps = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.ones(1, dtype=np.float32), {}

        def step(self, action):
            self.steps += 1
            good_arm = int(self.steps > 600)
            return np.ones(1, dtype=np.float32), float(action == good_arm), True, False, {}

    def margin_of_the_better_arm(half_life):
        model = ReptileDQN(
            "MlpPolicy",
            Bandit(),
            half_life=half_life,
            learning_rate=5e-3,
            exploration_final_eps=1.0,
            **small(policy_kwargs=dict(net_arch=[16])),
        )
        model.learn(1_000)
        with th.no_grad():
            values = model.q_net(th.ones(1, 1))[0]
        return float(values[1] - values[0])

    # 400 steps since the change: decayed replay has forgotten what came before, uniform replay averages 400 to 600
    assert margin_of_the_better_arm(40) > 0.8
    assert margin_of_the_better_arm(INF) < 0


def test_random_initial_weights_follow_the_seed_of_the_model():
    options = dict(replay_buffer_kwargs=dict(initial_weights="random"))
    first, second = (ReptileDQN("MlpPolicy", "CartPole-v1", **small(**options)).learn(200) for _ in range(2))
    assert_same_parameters(first, second)
    other = ReptileDQN("MlpPolicy", "CartPole-v1", **small(seed=1, **options)).learn(200)
    assert differ(first, other)


def uniform_replay(path, model_class=DQN, n_envs=1, **kwargs):
    model = model_class("MlpPolicy", cartpole(n_envs), **small(**kwargs)).learn(120)
    model.save_replay_buffer(path / "buffer")
    model.save(path / "model")
    return model


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(
    "options", [dict(), dict(n_steps=3), dict(priority="td_error"), dict(half_life="auto")], ids=str
)
def test_transitions_of_uniform_replay_are_taken_over_with_ages_in_order(tmp_path, options, n_envs):
    theirs = uniform_replay(tmp_path, n_envs=n_envs).replay_buffer
    model = ReptileDQN("MlpPolicy", cartpole(n_envs), **small(**options))
    own = type(model.replay_buffer)
    with pytest.warns(UserWarning, match=r"holds a ReplayBuffer: its 120 newest transitions were taken over into the"):
        model.load_replay_buffer(tmp_path / "buffer")
    buffer = model.replay_buffer
    assert type(buffer) is own
    assert np.array_equal(buffer.observations, theirs.observations)
    assert buffer.ages()[0, 0] == 120 - n_envs
    model.learn(60, reset_num_timesteps=False)
    assert buffer.n_added == 180


@pytest.mark.parametrize("kwargs", [dict(), dict(n_steps=3), dict(replay_buffer_class=ReplayBuffer)], ids=str)
def test_a_model_of_dqn_decays_when_it_is_loaded(tmp_path, kwargs):
    theirs = uniform_replay(tmp_path, **kwargs)
    with pytest.warns(UserWarning, match="the model was saved by DQN: its replay decays from now on"):
        model = ReptileDQN.load(tmp_path / "model", env=cartpole())
    assert type(model.replay_buffer) is (DecayedNStepReplayBuffer if "n_steps" in kwargs else DecayedReplayBuffer)
    assert getattr(model.replay_buffer, "n_steps", 1) == kwargs.get("n_steps", 1)
    assert_same_parameters(model, theirs)
    with pytest.warns(UserWarning, match="were taken over"):
        model.load_replay_buffer(tmp_path / "buffer")
    model.learn(40, reset_num_timesteps=False)
    # Once saved, it is ours
    model.save(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReptileDQN.load(tmp_path / "ours")


def test_hindsight_replay_of_dqn_decays_when_it_is_loaded(tmp_path):
    env = BitFlippingEnv(n_bits=4, continuous=False)
    DQN("MultiInputPolicy", env, **small(replay_buffer_class=HerReplayBuffer)).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="DecayedHerReplayBuffer, half_life=auto"):
        model = ReptileDQN.load(tmp_path / "model", env=env)
    assert type(model.replay_buffer) is DecayedHerReplayBuffer


def test_uniform_replay_that_was_asked_for_stays(tmp_path):
    with pytest.warns(UserWarning, match="is ignored because `ReplayBuffer`"):
        model = uniform_replay(tmp_path, ReptileDQN, replay_buffer_class=ReplayBuffer)
    with pytest.warns(UserWarning, match="is ignored because `ReplayBuffer`"):
        loaded = ReptileDQN.load(tmp_path / "model")
    assert type(loaded.replay_buffer) is type(model.replay_buffer) is ReplayBuffer


@pytest.mark.parametrize("n_steps", [1, 2])
def test_a_loaded_buffer_computes_the_returns_of_the_model(tmp_path, n_steps):
    uniform_replay(tmp_path, ReptileDQN, n_steps=5, gamma=0.9)
    model = ReptileDQN("MlpPolicy", cartpole(), **small(n_steps=n_steps, gamma=0.5))
    model.load_replay_buffer(tmp_path / "buffer")
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (n_steps, 0.5)
    assert model.replay_buffer.size() == 120


@pytest.mark.parametrize("model_class", [DQN, ReptileDQN])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: cartpole(3), "was made for n_envs=3, the model has n_envs=1"),
        (
            lambda: make_vec_env("Acrobot-v1"),
            "was made for observation_space=Box.*, the model has observation_space=Box",
        ),
    ],
)
def test_a_buffer_of_other_environments_is_refused_when_it_is_loaded(tmp_path, other, message, model_class):
    saved = model_class("MlpPolicy", other(), **small()).learn(30)
    saved.save_replay_buffer(tmp_path / "buffer")
    model = ReptileDQN("MlpPolicy", cartpole(), **small()).learn(20)
    own = model.replay_buffer
    with pytest.raises(ValueError, match=message):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is own
    assert own.size() == 20
    model.replay_buffer = saved.replay_buffer
    with pytest.raises(ValueError, match=f"model.replay_buffer {message}"):
        model.learn(10)


@pytest.mark.parametrize("options", [dict(), dict(half_life="auto")], ids=str)
def test_a_model_keeps_its_buffer_if_that_of_a_file_cannot_be_taken_over(tmp_path, options):
    saved = DQN("MlpPolicy", cartpole(), **small()).learn(30)
    saved.replay_buffer.rewards[7] = np.nan
    saved.save_replay_buffer(tmp_path / "buffer")
    model = ReptileDQN("MlpPolicy", cartpole(), **small(**options)).learn(20)
    own, observations = model.replay_buffer, model.replay_buffer.observations.copy()
    with pytest.raises(ValueError, match="reward of environment 0 is nan"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is own
    assert own.size() == own.n_added == 20
    assert np.array_equal(own.observations, observations)
    new = ReptileDQN("MlpPolicy", cartpole(), **small(**options))
    with pytest.raises(ValueError, match="reward of environment 0 is nan"):
        new.load_replay_buffer(tmp_path / "buffer")
    assert new.replay_buffer.size() == 0


@pytest.mark.parametrize(
    ("saved", "ours", "differing"),
    [
        (of_buffer(decay=WINDOW), dict(half_life=INF), r"with decay=Window.* with decay=Exponential\(half_life=inf\)"),
        (of_buffer(decay=WINDOW), dict(half_life=None), r"with decay=Window.* with decay=PowerLaw"),
        (dict(half_life=20), dict(half_life=None), r"with decay=Exponential.* with decay=PowerLaw"),
        (dict(half_life=20), dict(half_life=None, **of_buffer(decay=WINDOW)), "with decay=Exp.* with decay=Window"),
        (
            dict(half_life="auto"),
            dict(half_life="auto", **of_buffer(decay=WINDOW)),
            "=Pow.* with decay=Window",
        ),
        (dict(priority="td_error"), dict(half_life=50), "with prioritized=True: .* with prioritized=False"),
        (
            dict(half_life=30),
            dict(half_life=50, **of_buffer(uniform_fraction=0.3, initial_weights="random", combined=True)),
            "with uniform_fraction=0.0, initial_weights=uniform: .* with uniform_fraction=0.3, initial",
        ),
    ],
)
@pytest.mark.parametrize("can_be_taken_over", [True, False])
def test_a_loaded_buffer_has_the_options_of_the_model_or_there_is_a_warning(
    tmp_path, saved, ours, differing, can_be_taken_over, monkeypatch
):
    uniform_replay(tmp_path, ReptileDQN, **{"half_life": None, **saved})
    model = ReptileDQN("MlpPolicy", cartpole(), **small(**ours))
    wanted = arguments_of(model.replay_buffer)
    if not can_be_taken_over:
        monkeypatch.setattr(taking_over, "_keeps_arrays", lambda buffer: False)
        differing = r"the replay buffer in .* keeps \w+=.* instead of .*: begin with an empty buffer"
    with pytest.warns(UserWarning, match=differing):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer.size() == 120
    assert (arguments_of(model.replay_buffer) == wanted) == can_be_taken_over
    model.learn(40, reset_num_timesteps=False)


def test_a_loaded_buffer_adopts_the_options_that_can_change_and_keeps_its_weights(tmp_path):
    same = dict(half_life=30, priority="td_error")
    saved = uniform_replay(tmp_path, ReptileDQN, buffer_size=200, **same).replay_buffer
    options = of_buffer(combined=True, on_bad_transition="skip", storage_dir=tmp_path)
    model = ReptileDQN("MlpPolicy", cartpole(), **small(**same, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_replay_buffer(tmp_path / "buffer")
    buffer = model.replay_buffer
    assert (buffer.combined, buffer.on_bad_transition, buffer.buffer_size) == (True, "skip", 200)
    assert buffer._scratch.storage_dir == tmp_path
    assert np.array_equal(buffer.observations, saved.observations)
    assert np.array_equal(buffer.sampling_probabilities(), saved.sampling_probabilities())
    model.learn(40, reset_num_timesteps=False)


def test_a_loaded_buffer_that_decays_where_the_model_asked_for_another_class_is_said(tmp_path):
    uniform_replay(tmp_path, ReptileDQN)
    with pytest.warns(UserWarning, match="is ignored because"):
        model = ReptileDQN("MlpPolicy", cartpole(), **small(replay_buffer_class=ReplayBuffer))
    with pytest.warns(UserWarning, match="keeps its class DecayedReplayBuffer instead of ReplayBuffer: begin with"):
        model.load_replay_buffer(tmp_path / "buffer")


@pytest.mark.filterwarnings("ignore:.*were taken over", "ignore:the model was saved by DQN")
@pytest.mark.parametrize(
    ("saved", "given"),
    [
        (dict(half_life=100), dict(half_life=20)),
        (dict(half_life=100, **of_buffer(half_life=50)), dict(half_life=20)),
        (dict(half_life=100), dict(half_life=None)),
        (dict(), dict(half_life=20, weighting="loss")),
        (dict(n_steps=3), dict(n_steps=5, gamma=0.5)),
        (dict(), of_buffer(uniform_fraction=0.3, on_bad_transition="skip")),
        (dict(priority="td_error"), dict(priority=None)),
        (dict(), dict()),
    ],
    ids=str,
)
def test_a_buffer_in_the_file_of_the_model_has_the_options_that_are_given(saved, given, tmp_path):
    ReptileDQN("MlpPolicy", cartpole(), **small(**saved)).learn(60).save(tmp_path / "m", include=["replay_buffer"])
    model = ReptileDQN.load(tmp_path / "m", env=cartpole(), **given)
    wanted = ReptileDQN("MlpPolicy", cartpole(), **small(**saved | of_buffer() | given)).replay_buffer
    assert arguments_of(model.replay_buffer) == arguments_of(wanted)
    assert model.replay_buffer.size() == 60
    model.learn(40, reset_num_timesteps=False)


def test_a_buffer_in_the_file_of_a_model_that_is_there_to_predict_is_left_alone(tmp_path):
    ReptileDQN("MlpPolicy", cartpole(2), **small()).learn(60).save(tmp_path / "m", include=["replay_buffer"])
    model = ReptileDQN.load(tmp_path / "m", env=cartpole(), half_life=20)
    assert model.replay_buffer.n_envs == 2
    env = BitFlippingEnv(n_bits=4, continuous=False)
    hindsight = ReptileDQN("MultiInputPolicy", env, **small(replay_buffer_class=DecayedHerReplayBuffer)).learn(60)
    hindsight.save(tmp_path / "h", include=["replay_buffer"])
    assert ReptileDQN.load(tmp_path / "h").replay_buffer.size() == 60


class From(gym.Env):
    """Spaces that begin at 1; the reward is for action 2."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(1, dtype=np.float32), float(action == 2), True, False, {}


def test_actions_that_begin_at_one_are_refused_and_learned_through_the_wrapper():
    with pytest.raises(ValueError, match=r"actions must be numbered from 0, got Discrete\(2, start=1\): wrap the env"):
        ReptileDQN("MlpPolicy", From(), **small())
    model = ReptileDQN("MlpPolicy", DiscreteActions(From()), **small(learning_rate=1e-2, train_freq=1)).learn(200)
    action, _ = model.predict(np.zeros(1, dtype=np.float32), deterministic=True)
    assert DiscreteActions(From()).action(action) == 2


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([3, 2], start=[0, 1]),
        spaces.Dict({"x": spaces.Discrete(2, start=1)}),
    ],
)
def test_discrete_observations_that_begin_elsewhere_are_refused(space):
    class Env(From):
        observation_space = space
        action_space = spaces.Discrete(2)

    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    with pytest.raises(ValueError, match=r"discrete observations must be numbered from 0, got .*Discrete"):
        ReptileDQN(policy, Env(), **small())


@pytest.mark.parametrize("indices", [[-1], [0, 100]])
def test_td_errors_of_transitions_that_are_not_stored_are_refused(indices):
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small()).learn(100)
    assert model.td_errors([0, 99]).shape == (2, 1)
    with pytest.raises(ValueError, match="indices must be numbers of stored transitions, from 0 to 99, of which 100"):
        model.td_errors(indices)


def test_td_errors_of_a_row_that_is_overwritten_in_part_are_refused():
    options = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(buffer_size=50, **options)).learn(130)
    drawable = model.replay_buffer.drawable()
    (overwritten,) = np.setdiff1d(np.arange(50), drawable)
    assert model.td_errors(drawable).shape == (49, 1)
    with pytest.raises(ValueError, match=f"of which 49 can be drawn, got {overwritten}:"):
        model.td_errors([drawable[0], overwritten])
