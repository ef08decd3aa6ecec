"""benchmarks/transfer.py trains what its methods say; page and records agree."""

import importlib
import json

import numpy as np
import pytest

import tests.benchmarks  # noqa: F401

transfer = importlib.import_module("transfer")
Run = transfer.Run


def test_the_page_is_that_of_the_records():
    found = transfer.by_method(transfer.read_records())
    assert {len(records) for records in found.values()} == {transfer.SEEDS}
    assert transfer.page(found) == transfer.PAGE.read_text()


def test_the_task_is_a_cartpole_with_other_motors_and_sensors():
    env, cartpole = transfer.Motors(), transfer.gym.make("CartPole-v1")
    obs, _ = env.reset(seed=3)
    theirs, _ = cartpole.reset(seed=3)
    np.testing.assert_array_equal(obs, [*theirs[[1, 2, 3, 0]], 0.0])
    strong, weak = env.step(2)[0], None
    env.reset(seed=3)
    weak = env.step(3)[0]
    # Velocities change with the force of the motor
    assert strong[0] - obs[0] == pytest.approx(2 * (weak[0] - obs[0]), rel=0.05)
    assert (strong[4], weak[4]) == (1.0, 0.5)


def test_a_run_starts_from_the_pretrained_network_of_its_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transfer, "SOURCE_STEPS", 1_300)
    record = transfer.train(Run("slow", 1), tmp_path, steps=600)
    assert [path.name[-6:] for path in tmp_path.iterdir()] == ["-1.zip"]
    assert record["command"] == "python benchmarks/transfer.py --run slow 1"
    assert (record["method"], record["seed"], len(record["curve"])) == ("slow", 1, 120)
    assert json.loads(json.dumps(record)) == record
    before = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    other = transfer.train(Run("pretrained", 1), tmp_path, steps=600)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == before
    assert other["setup"] != record["setup"]
