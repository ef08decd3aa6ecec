"""The training log: read whatever has happened to it, and continued by a resumed run."""

import csv

import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.logger import configure

from sb3_reptile.zoo.training_log import STEPS, LogToFile, read_log
from tests.conftest import small

HEADER = f"a,{STEPS},b\n"


@pytest.mark.parametrize(
    ("text", "rows", "n_left_out"),
    [
        ("", [], 0),
        ("\0\0", [], 1),
        (HEADER, [], 0),
        (HEADER + "1,20,x\n", [("1", "20", "x")], 0),
        (HEADER + "1,20\n", [("1", "20", "")], 0),
        (HEADER + "1,20,x,more,columns\n", [("1", "20", "x")], 0),
        (HEADER + "1,,x\n2,40,y\n", [("2", "40", "y")], 1),
        (HEADER + "1,nan,x\n1,inf,x\n", [], 2),
        (HEADER + "1,20,x\n2,4", [("1", "20", "x")], 1),
        (HEADER + '"1,20,x\n2,40,"y, z"\n', [("2", "40", "y, z")], 1),
        (HEADER + "\0\0\0\n1,20,\0x\n", [("1", "20", "x")], 1),
        ("a,b\n1,20\n", [], 1),
        ("\ufeff" + HEADER + "1,20,x\r\n", [("1", "20", "x")], 0),
        (HEADER + "1,20," + "x" * 200_000 + "\n2,40,y\n", [("2", "40", "y")], 1),
    ],
)
def test_a_log_is_read_whatever_has_happened_to_it(text, rows, n_left_out, tmp_path):
    path = tmp_path / "progress.csv"
    path.write_bytes(text.encode())
    read, left_out = read_log(path)
    assert [tuple(row[name] for name in ("a", STEPS, "b")) for row in read] == rows
    assert left_out == n_left_out


def test_bytes_that_are_no_text_damage_their_cell_only(tmp_path):
    path = tmp_path / "progress.csv"
    path.write_bytes(HEADER.encode() + b"\xff\xfe,20,x\n")
    ((row,), n_left_out) = read_log(path)
    assert row[STEPS] == "20"
    assert n_left_out == 0


def test_a_log_is_continued_with_new_columns_and_stays_whole_if_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "progress.csv"
    before = f"{STEPS},old\n20,1\n40,2\n60,3\n"
    path.write_text(before)
    model = DQN("MlpPolicy", "CartPole-v1", **small(learning_starts=1_000))
    model.set_logger(configure(None, []))
    model.num_timesteps = 40
    callback = LogToFile(str(path))
    callback.init_callback(model)

    def fail(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("csv.DictWriter.writerows", fail)
        callback.num_timesteps = 40
        with pytest.raises(OSError, match="no space"):
            callback._on_training_start()
    assert path.read_text() == before
    callback._on_training_start()
    model.logger.record(STEPS, 50)
    model.logger.record("new", "a, b")
    model.logger.dump(50)
    with path.open(newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows == [{STEPS: "20", "old": "1"}, {STEPS: "40", "old": "2"}, {STEPS: "50", "new": "a, b"}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["progress.csv"]
