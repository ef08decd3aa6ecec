"""
The test-suites of SB3 and sb3-contrib with the decayed replay buffers in the place of SB3's.

    git clone https://github.com/DLR-RM/stable-baselines3
    python benchmarks/upstream_tests.py stable-baselines3 tests/test_identity.py -x

The first argument is a clone, the others are those of pytest. `--replay half_life=inf` or another option replaces the
default decay. Tests that require a return depend on their seed: `--seeds 20` repeats them with seeds 0 to 19 in the
place of their own, adds the results to `benchmarks/results/upstream_tests.csv`, and makes `upstream_tests.md` of them:

    python benchmarks/upstream_tests.py stable-baselines3 tests/test_her.py -k performance_her --seeds 20
"""

import ast
import csv
import os
import sys
from collections import Counter
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest

from sb3_reptile.evaluation.tables import table

RECORDS = Path(__file__).parent / "results" / "upstream_tests.csv"
FIELDS = ["test", "replay", "seed", "outcome"]
HEAD = """# Tests of SB3 and sb3-contrib that require a return

With the decayed buffers, and seeds 0 to 19 in the place of the tests' own, by
`python benchmarks/upstream_tests.py CLONE tests/test_her.py -k performance_her --seeds 20`, or the same with
`--replay half_life=inf` for uniform replay. SB3 and sb3-contrib at the commits e05d2dbe and 0ca7fdd.
"""


class DecayedBuffers:
    """Plugin of pytest that exchanges the classes of replay buffers, in SB3's algorithms and in the tests."""

    def __init__(self, options: dict[str, Any]) -> None:
        from stable_baselines3.common import buffers
        from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

        import sb3_reptile

        self.decayed = {
            buffers.ReplayBuffer: sb3_reptile.DecayedReplayBuffer,
            buffers.DictReplayBuffer: sb3_reptile.DecayedDictReplayBuffer,
            buffers.NStepReplayBuffer: sb3_reptile.DecayedNStepReplayBuffer,
            HerReplayBuffer: sb3_reptile.DecayedHerReplayBuffer,
        }
        for ours in self.decayed.values() if options else ():
            ours.__init__ = partialmethod(ours.__init__, **options)  # type: ignore[misc]

    def pytest_configure(self) -> None:
        import sb3_contrib  # noqa: F401
        import stable_baselines3  # noqa: F401

        for name, module in list(sys.modules.items()):
            # Not where the classes are defined: they name each other in super()
            is_theirs = name.partition(".")[0] in ("stable_baselines3", "sb3_contrib")
            if is_theirs and not name.endswith(("common.buffers", "her_replay_buffer")):
                self._exchange(module)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for module in {item.module for item in items if isinstance(item, pytest.Function)}:
            self._exchange(module)

    def _exchange(self, module: Any) -> None:
        for attribute, value in list(vars(module).items()):
            if isinstance(value, type) and value in self.decayed:
                setattr(module, attribute, self.decayed[value])


class Seeds:
    """Plugin of pytest that repeats every test with other seeds, and writes down which passed."""

    def __init__(self, n_seeds: int, replay: str) -> None:
        self.n_seeds, self.replay = n_seeds, replay

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("seed_of_the_run", range(self.n_seeds), indirect=True)

    @pytest.fixture(autouse=True)
    def seed_of_the_run(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        from stable_baselines3.common.base_class import BaseAlgorithm

        set_seed = BaseAlgorithm.set_random_seed
        monkeypatch.setattr(BaseAlgorithm, "set_random_seed", lambda model, seed: set_seed(model, request.param))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            name, _, parameters = report.nodeid.rpartition("::")[2].rstrip("]").partition("[")
            seed, *others = parameters.split("-")
            is_new = not RECORDS.exists()
            with RECORDS.open("a", newline="", encoding="utf-8") as file:
                rows = [FIELDS] * is_new + [["-".join([name, *others]), self.replay, seed, report.outcome]]
                csv.writer(file).writerows(rows)

    def pytest_sessionfinish(self) -> None:
        with RECORDS.open(newline="", encoding="utf-8") as file:
            # A repeated run counts once
            outcomes = {(test, replay, seed): outcome for test, replay, seed, outcome in list(csv.reader(file))[1:]}
        n_runs = Counter(run[:2] for run in outcomes)
        n_passed = Counter(run[:2] for run, outcome in outcomes.items() if outcome == "passed")
        rows = [[test, replay, f"{n_passed[test, replay]} of {n}"] for (test, replay), n in n_runs.items()]
        lines = table(["test", "replay", "passed"], rows, text_columns=2)
        RECORDS.with_suffix(".md").write_text("\n".join([HEAD, *lines]) + "\n", encoding="utf-8")


def option(arguments: list[str], name: str) -> str | None:
    """Take the option and its value out of the arguments."""
    if name not in arguments:
        return None
    at = arguments.index(name)
    _, value = arguments[at : at + 2]
    del arguments[at : at + 2]
    return value


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    clone, arguments, options = Path(sys.argv[1]), sys.argv[2:], {}
    replay, n_seeds = option(arguments, "--replay"), option(arguments, "--seeds")
    if replay is not None:
        name, _, value = replay.partition("=")
        options[name] = float("inf") if value == "inf" else ast.literal_eval(value)
    plugins: list[Any] = [DecayedBuffers(options)]
    if n_seeds is not None:
        plugins.append(Seeds(int(n_seeds), replay or "default decay"))
    os.chdir(clone)
    sys.path.append(str(Path.cwd()))
    # Warnings that our buffers add are not errors here
    sys.exit(pytest.main(["-W", "default", *arguments], plugins=plugins))


if __name__ == "__main__":
    main()
