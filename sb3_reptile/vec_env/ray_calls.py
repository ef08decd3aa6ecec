"""Calls of workers and their results: through a channel or by Ray's scheduler, with limits of time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sb3_reptile.vec_env.ray_channel import StepChannel
from sb3_reptile.vec_env.ray_worker import LARGEST_MESSAGE, EnvironmentInterruptedError

# Seconds after which a warning names a worker that does not start, or does not return from a call
PATIENCE = 60.0
# Seconds after which a step that nobody waits for, after an interruption, must have returned to reuse its channel
UNWANTED_PATIENCE = 1.0
# Seconds that workers have to answer after another one has used up the time
LEAST_PATIENCE = 1.0


class LostError(Exception):
    """An actor or its node has died, cannot be reached, or does not return."""


@dataclass(eq=False)
class Worker:
    """
    One worker, whose environments may outlive several actors.

    :param indices: Numbers of its environments
    :param env_fns: Pickled functions that make them
    """

    indices: range
    env_fns: bytes
    actor: Any = None
    #: What its steps are sent through; None: they are calls
    channel: StepChannel | None = None
    #: Its spaces and metadata, pickled
    built: bytes = b""
    #: Number of times that it was started again
    restarts: int = 0
    #: Values that attributes were set to, pickled, by environment in this worker
    attributes: dict[int, dict[str, bytes]] = field(default_factory=dict)
    #: Seed of each environment at the last reset that had one
    seeds: list[int | None] = field(default_factory=list)
    #: Observations of its last reset or step, by key
    obs: dict[Any, Any] = field(default_factory=dict)
    #: What a restart has returned: the observations and pickled infos of a reset, until they are delivered
    fresh: tuple[dict[Any, Any], bytes] | None = None

    @property
    def name(self) -> str:
        """What errors and warnings call it."""
        first, last = self.indices[0], self.indices[-1]
        return f"the worker of environment{f' {first}' if first == last else f's {first} to {last}'}"


class Call(NamedTuple):
    """
    A call that is under way.

    :param worker: The worker
    :param method: Name of the method
    :param result: Ray's reference to the result
    :param channel: For a step: the channel that returns the result instead
    """

    worker: Worker
    method: str
    result: Any = None
    channel: StepChannel | None = None


# A result as a tuple of one, None if the worker was lost, or what an environment has raised
Outcome = tuple[Any] | None | BaseException


def _cause(error: Any) -> BaseException:
    """What an environment has raised, as in other VecEnvs, from Ray's error."""
    if isinstance(error.cause, EnvironmentInterruptedError):
        return KeyboardInterrupt(f"in an environment: {error.cause}")
    return error.cause if isinstance(error.cause, Exception) else error


class Calls:
    """
    Calls of the workers of a ``RayVecEnv``.

    :param ray: The module ``ray``
    :param call_timeout: Seconds within which a call of a worker must return; None: no limit
    """

    def __init__(self, ray: Any, call_timeout: float | None) -> None:
        from ray import exceptions

        self._ray = ray
        self._lost = (
            exceptions.RayActorError,
            exceptions.ObjectLostError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.WorkerCrashedError,
        )
        self.ray_error, self.timeout_error = exceptions.RayError, exceptions.GetTimeoutError
        self._task_error = exceptions.RayTaskError
        self.call_timeout = call_timeout
        #: What Ray said about the last worker that was lost
        self.last_loss: LostError | None = None

    def begin(self, worker: Worker, method: str, *arguments: Any) -> Call:
        """
        Call a method of a worker without waiting for it.

        :return: The call
        """
        channel = worker.channel
        if channel is not None and channel.is_under_way:
            worker.actor.await_step.remote(*channel.last)
        if channel is not None and method == "step" and channel.is_under_way:
            # Nobody waits for this step any more
            channel.receive(timeout=UNWANTED_PATIENCE)
            if channel.is_under_way:
                worker.channel = channel = None
        if channel is not None and method == "step" and len(arguments[0]) < LARGEST_MESSAGE:
            if channel.send(*arguments):
                return Call(worker, method, channel=channel)
            worker.channel = None
            return Call(worker, method, worker.actor.result_of_step.remote(*channel.last))
        return Call(worker, method, getattr(worker.actor, method).remote(*arguments))

    def fetch(self, calls: Sequence[Call]) -> list[tuple[Any] | None]:
        """
        :param calls: What :meth:`begin` returned
        :return: The results as tuples of one; None where the worker was lost, or did not return within ``call_timeout``
        :raises Exception: what an environment has raised, the first of them
        """
        begun = time.monotonic()
        from_channels = [self._receive(call, begun) if call.channel is not None else call for call in calls]
        left = [outcome for outcome in from_channels if isinstance(outcome, Call)]
        from_actors = iter(self._fetch_from_actors(left, begun))
        outcomes = [next(from_actors) if isinstance(outcome, Call) else outcome for outcome in from_channels]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes  # type: ignore[return-value]

    def _receive(self, call: Call, begun: float) -> Outcome | Call:
        """What a step has returned through its channel, or else the call that will return it."""
        assert call.channel is not None
        result = call.channel.receive(self._left(begun))
        if result is not None:
            return (result,)
        # The actor gives the reason, which may be an error of Ray or of an environment
        if call.channel.is_under_way:
            call.worker.channel = None
        return Call(call.worker, call.method, call.worker.actor.result_of_step.remote(*call.channel.last))

    def _fetch_from_actors(self, calls: Sequence[Call], begun: float) -> list[Outcome]:
        refs = [call.result for call in calls]
        try:
            # One call costs much less than one per worker
            return [(result,) for result in self._ray.get(refs, timeout=max(self._left(begun), LEAST_PATIENCE))]
        except (self.timeout_error, *self._lost, self._task_error):
            pass
        returned = self.returned(calls, len(calls), begun)
        outcomes: list[Outcome] = []
        for call in calls:
            try:
                outcomes.append((self.get(call.result),) if call in returned else None)
            except LostError as error:
                self.last_loss = error
                outcomes.append(None)
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _limits(self) -> list[float | None]:
        """Seconds after which a warning names calls that have not returned; those after which they count as lost."""
        is_warned = self.call_timeout is None or self.call_timeout > PATIENCE
        return [PATIENCE, self.call_timeout] if is_warned else [self.call_timeout]

    def _left(self, begun: float) -> float:
        """Seconds of the first limit that are left to a call."""
        limit = self._limits()[0]
        assert limit is not None
        return max(begun + limit - time.monotonic(), 0)

    def returned(self, calls: Sequence[Call], n: int, begun: float) -> list[Call]:
        """
        :param calls: What :meth:`begin` returned; no steps through channels
        :param n: Number of calls to wait for
        :param begun: Time at which waiting began, of ``time.monotonic()``
        :return: Those that have returned or are lost, when ``n`` have, or ``call_timeout`` later
        """
        by_ref = {call.result: call for call in calls}
        for limit in self._limits():
            timeout = None if limit is None else max(begun + limit - time.monotonic(), 0)
            ready, waiting = self._ray.wait(list(by_ref), num_returns=n, timeout=timeout, fetch_local=False)
            if len(ready) == n:
                break
            for call in [by_ref[ref] for ref in waiting]:
                reason = f"{call.method!r} did not return within {limit:g} s"
                if limit == self.call_timeout:
                    self.last_loss = LostError(reason)
                    consequence = "call_timeout, and counts as lost"
                else:
                    consequence = f"a call_timeout (now {self.call_timeout}) ends such calls"
                warnings.warn(f"{call.worker.name}: {reason}, {consequence}", stacklevel=2)
        return [by_ref[ref] for ref in ready]

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        """
        :param ref: Ray's reference to a result
        :param timeout: Seconds to wait
        :return: The result
        :raises LostError: if the worker was lost
        :raises Exception: what an environment has raised
        """
        try:
            return self._ray.get(ref, timeout=timeout)
        except self._lost as error:
            raise LostError(next(iter(str(error).splitlines()), type(error).__name__)) from error
        except self._task_error as error:
            raise _cause(error) from error
