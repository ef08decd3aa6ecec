"""Runs the commands of jobs on the nodes of a Ray cluster, each in a slot that Ray's scheduler places."""

from __future__ import annotations

import asyncio
import os
import platform
import queue
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from sb3_reptile.evaluation.machine import THREADS

if TYPE_CHECKING:
    from sb3_reptile.evaluation.runner import Job

# Number of times that a run is repeated because its node was lost
MAX_LOSSES = 3
# Seconds that a slot waits for output before it answers that there is none
PATIENCE = 1.0


class Slot:
    """
    Lives on a node, as an actor with one processor, and runs one command at a time there.
    """

    def start(self, command: list[str], cwd: str | None, with_stderr: bool) -> None:
        """
        :param command: Arguments of the Python interpreter
        :param cwd: Working directory
        :param with_stderr: Whether stderr belongs to the output; Ray shows it otherwise
        :raises FileNotFoundError: if the node lacks the program or the directory
        """
        program = os.path.join(cwd or "", command[0])
        missing = cwd if cwd is not None and not os.path.isdir(cwd) else program
        if missing == cwd or (command[0].endswith(".py") and not os.path.isfile(program)):
            raise FileNotFoundError(
                f"node {platform.node()} has no {missing}: every node needs the same files at the same paths"
            )
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=cwd,
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if with_stderr else None,
        )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    def poll(self) -> tuple[list[bytes], int | None]:
        """
        :return: The lines that the command has printed since the last call, and its exit status once it has ended
        """
        lines: list[bytes] = []
        try:
            line = self._lines.get(timeout=PATIENCE)
            while line is not None:
                lines.append(line)
                line = self._lines.get_nowait()
        except queue.Empty:
            return lines, None
        return lines, self._process.wait()

    def stop(self) -> None:
        """End the command that is running."""
        if getattr(self, "_process", None) is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


class Nodes:
    """
    The slots of a cluster, from the side of the harness. Use it within
    :class:`~sb3_reptile.vec_env.ray_cluster.connected`.

    :param ray: The module ``ray``
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._slot_class = ray.remote(num_cpus=1, max_restarts=0)(Slot)
        self._free: list[Any] = []

    def n_slots(self) -> int:
        """Number of commands that the cluster can run at once."""
        return max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    async def run(self, job: Job) -> int:
        """
        Run a job's command in a free slot; again in another one if the node of the first is lost.

        :param job: The job, which reads the lines of the output as they come
        :return: Exit status of the command
        """
        from ray.exceptions import RayActorError

        for losses in range(MAX_LOSSES + 1):
            slot = self._free.pop() if self._free else self._slot_class.remote()
            try:
                status = await self._run_in(slot, job)
            except RayActorError:
                again = "it is done again" if losses < MAX_LOSSES else f"given up after {losses + 1} times"
                print(f"{job.name}: its node was lost, {again}", file=sys.stderr)
                # The cluster may not have noticed yet
                await asyncio.sleep(2**losses)
                continue
            except BaseException:
                self._release(slot)
                raise
            self._free.append(slot)
            return status
        return 1

    def _release(self, slot: Any) -> None:
        """Stop what runs in a slot, and end the slot."""
        from ray.exceptions import RayError

        try:
            self._ray.get(slot.stop.remote(), timeout=10)
        except (RayError, TimeoutError):
            pass
        finally:
            self._ray.kill(slot)

    async def _run_in(self, slot: Any, job: Job) -> int:
        try:
            cwd = None if job.cwd is None else str(job.cwd.absolute())
            await slot.start.remote(job.command, cwd, job.output is not None)
        except FileNotFoundError as error:
            print(f"{job.name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
            self._free.append(slot)
            return 1
        status = None
        while status is None:
            lines, status = await slot.poll.remote()
            for line in lines:
                job.read_output(line)
        return status

    def close(self) -> None:
        """End all slots."""
        for slot in self._free:
            self._ray.kill(slot)
        self._free.clear()
