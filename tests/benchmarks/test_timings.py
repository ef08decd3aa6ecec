"""benchmarks/timings.py keeps records whatever happens, and the programs that measure times write what it expects."""

import importlib
import os
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest

import tests.benchmarks  # noqa: F401
from sb3_reptile.evaluation.machine import THREADS

timings = importlib.import_module("timings")
FIELDS = ["part", "round", "value"]


def records_of(part, values=(1, 2)):
    return [{"part": part, "round": str(number), "value": str(value)} for number, value in enumerate(values)]


def settings_of_process(*names):
    """Stands for a measurement."""
    for number, name in enumerate(names):
        yield {"part": name, "round": number, "value": os.environ.get(name)}


def one_record_then_failure():
    yield {"part": "a", "round": 0, "value": 1}
    raise RuntimeError("for a test")


@pytest.fixture
def records(tmp_path):
    return timings.Records(tmp_path / "records.csv", FIELDS)


@pytest.fixture
def variables(monkeypatch):
    """Of the environment of a process; restored after the test."""
    for name in (*THREADS, "FOR_A_TEST"):
        monkeypatch.setenv(name, "")
    return {"FOR_A_TEST": "on"}


def test_records_are_appended_to_those_of_earlier_programs(records):
    records.append(records_of("a"))
    records.append(records_of("b"))
    assert records.read() == records_of("a") + records_of("b")
    assert records.path.read_text() == "part,round,value\na,0,1\na,1,2\nb,0,1\nb,1,2\n"


def test_an_interrupted_measurement_leaves_the_records_before_it(records):
    def interrupted():
        yield from records_of("a")
        # Already while the next record is measured
        assert records.read() == records_of("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.append(interrupted())
    assert records.read() == records_of("a")


def test_records_of_other_parts_are_kept_when_one_is_measured_again(records):
    records.discard()
    assert records.read() == []
    records.append(records_of("a") + records_of("b"))
    records.discard(lambda record: record["part"] == "a")
    assert records.read() == records_of("b")


def test_a_file_with_other_columns_is_neither_read_nor_changed(records):
    records.path.write_text("part,value\na,1\n")
    for call in (records.read, records.discard, lambda: records.append(records_of("a"))):
        with pytest.raises(SystemExit, match="must have the columns part,round,value"):
            call()
    assert records.path.read_text() == "part,value\na,1\n"


def test_a_process_measures_with_its_threads_and_variables(records, variables):
    records.measure(settings_of_process, "OMP_NUM_THREADS", "FOR_A_TEST", threads=2, variables=variables)
    assert [record["value"] for record in records.read()] == ["2", "on"]


def test_a_process_that_fails_stops_the_program_after_its_records(records, variables):
    with pytest.raises(SystemExit, match="failed: one_record_then_failure"):
        records.measure(one_record_then_failure)
    assert len(records.read()) == 1


def test_ratios_are_those_of_the_same_round():
    ours, theirs = (timings.by_round(records_of("a", values), "value") for values in ((3, 8, 5), (1, 4)))
    assert timings.ratios(ours, theirs) == [2, 3]


def test_every_member_has_one_turn_in_a_round():
    orders = {tuple(timings.shuffled("abc")) for _ in range(200)}
    assert len(orders) == 6
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def run(monkeypatch, *arguments, measure=None):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    timings.run(timings.command_line(""), "name", FIELDS, measure, lambda records: f"{len(records)} records\n")


def test_a_page_is_next_to_its_records(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(timings, "RESULTS", tmp_path)
    run(monkeypatch, measure=lambda records: records.append(records_of("a")))
    assert capsys.readouterr().out == (tmp_path / "name.md").read_text() == "2 records\n"
    run(monkeypatch, "--quick", measure=lambda records: records.append(records_of("a", [1])))
    assert (tmp_path / "name_quick.md").read_text() == "1 records\n"
    for flag in ("--from-records", "--report"):
        (tmp_path / "name.md").unlink()
        run(monkeypatch, flag, "--output", tmp_path / "name.csv")
        assert (tmp_path / "name.md").read_text() == "2 records\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--output", "records.txt"], "must end in .csv"), (["--report", "--output", "none.csv"], "there is no none.csv")],
)
def test_a_wrong_file_is_a_mistake_of_the_command(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments)
    assert message in capsys.readouterr().err


def of_sampling(monkeypatch, program, tmp_path):
    few = replace(program.FLOATS, calls={32: 1})
    monkeypatch.setattr(program, "FLOATS", few)
    cells = [program.plain(300, few), program.n_step(300, few), program.dictionaries(300), program.index_drawing(300)]
    cells += [program.adding(1, is_dict=True)]
    return [record for cell in cells for record in program.records_of(cell, cell.groups(1e9), 1)]


def of_training(monkeypatch, program, tmp_path):
    task = replace(program.TASKS["CartPole-v1, defaults"], warm_up=101, steps=4)
    monkeypatch.setitem(program.TASKS, "CartPole-v1, defaults", task)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    return list(program.turns("CartPole-v1, defaults", 1, ["SB3 DQN", "ReptileDQN"], 2))


def of_checkpoint(monkeypatch, program, tmp_path):
    return list(program.records_of("add", 2, tmp_path))


def of_vec_env(monkeypatch, program, tmp_path):
    """Without Ray: one environment that stands for SubprocVecEnv."""
    (measured, make), *_ = program.vec_envs(1)
    monkeypatch.setattr(program, "connected", nullcontext)
    monkeypatch.setattr(program, "vec_envs", lambda n: [(measured._replace(vec_env="Subproc"), make)])
    monkeypatch.setattr(program, "WARM_UP", 0.0)
    monkeypatch.setattr(program, "TURN", 0.01)
    return list(program.measure_steps(1, [1], [0.0]))


@pytest.mark.parametrize("measured", [of_sampling, of_training, of_checkpoint, of_vec_env])
def test_a_program_makes_its_page_from_what_it_measures(measured, monkeypatch, tmp_path):
    program = importlib.import_module(measured.__name__[3:])
    records = timings.Records(tmp_path / "records.csv", program.FIELDS)
    found = measured(monkeypatch, program, tmp_path)
    records.append(found)
    assert len(records.read()) == len(found)
    assert program.markdown(records.read()).count("\n| ") > 2
