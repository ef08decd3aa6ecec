"""`sb3-reptile` with SB3's own algorithms on decayed replay buffers, and with SBX's where it is missing."""

import importlib.util
import sys

import pytest
from stable_baselines3 import DQN
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_reptile import DecayedReplayBuffer
from sb3_reptile.zoo.experiment_manager import default_config, zoo_configs
from tests.zoo.commands import FAST, ROOT, run, saved_model

OF_DQN = ["--algo", "dqn", "--env", "CartPole-v1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with a short run of SB3's DQN on a decayed buffer."""
    folder = tmp_path_factory.mktemp("dqn")
    run(
        *("-m", "sb3_reptile.zoo", "train", *OF_DQN, "-conf", ROOT / "zoo_configs" / "dqn.yml", "-f", folder / "logs"),
        *(*FAST, "--tensorboard-log", folder / "events", "--save-replay-buffer"),
        *("-params", "learning_starts:300", "gradient_steps:8"),
    )
    return folder


def test_replay_of_other_algorithms_is_logged_without_a_callback_in_the_file(trained):
    assert saved_model(trained / "logs", "dqn", DQN).replay_buffer_class is DecayedReplayBuffer
    events = EventAccumulator(str(trained / "events" / "CartPole-v1" / "DQN_1"))
    events.Reload()
    keys = {"mean_age", "entropy", "effective_sample_size", "volume"}
    assert {f"replay/{key}" for key in keys} <= set(events.Tags()["scalars"])


def test_other_algorithms_are_enjoyed_recorded_inspected_and_plotted(trained, here, tmp_path):
    assert "Mean reward" in here("enjoy", *OF_DQN, "-f", trained / "logs", "--no-render", "-n", "300")
    here("inspect", trained / "logs" / "dqn" / "CartPole-v1_1", "-o", tmp_path / "replay.png")
    assert (tmp_path / "replay.png").exists()
    if importlib.util.find_spec("moviepy") and importlib.util.find_spec("pygame"):
        here("record_video", *OF_DQN, "-f", trained / "logs", "-n", "10", "-o", tmp_path / "video", "--no-render")
        assert [path.suffix for path in (tmp_path / "video").iterdir()] == [".mp4"]


def test_sbx_has_a_name_in_the_error_where_it_is_missing(here, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sbx", None)
    monkeypatch.delitem(sys.modules, "sb3_reptile.sbx", raising=False)
    output = here("train", "--algo", "sbx_sac", "--env", "Pendulum-v1", "-f", tmp_path, code=2)
    (line,) = [line for line in output.splitlines() if "error" in line]
    assert line.startswith("sb3-reptile: error: SBX's algorithms need the extra `sbx`")
    assert "pip install 'sb3-reptile[sbx]'" in line
    assert list(tmp_path.iterdir()) == []


def test_sbx_takes_the_file_of_the_same_algorithm():
    assert default_config("sbx_sac") == str(zoo_configs() / "sac.yml")
    assert default_config("sbx_crossq").endswith("rl_zoo3/hyperparams/crossq.yml")
    assert default_config("sac") is None


def test_a_search_without_a_search_space_is_refused(here, tmp_path):
    arguments = ["--algo", "crossq", "--env", "Pendulum-v1", "-n", "100", "-f", tmp_path, "-optimize"]
    assert "error: there is no search space for crossq, use one of: a2c," in here("train", *arguments, code=2)
