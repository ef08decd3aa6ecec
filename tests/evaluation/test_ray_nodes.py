"""The harness on a Ray cluster: the same records as without, and lost runs are done again."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from sb3_reptile.evaluation.runner import Job, train_all, train_or_exit
from tests.vec_env.conftest import cluster  # noqa: F401 -- a fixture

# A run that takes a while on its first try, so that its node can be lost meanwhile
PROGRAM = """
import json, os, pathlib, sys, time

seed = sys.argv[1]
pathlib.Path(f"parent_of_{seed}").write_text(str(os.getppid()))
with open("begun", "a") as file:
    file.write(seed + "\\n")
tries = pathlib.Path("begun").read_text().split().count(seed)
print(50, flush=True)
time.sleep(60 if seed == "1" and tries == 1 else 0)
print("a greeting of a library")
print(json.dumps({"task": "tiny", "seed": int(seed), "value": int(seed) ** 2}), flush=True)
"""


def jobs_in(folder, seeds):
    (folder / "run.py").write_text(PROGRAM)
    return [Job(f"seed {seed}", ["run.py", str(seed)], 100, cwd=folder) for seed in seeds]


def records_in(folder):
    return sorted(map(json.loads, (folder / "tiny.jsonl").read_text().splitlines()), key=lambda record: record["seed"])


@pytest.mark.ray
def test_runs_are_spread_and_those_that_are_lost_are_done_again(cluster, tmp_path, capfd):  # noqa: F811
    def kill_the_slot():
        while not (begun := tmp_path / "begun").exists() or "1" not in begun.read_text().split():
            time.sleep(0.1)
        os.kill(int((tmp_path / "parent_of_1").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=kill_the_slot)
    thread.start()
    assert train_all(jobs_in(tmp_path, range(3)), tmp_path / "cluster", 2, ray=cluster.address) == []
    thread.join()
    assert train_all(jobs_in(tmp_path, range(3)), tmp_path / "here") == []
    assert records_in(tmp_path / "cluster") == records_in(tmp_path / "here")
    assert (tmp_path / "begun").read_text().split().count("1") == 3
    assert "seed 1: its node was lost, it is done again" in capfd.readouterr().err


@pytest.mark.ray
def test_a_run_whose_files_the_node_lacks_fails_and_says_so(cluster, tmp_path, capfd):  # noqa: F811
    job = Job("one", ["there_is_no.py"], 10, cwd=tmp_path)
    assert train_all([job], tmp_path, 1, ray=cluster.address) == [job]
    assert "there_is_no.py: every node needs the same files" in capfd.readouterr().err


def test_without_ray_the_command_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r"sb3-reptile\[ray\]"):
        train_or_exit(jobs_in(tmp_path, [0]), tmp_path, ray="auto")
