"""The RL Zoo's commands as a user types them, in processes of their own."""

import csv
import os
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest
import rl_zoo3
from matplotlib import pyplot as plt
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.replay.decay import make_decay
from sb3_reptile.zoo.__main__ import main
from sb3_reptile.zoo.registration import LogToFile, ReptileExperimentManager
from sb3_reptile.zoo.search import convert_reptile_dqn_params, sample_reptile_dqn_params

ROOT = Path(__file__).parent.parent
FAST = ["-n", "1200", "--eval-freq", "600", "--eval-episodes", "1", "--seed", "1", "--num-threads", "1"]


def run(*arguments, cwd=ROOT, code=0, env=None):
    command = [sys.executable, *map(str, arguments)]
    environ = {**os.environ, **(env or {})}
    result = subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=300, env=environ)
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    return output


@pytest.fixture
def here(monkeypatch, capfd):
    """`sb3-reptile` in this process, where starting another one, seconds each time, would show nothing more."""

    def run_here(*arguments, code=0, cwd=None):
        monkeypatch.setattr(sys, "argv", ["sb3-reptile", *map(str, arguments)])
        # Put back afterwards, as is what main() makes of --resume
        monkeypatch.setattr(ReptileExperimentManager, "resumed_run", None)
        if cwd is not None:
            monkeypatch.chdir(cwd)
        given = 0
        try:
            main()
        except SystemExit as end:
            given = end.code or 0
            if isinstance(given, str):  # as the interpreter does
                print(given, file=sys.stderr)
                given = 1
        captured = capfd.readouterr()
        output = captured.out + captured.err
        assert given == code, output
        return output

    return run_here


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
    assert saved_model(tmp_path, "reptile_dqn").half_life is None


def test_our_dqn_file_works_with_reptile_dqn_too(here, tmp_path):
    where = ["--algo", "reptile_dqn", "--env", "CartPole-v1", "-conf", ROOT / "zoo_configs" / "dqn.yml", "-f", tmp_path]
    here("train", *where, *FAST)
    assert saved_model(tmp_path, "reptile_dqn").replay_buffer_class is DecayedReplayBuffer


def test_unmodified_rl_zoo_takes_reptile_dqn_for_dqn_when_told_so(tmp_path):
    where = ["--algo", "dqn", "--env", "CartPole-v1", "-f", tmp_path, "--gym-packages", "sb3_reptile.zoo.dqn"]
    output = run("-m", "rl_zoo3.train", *where, *FAST)
    assert f"Loading hyperparameters from: {Path(rl_zoo3.__file__).parent}" in output
    assert "mean_age" in output
    assert saved_model(tmp_path, "dqn").half_life is None
    assert "Mean reward" in run("-m", "rl_zoo3.enjoy", *where, "--no-render", "-n", "600")


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
    study.set_user_attr("policy", "MultiInputPolicy")
    for _ in range(10):
        arguments = {"using_her_replay_buffer": False, "her_kwargs": {"combined": True, "half_life": 3}}
        tried = sample_reptile_dqn_params(study.ask(), 2, 1, arguments)
        assert tried["n_steps"] == 1
        kwargs = tried["replay_buffer_kwargs"]
        assert kwargs["combined"] is True
        # The file's decay is not what is tried
        assert kwargs["half_life"] != 3 or kwargs["decay"] is not None


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Folder with a short run, its replay buffer saved."""
    logs = tmp_path_factory.mktemp("logs")
    run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "CartPole-v1", "-f", logs),
        *(*FAST, "--eval-episodes", "2", "--save-replay-buffer"),
        *("-params", "learning_starts:300", "gradient_steps:8"),
    )
    return logs


def test_training_is_plotted_and_gathered(logs, tmp_path):
    (tmp_path / "matplotlibrc").write_text("backend: agg")  # no window
    algo = tmp_path / "logs" / "reptile_dqn"
    for number in (1, 2):  # a spread needs two of them
        shutil.copytree(logs / "reptile_dqn" / "CartPole-v1_1", algo / f"CartPole-v1_{number}")
    where = ["-a", "reptile_dqn", "-e", "CartPole-v1", "-f", "logs"]
    run("-m", "sb3_reptile.zoo", "plot_train", *where, "-w", "5", cwd=tmp_path)
    table = run("-m", "sb3_reptile.zoo", "all_plots", *where, "-o", "all", "--no-display", cwd=tmp_path)
    assert "REPTILE_DQN" in table
    assert "+/-" in table
    output = ["-o", "curves.png", "--format", "png"]
    run("-m", "sb3_reptile.zoo", "plot_from_file", "-i", "all.pkl", *output, cwd=tmp_path)
    assert (plt.imread(tmp_path / "curves.png") < 0.9).any()


def test_trained_agents_are_benchmarked(logs, tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "benchmark", "--no-hub", "--log-dir", logs, "--benchmark-dir", tmp_path / "out"),
        *("-n", "600"),
        cwd=tmp_path,
    )
    assert "Mean reward" in output
    assert "|reptile_dqn|CartPole-v1|" in (tmp_path / "benchmark.md").read_text().replace(" ", "")


def test_a_run_is_drawn(logs, here, tmp_path):
    output = run("-m", "sb3_reptile.zoo", "inspect", logs / "reptile_dqn" / "CartPole-v1_1", "-o", tmp_path / "a.png")
    assert f"Drawn to {tmp_path / 'a.png'}" in output
    both = plt.imread(tmp_path / "a.png")
    here("inspect", logs / "reptile_dqn" / "CartPole-v1_1" / "replay_buffer.pkl", "-o", tmp_path / "b.png")
    one = plt.imread(tmp_path / "b.png")
    height = both.shape[0] // 2
    # What was logged is drawn below, and only if there is a log
    assert (both[height:] < 0.9).any(axis=2).mean() > 2 * (one[height:] < 0.9).any(axis=2).mean()
    assert (one[:height] < 0.9).any(axis=2).mean() > 0.01


def test_what_cannot_be_drawn_is_told(here, tmp_path):
    def refused(path):
        return here("inspect", path, code=1)

    assert f"error: there is no {tmp_path / 'nothing'}" in refused(tmp_path / "nothing")
    assert "holds neither replay_buffer.pkl" in refused(tmp_path)
    (tmp_path / "text.pkl").write_text("no pickle")
    assert "is not a saved replay buffer" in refused(tmp_path / "text.pkl")
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=10)
    model.save_replay_buffer(tmp_path / "uniform.pkl")
    assert "holds a ReplayBuffer; only decayed" in refused(tmp_path / "uniform.pkl")
    ReptileDQN("MlpPolicy", "CartPole-v1", buffer_size=10).save_replay_buffer(tmp_path / "empty.pkl")
    assert "is empty" in refused(tmp_path / "empty.pkl")


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


def test_the_model_card_is_written_without_a_network(logs, tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "push_to_hub", "--algo", "reptile_dqn", "--env", "CartPole-v1", "-f", logs),
        *("-orga", "someone", "--no-render"),
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1"},
    )
    assert "Nothing was uploaded" in output
    card = (tmp_path / "hub" / "reptile_dqn-CartPole-v1" / "README.md").read_text()
    assert "# **ReptileDQN** Agent playing **CartPole-v1**" in card
    assert "sb3-reptile enjoy --algo reptile_dqn --env CartPole-v1" in card
    assert "rl_zoo3." not in card
    assert "library_name: stable-baselines3" in card
    assert (tmp_path / "hub" / "reptile_dqn-CartPole-v1" / "reptile_dqn-CartPole-v1.zip").is_file()


@pytest.mark.parametrize("env", ["Acrobot-v1", "MountainCar-v0", "LunarLander-v3"])
def test_the_rl_zoos_own_file_trains_its_other_tasks(env, here, tmp_path):
    theirs = Path(rl_zoo3.__file__).parent / "hyperparams" / "dqn.yml"
    where = ["--algo", "reptile_dqn", "--env", env, "-conf", theirs, "-f", tmp_path]
    here("train", *where, "-n", "1600", "--eval-freq", "-1", "-params", "learning_starts:1000")
    assert ReptileDQN.load(tmp_path / "reptile_dqn" / f"{env}_1" / f"{env}.zip")._n_updates > 0


def test_rl_zoos_own_algorithms_are_untouched(here, tmp_path):
    output = here("train", "--algo", "dqn", "--env", "CartPole-v1", "-f", tmp_path, *FAST)
    assert f"Loading hyperparameters from: {Path(rl_zoo3.__file__).parent}" in output
    assert saved_model(tmp_path, "dqn", DQN).replay_buffer_class is ReplayBuffer


@pytest.mark.parametrize("command", ["train", "enjoy", "plot_train", "all_plots", "plot_from_file", "benchmark"])
def test_help_is_rl_zoos_with_ours_among_the_choices(command, here, monkeypatch, capfd):
    ours = here(command, "--help")
    if command in ("train", "enjoy", "benchmark"):
        assert f"usage: sb3-reptile {command}" in ours
    if command in ("train", "enjoy"):
        assert "reptile_dqn" in ours
    monkeypatch.setattr(sys, "argv", ["theirs", "--help"])
    module = f"rl_zoo3.plots.{command}" if "plot" in command else f"rl_zoo3.{command}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit):
        runpy.run_module(module, run_name="__main__")
    theirs = capfd.readouterr().out
    options = {word.strip(",[]") for word in theirs.split() if word.strip("[]").startswith("-")}
    assert "--help" in options
    assert options <= {word.strip(",[]") for word in ours.split()}


def test_wrong_commands_are_refused(here):
    output = run("-m", "sb3_reptile.zoo", "trian", code=2)
    assert "unknown command 'trian', use one of: train, enjoy, plot_train" in output
    assert "no command given" in here(code=2)
    assert "invalid choice: 'reptil'" in here("train", "--algo", "reptil", code=2)
    assert "usage: sb3-reptile COMMAND" in here("--help")


def test_there_is_a_console_script():
    (script,) = entry_points(group="console_scripts", name="sb3-reptile")
    assert script.load() is main


def test_a_task_without_an_entry_is_told_what_to_do(here, tmp_path):
    conf = tmp_path / "empty.yml"
    conf.write_text("CartPole-v1: {}")
    where = ["--algo", "reptile_dqn", "--env", "Acrobot-v1", "-f", tmp_path, "-conf", conf]
    output = here("train", *where, code=1)
    assert "error: Hyperparameters not found for reptile_dqn-Acrobot-v1 in" in output
    assert "-conf" in output


def test_a_missing_package_of_a_task_is_named(here, monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    output = here("train", "--algo", "dqn", "--env", "LunarLander-v3", "-f", tmp_path, code=1)
    assert "error: Box2D is not installed" in output
    assert "(needs the extra `box2d`: pip install 'sb3-reptile[box2d]')" in output


@pytest.mark.parametrize(
    ("env_id", "package", "extra"),
    [
        ("PongNoFrameskip-v4", "ale_py", "atari"),
        ("MiniGrid-Dynamic-Obstacles-6x6-v0", "minigrid", "minigrid"),
        ("HalfCheetahBulletEnv-v0", "pybullet_envs_gymnasium", "pybullet"),
    ],
)
def test_a_missing_package_that_registers_a_task_is_named(here, monkeypatch, tmp_path, env_id, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(gym.registry, env_id, raising=False)
    output = here("train", "--algo", "reptile_dqn", "--env", env_id, "-f", tmp_path, code=1)
    assert f"error: {env_id} not found" in output
    assert f"(needs the extra `{extra}`: pip install 'sb3-reptile[{extra}]')" in output


def test_a_task_that_no_extra_has_is_told_as_the_rl_zoo_tells_it(here, tmp_path):
    output = here("train", "--algo", "reptile_dqn", "--env", "CartPole-v7", "-f", tmp_path, code=1)
    assert "error: CartPole-v7 not found in gym registry" in output
    assert "extra" not in output


def test_a_missing_rl_zoo_is_named_with_its_extra():
    # `None` makes the import fail as if it were not installed
    hide = "import runpy, sys; sys.modules['rl_zoo3'] = None; sys.argv = ['zoo', 'train']; "
    output = run("-c", hide + "runpy.run_module('sb3_reptile.zoo', run_name='__main__')", code=1)
    assert "pip install 'sb3-reptile[zoo]'" in output
    assert "Traceback" not in output


def test_continuous_actions_are_wrapped_by_the_config(here, tmp_path):
    output = here("train", "--algo", "reptile_dqn", "--env", "Pendulum-v1", "-f", tmp_path, *FAST)
    assert "sb3_reptile.envs.DiscreteActions" in output
    assert ReptileDQN.load(tmp_path / "reptile_dqn" / "Pendulum-v1_1" / "Pendulum-v1.zip").action_space.n == 5


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
    assert "error: 600 steps are done already; name a larger number of them with -n" in more


def test_what_cannot_be_resumed_is_told(checkpointed, here, tmp_path):
    assert "error: there is no" in here(*checkpointed, "--resume", tmp_path / "nothing", code=1)
    assert "checkpoints; a checkpoint is a folder" in here(*checkpointed, "--resume", tmp_path, code=1)
    bare = ["train", "--algo", "dqn", "--env", "CartPole-v1", "--resume", tmp_path]
    assert "error: --resume needs a ResumableCheckpoint" in here(*bare, code=1)
