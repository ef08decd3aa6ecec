"""The search space of ReptileDQN: a trial's parameters give the hyperparameters that were tried."""

import numpy as np
import optuna
import pytest

from sb3_reptile import ReptileDQN
from sb3_reptile.replay.decay import make_decay
from sb3_reptile.zoo.search import convert_reptile_dqn_params, sample_reptile_dqn_params


def test_what_a_trial_tried_is_what_its_parameters_say():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_user_attr("buffer_size", "5000.0")
    seen = set()
    for _ in range(40):
        trial = study.ask()
        tried = sample_reptile_dqn_params(trial, 2, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
        assert convert_reptile_dqn_params(trial.params) == tried
        assert tried["buffer_size"] == 5000
        # Each of them is a ReptileDQN that learns
        budget = dict(batch_size=4, gradient_steps=1, learning_starts=8, train_freq=8)
        ReptileDQN("MlpPolicy", "CartPole-v1", **tried | budget).learn(32)
        kwargs = tried["replay_buffer_kwargs"]
        if trial.params["decay"] == "exponential":
            assert kwargs["half_life"] == 5000 * trial.params["age_fraction"] >= 100
        elif trial.params["decay"] != "none":
            decay = make_decay(kwargs["decay"])
            age = trial.user_attrs["age_of_half_weight"]
            # A window ends at twice that age
            half, whole = decay(np.array([age, 1.99 * age]))
            assert half == pytest.approx(0.5) or (half == whole == 1 and decay(np.array([2.01 * age])) == 0)
        seen |= {(name, value) for name, value in trial.params.items() if isinstance(value, str | bool)}
    assert {value for name, value in seen if name == "decay"} == {
        "exponential",
        "linear",
        "power_law",
        "window",
        "none",
    }
    assert len({value for name, value in seen if name == "weighting"}) == 2


def test_the_search_keeps_what_the_file_says():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        arguments = {"using_her_replay_buffer": True, "her_kwargs": {"combined": True, "half_life": 3}}
        tried = sample_reptile_dqn_params(study.ask(), 2, 1, arguments)
        assert tried["n_steps"] == 1
        kwargs = tried["replay_buffer_kwargs"]
        assert kwargs["combined"] is True
        # The file's decay is not what is tried
        assert kwargs["half_life"] != 3 or kwargs["decay"] is not None
