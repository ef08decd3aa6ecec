"""Trains runs in child processes, several at once, and appends the record of each run that finishes."""

import asyncio
import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_reptile.evaluation.machine import THREADS
from sb3_reptile.evaluation.records import Record, append

# Ctrl-C is for the parent process
DETACHED: dict[str, Any]
if sys.platform == "win32":
    DETACHED = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    DETACHED = {"start_new_session": True}
# Seconds between two updates of the progress bar
INTERVAL = 2.0


class Job:
    """
    A run that is trained by its own command.

    The command prints lines to stdout: the number of steps so far, as often as it likes, and at last its record, JSON
    on one line. Subclasses are for commands that do not: they override :meth:`prepare`, :meth:`steps_so_far` and
    :meth:`record`.

    :param name: What the run is called in messages
    :param command: Arguments of the Python interpreter
    :param steps: Steps of the run, for the progress bar
    :param cwd: Working directory of the command
    :param output: File to which stdout and stderr are appended, for commands that do not print a record
    """

    def __init__(
        self, name: str, command: Sequence[str], steps: int, cwd: Path | None = None, output: Path | None = None
    ) -> None:
        self.name, self.command, self.steps = name, list(command), steps
        self.cwd, self.output = cwd, output
        self.seconds = 0.0
        self._steps_so_far = 0
        self._record: Record | None = None

    @property
    def hint(self) -> str:
        """What to do about a failure."""
        return f"repeat python {shlex.join(self.command)}" if self.output is None else f"see {self.output}"

    def prepare(self) -> bool:
        """Called before the command is started; False if training is complete and only the record is missing."""
        return True

    def read(self, line: bytes) -> None:
        """Called with each line of stdout. Lines that are neither steps nor a record are other packages' greetings."""
        if line.startswith(b"{"):
            self._record = json.loads(line)
        elif line.strip().isdigit():
            self._steps_so_far = int(line)

    def steps_so_far(self) -> int:
        """Steps trained so far, for the progress bar."""
        return self._steps_so_far

    def record(self) -> Record | None:
        """Called in a thread after the command has succeeded, which took ``seconds``; None if the run has failed."""
        return self._record

    async def run(self) -> Record | None:
        """Run the command with one thread; its record, or None if it failed."""
        if self.prepare():
            start = time.perf_counter()
            if await self._run_command() != 0:
                return None
            self.seconds = time.perf_counter() - start
        return await asyncio.to_thread(self.record)

    async def _run_command(self) -> int:
        with contextlib.ExitStack() as files:
            output = None if self.output is None else files.enter_context(self.output.open("ab"))
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.command,
                cwd=self.cwd,
                env={**os.environ, **dict.fromkeys(THREADS, "1")},
                stdout=asyncio.subprocess.PIPE if output is None else output,
                stderr=output,
                limit=1 << 20,
                **DETACHED,
            )
        try:
            if process.stdout is not None:
                async for line in process.stdout:
                    self.read(line)
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


def train_all(
    jobs: Sequence[Job], folder: Path, n_processes: int = 2, hours: float = math.inf, max_failures: int = 3
) -> list[Job]:
    """
    Train runs in their order, ``n_processes`` at once, and append their records.

    :param jobs: The runs
    :param folder: Folder of the records
    :param n_processes: Number of processes at once
    :param hours: No run is started after that long
    :param max_failures: Number of failed runs after which no run is started
    :return: The runs that failed
    :raises KeyboardInterrupt: on SIGINT or SIGTERM, after the child processes have ended; their runs leave no record
    """
    try:
        return asyncio.run(_train_all(jobs, folder, n_processes, time.monotonic() + 3600 * hours, max_failures))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _train_all(
    jobs: Sequence[Job], folder: Path, n_processes: int, deadline: float, max_failures: int
) -> list[Job]:
    from tqdm import tqdm

    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows, where Ctrl-C raises KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    waiting = iter(jobs)
    running: set[Job] = set()
    failed: list[Job] = []
    steps_done = n_done = 0

    async def work() -> None:
        nonlocal steps_done, n_done
        for job in waiting:
            if time.monotonic() > deadline or len(failed) >= max_failures:
                return
            running.add(job)
            record = await job.run()
            running.remove(job)
            if record is None:
                failed.append(job)
            else:
                append(record, folder)
                n_done += 1
                steps_done += job.steps
            show_progress()

    def show_progress() -> None:
        names = ", ".join(sorted(job.name for job in running))
        bar.set_description(f"{n_done} of {len(jobs)} runs{names and f', now {names}'}", refresh=False)
        bar.update(steps_done + sum(job.steps_so_far() for job in running) - bar.n)

    async def keep_showing_progress() -> None:
        while True:
            show_progress()
            await asyncio.sleep(INTERVAL)

    # One line per minute is enough for a log file
    interval = 1 if sys.stderr.isatty() else 60
    total = sum(job.steps for job in jobs)
    with tqdm(total=total, unit="step", unit_scale=True, mininterval=interval, maxinterval=interval) as bar:
        progress = asyncio.create_task(keep_showing_progress())
        try:
            await asyncio.gather(*(work() for _ in range(n_processes)))
        finally:
            progress.cancel()
    return failed


def train_or_exit(
    jobs: Sequence[Job], folder: Path, n_processes: int = 2, hours: float = math.inf, max_failures: int = 3
) -> None:
    """
    :func:`train_all` for a command line.

    :raises SystemExit: if it is interrupted or a run fails, with a message that names the run
    """
    try:
        failed = train_all(jobs, folder, n_processes, hours, max_failures)
    except KeyboardInterrupt:
        raise SystemExit("stopped; repeat the same command to continue") from None
    if failed:
        raise SystemExit("\n".join(f"failed: {job.name}: {job.hint}" for job in failed))
