"""Steps of a worker that do not go through Ray's scheduling: a compiled graph, whose messages are in shared memory."""

from __future__ import annotations

import logging
import sys
from typing import Any

# If a worker is lost, Ray prints a traceback because the worker does not answer when its graph is taken down
logging.getLogger("ray.dag.compiled_dag_node").addFilter(
    lambda record: "Error cancelling worker task" not in record.getMessage()
)


def is_possible(ray: Any, actor: Any) -> bool:
    """
    :param ray: The module ``ray``, connected
    :param actor: Actor with :class:`~sb3_reptile.vec_env.ray_worker.EnvWorker`
    :return: Whether this process can have a channel to it: on this machine, but not on Windows, nor by a ``ray://``
        address. Between machines, a message was late by more than a minute in our tests
    """
    if sys.platform == "win32" or ray.util.client.ray.is_connected():
        return False
    return bool(ray.get(actor.node_id.remote(), timeout=60) == ray.get_runtime_context().get_node_id())


class StepChannel:
    """
    A channel to an actor, for one step at a time, faster than a call (``benchmarks/vec_env.py``). It is a compiled
    graph of Ray with one node, https://docs.ray.io/en/latest/ray-core/compiled-graph/ray-compiled-graph.html. A result
    can be asked for only once, and the reason of a failure is not always known. Therefore callers who get no result
    call the actor, and abandon a channel whose step stays under way.

    :param actor: Actor with :class:`~sb3_reptile.vec_env.ray_worker.EnvWorker`
    """

    def __init__(self, actor: Any) -> None:
        from ray.dag import InputNode

        with InputNode() as message:
            step = actor.step_in_channel.bind(message)
        # One step at a time: Ray has a buffer of a megabyte for each step that may be under way, in each direction
        self._graph = step.experimental_compile(_max_inflight_executions=1)
        self._ref: Any = None
        #: Number and pickled actions of the last step that was sent
        self.last: tuple[int, bytes] = (0, b"")
        #: Whether a step was sent and not received
        self.is_under_way = False

    def send(self, pickled_actions: bytes) -> bool:
        """
        Begin a step.

        :param pickled_actions: Actions of all environments of the actor
        :return: Whether it was sent; otherwise nobody knows
        """
        from ray.exceptions import RayError

        # First: an interruption must not leave a step that nobody knows of
        self.last, self.is_under_way, self._ref = (self.last[0] + 1, pickled_actions), True, None
        try:
            self._ref = self._graph.execute(self.last[0].to_bytes(8, "big") + pickled_actions)
        except RayError:
            return False
        return True

    def receive(self, timeout: float) -> bytes | None:
        """
        :param timeout: Seconds to wait
        :return: What the step under way has returned; None if it must be asked for with a call, because it is large,
            has failed, or has not returned. In the last case it stays under way
        """
        from ray.exceptions import RayError, RayTaskError

        ref, self._ref = self._ref, None
        if ref is None:
            return None
        try:
            result = ref.get(timeout)
        except RayError as error:
            self.is_under_way = not isinstance(error, RayTaskError)
            return None
        self.is_under_way = False
        # Ray returns exceptions that it cannot unpickle
        return None if isinstance(result, Exception) else result or None

    def close(self) -> None:
        """End the graph, whose actor has ended."""
        self._graph.teardown()
        # A graph has its own process until it is deleted
        self._graph = self._ref = None
