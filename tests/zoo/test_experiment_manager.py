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
from sb3_reptile.zoo.search import convert_reptile_dqn_params
from sb3_reptile.zoo.training_log import LogToFile, read_log
from tests.zoo.commands import FAST, ROOT, run, saved_model


def test_reptile_dqn_trains_and_enjoys_with_no_config_named(tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "CartPole-v1"),
        *("-f", tmp_path, "-params", "half_life:321", *FAST, "--log-interval", "1"),
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
    assert saved_model(tmp_path, "reptile_dqn").half_life == "auto"


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
    output = here("train", *where, code=2)
    assert "error: Hyperparameters not found for reptile_dqn-Acrobot-v1 in" in output
    assert "-conf" in output


def test_runs_that_begin_at_the_same_time_have_folders_of_their_own(here, monkeypatch, tmp_path):
    logs = tmp_path / "reptile_dqn"
    # Made by another run after this one has counted the folders
    monkeypatch.setattr("rl_zoo3.exp_manager.get_latest_run_id", lambda *_: 0)
    (logs / "CartPole-v1_1").mkdir(parents=True)
    output = here("train", "--algo", "reptile_dqn", "--env", "CartPole-v1", "-f", tmp_path, *FAST)
    assert f"Log path: {logs / 'CartPole-v1_2'}" in output.replace("//", "/")
    assert list((logs / "CartPole-v1_1").iterdir()) == []
    assert {"CartPole-v1.zip", "best_model.zip", "evaluations.npz"} <= set(os.listdir(logs / "CartPole-v1_2"))


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
    # The model keeps the half-life as an argument of its own
    half_life = {} if model.half_life is None else {"half_life": model.half_life}
    wanted = {name: value for name, value in expected["replay_buffer_kwargs"].items() if value is not None}
    given = {name: value for name, value in model.replay_buffer_kwargs.items() if value is not None}
    assert given | half_life == wanted


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
    more = here(*checkpointed, "-f", tmp_path / "ended", "--resume", run, code=2)
    assert "error: 600 steps are done already; pass a larger number of steps by -n" in more


def contents(folder):
    """Every file and folder in a folder, with what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_what_cannot_be_resumed_is_refused_before_anything_is_created(checkpointed, here, tmp_path):
    assert "sb3-reptile: error: there is no folder" in here(*checkpointed, "--resume", tmp_path / "nothing", code=2)
    foreign, run = tmp_path / "foreign", tmp_path / "CartPole-v1_1"
    (foreign / "CartPole-v1").mkdir(parents=True)
    (foreign / "evaluations.npz").write_text("theirs")
    (run / "CartPole-v1").mkdir(parents=True)
    (run / "CartPole-v1" / "args.yml").write_text("")
    before = contents(tmp_path)
    output = here(*checkpointed, "--resume", foreign, code=2)
    assert "is not the folder of a run of CartPole-v1: it has no CartPole-v1/args.yml" in output
    assert "is not the folder of a run of Acrobot-v1" in here(
        *checkpointed, "--env", "Acrobot-v1", "--resume", run, code=2
    )
    assert f"there is no checkpoint in {run / 'checkpoints'}" in here(*checkpointed, "--resume", run, code=2)
    bare = ["train", "--algo", "dqn", "--env", "CartPole-v1", "--resume", run]
    assert "error: --resume needs a ResumableCheckpoint" in here(*bare, code=2)
    assert contents(tmp_path) == before


def test_arguments_of_the_command_line_override_the_checkpoint_or_are_refused(checkpointed, here, tmp_path):
    run = tmp_path / "reptile_dqn" / "CartPole-v1_1"
    here(*checkpointed, "-f", tmp_path, "-n", "210", "-params", "half_life:33", "buffer_size:400")
    same = ["-f", tmp_path, "--resume", run, "-params", "buffer_size:400", "n_timesteps:220"]
    here(*checkpointed, *same, "half_life:77", "learning_rate:0.5")
    model = saved_model(tmp_path, "reptile_dqn")
    assert model.half_life == 77
    assert model.num_timesteps == 220
    assert model.learning_rate(1) == 0.5
    output = here(*checkpointed, *same, "buffer_size:300", "-n", "230", code=2)
    assert "sb3-reptile: error: buffer_size=300 (saved: 400) cannot change" in output


def test_a_run_with_damaged_logs_is_resumed(checkpointed, here, tmp_path):
    run = tmp_path / "reptile_dqn" / "CartPole-v1_1"
    here(*checkpointed, "-f", tmp_path)
    evaluations, log = run / "evaluations.npz", run / "progress.csv"
    evaluations.write_bytes(evaluations.read_bytes()[:200])
    lines = log.read_bytes().splitlines(keepends=True)
    n_rows = len(lines) - 1
    log.write_bytes(b"".join(lines[:-2]) + b'\xff\xfe\x00,"\n' + b"".join(lines[-2:])[:-5])
    damaged = [evaluations.read_bytes(), log.read_bytes()]
    with pytest.warns(UserWarning, match="2 damaged lines of"), pytest.warns(UserWarning, match="evaluations start"):
        here(*checkpointed, "-f", tmp_path, "--resume", run, "-n", "800")
    assert damaged == [(run / "evaluations.old.npz").read_bytes(), (run / "progress.old.csv").read_bytes()]
    assert np.load(evaluations)["timesteps"].tolist() == [750]
    rows, n_left_out = read_log(log)
    assert n_left_out == 0
    assert len(rows) > n_rows - 1
    assert not list(run.rglob("*saving*"))


def test_what_a_resumed_run_rewrites_is_whole_at_every_moment(checkpointed, here, tmp_path, monkeypatch):
    run = tmp_path / "reptile_dqn" / "CartPole-v1_1"
    here(*checkpointed, "-f", tmp_path)
    before = contents(run)
    writes = []

    def watched(file, mode="r", *args, **kwargs):
        path = Path(file) if isinstance(file, str | os.PathLike) else None
        if path is not None and path.is_relative_to(run) and "w" in mode and ".saving" not in str(path):
            writes.append(str(path.relative_to(run)))
        return original(file, mode, *args, **kwargs)

    original = open
    monkeypatch.setattr("builtins.open", watched)
    monkeypatch.setattr("io.open", watched)
    here(*checkpointed, "-f", tmp_path, "--resume", run, "-n", "700")
    assert [path for path in writes if path in before and "checkpoints" not in path] == []
    assert (run / "CartPole-v1.zip").read_bytes() != before["CartPole-v1.zip"]
    assert contents(run).keys() >= before.keys() - {path for path in before if path.startswith("checkpoints")}


@pytest.fixture
def drifting(tmp_path):
    """Hyperparameters of a CartPole whose actions swap after 100 steps, and then stay."""
    conf = tmp_path / "drifting.yml"
    conf.write_text(
        "CartPole-v1: {n_timesteps: 120, policy: MlpPolicy, learning_starts: 50, buffer_size: 500, train_freq: 5,\n"
        "  env_wrapper: [{sb3_reptile.envs.PermutedActions: {period: 100, recurring: false}}]}\n"
    )
    return ["train", "--env", "CartPole-v1", "-conf", conf, "--seed", "1", "--eval-episodes", "1", "-f", tmp_path]


def test_training_is_evaluated_in_the_phase_in_which_it_is(drifting, here, tmp_path):
    here(*drifting, "--eval-freq", "40", "--n-eval-envs", "2")
    with np.load(tmp_path / "reptile_dqn" / "CartPole-v1_1" / "evaluations.npz") as saved:
        assert saved["timesteps"].tolist() == [40, 80, 120]
        assert saved["phases"].tolist() == [0, 0, 1]


def test_a_search_evaluates_in_the_phase_in_which_a_trial_is(drifting, here, tmp_path):
    search = ["-optimize", "--n-trials", "1", "--n-evaluations", "2", "--no-optim-plots", "--pruner", "none"]
    here(*drifting, *search, "--optimization-log-path", tmp_path / "trials")
    with np.load(tmp_path / "trials" / "trial_0" / "evaluations.npz") as saved:
        assert saved["phases"].tolist() == [0, 1]
