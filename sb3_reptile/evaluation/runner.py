"""Trains runs in child processes, here or on a cluster, and appends the record of each run that finishes."""

from __future__ import annotations

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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sb3_reptile.evaluation.machine import THREADS
from sb3_reptile.evaluation.records import Record, append

# Ctrl-C is for the parent process
DETACHED: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    DETACHED = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
# Seconds between two updates of the progress bar
INTERVAL = 2.0
# Number of processes at once on this machine
N_PROCESSES = 2


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
        """Called with each line of stdout. What is neither steps nor a record was printed by the environment."""
        if line.startswith(b"{"):
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                self._record = found if "task" in found else self._record
        elif line.strip().isdigit():
            self._steps_so_far = int(line)

    def read_output(self, line: bytes) -> None:
        """Called with each line of the output of a command that runs on another node."""
        if self.output is None:
            self.read(line)
        else:
            with self.output.open("ab") as file:
                file.write(line)

    def steps_so_far(self) -> int:
        """Steps trained so far, for the progress bar."""
        return self._steps_so_far

    def record(self) -> Record | None:
        """Called in a thread after the command has succeeded, which took ``seconds``; None if the run has failed."""
        if self._record is None:
            print(f"{self.name}: the command has ended without printing a record", file=sys.stderr)
        return self._record

    async def run(self, run_command: Callable[[Job], Awaitable[int]] | None = None) -> Record | None:
        """
        Run the command with one thread.

        :param run_command: Runs the command of a job and returns its exit status; None runs it on this machine
        :return: The record, or None if the run failed
        """
        if self.prepare():
            start = time.perf_counter()
            if await (self._run_here() if run_command is None else run_command(self)) != 0:
                return None
            self.seconds = time.perf_counter() - start
        return await asyncio.to_thread(self.record)

    async def _run_here(self) -> int:
        with contextlib.ExitStack() as files:
            output = None if self.output is None else files.enter_context(self.output.open("ab"))
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.command,
                cwd=self.cwd,
                env={**os.environ, **dict.fromkeys(THREADS, "1")},
                stdout=asyncio.subprocess.PIPE if output is None else output,
                stderr=output,
                **DETACHED,
            )
        try:
            if process.stdout is not None:
                async for line in _lines(process.stdout):
                    self.read(line)
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length."""
    parts: list[bytes] = []
    while chunk := await stream.read(1 << 16):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join([*parts, end])
            parts = []
        parts.append(rest)
    yield b"".join(parts)


def train_all(
    jobs: Sequence[Job],
    folder: Path,
    n_processes: int | None = None,
    hours: float = math.inf,
    max_failures: int = 3,
    ray: str | None = None,
) -> list[Job]:
    """
    Train runs in their order, several at once, and append their records.

    On a Ray cluster, Ray's scheduler chooses the node of each run, and a run whose node is lost is done again. Every
    node needs this package, and the files that the commands name, at the same paths. Commands that write files need a
    file system that all nodes share.

    :param jobs: The runs
    :param folder: Folder of the records, on this machine
    :param n_processes: Number of runs at once; None for 2, or for the number of processors of the cluster
    :param hours: No run is started after that long
    :param max_failures: Number of failed runs after which no run is started
    :param ray: Address of a Ray cluster (see :func:`~sb3_reptile.vec_env.ray_cluster.connect`); None trains on this
        machine, without Ray
    :return: The runs that failed
    :raises KeyboardInterrupt: on SIGINT or SIGTERM, after the child processes have ended; their runs leave no record
    :raises ImportError: if ``ray`` is given and Ray is not installed
    :raises ConnectionError: if there is no cluster at this address
    """
    deadline = time.monotonic() + 3600 * hours
    try:
        if ray is None:
            return _run(_train_all(jobs, folder, n_processes or N_PROCESSES, deadline, max_failures))
        return _train_on_cluster(jobs, folder, n_processes, deadline, max_failures, ray)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _run(training: Coroutine[None, None, list[Job]]) -> list[Job]:
    """``asyncio.run``, also in a notebook, whose event loop runs in this thread already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(training)
    loop = asyncio.new_event_loop()
    task = loop.create_task(training)
    with ThreadPoolExecutor(1) as pool, contextlib.closing(loop):
        future = pool.submit(loop.run_until_complete, task)
        try:
            return future.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                future.result()
            raise


def _train_on_cluster(
    jobs: Sequence[Job], folder: Path, n_processes: int | None, deadline: float, max_failures: int, address: str
) -> list[Job]:
    from sb3_reptile.evaluation.ray_nodes import Nodes
    from sb3_reptile.vec_env.ray_cluster import connected

    with connected(address) as ray:
        nodes = Nodes(ray)
        at_once = min(n_processes or nodes.n_slots(), len(jobs))
        try:
            return _run(_train_all(jobs, folder, at_once, deadline, max_failures, nodes.run))
        finally:
            nodes.close()


async def _train_all(
    jobs: Sequence[Job],
    folder: Path,
    n_processes: int,
    deadline: float,
    max_failures: int,
    run_command: Callable[[Job], Awaitable[int]] | None = None,
) -> list[Job]:
    from tqdm import tqdm

    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        # On Windows there are none, Ctrl-C raises KeyboardInterrupt there; nor in a notebook's thread
        with contextlib.suppress(NotImplementedError, RuntimeError):
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
            record = await job.run(run_command)
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
        workers = [asyncio.create_task(work()) for _ in range(n_processes)]
        try:
            await asyncio.gather(*workers)
        finally:
            progress.cancel()
            # If one of them has failed, the child processes of the others would go on
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return failed


def train_or_exit(
    jobs: Sequence[Job],
    folder: Path,
    n_processes: int | None = None,
    hours: float = math.inf,
    max_failures: int = 3,
    ray: str | None = None,
) -> None:
    """
    :func:`train_all` for a command line.

    :raises SystemExit: if it is interrupted, a run fails or there is no such cluster, with a message that names it
    """
    try:
        failed = train_all(jobs, folder, n_processes, hours, max_failures, ray)
    except KeyboardInterrupt:
        raise SystemExit("stopped; repeat the same command to continue") from None
    except (ImportError, ConnectionError) as error:
        if ray is None:
            raise
        raise SystemExit(str(error)) from None
    if failed:
        raise SystemExit("\n".join(f"failed: {job.name}: {job.hint}" for job in failed))
