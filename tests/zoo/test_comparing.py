"""`sb3-reptile compare`: it continues after a kill, takes the RL Zoo's hyperparameters, and refuses wrong arguments."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile import DecayedReplayBuffer
from sb3_reptile.evaluation.comparing import setup_of
from sb3_reptile.zoo.comparing import ZooModel
from tests.zoo.commands import ROOT

COMMAND = [
    "compare",
    "--env",
    "CartPole-v1",
    "-n",
    "400",
    "--seeds",
    "1",
    "--methods",
    "uniform",
    "half_life:30",
    "-j",
    "1",
]
SETTINGS = ["-params", "learning_starts:100", "train_freq:8", "gradient_steps:2"]


def test_a_killed_comparison_continues_where_it_was(here, tmp_path):
    command = [*COMMAND, "-f", tmp_path, *SETTINGS]
    folder = tmp_path / "compare" / "reptile_dqn" / "CartPole-v1"
    records = folder / "CartPole-v1.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "sb3_reptile.zoo", *map(str, command)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 300
    while not (records.is_file() and records.read_text().endswith("\n")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = records.read_text()
    assert before.count("\n") < 3
    assert not (folder / "comparison.md").exists()
    output = here(*command)
    assert records.read_text().startswith(before)
    made = [json.loads(line) for line in records.read_text().splitlines()]
    assert [(record["method"], record["seed"]) for record in made] == [
        ("random actions", 0),
        ("uniform", 0),
        ("half_life:30", 0),
    ]
    assert "Too few runs for a verdict" in output
    assert f"The report is in {folder / 'comparison.md'}" in output
    page = (folder / "comparison.md").read_text()
    assert "| half-life 30 | 1 |" in page
    assert "sb3-reptile compare --env CartPole-v1 -n 400" in page
    # Nothing is left to do
    assert "half-life 30" not in here(*command)
    assert len(records.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "CartPol-v1"], "CartPol-v1 is not a registered environment; did you mean CartPole-v1?"),
        (["--algo", "ppo"], "invalid choice: 'ppo'"),
        (["--seeds", "0"], "--seeds must be a whole number >= 1, got 0"),
        (["-j", "0"], "--jobs must be a whole number >= 1, got 0"),
        (["-n", "0"], "--n-timesteps must be a whole number >= 1, got 0"),
        (["--methods", "uniforn"], "unknown method 'uniforn': use uniform, fifo, default, auto"),
        (["--methods", "half_live:3"], "ReptileDQN has no argument 'half_live'"),
        (["--methods", "half_life:-3"], "half_life must be > 0"),
        (["--methods", "half_life:"], "--methods takes uniform, fifo, default, auto, fifo:SIZE or NAME:VALUE"),
        (["--methods", "fifo:many"], "the size of a FIFO buffer is a whole number >= 1"),
        (["-conf", "missing.yml"], "cannot read the hyperparameter file"),
        (["-params", "learning_rate:fast"], "learning_rate must be a number"),
        (["-params", "gama:0.9"], "gama"),
    ],
)
def test_wrong_arguments_give_one_line_and_leave_no_folder(arguments, message, here, tmp_path):
    output = here("compare", *arguments, "-f", tmp_path / "logs", code=2)
    assert message in output
    assert output.splitlines()[-1].startswith("sb3-reptile")
    assert ": error: " in output.splitlines()[-1]
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.jsonl"))


GIVEN = dict(
    algo="reptile_dqn",
    env="CartPole-v1",
    log_folder="logs",
    n_timesteps=-1,
    hyperparams=None,
    env_kwargs=None,
    vec_env="dummy",
    device="cpu",
    conf_file=None,
    gym_packages=[],
)


def zoo_model(**given):
    return ZooModel(argparse.Namespace(**{**GIVEN, **given}))


def test_models_have_the_hyperparameters_of_the_file_and_those_of_the_method(tmp_path):
    conf = tmp_path / "dqn.yml"
    conf.write_text(
        "CartPole-v1: {n_timesteps: 700, policy: MlpPolicy, n_envs: 8, normalize: true, learning_rate: lin_0.002, "
        "buffer_size: 800, callback: [{sb3_reptile.callbacks.ReExplore: {}}]}"
    )
    make = zoo_model(algo="dqn", conf_file=str(conf))
    experiment, model = make.set_up(0, replay_buffer_class=DecayedReplayBuffer, buffer_size=400)
    assert (experiment.n_timesteps, model.n_envs, model.buffer_size) == (700, 8, 400)
    assert isinstance(model.env, VecNormalize)
    assert isinstance(model.replay_buffer, DecayedReplayBuffer)
    assert [type(callback).__name__ for callback in experiment.callbacks] == ["ReExplore"]
    first = setup_of(make(seed=0), 700)
    assert first == setup_of(make(seed=1), 700)
    conf.write_text(conf.read_text().replace("lin_0.002", "lin_0.003"))
    assert first != setup_of(make(seed=0), 700)
    conf.write_text(conf.read_text().replace("lin_0.003", "lin_0.002").replace("normalize: true, ", ""))
    assert first != setup_of(make(seed=0), 700)
    assert not (tmp_path / "logs").exists()
