"""Commands in this process, and a run that several tests look at."""

import sys

import pytest

from sb3_reptile.zoo.__main__ import main
from sb3_reptile.zoo.experiment_manager import ReptileExperimentManager
from tests.zoo.commands import FAST, run


@pytest.fixture
def here(monkeypatch, capfd):
    """`sb3-reptile` in this process, where starting another one, seconds each time, would show nothing more."""

    def run_here(*arguments, code=0, cwd=None):
        monkeypatch.setattr(sys, "argv", ["sb3-reptile", *map(str, arguments)])
        # Put back afterwards, as is what main() makes of --resume
        monkeypatch.setattr(ReptileExperimentManager, "resumed_run", None)
        if cwd is not None:
            monkeypatch.chdir(cwd)
        given = 0
        try:
            main()
        except SystemExit as end:
            given = end.code or 0
            if isinstance(given, str):  # as the interpreter does
                print(given, file=sys.stderr)
                given = 1
        captured = capfd.readouterr()
        output = captured.out + captured.err
        assert given == code, output
        return output

    return run_here


@pytest.fixture(scope="package")
def logs(tmp_path_factory):
    """Folder with a short run, its replay buffer saved."""
    logs = tmp_path_factory.mktemp("logs")
    run(
        *("-m", "sb3_reptile.zoo", "train", "--algo", "reptile_dqn", "--env", "CartPole-v1", "-f", logs),
        *(*FAST, "--eval-episodes", "2", "--save-replay-buffer"),
        *("-params", "learning_starts:300", "gradient_steps:8"),
    )
    return logs
