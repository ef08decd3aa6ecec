"""Options that are set after the model was made."""

import copy

import pytest
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_reptile import ReptileDQN
from sb3_reptile.callbacks import HalfLifeSchedule
from sb3_reptile.checkpoint import resume
from sb3_reptile.checkpoint.resuming import write_checkpoint
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


ANOTHER = "save the model and load it with"


@pytest.mark.parametrize(
    ("made_with", "name", "value", "message"),
    [
        (dict(half_life="auto"), "half_life", 300, ANOTHER),
        (dict(), "half_life", "auto", ANOTHER),
        (dict(), "half_life", None, ANOTHER),
        (
            dict(half_life=None, replay_buffer_kwargs=dict(decay={"window": {"size": 50}})),
            *("half_life", 300, "the replay buffer has another decay, .* make a model with half_life instead of decay"),
        ),
        (dict(), "priority", "td_error", f"was made without priorities: {ANOTHER}"),
        (dict(priority="td_error"), "priority", None, f"was made with priorities: {ANOTHER}"),
        (dict(replay_buffer_class=ReplayBuffer), "half_life", 20, "make a model without replay_buffer_class"),
        (dict(replay_buffer_class=ReplayBuffer), "weighting", "loss", "make a model without replay_buffer_class"),
        (dict(), "alpha", 0.3, "the exponent of priorities, which this model does not have"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is ignored because")
def test_what_the_model_cannot_have_is_refused_and_the_former_value_stays(made_with, name, value, message):
    model = train(**made_with)
    before = getattr(model, name)
    with pytest.raises(ValueError, match=f"{name} cannot be changed from .*: .*{message}"):
        setattr(model, name, value)
    assert getattr(model, name) == before
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
    before = getattr(model, name)
    with pytest.raises(error, match=name):
        setattr(model, name, value)
    assert getattr(model, name) == before


def test_the_default_decay_can_become_an_exponential_one():
    model = train(half_life=None)
    model.half_life = 300
    assert go_on(model).replay_buffer.half_life == 300
    model = train(half_life=None)
    model.learn(150, callback=HalfLifeSchedule({"start": 300, "end": 3000, "end_fraction": 1.0}))
    assert model.half_life == model.replay_buffer.half_life > 2000


def test_a_schedule_of_beta_stays_when_another_option_is_set():
    model = train(priority="td_error")
    model.beta_schedule = lambda progress: 0.77
    model.half_life = 200
    assert go_on(model).replay_buffer.beta == 0.77


@pytest.mark.filterwarnings("ignore:the state of the environment could not be restored")
def test_what_was_set_is_in_a_checkpoint(tmp_path):
    model = train()
    model.half_life, model.weighting = 20, "loss"
    write_checkpoint(model, tmp_path / "checkpoint", None)
    resumed = resume(tmp_path / "checkpoint", cartpole())
    assert (resumed.half_life, resumed.weighting) == (20, "loss")
    assert (resumed.replay_buffer.half_life, resumed.replay_buffer.weighting) == (20, "loss")


def test_options_of_models_that_were_copied_or_not_set_up(tmp_path):
    model = copy.deepcopy(train())
    model.half_life = 20
    assert model.replay_buffer.half_life == 20
    model = ReptileDQN("MlpPolicy", cartpole(), **small(half_life=300), _init_setup_model=False)
    model.half_life = "auto"
    model._setup_model()
    assert model.replay_buffer.consistency is not None


def test_a_model_is_saved_with_the_present_options_and_loaded_with_them(tmp_path):
    model = train()
    model.half_life = 20
    go_on(model).save(tmp_path / "model")
    loaded = ReptileDQN.load(tmp_path / "model", cartpole())
    assert loaded.replay_buffer.half_life == 20
    go_on(loaded)
    loaded = ReptileDQN.load(tmp_path / "model", cartpole(), half_life="auto")
    assert go_on(loaded).replay_buffer.consistency is not None
