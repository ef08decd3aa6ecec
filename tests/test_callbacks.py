"""Callbacks: a half-life that changes, and figures that reach TensorBoard."""

import sys

import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.utils import LinearSchedule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_reptile import DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.callbacks import (
    ConsistencyHistory,
    HalfLifeSchedule,
    OnChange,
    RaisedSchedule,
    ReExplore,
    ReplayFigures,
    ReplayLog,
)
from sb3_reptile.figures import draw_consistency
from sb3_reptile.replay import Change, Exponential
from tests.conftest import assert_same_parameters, cartpole, small

DECAYED = dict(replay_buffer_class=DecayedReplayBuffer)
AUTO = dict(**DECAYED, replay_buffer_kwargs=dict(half_life="auto"))


class Watch(BaseCallback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        self.seen.append((self.model._current_progress_remaining, self.model.replay_buffer.half_life))
        return True


@pytest.mark.parametrize(
    "half_life", [LinearSchedule(100, 1_000, 0.5), dict(start=100, end=1_000, end_fraction=0.5)], ids=["object", "YAML"]
)
@pytest.mark.parametrize("model_class", [ReptileDQN, DQN])
def test_the_half_life_follows_its_schedule(model_class, half_life):
    watch = Watch()
    of_reptile = dict(half_life=None) if model_class is ReptileDQN else {}
    model = model_class("MlpPolicy", "CartPole-v1", **small(train_freq=1, **DECAYED, **of_reptile))
    model.learn(400, callback=[HalfLifeSchedule(half_life), watch])
    assert watch.seen[0][1] == 100
    assert watch.seen[-1][1] == 1_000
    for progress, seen in watch.seen:
        assert seen == pytest.approx(min(1_000, 100 + 900 * (1 - progress) / 0.5))
    if model_class is ReptileDQN:
        assert model.half_life == 1_000


def test_the_half_life_within_a_regime_follows_too():
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small())
    model.learn(100, callback=HalfLifeSchedule(lambda progress: 100.0))
    assert (model.half_life, model.replay_buffer.decay) == ("auto", Exponential(100))
    assert model.replay_buffer.consistency is not None


def test_the_half_life_of_other_algorithms_follows_too():
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, **DECAYED)
    model.learn(30, callback=HalfLifeSchedule(lambda progress: 50 + 100 * progress))
    assert 50 <= model.replay_buffer.half_life < 60


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(), "HalfLifeSchedule needs a model with a decayed replay buffer, got ReplayBuffer: use ReptileDQN"),
        (DECAYED | dict(replay_buffer_kwargs=dict(decay="power_law")), "needs an exponential decay.*is PowerLaw"),
    ],
)
def test_a_half_life_schedule_refuses_what_has_no_half_life(kwargs, message):
    model = DQN("MlpPolicy", "CartPole-v1", **small(**kwargs))
    with pytest.raises(ValueError, match=message):
        model.learn(100, callback=HalfLifeSchedule(lambda progress: 100.0))


def test_bad_schedules_are_refused():
    with pytest.raises(TypeError, match=r"half_life must be a function of the remaining progress.*got 300"):
        HalfLifeSchedule(300)
    with pytest.raises(ValueError, match="half_life must be > 0"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small()).learn(100, callback=HalfLifeSchedule(lambda progress: -1.0))


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kwargs", [dict(), dict(priority="td_error"), dict(n_steps=3)])
def test_figures_reach_tensorboard_and_training_is_the_same(tmp_path, kwargs, n_envs):
    kwargs = small(policy_kwargs=dict(net_arch=[16]), **kwargs)
    model = ReptileDQN("MlpPolicy", cartpole(n_envs), tensorboard_log=str(tmp_path), **kwargs)
    model.learn(420, callback=ReplayFigures(draw_freq=200, n_transitions=64), log_interval=1)
    events = EventAccumulator(str(tmp_path / "ReptileDQN_1"))
    events.Reload()
    assert {"replay/probability_by_age", "replay/td_error_by_age"} <= set(events.Tags()["images"])
    image = events.Images("replay/td_error_by_age")[-1]
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert_same_parameters(model, ReptileDQN("MlpPolicy", cartpole(n_envs), **kwargs).learn(420))


def test_figures_are_drawn_in_a_second_training_too(monkeypatch):
    drawn_at = []
    monkeypatch.setattr(ReplayFigures, "_record", lambda self, key, figure: drawn_at.append(self.num_timesteps))
    figures = ReplayFigures(draw_freq=100, n_transitions=8)
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small())
    model.learn(250, callback=figures)
    first, drawn_at[:] = list(drawn_at), []
    model.learn(250, callback=figures)
    assert len(drawn_at) == len(first) == 4


@pytest.mark.parametrize(
    "options",
    [dict(), dict(half_life=20), dict(decay={"window": {"size": 12}})],
    ids=["default", "half-life", "window"],
)
def test_figures_of_hindsight_replay_show_ended_episodes_and_training_is_the_same(options, tmp_path):
    models = []
    for callback in (ReplayFigures(draw_freq=20, n_transitions=32), None):
        env = make_vec_env(BitFlippingEnv, seed=0, env_kwargs=dict(n_bits=6, continuous=False, max_steps=6))
        kwargs = small(
            learning_starts=12,
            replay_buffer_class=DecayedHerReplayBuffer,
            replay_buffer_kwargs=options,
            policy_kwargs=dict(net_arch=[16]),
            tensorboard_log=str(tmp_path),
        )
        models.append(ReptileDQN("MultiInputPolicy", env, **kwargs).learn(60, callback=callback, log_interval=1))
    assert_same_parameters(*models)
    model = models[0]
    figures = ReplayFigures(n_transitions=64)
    figures.init_callback(model)
    ages = np.asarray(figures._td_error_by_age(model).axes[0].collections[0].get_offsets())[:, 0]
    ended = model.replay_buffer.ages()[model.replay_buffer.ep_length > 0]
    assert set(ages) <= set(ended)
    # The goals are those that were pursued, each time it is asked
    drawable = model.replay_buffer.drawable()
    batch = model.replay_buffer.transitions(drawable)
    stored = model.replay_buffer.observations["desired_goal"].reshape(-1, 6)[drawable]
    assert np.array_equal(batch.observations["desired_goal"].numpy(), stored)
    assert th.equal(model.td_errors(drawable), model.td_errors(drawable))


def test_what_replay_does_is_not_logged_while_no_episode_has_ended_that_counts():
    env = make_vec_env(BitFlippingEnv, seed=0, env_kwargs=dict(n_bits=20, continuous=False, max_steps=20))
    model = DQN(
        "MultiInputPolicy",
        env,
        **small(
            learning_starts=1_000,
            replay_buffer_class=DecayedHerReplayBuffer,
            replay_buffer_kwargs=dict(decay={"window": {"size": 4}}),
        ),
    )
    model.learn(52, callback=[ReplayLog(), ReplayFigures(draw_freq=4)])
    assert not model.replay_buffer.can_be_sampled()
    assert len(model.replay_buffer.drawable()) == 0


def test_figures_of_other_algorithms_show_the_probabilities(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", tensorboard_log=str(tmp_path), **small(**DECAYED))
    model.learn(300, callback=ReplayFigures(draw_freq=100), log_interval=1)
    events = EventAccumulator(str(tmp_path / "DQN_1"))
    events.Reload()
    assert events.Tags()["images"] == ["replay/probability_by_age"]


def test_the_figures_draw_the_distribution_and_the_errors():
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(half_life=30)).learn(200)
    callback = ReplayFigures(n_transitions=100)
    callback.init_callback(model)
    line, uniform = callback._probability_by_age().axes[0].lines
    assert uniform.get_ydata() == pytest.approx(np.arange(1, 201) / 200)
    cumulative = line.get_ydata()
    assert cumulative[-1] == pytest.approx(1)
    assert cumulative[29] == pytest.approx(0.5 / (1 - 0.5 ** (200 / 30)), rel=1e-6)
    axes = callback._td_error_by_age(model).axes[0]
    points = np.asarray(axes.collections[0].get_offsets())
    assert points.shape == (100, 2)
    indices = (model.replay_buffer.pos - 1 - points[:, 0].astype(int)) % model.replay_buffer.buffer_size
    errors = model.td_errors(indices)
    assert errors.shape == (100, 1)
    assert th.allclose(errors.abs().flatten().double(), th.as_tensor(points[:, 1]), atol=1e-5)


@pytest.mark.parametrize("name", ["draw_freq", "n_transitions"])
def test_bad_frequencies_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1, got 0"):
        ReplayFigures(**{name: 0})


def test_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install 'sb3-reptile\\[plots\\]'"):
        ReplayFigures()


def test_figures_refuse_a_buffer_without_decay():
    with pytest.raises(ValueError, match="ReplayFigures needs a model with a decayed replay buffer, got ReplayBuffer"):
        DQN("MlpPolicy", "CartPole-v1", **small()).learn(100, callback=ReplayFigures())


class Noticed:
    """A change of the world, put where a buffer would."""

    def __init__(self, at):
        self.at = at

    def __call__(self, callback):
        if callback.num_timesteps == self.at:
            callback.model.replay_buffer.consistency.changes.append(Change(self.at, self.at - 50, 1))


class Probe(BaseCallback):
    def __init__(self, act=lambda callback: None):
        super().__init__()
        self.act = act
        self.rates = []

    def _on_step(self):
        self.act(self)
        self.rates.append(getattr(self.model, "exploration_rate", None))
        return True


def test_a_function_is_called_once_for_each_change():
    seen = []
    model = ReptileDQN("MlpPolicy", "CartPole-v1", half_life="auto", **small())
    react = OnChange(lambda callback, change: seen.append((callback.num_timesteps, callback.model, change)))
    model.learn(100, callback=[Probe(Noticed(40)), react])
    assert seen == [(40, model, Change(40, 40 - 50, 1))]


def test_a_change_raises_exploration_for_a_while():
    model = ReptileDQN(
        "MlpPolicy", "CartPole-v1", half_life="auto", **small(exploration_fraction=0.01, exploration_final_eps=0.1)
    )
    probe = Probe(Noticed(100))
    model.learn(300, callback=[probe, ReExplore(exploration_rate=0.5, n_steps=100)])
    rates = np.array(probe.rates)
    assert (rates[10:100] == 0.1).all()
    # The rate of step 101 is what step 100 set
    np.testing.assert_allclose(rates[100:180], np.maximum(0.1, 0.5 * (1 - np.arange(80) / 100)), atol=1e-12)
    assert (rates[181:] == 0.1).all()
    assert not isinstance(model.exploration_schedule, RaisedSchedule)


def test_exploration_is_raised_in_one_training_only():
    model = ReptileDQN(
        "MlpPolicy", "CartPole-v1", half_life="auto", **small(exploration_fraction=0.01, exploration_final_eps=0.1)
    )
    react = ReExplore(exploration_rate=0.5, n_steps=200)
    model.learn(150, callback=[Probe(Noticed(100)), react])
    again = Probe()
    model.learn(100, callback=[again, react])
    assert (np.array(again.rates[10:]) == 0.1).all()

    def stop(callback):
        if callback.num_timesteps == 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(150, callback=[Probe(Noticed(100)), react, Probe(stop)])
    without = Probe()
    model.learn(100, callback=without)
    assert (np.array(without.rates[10:]) == 0.1).all()
    model.learn(20, callback=react)
    assert not isinstance(model.exploration_schedule, RaisedSchedule)


def test_a_model_saved_while_exploration_is_raised_can_be_loaded(tmp_path):
    model = ReptileDQN("MlpPolicy", "CartPole-v1", half_life="auto", **small())
    save = lambda callback: callback.model.save(tmp_path / "model") if callback.num_timesteps == 50 else None  # noqa: E731
    model.learn(60, callback=[ReExplore(), Probe(save)])
    assert ReptileDQN.load(tmp_path / "model").half_life == "auto"


@pytest.mark.parametrize(
    ("callback", "model", "complaint"),
    [
        (ReExplore(), lambda: SAC("MlpPolicy", "Pendulum-v1", **AUTO), "SAC has none"),
        (ReExplore(), lambda: ReptileDQN("MlpPolicy", "CartPole-v1", half_life=None), "half_life='auto'"),
        (OnChange(print), lambda: DQN("MlpPolicy", "CartPole-v1"), "decayed replay buffer"),
        (ConsistencyHistory(), lambda: ReptileDQN("MlpPolicy", "CartPole-v1", half_life=None), "half_life='auto'"),
        (ReplayLog(), lambda: DQN("MlpPolicy", "CartPole-v1"), "decayed replay buffer"),
    ],
    ids=["no exploration rate", "not auto", "no decay", "no consistency", "nothing to log"],
)
def test_callbacks_say_what_they_need(callback, model, complaint):
    with pytest.raises(ValueError, match=complaint):
        model().learn(10, callback=callback)


@pytest.mark.parametrize("arguments", [{"exploration_rate": 0}, {"exploration_rate": 1.1}, {"n_steps": 0}])
def test_exploration_is_raised_to_a_rate_for_some_steps(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ReExplore(**arguments)


@pytest.mark.parametrize("half_life", ["auto", 500.0])
def test_other_algorithms_log_what_is_replayed(half_life):
    model = SAC(
        "MlpPolicy", "Pendulum-v1", learning_starts=10, **DECAYED, replay_buffer_kwargs=dict(half_life=half_life)
    )
    model.learn(30, callback=ReplayLog(), log_interval=None)
    values = model.logger.name_to_value
    assert values["replay/volume"] > 0
    assert ("replay/regime" in values) == (half_life == "auto")
    assert values.get("replay/half_life", "none") == (500.0 if half_life == 500.0 else "none")


@pytest.mark.parametrize(
    ("model_class", "env_id"),
    [
        (ReptileDQN, "CartPole-v1"),
        (DQN, "CartPole-v1"),
        (QRDQN, "CartPole-v1"),
        (SAC, "Pendulum-v1"),
        (TD3, "Pendulum-v1"),
        (TQC, "Pendulum-v1"),
    ],
)
@pytest.mark.parametrize("half_life", ["auto", 100.0])
def test_tensorboard_shows_what_replay_does_for_every_algorithm(model_class, env_id, half_life, tmp_path):
    options = dict(replay_buffer_kwargs=dict(half_life=half_life), tensorboard_log=str(tmp_path))
    model = model_class("MlpPolicy", env_id, **small(**DECAYED, **options, learning_starts=190))
    model.learn(204, callback=None if model_class is ReptileDQN else ReplayLog(), log_interval=1)
    events = EventAccumulator(str(tmp_path / f"{model_class.__name__}_1"))
    events.Reload()
    keys = {key for key in events.Tags()["scalars"] if key.startswith("replay/")}
    of_kind = {"regime", "alarms", "consistency", "effective_half_life"} if half_life == "auto" else {"half_life"}
    expected = {"mean_age", "entropy", "effective_sample_size", "volume", *of_kind}
    of_learner = {"mean_weight", *(f"td_error_age_q{quarter}" for quarter in range(1, 5))}
    assert keys == {f"replay/{key}" for key in expected | (of_learner if model_class is ReptileDQN else set())}
    last = events.Scalars("replay/mean_age")[-1]
    assert 0 < last.value < last.step <= 204


def test_the_picture_of_consistency_has_what_was_stored_and_what_was_not():
    matplotlib = pytest.importorskip("matplotlib.figure")
    model = ReptileDQN("MlpPolicy", "CartPole-v1", half_life="auto", **small())
    history = ConsistencyHistory(every=100)
    model.learn(600, callback=history)
    assert [added for added, _, _ in history.history] == list(range(128, 600, 128))
    model.replay_buffer.reset()
    axes = matplotlib.Figure().subplots()
    image = draw_consistency(axes, history.history, [Change(384, 300, 1)], [290])
    values = np.ma.filled(image.get_array(), np.nan)
    # Row by row, what had been stored until then
    assert np.isnan(values[0]).sum() == 3
    assert (values[3] == 1).all()
    # Of the buffer that was reset, whose transitions are counted from 0
    model.learn(200, callback=history, reset_num_timesteps=False)
    assert [added for added, _, _ in history.history] == [128]
