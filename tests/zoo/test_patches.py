"""What rl_zoo3 does with and without our patches."""

from pathlib import Path

import rl_zoo3
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_reptile import DecayedReplayBuffer
from tests.zoo.commands import FAST, run, saved_model


def test_unmodified_rl_zoo_trains_and_enjoys_dqn_with_our_config(tmp_path):
    config = ["-conf", "zoo_configs/dqn.yml", "-f", tmp_path]
    output = run("-m", "rl_zoo3.train", "--algo", "dqn", "--env", "CartPole-v1", *config, *FAST)
    assert "DecayedReplayBuffer" in output
    assert saved_model(tmp_path, "dqn", DQN).replay_buffer_class is DecayedReplayBuffer
    output = run(
        *("-m", "rl_zoo3.enjoy", "--algo", "dqn", "--env", "CartPole-v1"), *("-f", tmp_path, "--no-render", "-n", "600")
    )
    assert "Mean reward" in output


def test_unmodified_rl_zoo_uses_reptile_dqn_as_dqn_on_request(tmp_path):
    where = ["--algo", "dqn", "--env", "CartPole-v1", "-f", tmp_path, "--gym-packages", "sb3_reptile.zoo.dqn"]
    output = run("-m", "rl_zoo3.train", *where, *FAST)
    assert f"Loading hyperparameters from: {Path(rl_zoo3.__file__).parent}" in output
    assert "mean_age" in output
    assert saved_model(tmp_path, "dqn").half_life == "auto"
    assert "Mean reward" in run("-m", "rl_zoo3.enjoy", *where, "--no-render", "-n", "600")


def test_rl_zoos_own_algorithms_are_untouched(here, tmp_path):
    output = here("train", "--algo", "dqn", "--env", "CartPole-v1", "-f", tmp_path, *FAST)
    assert f"Loading hyperparameters from: {Path(rl_zoo3.__file__).parent}" in output
    assert saved_model(tmp_path, "dqn", DQN).replay_buffer_class is ReplayBuffer


def test_trained_agents_are_benchmarked(logs, tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "benchmark", "--no-hub", "--log-dir", logs, "--benchmark-dir", tmp_path / "out"),
        *("-n", "600"),
        cwd=tmp_path,
    )
    assert "Mean reward" in output
    assert "|reptile_dqn|CartPole-v1|" in (tmp_path / "benchmark.md").read_text().replace(" ", "")
