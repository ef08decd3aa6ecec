"""Steps of a worker that do not go through Ray's scheduling: a compiled graph, whose messages are in shared memory."""

from __future__ import annotations

import logging
import sys
from typing import Any

# If a worker is lost, Ray prints a traceback because the worker does not answer when its graph is taken down
logging.getLogger("ray.dag.compiled_dag_node").setLevel(logging.CRITICAL)


def are_supported(ray: Any) -> bool:
    """
    :param ray: The module ``ray``, connected
    :return: Whether this process can use channels: not on Windows, nor by a ``ray://`` address
    """
    return sys.platform != "win32" and not ray.util.client.ray.is_connected()


class StepChannel:
    """
    A channel to an actor, for one step at a time; it takes a third of the time of a call. It is a compiled graph of Ray
    with one node, https://docs.ray.io/en/latest/ray-core/compiled-graph/ray-compiled-graph.html. A result can be asked
    for only once, and the reason of a failure is not always known. Therefore callers who meet an error or a timeout
    abandon the channel, and call the actor.

    :param actor: Actor with :class:`~sb3_reptile.vec_env.ray_worker.EnvWorker`
    """

    def __init__(self, actor: Any) -> None:
        from ray.dag import InputNode

        with InputNode() as pickled_actions:
            step = actor.step_in_channel.bind(pickled_actions)
        self._graph = step.experimental_compile()
        self._ref: Any = None
        #: Number of steps that were sent
        self.n_sent = 0
        #: Whether a step was sent and not received
        self.is_under_way = False

    def send(self, pickled_actions: bytes) -> None:
        """
        Begin a step.

        :param pickled_actions: Actions of all environments of the actor
        """
        self._ref = self._graph.execute(pickled_actions)
        self.n_sent += 1
        self.is_under_way = True

    def receive(self, timeout: float) -> Any:
        """
        :param timeout: Seconds to wait
        :return: What the step under way has returned
        :raises Exception: what an environment has raised, or any other if that is unknown
        """
        from ray.exceptions import RayTaskError

        try:
            result = self._ref.get(timeout)
        except RayTaskError:
            self.is_under_way = False
            raise
        self.is_under_way = False
        if isinstance(result, Exception):
            # Ray returns exceptions that it cannot unpickle
            raise result
        return result

    def close(self) -> None:
        """End the graph, whose actor has ended."""
        self._graph.teardown()
