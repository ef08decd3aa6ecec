"""The connection to a Ray cluster, shared by all who use it, and a function that spreads calls over its nodes."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"
# Length of the reason in the error of a connection that fails
MAX_REASON = 300


def import_ray() -> Any:
    """
    :return: The module ``ray``
    :raises ImportError: if it is not installed, with a message that names the extra
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ImportError(
            f"environments and runs on a cluster need the extra `ray` (no module named {error.name!r} found): "
            "pip install 'sb3-reptile[ray]'"
        ) from error
    return ray


class Connection:
    """
    A connection of this process to a cluster, shared by all who use it.

    :param address: Address of the cluster, None if the program has made the connection
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.n_users = 0
        self._session = _session()

    @property
    def is_local(self) -> bool:
        """Whether the cluster is a Ray on this machine that ends with the last user."""
        return self.address == LOCAL

    def is_up(self) -> bool:
        """Whether this process still has it: someone else may have called ``ray.shutdown()``, and connected again."""
        return bool(import_ray().is_initialized()) and _session() in (self._session, None)


def _session() -> tuple[str, str] | None:
    """What no two connections have in common, None if the cluster does not answer."""
    context = import_ray().get_runtime_context()
    try:
        return context.get_node_id(), context.get_job_id()
    except Exception:  # after the server of a ray:// address has gone, also those of gRPC
        return None


_lock = threading.Lock()
_present: Connection | None = None


def connect(address: str | None = None) -> Connection:
    """
    Connect this process to a cluster, or count one more user of the connection that it has. Each call needs a
    :func:`disconnect`. A connection that the program has made with ``ray.init`` is used, and is not ended.

    :param address: ``HOST:PORT`` or ``auto`` on a node of the cluster, ``ray://HOST:10001`` from elsewhere, ``local``
        to start a Ray on this machine. ``None``: the environment variable ``RAY_ADDRESS``, or else ``local``
    :return: The connection
    :raises ImportError: if Ray is not installed
    :raises ConnectionError: if there is no cluster at this address
    :raises ValueError: if this process is connected to another address
    """
    global _present
    ray = import_ray()
    with _lock:
        if _present is None or not _present.n_users or not _present.is_up():
            wanted = None
            if not ray.is_initialized():
                wanted = address or os.environ.get("RAY_ADDRESS") or LOCAL
                _init(ray, wanted)
            _present = Connection(wanted)
        elif address is not None and _present.address not in (address, None):
            raise ValueError(
                f"this process is connected to the Ray cluster {_present.address!r}, got the address {address!r}: "
                "close the environments that use the first, or start another process"
            )
        _present.n_users += 1
        return _present


def _init(ray: Any, address: str) -> None:
    settings: dict[str, Any] = {"address": address, "logging_level": logging.WARNING}
    if address == LOCAL:
        # A Ray that lives as long as this program reports to nobody
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray runs workers at a low priority; other programs then slow environments down, but not those of SubprocVecEnv
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Ray starts processes for workers that nobody has asked for, which take time of those that are needed
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        os.environ.setdefault("RAY_enable_worker_prestart", "0")
        settings["include_dashboard"] = False
    try:
        _knock(address)
        ray.init(**settings)
    except Exception as error:  # a Ray that does not start in time raises no narrower one
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise ConnectionError(
            f"cannot connect to a Ray cluster at {address!r} ({reason}): start one with `ray start --head`, use "
            "HOST:PORT or ray://HOST:10001, or leave the address out for a Ray on this machine; a cluster that checks "
            "a token needs RAY_AUTH_MODE=token and the file ~/.ray/auth_token of its first machine"
        ) from error


def _knock(address: str) -> None:
    """Raise an error soon if nobody listens at an address; Ray tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def disconnect(connection: Connection) -> None:
    """
    Count one user less; after the last one, end a connection that :func:`connect` has made, and its local Ray. One that
    has ended before is left alone, as is that which this process has now.

    :param connection: What :func:`connect` returned
    """
    with _lock:
        connection.n_users -= 1
        if not connection.n_users and connection.address is not None and connection.is_up():
            import_ray().shutdown()


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """
    Context in which this process is connected to a cluster; its value is the module ``ray``. See :func:`connect` for
    the argument and errors.
    """
    connection = connect(address)
    try:
        yield import_ray()
    finally:
        disconnect(connection)


def map_on_cluster(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    address: str | None = None,
    num_cpus: float = 1,
    max_retries: int = 3,
) -> list[Result]:
    """
    Call a function once per item, spread over the nodes of a cluster by Ray's scheduling. Results that are lost with a
    node are computed again.

    :param function: The function; it and its results must be picklable by cloudpickle
    :param items: Its arguments
    :param address: See :func:`connect`
    :param num_cpus: Number of processors of a call
    :param max_retries: Number of times that a call is repeated if its node is lost
    :return: The results, in the order of the items
    :raises ImportError: if Ray is not installed
    :raises ConnectionError: if there is no cluster at this address
    """
    with connected(address) as ray:
        call = ray.remote(num_cpus=num_cpus, max_retries=max_retries)(function)
        return list(ray.get([call.remote(item) for item in items]))
