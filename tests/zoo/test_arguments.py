"""The arguments that `sb3-reptile` reads in its own way."""

import math
import sys

import pytest
import torch as th

from sb3_reptile.zoo import patches  # noqa: F401 -- before rl_zoo3
from sb3_reptile.zoo.arguments import (
    add_default_algorithm,
    evaluate,
    take_ray_arguments,
    take_resumed_run,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("auto", "auto"),
        ("MlpPolicy", "MlpPolicy"),
        ("td_error", "td_error"),
        ("lin_0.001", "lin_0.001"),
        ("zoo_configs/dqn.yml", "zoo_configs/dqn.yml"),
        ("'auto'", "auto"),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("false", False),
        ("true", True),
        ("null", None),
        ("None", None),
        ("1e-3", 0.001),
        ("-3", -3),
        ("2*8", 16),
        ("[1, 2]", [1, 2]),
        ("all", "all"),
        ("time", "time"),
        ("sys", "sys"),
        ("dict(net_arch=[8], activation_fn=nn.ReLU)", {"net_arch": [8], "activation_fn": th.nn.ReLU}),
    ],
)
def test_values_are_python_or_words(value, expected):
    found = evaluate(value, "-params x")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("value", ["[1", "a b", "f(x", "'text", "unknown(3)", "nn.Nothing()"])
def test_values_that_are_neither_end_the_command(value, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate(value, "-params x")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sb3-reptile: error: -params x: {value!r} is neither Python nor a word (")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("train", "--env X", "--algo reptile_dqn --env X"),
        ("train", "", "--algo reptile_dqn"),
        ("train", "--algo dqn", "--algo dqn"),
        ("train", "--algo=dqn", "--algo=dqn"),
        ("train", "--al dqn", "--al dqn"),
        ("push_to_hub", "-orga me", "--algo reptile_dqn -orga me"),
        ("load_from_hub", "--algo sac", "--algo sac"),
        ("record_video", "-f logs", "--algo reptile_dqn -f logs"),
        ("record_training", "-f logs", "--algo reptile_dqn -f logs"),
        ("enjoy", "-f logs", "--algo reptile_dqn -f logs"),
        ("plot_train", "-e X", "-a reptile_dqn -e X"),
        ("plot_train", "-a sac -e X", "-a sac -e X"),
        ("plot_train", "--algo sac", "--algo sac"),
        ("all_plots", "-e X -f logs", "-a reptile_dqn -e X -f logs"),
        ("all_plots", "-a dqn sac -e X", "-a dqn sac -e X"),
        ("all_plots", "--algos dqn", "--algos dqn"),
        ("benchmark", "--no-hub", "--no-hub"),
        ("plot_from_file", "-i x", "-i x"),
    ],
)
def test_the_algorithm_is_reptile_dqn_unless_another_is_named(command, given, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [command, *given.split()])
    add_default_algorithm(command)
    assert sys.argv == [command, *expected.split()]


def test_resume_is_taken_from_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "--env", "X", "--resume", "a run", "-n", "3"])
    assert str(take_resumed_run()) == "a run"
    assert sys.argv == ["train", "--env", "X", "-n", "3"]
    assert take_resumed_run() is None


def test_the_arguments_of_ray_are_removed_and_returned(monkeypatch):
    given = ["train", "--vec-env", "ray", "--ray", "ray://a:1", "-n", "5", "--vec-env-kwargs", "envs_per_worker:4"]
    monkeypatch.setattr(sys, "argv", [*given, "asynchronous:true", "resources:{'GPU': 1}"])
    assert take_ray_arguments() == {
        "envs_per_worker": 4,
        "asynchronous": True,
        "resources": {"GPU": 1},
        "address": "ray://a:1",
    }
    assert sys.argv == ["train", "-n", "5"]


def test_without_ray_the_arguments_stay_and_those_of_ray_are_errors(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--vec-env", "subproc"])
    assert take_ray_arguments() is None
    assert sys.argv == ["train", "--vec-env", "subproc"]
    for option in (["--ray", "auto"], ["--vec-env-kwargs", "envs_per_worker:4"]):
        monkeypatch.setattr(sys, "argv", ["train", *option])
        with pytest.raises(SystemExit):
            take_ray_arguments()
        assert f"{option[0]} needs --vec-env ray" in capsys.readouterr().err
