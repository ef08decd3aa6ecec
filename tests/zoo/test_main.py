"""The commands of `sb3-reptile`: their arguments, and their errors for what is missing."""

import os
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import entry_points

import gymnasium as gym
import numpy as np
import pytest
from matplotlib import pyplot as plt

import sb3_reptile
from sb3_reptile.zoo.__main__ import main
from tests.zoo.commands import ROOT, run


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


@pytest.mark.filterwarnings("ignore:No artists with labels")
def test_plots_take_the_name_of_an_environment_in_a_namespace(here, tmp_path):
    folders = [tmp_path / "reptile_dqn" / f"My-Car-v0_{number}" for number in (1, 2)]
    for folder in folders:
        folder.mkdir(parents=True)
    where = ["-e", "My/Car-v0", "-f", tmp_path]
    here("plot_train", "-a", "reptile_dqn", *where)
    assert "train with evaluations (--eval-freq)" in here("all_plots", *where, "-o", "all", "--no-display", code=2)
    for folder in folders:
        np.savez(folder / "evaluations.npz", timesteps=[1, 2], results=[[1.0], [3.0]], ep_lengths=[[1], [1]])
    here("all_plots", *where, "-o", tmp_path / "all", "--no-display")
    assert "there is no run of My-Bus-v0" in here("plot_train", "-e", "My/Bus-v0", "-f", tmp_path, code=2)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["enjoy", "--env", "CartPole-v1", "-f", "logs", "--no-render", "-n", "60"], "Mean reward: "),
        # It starts a process for each agent
        (
            ["benchmark", "--no-hub", "--log-dir", "logs", "--benchmark-dir", "table", "-n", "60"],
            "Evaluating reptile_dqn on CartPole-v1",
        ),
        (["inspect", "logs/reptile_dqn/CartPole-v1_1"], "Drawn to logs/reptile_dqn/CartPole-v1_1/replay.png"),
        (["plot_train", "-e", "CartPole-v1", "-f", "logs", "-w", "5"], ""),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_work_in_an_interpreter_of_their_own(arguments, printed, logs, tmp_path):
    shutil.copytree(logs, tmp_path / "logs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "sb3_reptile.zoo", *arguments]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert printed in result.stdout
    assert "Traceback" not in result.stderr
    if arguments[0] == "benchmark":
        rows = (tmp_path / "table" / "benchmark.md").read_text().splitlines()
        (cells,) = [[cell.strip() for cell in row.split("|")] for row in rows if "CartPole-v1" in row]
        assert cells[1] == "reptile_dqn"
        assert float(cells[3]) > 0


HELPED = ["train", "enjoy", "record_video", "record_training", "plot_train", "all_plots", "plot_from_file", "benchmark"]


@pytest.mark.parametrize("command", HELPED)
def test_help_is_rl_zoos_with_ours_among_the_choices(command, here, monkeypatch, capfd):
    ours = here(command, "--help")
    assert f"usage: sb3-reptile {command}" in ours
    if command == "train":
        assert {"--resume", "--ray", "--vec-env-kwargs"} <= set(ours.split())
    if command in ("train", "enjoy", "record_video", "record_training"):
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
    output = run("-m", "sb3_reptile.zoo", "trian", code=2)  # codespell:ignore
    assert "unknown command 'trian', use one of: train, enjoy, record_video" in output  # codespell:ignore
    assert "no command given" in here(code=2)
    assert "invalid choice: 'reptil'" in here("train", "--algo", "reptil", code=2)
    assert "usage: sb3-reptile COMMAND" in here("--help")


def test_the_version_is_printed(here):
    assert here("--version") == f"sb3-reptile {sb3_reptile.__version__}\n"


def test_there_is_a_console_script():
    (script,) = entry_points(group="console_scripts", name="sb3-reptile")
    assert script.load() is main


def test_a_missing_package_of_a_task_is_named(here, monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    output = here("train", "--algo", "dqn", "--env", "LunarLander-v3", "-f", tmp_path, code=2)
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
    output = here("train", "--algo", "reptile_dqn", "--env", env_id, "-f", tmp_path, code=2)
    assert f"error: {env_id} not found" in output
    assert f"(needs the extra `{extra}`: pip install 'sb3-reptile[{extra}]')" in output


def test_for_a_task_without_an_extra_the_error_is_that_of_the_rl_zoo(here, tmp_path):
    output = here("train", "--algo", "reptile_dqn", "--env", "CartPole-v7", "-f", tmp_path, code=2)
    assert "error: CartPole-v7 not found in gym registry" in output
    assert "extra" not in output


def test_an_environment_that_cannot_be_drawn_says_what_to_do(here, tmp_path):
    drawn = ["--env", "DriftingClicks-v0", "--env-kwargs", "render_mode:human"]  # as enjoy does
    assert "enjoy shows what the agent reaches with --no-render" in here("train", *drawn, "-f", tmp_path, code=2)


def test_a_missing_rl_zoo_is_named_with_its_extra():
    # `None` makes the import fail as if it were not installed
    hide = "import runpy, sys; sys.modules['rl_zoo3'] = None; sys.argv = ['zoo', 'train']; "
    code = hide + "runpy.run_module('sb3_reptile.zoo', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "pip install 'sb3-reptile[zoo]'" in result.stderr
    assert "Traceback" not in result.stderr


HERE = ["train", "--env", "CartPole-v1", "-n", "40", "--eval-freq", "-1"]
FILES = {
    "list.yml": "- CartPole-v1",
    "empty.yml": "",
    "bad.yml": "CartPole-v1: {a: [1",
    "none.yml": "CartPole-v1:",
    "wrapper.yml": "CartPole-v1: {n_timesteps: 9, policy: MlpPolicy, env_wrapper: [sb3_reptile.envs.Nothing]}",
    "entries.py": "hyper = {}",
}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-conf", "missing.yml"], "cannot read the hyperparameter file missing.yml (-conf): No such file"),
        (["-conf", "folder.yml"], "cannot read the hyperparameter file folder.yml (-conf): Is a directory"),
        (["-conf", "latin.yml"], "the hyperparameter file latin.yml is not YAML: 'utf-8' codec can't decode"),
        (["-conf", "bad.yml"], "the hyperparameter file bad.yml is not YAML: while parsing"),
        (["-conf", "list.yml"], "Hyperparameters not found for reptile_dqn-CartPole-v1 in list.yml"),
        (["-conf", "empty.yml"], "Hyperparameters not found for reptile_dqn-CartPole-v1 in empty.yml"),
        (["-conf", "none.yml"], "the entry CartPole-v1 in none.yml must be a mapping, got None"),
        (["-conf", "wrapper.yml"], "module 'sb3_reptile.envs' has no attribute 'Nothing'"),
        (["-conf", "missing.py"], "No such file or directory: missing.py"),
        (["-conf", "entries.py"], "KeyError: 'hyperparams'"),
        (["-conf", "no_package"], "No module named 'no_package'"),
        (["-params", "half_life"], "-params takes NAME:VALUE, got 'half_life'"),
        (["-params", "half_life=3"], "-params takes NAME:VALUE, got 'half_life=3'"),
        (["-params", "half_life:"], "-params takes NAME:VALUE, got 'half_life:'"),
        (["-params", "half_life:-3"], "half_life must be > 0 or inf"),
        (["-params", "half_life:1/0"], "'1/0' is neither Python nor a word (ZeroDivisionError"),
        (["-params", "policy_kwargs:dict(a=[1"], "-params policy_kwargs: 'dict(a=[1' is neither Python nor a word"),
        (["-params", "weighting:in sampling"], "quote text for Python and for the shell: weighting:\"'text'\""),
        (["-params", "halflife:3"], "unexpected keyword argument 'halflife'"),
        (["-params", "learning_rate:fast"], "learning_rate must be a number, or lin_NUMBER"),
        (["--env-kwargs", "mood"], "--env-kwargs takes NAME:VALUE, got 'mood'"),
        (["--env-kwargs", "mood:1"], "unexpected keyword argument 'mood'"),
        (["-i", "missing.zip"], "The trained_agent must be a valid path to a .zip file"),
        (["-f", "list.yml/logs"], "Not a directory: list.yml/logs"),
        (["--storage", "sqlite:///no.db", "--study-name", "a", "--trial-id", "7"], "Record does not exist"),
    ],
)
def test_mistakes_give_one_line(arguments, complaint, here, tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.yml").write_bytes(b"CartPole-v1: {a: '\xe9'}")
    (tmp_path / "folder.yml").mkdir()
    output = here(*HERE, *arguments, code=2, cwd=tmp_path)
    (line,) = [line for line in output.splitlines() if "error" in line.lower()]
    assert line.startswith("sb3-reptile: error: ")
    assert complaint in line
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "-n", "0"], "-n/--n-timesteps must be >= 1, got 0"),
        (["train", "-n-5"], "-n/--n-timesteps must be >= 1, got -5"),
        (["enjoy", "--n-timesteps", "0"], "-n/--n-timesteps must be >= 1, got 0"),
        (["benchmark", "--no-hub", "-n", "-1"], "-n/--n-timesteps must be >= 1, got -1"),
        (["train", "--eval-episodes", "0"], "--eval-episodes must be >= 1, got 0"),
        (["train", "-optimize", "--n-trials", "0"], "--n-trials must be >= 1, got 0"),
        (["train", "-tb", "file/runs"], "-tb/--tensorboard-log must be a folder, file/runs is or goes through a file"),
        (["train", "--trial-id", "1", "--storage", "study.log"], "--trial-id needs --storage and --study-name"),
        (["record_video", "-o", "file"], "-o/--output-folder must be a folder, file is or goes through a file"),
        (["benchmark", "--no-hub", "--log-dir", "empty"], "there is no trained agent in empty (--log-dir)"),
        (["enjoy", "-f", "nowhere"], "The nowhere/reptile_dqn folder was not found"),
        (["record_video", "-f", "nowhere"], "The nowhere/reptile_dqn folder was not found"),
        (["plot_train", "-e", "CartPole-v1", "-f", "nowhere"], "there is no folder nowhere/reptile_dqn"),
        (["plot_train", "-e", "CartPole-v1", "-f", "empty"], "there is no run of CartPole-v1 in empty/reptile_dqn"),
        (["plot_train", "-e", "X", "-f", "empty", "-w", "0"], "--episode-window must be >= 1 (episodes), got 0"),
        (["all_plots", "-f", "empty"], "all_plots needs -e/--env"),
        (["all_plots", "-e", "CartPole-v1"], "all_plots needs -f/--exp-folders"),
        (["all_plots", "-e", "X", "-f", "empty"], "there is no evaluations.npz of a run of X in empty/reptile_dqn"),
        (["plot_from_file"], "plot_from_file needs -i FILE"),
        (["plot_from_file", "-i", "nothing.pkl"], "No such file or directory: nothing.pkl"),
        (["inspect", "empty", "-o", "nowhere/replay.png"], "-o must be a file in a folder that exists, got nowhere/"),
        (["inspect", "empty", "-o", "empty"], "-o must be a file in a folder that exists, got empty"),
        (["benchmark", "--no-hub", "--log-dir", "nowhere"], "No such file or directory: nowhere"),
    ],
)
def test_mistakes_of_other_commands_give_one_line(arguments, complaint, here, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "call", subprocess.call)  # patched by the command
    (tmp_path / "empty" / "reptile_dqn").mkdir(parents=True)
    (tmp_path / "file").touch()
    output = here(*arguments, code=2, cwd=tmp_path)
    assert output.splitlines()[-1].startswith(f"sb3-reptile: error: {complaint}")


def test_a_traceback_is_shown_on_request_and_for_errors_in_training(here, tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match="trained_agent"):
        here("--traceback", *HERE, "-i", "missing.zip")

    def fail(self, *args, **kwargs):
        raise ValueError("in the middle")

    monkeypatch.setattr("sb3_reptile.ReptileDQN.learn", fail)
    with pytest.raises(ValueError, match="in the middle"):
        here(*HERE, "-f", tmp_path)


def test_videos_are_recorded(logs, here, tmp_path):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    here("record_video", "-f", logs, "-n", "10", "-o", tmp_path, "--no-render")
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]


def test_a_training_is_recorded_by_our_own_command(logs, here, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "call", subprocess.call)  # patched by the command
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: commands.append(command) or done)
    monkeypatch.setenv("PATH", "")
    assert "joins videos with ffmpeg, which is not installed" in here("record_training", "-f", logs, code=2)
    assert commands == []
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    here("record_training", "-f", logs, "-o", tmp_path / "videos", "-n", "10")
    assert len(commands) == 2  # the final model and the best one
    for command in commands:
        assert command[:4] == [sys.executable, "-m", "sb3_reptile.zoo", "record_video"]
        assert command[command.index("--algo") + 1] == "reptile_dqn"
