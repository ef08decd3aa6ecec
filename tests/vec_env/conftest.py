"""A Ray in this process for fast tests, and a cluster of three nodes on this machine."""

import os
import traceback
from types import SimpleNamespace

import numpy as np
import pytest

from sb3_reptile.vec_env import ray_vec_env, ray_workers


class FakeRay:
    """
    Runs actors in this process. As with Ray, arguments and results are pickled, and their arrays are read-only.

    Actors die when ``dying`` holds the number of their next call, counted over all actors; a call whose number is in
    ``slow`` returns to those who wait without a limit.
    """

    def __init__(self, exceptions):
        self.exceptions = exceptions
        self.n_calls, self.dying, self.slow, self.started, self.killed = 0, set(), set(), [], 0

    def remote(self, **options):
        def actor_class(cls):
            ray = self

            class Actor:
                def __init__(self):
                    self.instance, self.is_dead = cls(), False
                    ray.started.append(options)

                @classmethod
                def remote(cls):
                    return cls()

                def __getattr__(self, name):
                    if name.startswith("__"):
                        raise AttributeError(name)
                    return Method(ray, self, name)

            return Actor

        return actor_class

    def get(self, ref, timeout=None):
        if isinstance(ref, list):
            return [self.get(one, timeout) for one in ref]
        if ref.is_slow and timeout is not None:
            raise self.exceptions.GetTimeoutError()
        if ref.error is not None:
            raise ref.error
        return ref.value

    def wait(self, refs, num_returns=1, timeout=None, fetch_local=True):
        ready = [ref for ref in refs if not ref.is_slow or timeout is None][:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def kill(self, actor):
        actor.is_dead = True
        self.killed += 1

    def available_resources(self):
        return {"CPU": 1.0}

    def cluster_resources(self):
        return {"CPU": 64.0, "GPU": 1.0, "simulator": 1.0}


class Ref:
    def __init__(self, value=None, error=None, is_slow=False):
        self.value, self.error, self.is_slow = value, error, is_slow


class Method:
    def __init__(self, ray, actor, name):
        self.ray, self.actor, self.name = ray, actor, name

    def remote(self, *arguments):
        ray = self.ray
        if self.name == "result_of_step":
            assert self.actor.is_dead or arguments[0] == self.actor.instance._n_steps
            return self.actor.last_step
        ray.n_calls += 1
        if ray.n_calls in ray.dying:
            self.actor.is_dead = True
        if self.actor.is_dead:
            return Ref(error=ray.exceptions.ActorDiedError())
        try:
            is_slow = ray.n_calls in ray.slow
            value = as_transported(getattr(self.actor.instance, self.name)(*as_transported(arguments)))
            return Ref(value, is_slow=is_slow)
        except Exception as error:
            raised = ray.exceptions.RayTaskError(self.name, traceback.format_exc(), error)
            return Ref(error=raised.as_instanceof_cause())


def as_transported(value):
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
    elif isinstance(value, tuple | list):
        value = type(value)(as_transported(item) for item in value)
    elif isinstance(value, dict):
        value = {key: as_transported(item) for key, item in value.items()}
    return value


class FakeChannel:
    """Steps of an actor that is in this process. As with Ray, a failure has no certain reason."""

    def __init__(self, actor):
        self.actor, self.last, self.is_under_way = actor, (0, b""), False

    def send(self, pickled_actions):
        assert not self.is_under_way
        number = self.last[0] + 1
        self.actor.last_step = self.actor.step_in_channel.remote(number.to_bytes(8, "big") + pickled_actions)
        self.last, self.is_under_way = (number, pickled_actions), True
        return True

    def receive(self, timeout):
        from ray.exceptions import RayTaskError

        step = self.actor.last_step
        self.is_under_way = step.is_slow or (step.error is not None and not isinstance(step.error, RayTaskError))
        return None if self.is_under_way else step.value

    def close(self):
        assert self.actor.is_dead


@pytest.fixture(params=["steps in channels", "steps as calls"])
def fake_ray(monkeypatch, request):
    exceptions = pytest.importorskip("ray.exceptions", reason="needs the extra ray")
    ray = FakeRay(exceptions)
    monkeypatch.setattr(ray_workers, "is_possible", lambda ray, actor: request.param == "steps in channels")
    monkeypatch.setattr(ray_workers, "StepChannel", FakeChannel)
    monkeypatch.setattr(ray_vec_env, "import_ray", lambda: ray)
    connection = SimpleNamespace(is_local=False, is_up=lambda: True)
    monkeypatch.setattr(ray_vec_env, "connect", lambda address: connection)
    monkeypatch.setattr(ray_vec_env, "disconnect", lambda connection: None)
    return ray


@pytest.fixture(scope="session")
def cluster():
    """
    Three nodes: the driver's, with the resource ``driver``, where channels to workers are possible, and two with the
    resource ``worker``.
    """
    pytest.importorskip("ray", reason="needs the extra ray")
    # Processes that nothing asked for take as long as those that are needed
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
    # Other tests run at the same time, and workers of a low priority wait for them
    os.environ.update(quiet, RAY_worker_niceness="0")
    from ray.cluster_utils import Cluster

    node = dict(object_store_memory=100 * 2**20)
    cluster = Cluster(
        initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False, resources={"driver": 8}, **node)
    )
    cluster.worker_nodes_ = [cluster.add_node(num_cpus=4, resources={"worker": 4}, **node) for _ in range(2)]
    yield cluster
    cluster.shutdown()
