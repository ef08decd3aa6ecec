"""`sb3-reptile train --vec-env ray`."""

import pytest

from sb3_reptile import ReptileDQN
from tests.zoo.commands import FAST, run, saved_model

pytestmark = pytest.mark.ray


def test_training_on_a_ray_that_it_starts_equals_training_without(tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    algo = ["--algo", "reptile_dqn", "--env", "CartPole-v1", *FAST]
    params = ["-params", "n_envs:2", "train_freq:32", "gradient_steps:8"]
    train = ["-m", "sb3_reptile.zoo", "train", *algo, *params]
    output = run(*train, "-f", tmp_path / "ray", "--vec-env", "ray", "--vec-env-kwargs", "envs_per_worker:2")
    assert "workers/" in output
    assert "restarts" in output
    run(*train, "-f", tmp_path / "dummy")
    ours, theirs = (saved_model(tmp_path / name, "reptile_dqn", ReptileDQN) for name in ("ray", "dummy"))
    for name, value in theirs.get_parameters()["policy"].items():
        assert ours.get_parameters()["policy"][name].equal(value), name
    assert len(list((tmp_path / "ray").rglob("*.monitor.csv"))) == 2


def test_an_address_without_a_cluster_is_one_line():
    pytest.importorskip("ray", reason="needs the extra ray")
    algo = ["--algo", "reptile_dqn", "--env", "CartPole-v1"]
    output = run("-m", "sb3_reptile.zoo", "train", *algo, "--vec-env", "ray", "--ray", "127.0.0.1:1", code=2)
    assert "error: ConnectionError: cannot connect to a Ray cluster at '127.0.0.1:1'" in output
