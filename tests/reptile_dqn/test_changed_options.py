"""Options that are set after the model was made."""

import pytest
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_reptile import ReptileDQN
from tests.conftest import cartpole, small


def train(steps=150, **kwargs):
    return ReptileDQN("MlpPolicy", cartpole(), **small(**dict(half_life=300, beta=0.4) | kwargs)).learn(steps)


def go_on(model):
    return model.learn(100, reset_num_timesteps=False)


def test_the_half_life_is_that_of_the_next_draws():
    model = train()
    model.half_life = 20
    go_on(model)
    assert model.replay_buffer.half_life == 20


def test_the_weighting_is_that_of_the_next_draws():
    model = train()
    model.weighting = "loss"
    go_on(model)
    assert model.replay_buffer.weighting == "loss"


def test_a_schedule_of_the_buffer_is_kept_when_another_option_is_changed():
    model = train(priority="td_error")
    model.replay_buffer.half_life = 50
    model.beta = 0.9
    go_on(model)
    assert (model.replay_buffer.half_life, model.replay_buffer.beta) == (50, 0.9)


def test_another_learner_is_used():
    model = train(learner="auto")
    model.learner = "fast"
    assert go_on(model)._closed_form.is_fast
    model.learner = "eager"
    assert go_on(model)._closed_form is None
    model.learner = "auto"
    assert not go_on(model)._closed_form.is_fast


@pytest.mark.parametrize(
    ("made_with", "name", "value"),
    [
        (dict(half_life="auto"), "half_life", 300),
        (dict(half_life=None), "half_life", 300),
        (dict(), "half_life", "auto"),
        (dict(), "half_life", None),
        (dict(half_life=None, replay_buffer_kwargs=dict(decay={"window": {"size": 50}})), "half_life", 300),
        (dict(), "priority", "td_error"),
        (dict(priority="td_error"), "priority", None),
        (dict(replay_buffer_class=ReplayBuffer), "half_life", 20),
        (dict(replay_buffer_class=ReplayBuffer), "weighting", "loss"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is ignored because")
def test_what_needs_another_buffer_is_refused_and_the_model_trains_on_with_the_former_value(made_with, name, value):
    model = train(**made_with)
    before = getattr(model, name)
    setattr(model, name, value)
    with pytest.raises(ValueError, match=f"{name} cannot be changed from .* save the model, and load it with {name}="):
        go_on(model)
    setattr(model, name, before)
    assert go_on(model).num_timesteps > 250


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("half_life", -1, ValueError),
        ("half_life", "fast", TypeError),
        ("weighting", "both", ValueError),
        ("beta", 2, ValueError),
        ("alpha", -1, ValueError),
        ("loss", "absolute", ValueError),
        ("double_q", "yes", ValueError),
        ("learner", "slow", ValueError),
    ],
)
def test_values_that_are_not_allowed_are_refused(name, value, error):
    model = train()
    setattr(model, name, value)
    for _ in range(2):
        with pytest.raises(error, match=name):
            go_on(model)


def test_a_model_is_saved_with_the_present_options_and_loaded_with_them(tmp_path):
    model = train()
    model.half_life = 20
    go_on(model).save(tmp_path / "model")
    loaded = ReptileDQN.load(tmp_path / "model", cartpole())
    assert loaded.replay_buffer.half_life == 20
    go_on(loaded)
    loaded = ReptileDQN.load(tmp_path / "model", cartpole(), half_life="auto")
    assert go_on(loaded).replay_buffer.consistency is not None
