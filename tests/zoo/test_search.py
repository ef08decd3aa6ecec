"""The search space of ReptileDQN: a trial's parameters give the hyperparameters that were tried."""

import numpy as np
import optuna
import pytest

from sb3_reptile import ReptileDQN
from sb3_reptile.replay.decay import DEFAULT_DECAY
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
        buffer = ReptileDQN("MlpPolicy", "CartPole-v1", **tried | budget).learn(32).replay_buffer
        name, age = trial.params["decay"], trial.user_attrs.get("age_of_half_weight")
        assert (buffer.consistency is not None) == (name == "auto")
        if name in ("default", "auto"):
            assert buffer.decay == DEFAULT_DECAY
        elif name == "none":
            assert buffer.half_life == np.inf
        elif name == "exponential":
            assert buffer.half_life == age == 5000 * trial.params["age_fraction"] >= 100
        else:
            # A window ends at twice that age
            half, whole = buffer.decay(np.array([age, 1.99 * age]))
            assert half == pytest.approx(0.5) or (half == whole == 1 and buffer.decay(np.array([2.01 * age])) == 0)
        assert (age is None) == (name in ("default", "auto", "none"))
        seen |= {(name, value) for name, value in trial.params.items() if isinstance(value, str | bool)}
    decays = {"default", "auto", "none", "exponential", "linear", "power_law", "window"}
    assert {value for name, value in seen if name == "decay"} == decays
    assert len({value for name, value in seen if name == "weighting"}) == 2


def test_the_search_keeps_what_the_file_says():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        arguments = {"using_her_replay_buffer": True, "her_kwargs": {"combined": True, "half_life": 3}}
        tried = sample_reptile_dqn_params(study.ask(), 2, 1, arguments)
        assert tried["n_steps"] == 1
        kwargs = tried["replay_buffer_kwargs"]
        assert kwargs["combined"] is True
        # The file's decay is not what is tried, and two of them would be an error
        assert kwargs["half_life"] != 3
        assert None in (kwargs["half_life"], kwargs["decay"])


@pytest.mark.parametrize("given", ["half_life:300", "replay_buffer_kwargs:dict(half_life=300)"])
def test_trials_mark_the_phase_of_each_evaluation(given, here, tmp_path):
    wrapper = "env_wrapper:[{'sb3_reptile.envs.PermutedActions': {'period': 50}}]"
    storage = ["--storage", f"sqlite:///{tmp_path}/study.db", "--study-name", "drift"]
    here(
        *("train", "--env", "CartPole-v1", "-n", "120", "--eval-episodes", "1", "-f", tmp_path, "--seed", "3"),
        *("-optimize", "--n-trials", "6", "--n-evaluations", "2", "--no-optim-plots", "--pruner", "none"),
        *("--num-threads", "1", *storage, "-params", wrapper, given),
    )
    trials = optuna.load_study(study_name="drift", storage=storage[1]).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    for trial in trials:
        # Steps 60 and 120
        assert trial.user_attrs["phases"] == [1, 2]
        assert ("alarms" in trial.user_attrs) == (trial.params["decay"] == "auto")
    assert any("alarms" in trial.user_attrs for trial in trials)
