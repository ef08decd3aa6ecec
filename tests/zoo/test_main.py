"""The commands of `sb3-reptile`: their arguments, and their errors for what is missing."""

import runpy
import shutil
import sys
from importlib.metadata import entry_points

import gymnasium as gym
import pytest
from matplotlib import pyplot as plt

from sb3_reptile.zoo.__main__ import main
from tests.zoo.commands import run


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


def test_for_a_task_without_an_extra_the_error_is_that_of_the_rl_zoo(here, tmp_path):
    output = here("train", "--algo", "reptile_dqn", "--env", "CartPole-v7", "-f", tmp_path, code=1)
    assert "error: CartPole-v7 not found in gym registry" in output
    assert "extra" not in output


def test_a_missing_rl_zoo_is_named_with_its_extra():
    # `None` makes the import fail as if it were not installed
    hide = "import runpy, sys; sys.modules['rl_zoo3'] = None; sys.argv = ['zoo', 'train']; "
    output = run("-c", hide + "runpy.run_module('sb3_reptile.zoo', run_name='__main__')", code=1)
    assert "pip install 'sb3-reptile[zoo]'" in output
    assert "Traceback" not in output
