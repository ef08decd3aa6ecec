"""
Calls of workers on the machine of the learner, over a socket. A call of Ray passes through several threads, each of
which must be woken up; while environments wait, this takes longer than all else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import cloudpickle

# Seconds after which to look whether a worker that does not answer has died: a process of its environments can hold
# its socket open
PERIOD = 1.0
# Seconds within which Ray says why a worker has died
LAST_WORDS = 30.0


def node_id() -> str | None:
    """
    :return: Identifier of the node of this process in its Ray cluster, None if it is not on one (``ray://``)
    """
    import ray

    return None if ray.util.client.ray.is_connected() else ray.get_runtime_context().get_node_id()


class LostError(Exception):
    """An actor or its node has died, cannot be reached, or does not answer."""


class SocketServer:
    """
    The worker's end: waits for one connection, which needs the key, and for calls. Only the user whose process it is
    can reach it.
    """

    def __init__(self) -> None:
        self.key = secrets.token_bytes(32)
        self._folder = tempfile.TemporaryDirectory(prefix="sb3-reptile-")
        #: Path of the socket
        self.address = os.path.join(self._folder.name, "calls")
        self._listener = Listener(self.address, "AF_UNIX", authkey=self.key)

    def serve(self, target: Any) -> None:
        """
        Answer calls until the learner closes the connection.

        :param target: The object whose methods are called
        """
        with self._listener:
            connection = self._listener.accept()
        self._folder.cleanup()
        with connection, contextlib.suppress(EOFError, ConnectionError):
            while True:
                connection.send_bytes(_reply(target, *pickle.loads(connection.recv_bytes())))


def _reply(target: Any, method: str, arguments: tuple[Any, ...]) -> bytes:
    try:
        return pickle.dumps((getattr(target, method)(*arguments), None), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return cloudpickle.dumps((None, (method, traceback.format_exc(), as_picklable(error))))


def as_picklable(error: Exception) -> Exception:
    """
    :param error: An exception
    :return: The exception, or one that says the same if it cannot be pickled or unpickled
    """
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Answer:
    """What a call over a socket returns."""

    def __init__(self, caller: SocketCaller) -> None:
        self._caller = caller
        self.is_there = False
        self.value: Any = None
        self.error: Exception | None = None

    def get(self, timeout: float | None = None) -> Any:
        """
        :param timeout: Seconds to wait
        :return: What the method has returned
        :raises LostError: if the worker has died
        :raises GetTimeoutError: Ray's, after ``timeout``
        :raises RayTaskError: Ray's, if the method has raised an exception
        """
        if not self.is_there:
            self._caller.receive(timeout)
        if self.error is not None:
            raise self.error
        return self.value


class SocketCaller:
    """
    The learner's end: calls methods of a worker, one after another.

    :param ray: The module ``ray``
    :param actor: The worker
    :param address: Path of its socket
    :param key: Key of the connection
    :param call_timeout: Seconds within which a call must return before the next one; None: no limit
    """

    def __init__(self, ray: Any, actor: Any, address: str, key: bytes, call_timeout: float | None) -> None:
        from ray import exceptions

        self._ray, self._exceptions, self._call_timeout = ray, exceptions, call_timeout
        # Ray ends this call when the worker dies, and knows why
        self._serving = actor.serve.remote()
        self._pending: Answer | None = None
        try:
            self._connection: Connection = Client(address, "AF_UNIX", authkey=key)
        except (OSError, EOFError) as error:
            raise self._lost() from error

    def submit(self, method: str, arguments: tuple[Any, ...]) -> Answer:
        """
        Call a method without waiting for it.

        :param method: Name of the method
        :param arguments: Its arguments
        :return: What will be returned
        """
        answer = Answer(self)
        try:
            if self._pending is not None:
                # A worker does one thing after another; so neither end fills the socket while the other one does
                self.receive(self._call_timeout)
            message = pickle.dumps((method, arguments), pickle.HIGHEST_PROTOCOL)
            with self._whole():
                self._connection.send_bytes(message)
            self._pending = answer
        except LostError as error:
            answer.is_there, answer.error = True, error
        except self._exceptions.GetTimeoutError:
            answer.is_there, answer.error = True, LostError("the call before did not return within call_timeout")
        except OSError:
            answer.is_there, answer.error = True, self._lost()
        return answer

    def receive(self, timeout: float | None = None) -> None:
        """
        Wait for the answer to the last call.

        :param timeout: Seconds to wait
        :raises LostError: if the worker has died
        :raises GetTimeoutError: Ray's, after ``timeout``
        """
        assert self._pending is not None
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        try:
            while not (is_there := self._connection.poll(max(min(PERIOD, deadline - time.monotonic()), 0))):
                if self._ray.wait([self._serving], timeout=0)[0]:
                    raise EOFError
                if time.monotonic() >= deadline:
                    break
            if is_there:
                with self._whole():
                    reply = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            lost = self._lost()
            self._pending.is_there, self._pending.error = True, lost
            self._pending = None
            raise lost from error
        if not is_there:
            raise self._exceptions.GetTimeoutError("the worker has not answered yet")
        answer, self._pending = self._pending, None
        value, raised = pickle.loads(reply)
        answer.is_there, answer.value = True, value
        if raised is not None:
            answer.error = self._exceptions.RayTaskError(*raised)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Context of a message; without the rest of it (Ctrl-C), the connection is of no use."""
        try:
            yield
        except BaseException:
            self._connection.close()
            raise

    def _lost(self) -> LostError:
        try:
            self._ray.get(self._serving, timeout=LAST_WORDS)
        except self._exceptions.GetTimeoutError:
            pass
        except Exception as error:
            return LostError(next(iter(str(error).splitlines()), type(error).__name__))
        return LostError("the connection to its process was closed")

    def finish(self, timeout: float) -> None:
        """
        Wait for the answer to a call that is under way, if there is one.

        :param timeout: Seconds to wait
        :raises LostError: if the worker has died
        :raises GetTimeoutError: Ray's, after ``timeout``
        """
        if self._pending is not None:
            self.receive(timeout)

    def close(self) -> None:
        """Close the connection, which ends the worker's :meth:`SocketServer.serve`."""
        self._connection.close()
