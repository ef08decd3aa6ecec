"""The hyperparameter search space of ReptileDQN in rl_zoo3: DQN's search space, and the options of replay."""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_offpolicy_params, sample_dqn_params

from sb3_reptile.reptile_dqn.reptile_dqn import ALPHA

# Arguments that do not depend on an age: the package's default decay, replay that detects changes, and uniform replay
WITHOUT_AGE: dict[str, dict[str, Any]] = {
    "default": {},
    "auto": {"half_life": "auto"},
    "none": {"half_life": float("inf")},
}
# Arguments of each decay for the age at which it reaches 1/2; a window ends at twice that age
BY_AGE: dict[str, Callable[[float], dict[str, Any]]] = {
    "exponential": lambda age: {"half_life": age},
    "linear": lambda age: {"decay": {"linear": {"horizon": 2 * age}}},
    "power_law": lambda age: {"decay": {"power_law": {"scale": age}}},
    "window": lambda age: {"decay": {"window": {"size": max(1.0, 2 * age)}}},
}
SHORTEST_AGE = 100
OF_REPLAY = (
    "buffer_size",
    "decay",
    "age_fraction",
    "uniform_fraction",
    "weighting",
    "priority",
    "alpha",
    "beta",
    "q_lambda",
)
OF_LEARNER = ("n_steps", "double_q", "loss")
# Sampled by rl_zoo3, arguments of the replay buffer
OF_HINDSIGHT = ("n_sampled_goal", "goal_selection_strategy")
# Attributes of a trial: what the search space depends on
BUFFER_SIZE, HINDSIGHT = "buffer_size", "hindsight"


def sample_reptile_dqn_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample hyperparameters. The decay is the default, ``"auto"``, none, or one that depends on an age: that at which it
    reaches 1/2 is sampled as a fraction of the buffer size, on a log scale.

    :param trial: The trial, whose attributes state the size of the buffer, and whether it is one of hindsight replay
    :param n_actions: Number of actions
    :param n_envs: Number of environments
    :param additional_args: Further arguments that rl_zoo3 passes to its samplers
    :return: Hyperparameters of ``ReptileDQN``
    """
    # A parameter with a single value, so that convert_reptile_dqn_params() can read it from the trial
    size = int(float(trial.user_attrs.get(BUFFER_SIZE, 1_000_000)))
    trial.suggest_int("buffer_size", size, size)
    trial.suggest_categorical("decay", [*WITHOUT_AGE, *BY_AGE])
    trial.suggest_float("age_fraction", min(SHORTEST_AGE / size, 0.5), 1, log=True)
    trial.suggest_float("uniform_fraction", 0, 0.5)
    # Hindsight replay has neither n-step returns nor weights in the loss
    is_hindsight = trial.user_attrs.get(HINDSIGHT, additional_args["using_her_replay_buffer"])
    trial.suggest_categorical("weighting", ["sampling"] if is_hindsight else ["sampling", "loss"])
    trial.suggest_categorical("priority", ["none", "td_error"])
    trial.suggest_float("alpha", 0, 1)
    trial.suggest_float("beta", 0, 1)
    trial.suggest_int("n_steps", 1, 1 if is_hindsight else 10)
    trial.suggest_float("q_lambda", 0.5, 1)
    trial.suggest_categorical("double_q", [False, True])
    trial.suggest_categorical("loss", ["huber", "mse"])
    if trial.params["decay"] in BY_AGE:  # for the reader of the study
        trial.set_user_attr("age_of_half_weight", trial.params["age_fraction"] * size)
    theirs = sample_dqn_params(trial, n_actions, n_envs, {**additional_args, "using_her_replay_buffer": is_hindsight})
    ours = _reptile_params(trial.params)
    # Keep the other replay buffer options of the file
    ours["replay_buffer_kwargs"] = additional_args["her_kwargs"] | ours["replay_buffer_kwargs"]
    return theirs | ours


def convert_reptile_dqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: Parameters of a trial, as stored in the study
    :return: The corresponding hyperparameters of ``ReptileDQN``
    """
    not_theirs = OF_REPLAY + OF_LEARNER + OF_HINDSIGHT
    theirs = {name: value for name, value in sampled_params.items() if name not in not_theirs}
    return convert_offpolicy_params(theirs) | _reptile_params(sampled_params)


def _reptile_params(sampled: dict[str, Any]) -> dict[str, Any]:
    decay, age = sampled["decay"], sampled["age_fraction"] * sampled["buffer_size"]
    hyperparams = {name: sampled[name] for name in ("buffer_size", "weighting", *OF_LEARNER)}
    hyperparams["replay_buffer_kwargs"] = {
        "uniform_fraction": sampled["uniform_fraction"],
        # Both, so that those of the file are replaced
        "decay": None,
        "half_life": None,
        **(BY_AGE[decay](age) if decay in BY_AGE else WITHOUT_AGE[decay]),
        **{name: sampled[name] for name in OF_HINDSIGHT if name in sampled},
    }
    # Priorities act on sampling only
    prioritized = sampled["priority"] == "td_error" and sampled["weighting"] == "sampling"
    # Studies from before have none
    hyperparams["q_lambda"] = sampled.get("q_lambda", 1.0) if sampled["n_steps"] > 1 else 1.0
    hyperparams |= (
        {"priority": "td_error", "alpha": sampled["alpha"]} if prioritized else {"priority": None, "alpha": ALPHA}
    )
    hyperparams["beta"] = sampled["beta"]
    return hyperparams
