"""The search space of ReptileDQN: a trial's parameters give the hyperparameters that were tried."""

import copy
import sys
import types

import gymnasium as gym
import numpy as np
import optuna
import pytest
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.save_util import load_from_pkl

from sb3_reptile import ReptileDQN
from sb3_reptile.replay.decay import DEFAULT_DECAY
from sb3_reptile.zoo.search import BUFFER_SIZE, convert_reptile_dqn_params, sample_reptile_dqn_params


def test_what_a_trial_tried_is_what_its_parameters_say():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        trial.set_user_attr(BUFFER_SIZE, 5000.0)
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
        goals = {name: tried["replay_buffer_kwargs"][name] for name in ("n_sampled_goal", "goal_selection_strategy")}
        assert goals.items() <= convert_reptile_dqn_params(study.trials[-1].params)["replay_buffer_kwargs"].items()
        assert goals["n_sampled_goal"] == study.trials[-1].params["n_sampled_goal"]
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


@pytest.fixture
def with_goals(tmp_path):
    """A registered task with goals, and a hyperparameter file for it."""
    gym.register("Bits-v0", lambda: BitFlippingEnv(n_bits=4, max_steps=4))
    conf = tmp_path / "her.yml"
    conf.write_text(HINDSIGHT_REPLAY.format(buffer="sb3_reptile"), encoding="utf-8")
    yield conf
    del gym.registry["Bits-v0"]


HINDSIGHT_REPLAY = """
Bits-v0:
  n_timesteps: 240
  policy: MultiInputPolicy
  learning_starts: 100
  train_freq: 50
  replay_buffer_class: "__import__('{buffer}').DecayedHerReplayBuffer"
  replay_buffer_kwargs: "dict(on_bad_transition='skip')"
"""


def test_a_search_with_hindsight_replay_tries_what_its_trials_say(with_goals, here, tmp_path):
    where = ["train", "--algo", "reptile_dqn", "--env", "Bits-v0", "-f", tmp_path, "-conf", with_goals, "--seed", "1"]
    study = ["--storage", f"sqlite:///{tmp_path}/study.db", "--study-name", "goals"]
    search = ["-optimize", "--n-evaluations", "1", "--no-optim-plots", "--pruner", "none", "--eval-episodes", "1"]
    here(*where, *study, *search, "--n-trials", "3", "-params", "buffer_size:500")
    here(*where, *study, *search, "--n-trials", "1", "-params", "buffer_size:700")
    trials = optuna.load_study(study_name="goals", storage=study[1]).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    assert [trial.params["buffer_size"] for trial in trials] == [500, 500, 500, 700]
    assert {trial.params["n_steps"] for trial in trials} == {1}
    assert len({trial.params["n_sampled_goal"] for trial in trials}) > 1
    here(*where, *study, "--trial-id", "1", "--eval-freq", "-1", "--save-replay-buffer")
    buffer = load_from_pkl(max((tmp_path / "reptile_dqn").glob("Bits-v0_*/replay_buffer.pkl")))
    assert buffer.n_sampled_goal == trials[1].params["n_sampled_goal"]
    assert buffer.goal_selection_strategy.name.lower() == trials[1].params["goal_selection_strategy"]
    assert buffer.on_bad_transition == "skip"  # of the file
    output = here(*where, *study, "--trial-id", "0", code=2)
    assert "rl_zoo3 cannot load trial 0" in output


def test_a_search_with_a_buffer_that_does_not_decay_is_refused(with_goals, here, tmp_path):
    with_goals.write_text(HINDSIGHT_REPLAY.format(buffer="stable_baselines3").replace("Decayed", ""), encoding="utf-8")
    where = ["train", "--algo", "reptile_dqn", "--env", "Bits-v0", "-f", tmp_path, "-conf", with_goals]
    output = here(*where, "-optimize", "--n-trials", "1", "-params", "replay_buffer_kwargs:dict()", code=2)
    assert "replay_buffer_class must be derived from DecayedSampling, such as sb3_reptile.DecayedHerReplay" in output
    assert "got HerReplayBuffer" in output


def test_a_python_package_of_hyperparameters_is_read_as_it_is(here, tmp_path, monkeypatch):
    package = types.ModuleType("hyperparameters_of_a_test")
    package.hyperparams = {"CartPole-v1": dict(n_timesteps=150, policy="MlpPolicy", learning_rate="lin_0.001")}
    package.hyperparams["CartPole-v1"]["policy_kwargs"] = "dict(net_arch=[8])"
    before = copy.deepcopy(package.hyperparams)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    where = ["--env", "CartPole-v1", "-conf", package.__name__, "-f", tmp_path]
    here("train", "--algo", "reptile_dqn", *where, "--eval-freq", "-1")
    assert package.hyperparams == before
