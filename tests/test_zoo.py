"""The RL Zoo's commands as a user types them, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
import rl_zoo3
import yaml
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_reptile import DecayedReplayBuffer, ReptileDQN

ROOT = Path(__file__).parent.parent
FAST = ["-n", "1200", "--eval-freq", "600", "--eval-episodes", "1", "--seed", "1", "--num-threads", "1"]


def run(*arguments, cwd=ROOT, code=0):
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=300)
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    return output


def saved_model(logs, algo, model_class=ReptileDQN):
    return model_class.load(logs / algo / "CartPole-v1_1" / "CartPole-v1.zip")


def test_unmodified_rl_zoo_trains_and_enjoys_dqn_with_our_config(tmp_path):
    config = ["-conf", "zoo_configs/dqn.yml", "-f", tmp_path]
    output = run("-m", "rl_zoo3.train", "--algo", "dqn", "--env", "CartPole-v1", *config, *FAST)
    assert "DecayedReplayBuffer" in output
    assert saved_model(tmp_path, "dqn", DQN).replay_buffer_class is DecayedReplayBuffer
    output = run(
        *("-m", "rl_zoo3.enjoy", "--algo", "dqn", "--env", "CartPole-v1"), *("-f", tmp_path, "--no-render", "-n", "600")
    )
    assert "Mean reward" in output


def test_reptile_dqn_trains_and_enjoys_with_no_config_named(tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "CartPole-v1"),
        *("-f", tmp_path, "-params", "half_life:321", *FAST),
    )
    assert "reptile_dqn.yml" in output
    assert "replay/" in output
    assert saved_model(tmp_path, "reptile_dqn").half_life == 321
    output = run(
        *("-m", "sb3_reptile.zoo", "enjoy", "--algo", "reptile_dqn", "--env", "CartPole-v1"),
        *("-f", tmp_path, "--no-render", "-n", "600"),
    )
    assert "Mean reward" in output


def test_the_rl_zoos_own_dqn_file_works_unchanged(tmp_path):
    theirs = Path(rl_zoo3.__file__).parent / "hyperparams" / "dqn.yml"
    output = run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "CartPole-v1"),
        *("-conf", theirs, "-f", tmp_path, *FAST),
    )
    assert f"Loading hyperparameters from: {theirs}" in output
    assert saved_model(tmp_path, "reptile_dqn").half_life == 1000


def test_our_dqn_file_works_with_reptile_dqn_too(tmp_path):
    run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "CartPole-v1"),
        *("-conf", "zoo_configs/dqn.yml", "-f", tmp_path, *FAST),
    )


def test_hyperparameters_can_be_searched(tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "CartPole-v1", "-optimize"),
        *("--n-trials", "1", "--n-evaluations", "1", "--no-optim-plots", "-n", "300", "-f", tmp_path),
        *("--eval-episodes", "1", "--num-threads", "1"),
        cwd=tmp_path,
    )
    assert "Number of finished trials:  1" in output


def test_rl_zoos_own_algorithms_are_untouched(tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "dqn", "--env", "CartPole-v1", "-f", tmp_path, *FAST),
    )
    assert f"Loading hyperparameters from: {Path(rl_zoo3.__file__).parent}" in output
    assert saved_model(tmp_path, "dqn", DQN).replay_buffer_class is ReplayBuffer


@pytest.mark.parametrize("command", ["train", "enjoy"])
def test_help_and_choices_are_rl_zoos_with_ours_among_them(command):
    ours = run("-m", "sb3_reptile.zoo", command, "--help")
    assert f"python -m sb3_reptile.zoo {command}" in ours
    assert "reptile_dqn" in ours
    theirs = run("-m", f"rl_zoo3.{command}", "--help")
    options = {word.strip(",[]") for word in theirs.split() if word.strip("[]").startswith("-")}
    assert options <= {word.strip(",[]") for word in ours.split()}


def test_wrong_commands_are_refused():
    output = run("-m", "sb3_reptile.zoo", "trian", code=2)
    assert "unknown command 'trian', use one of: train, enjoy" in output
    assert "no command given" in run("-m", "sb3_reptile.zoo", code=2)
    assert "invalid choice: 'reptil'" in run("-m", "sb3_reptile.zoo", "train", "--algo", "reptil", code=2)
    assert "usage:" in run("-m", "sb3_reptile.zoo", "--help")


def test_a_missing_rl_zoo_is_named_with_its_extra():
    # `None` makes the import fail as if it were not installed
    hide = "import runpy, sys; sys.modules['rl_zoo3'] = None; sys.argv = ['zoo', 'train']; "
    output = run("-c", hide + "runpy.run_module('sb3_reptile.zoo', run_name='__main__')", code=1)
    assert "pip install 'sb3-reptile[zoo]'" in output
    assert "Traceback" not in output


def test_continuous_actions_are_wrapped_by_the_config(tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "Pendulum-v1", "-f", tmp_path, *FAST),
    )
    assert "sb3_reptile.envs.DiscreteActions" in output
    assert ReptileDQN.load(tmp_path / "reptile_dqn" / "Pendulum-v1_1" / "Pendulum-v1.zip").action_space.n == 5


@pytest.mark.parametrize("name", ["dqn", "reptile_dqn"])
def test_config_files_hold_the_rl_zoos_values_plus_the_decay(name):
    ours = yaml.safe_load((ROOT / "zoo_configs" / f"{name}.yml").read_text())
    theirs = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / "dqn.yml").read_text())
    assert set(ours) & set(theirs)
    for env, hyperparameters in ours.items():
        if env not in theirs:
            continue
        added = {"half_life", "replay_buffer_class", "replay_buffer_kwargs"}
        assert {k: v for k, v in hyperparameters.items() if k not in added} == theirs[env]
