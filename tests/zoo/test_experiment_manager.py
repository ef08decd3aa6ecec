"""Training by hyperparameter file, resumed runs, and searches that several processes share."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import rl_zoo3
from stable_baselines3.common.save_util import load_from_pkl

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.zoo.experiment_manager import LogToFile
from sb3_reptile.zoo.search import convert_reptile_dqn_params
from tests.zoo.commands import FAST, ROOT, run, saved_model


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
    assert saved_model(tmp_path, "reptile_dqn").half_life is None


def test_our_dqn_file_works_with_reptile_dqn_too(here, tmp_path):
    where = ["--algo", "reptile_dqn", "--env", "CartPole-v1", "-conf", ROOT / "zoo_configs" / "dqn.yml", "-f", tmp_path]
    here("train", *where, *FAST)
    assert saved_model(tmp_path, "reptile_dqn").replay_buffer_class is DecayedReplayBuffer


@pytest.mark.parametrize("env", ["Acrobot-v1", "MountainCar-v0", "LunarLander-v3"])
def test_the_rl_zoos_own_file_trains_its_other_tasks(env, here, tmp_path):
    theirs = Path(rl_zoo3.__file__).parent / "hyperparams" / "dqn.yml"
    where = ["--algo", "reptile_dqn", "--env", env, "-conf", theirs, "-f", tmp_path]
    here("train", *where, "-n", "1600", "--eval-freq", "-1", "-params", "learning_starts:1000")
    assert ReptileDQN.load(tmp_path / "reptile_dqn" / f"{env}_1" / f"{env}.zip")._n_updates > 0


def test_continuous_actions_are_wrapped_by_the_config(here, tmp_path):
    output = here("train", "--algo", "reptile_dqn", "--env", "Pendulum-v1", "-f", tmp_path, *FAST)
    assert "sb3_reptile.envs.DiscreteActions" in output
    assert ReptileDQN.load(tmp_path / "reptile_dqn" / "Pendulum-v1_1" / "Pendulum-v1.zip").action_space.n == 5


def test_the_error_of_a_task_without_an_entry_says_what_to_do(here, tmp_path):
    conf = tmp_path / "empty.yml"
    conf.write_text("CartPole-v1: {}")
    where = ["--algo", "reptile_dqn", "--env", "Acrobot-v1", "-f", tmp_path, "-conf", conf]
    output = here("train", *where, code=1)
    assert "error: Hyperparameters not found for reptile_dqn-Acrobot-v1 in" in output
    assert "-conf" in output


def test_a_trained_agent_continues_with_its_replay_buffer(logs, tmp_path):
    first = logs / "reptile_dqn" / "CartPole-v1_1"
    run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "CartPole-v1", "-f", tmp_path),
        *("-i", first / "CartPole-v1.zip", "--save-replay-buffer", "-n", "400", "--eval-freq", "-1"),
    )
    before = load_from_pkl(first / "replay_buffer.pkl")
    after = load_from_pkl(tmp_path / "reptile_dqn" / "CartPole-v1_1" / "replay_buffer.pkl")
    added = after.pos - before.pos
    assert added >= 400
    assert (after.ages()[: before.pos] == before.ages()[: before.pos] + added).all()
    assert (after.observations[: before.pos] == before.observations[: before.pos]).all()


SEARCH = ["train", "--algo", "reptile_dqn", "--env", "CartPole-v1", "-n", "120", "--eval-episodes", "1"]


@pytest.mark.parametrize("storage", ["{}/study.log", "sqlite:///{}/study.db"], ids=["journal", "sqlite"])
def test_two_processes_share_a_search_and_a_trial_is_taken_from_it(storage, here, tmp_path):
    study = ["--storage", storage.format(tmp_path), "--study-name", "cartpole"]
    command = [sys.executable, "-m", "sb3_reptile.zoo", *SEARCH, "-optimize", "--n-trials", "5", "--n-evaluations", "1"]
    command += ["--no-optim-plots", "-f", str(tmp_path), "--num-threads", "1", *study]
    workers = [
        subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    for worker in workers:
        output, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0, output
    url = study[1]
    if url.endswith(".log"):
        url = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(url))
    trials = optuna.load_study(study_name="cartpole", storage=url).trials
    assert [trial.number for trial in trials] == list(range(10))
    assert all(trial.state.is_finished() and trial.state.name != "FAIL" for trial in trials)
    assert len({str(trial.params) for trial in trials}) == 10

    here(*SEARCH, *study, "--trial-id", "3", "--eval-freq", "-1", "-f", tmp_path / "again")
    model, expected = saved_model(tmp_path / "again", "reptile_dqn"), convert_reptile_dqn_params(trials[3].params)
    for name in ("weighting", "priority", "n_steps", "double_q", "loss", "buffer_size", "batch_size"):
        assert getattr(model, name) == expected[name]
    assert model.replay_buffer_kwargs == expected["replay_buffer_kwargs"]


@pytest.fixture
def checkpointed(tmp_path):
    """Hyperparameters with checkpoints, of an agent that learns little but from the first step on."""
    conf = tmp_path / "conf.yml"
    conf.write_text(
        "CartPole-v1: {n_timesteps: 600, policy: MlpPolicy, learning_starts: 50, buffer_size: 500, train_freq: 5,\n"
        "  learning_rate: lin_0.01, policy_kwargs: 'dict(net_arch=[8])', normalize: true,\n"
        "  callback: [{sb3_reptile.checkpoint.ResumableCheckpoint: {save_freq: 200, path: checkpoints}}]}\n"
    )
    where = ["--algo", "reptile_dqn", "--env", "CartPole-v1", "-conf", conf, "--seed", "1", "--eval-freq", "150"]
    return ["train", *where, "--eval-episodes", "1", "--log-interval", "1"]


def test_a_run_that_was_ended_goes_on(checkpointed, here, tmp_path, monkeypatch):
    straight = tmp_path / "straight"
    here(*checkpointed, "-f", straight)
    taken = []

    def end(self, locals_, globals_=None):
        taken.append(1)
        if len(taken) == 450:
            raise RuntimeError("power cut")
        return update_locals(self, locals_)

    update_locals = LogToFile.update_locals
    with monkeypatch.context() as patch:
        patch.setattr(LogToFile, "update_locals", end)
        with pytest.raises(RuntimeError, match="power cut"):
            here(*checkpointed, "-f", tmp_path / "ended")
    run = tmp_path / "ended" / "reptile_dqn" / "CartPole-v1_1"
    assert sorted(os.listdir(run / "checkpoints"))[-1] == "000003-step-400"
    output = here(*checkpointed, "-f", tmp_path / "ended", "--resume", run)
    assert "Resumed at step 400" in output
    assert os.listdir(run.parent) == ["CartPole-v1_1"]

    models = [saved_model(logs, "reptile_dqn") for logs in (straight, tmp_path / "ended")]
    weights = [model.policy.state_dict() for model in models]
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    steps, evaluated = [], []
    for logs in (straight, tmp_path / "ended"):
        folder = logs / "reptile_dqn" / "CartPole-v1_1"
        with (folder / "progress.csv").open() as file:
            steps.append([row["time/total_timesteps"] for row in csv.DictReader(file) if row["rollout/ep_len_mean"]])
        evaluated.append(np.load(folder / "evaluations.npz")["timesteps"].tolist())
    assert steps[0] == steps[1]
    assert evaluated[0] == evaluated[1] == [150, 300, 450, 600]
    more = here(*checkpointed, "-f", tmp_path / "ended", "--resume", run, code=1)
    assert "error: 600 steps are done already; pass a larger number of steps by -n" in more


def test_errors_state_why_a_run_cannot_be_resumed(checkpointed, here, tmp_path):
    assert "error: there is no" in here(*checkpointed, "--resume", tmp_path / "nothing", code=1)
    assert "checkpoints; a checkpoint is a folder" in here(*checkpointed, "--resume", tmp_path, code=1)
    bare = ["train", "--algo", "dqn", "--env", "CartPole-v1", "--resume", tmp_path]
    assert "error: --resume needs a ResumableCheckpoint" in here(*bare, code=1)
