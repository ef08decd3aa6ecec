"""One run of a comparison, in its own process: trained by :func:`main`."""

import base64
import contextlib
import dataclasses
import json
import math
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cloudpickle
import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_reptile.evaluation.machine import versions_used
from sb3_reptile.evaluation.records import BINS, Record, learning_curve, now, rounded
from sb3_reptile.evaluation.sensitivity import sensitivity_of_buffer
from sb3_reptile.replay import DecayedSampling

#: What the run with random actions is called among the methods
RANDOM = "random actions"
# The last part of a run: a tenth of its learning curve
LAST = BINS // 10
# Linux allows 128 KiB in an argument of a command
LONGEST = 120_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """
    What the processes of a comparison need. It travels in their command, also to other nodes of a cluster.

    :param make_model: Takes a seed and arguments, returns a model
    :param arguments: Arguments of each method
    :param setups: Hash of the configuration of each method
    :param steps: Steps of a run
    :param task: Name of the task in records
    :param command: The command that makes the records
    :param path: Where the parent process imports modules from
    :param specs: Environments that the parent process has registered
    """

    make_model: Callable[..., Any]
    arguments: Mapping[str, Mapping[str, Any]]
    setups: Mapping[str, str]
    steps: int
    task: str
    command: str
    path: list[str] = dataclasses.field(default_factory=lambda: list(sys.path))
    specs: dict[str, bytes] = dataclasses.field(default_factory=lambda: dict(_pickled_specs()))

    def to_text(self) -> str:
        """
        :raises ValueError: if ``make_model`` cannot be sent to another process
        """
        try:
            pickled = cloudpickle.dumps((self.path, self.specs, cloudpickle.dumps(self)))
        except Exception as error:  # pickling raises what the objects raise
            raise ValueError(
                f"make_model cannot be sent to another process: make environments and open files inside of it ({error})"
            ) from error
        text = base64.b64encode(zlib.compress(pickled)).decode()
        if len(text) > LONGEST:
            raise ValueError(
                f"make_model holds {len(pickled):,} bytes of data, too many to send to other processes: load them "
                "inside of it"
            )
        return text

    @staticmethod
    def from_text(text: str) -> "Plan":
        path, specs, pickled = cloudpickle.loads(zlib.decompress(base64.b64decode(text)))
        # Before what lies in these folders is imported
        sys.path += [folder for folder in path if folder not in sys.path]
        plan: Plan = cloudpickle.loads(pickled)
        for name, spec in specs.items():
            if name not in gym.registry:
                gym.registry[name] = cloudpickle.loads(spec)
        return plan


def _pickled_specs() -> Iterator[tuple[str, bytes]]:
    for name, spec in gym.registry.items():
        # One that cannot be pickled may be another environment's
        with contextlib.suppress(Exception):
            yield name, cloudpickle.dumps(spec)


class Recorder(BaseCallback):
    """
    Records the episodes and phases of a run.

    :param steps: Steps of the run
    :param on_step: Called with the number of each step; by default it prints that number from time to time
    """

    def __init__(self, steps: int, on_step: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self.steps = steps
        self.report_step = on_step or self._print
        self.episodes: list[tuple[int, float]] = []
        #: Number of episodes that are left out, as their returns are NaN or infinite
        self.n_not_finite = 0
        self.phases: list[Any] = []
        #: First step, counted from 1, of each phase
        self.changes: list[int] = []
        self._printed = 0

    def _on_step(self) -> bool:
        step = self.num_timesteps
        for info in self.locals["infos"]:
            if "episode" in info:
                episode_return = float(info["episode"]["r"])
                if math.isfinite(episode_return):
                    self.episodes.append((step, episode_return))
                else:
                    self.n_not_finite += 1
        phase = self.locals["infos"][0].get("phase")
        if phase not in self.phases[-1:] and step <= self.steps:
            self.phases.append(phase)
            self.changes.append(step)
        self.report_step(step)
        return True

    def _print(self, step: int) -> None:
        if step - self._printed >= self.steps / 100:
            self._printed = step
            print(step, flush=True)


def build(plan: Plan, method: str, seed: int) -> OffPolicyAlgorithm:
    """
    :param plan: The plan
    :param method: Name of the method
    :param seed: Seed
    :return: The model
    """
    with warnings.catch_warnings():
        # The replay buffer of the method has the n-step returns of the user's arguments
        warnings.filterwarnings("ignore", message="`n_steps=.*is ignored because a custom `replay_buffer_class`")
        model = plan.make_model(seed=seed, **plan.arguments["uniform" if method == RANDOM else method])
    if method == RANDOM:
        # SB3 samples actions at random before learning starts, and may add noise to them or take those of gSDE
        model.learning_starts = plan.steps + model.n_envs
        model.use_sde_at_warmup = False
        model.action_noise = None
    return model


def train(plan: Plan, method: str, seed: int) -> Record:
    """
    :param plan: The plan
    :param method: Name of the method
    :param seed: Seed
    :return: The record of the run
    """
    import torch as th

    th.set_num_threads(1)
    versions = versions_used()
    start, cpu_start = time.perf_counter(), time.process_time()
    model: Any = build(plan, method, seed)
    recorder = Recorder(plan.steps)
    model.learn(plan.steps, callback=recorder, log_interval=None)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    try:
        curve = learning_curve(recorder.episodes, plan.steps)
    except ValueError as error:
        sys.exit(
            f"{error}; {recorder.n_not_finite} had a return that is not finite" if recorder.n_not_finite else str(error)
        )
    return {
        "task": plan.task,
        "method": method,
        "seed": seed,
        "steps": plan.steps,
        "auc": rounded(sum(curve) / BINS),
        "last": rounded(sum(curve[-LAST:]) / LAST),
        "changes": recorder.changes[1:],
        "curve": curve,
        **({"not_finite": recorder.n_not_finite} if recorder.n_not_finite else {}),
        **_of_auto(model),
        "setup": plan.setups[method],
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "command": plan.command,
        "versions": versions,
        "finished": now(),
    }


def _of_auto(model: OffPolicyAlgorithm) -> Record:
    """What ``half_life="auto"`` has noticed, empty for another method."""
    buffer = model.replay_buffer
    if not isinstance(buffer, DecayedSampling) or buffer.consistency is None:
        return {}
    return {
        "alarms": [list(change) for change in buffer.consistency.changes],
        "sensitivity": _sensitivity(buffer),
    }


def _sensitivity(buffer: Any) -> dict[str, Any] | str:
    """Which changes would be noticed in what the buffer holds, or why that is not known."""
    try:
        found = dataclasses.asdict(sensitivity_of_buffer(buffer))
    except ValueError as error:
        return str(error)
    del found["alarms"]  # those of training are in the record
    return found


def main() -> None:
    """Train the run that the command line names, and print its record."""
    plan, method, seed = sys.argv[1:]
    record = train(Plan.from_text(plan), method, int(seed))
    # An environment may have printed without ending the line
    print("\n" + json.dumps(record, separators=(",", ":")), flush=True)
