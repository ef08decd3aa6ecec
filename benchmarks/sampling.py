"""
Time per call of `sample`, `add` and `update_priorities`, compared with SB3 and other libraries.

    python benchmarks/sampling.py [--quick] [--output benchmarks/results/sampling.csv]
    python benchmarks/sampling.py --adds      `add` alone, as in training: under a minute; results/adds.csv
    python benchmarks/sampling.py --steps     `sample` with returns of several steps: under a minute; results/steps.csv

It writes records (CSV) and, in the same folder, the tables (Markdown) that it prints; `--from-records` rebuilds the
tables without measuring. The buffers are full and run on one thread. They take turns: in every round each of them is
timed for a short block of calls, in random order.
"""

import gc
import itertools
import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timings
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from timings import Record, Records, distinct, shuffled, where
from tqdm import tqdm

from sb3_reptile.evaluation import tables
from sb3_reptile.evaluation.machine import installed_versions, processor_name
from sb3_reptile.evaluation.templates import PageTemplate, join
from sb3_reptile.replay import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer, DecayedSampling

TEMPLATE = PageTemplate(Path(__file__).parent / "templates" / "sampling.md")

CAPACITIES = [10_000, 100_000, 1_000_000, 10_000_000]
ADDS = 256  # calls of add() in a block
EPISODE = 200  # steps in an episode of the stored data
CHUNK = 10_000  # rows written at a time into the buffers of other libraries

# Exponents of priorities and importance weights in every prioritized buffer (https://arxiv.org/abs/1511.05952)
ALPHA, BETA = 0.6, 0.4

PACKAGES = ["numpy", "torch", "stable_baselines3", "numba", "cpprb", "tianshou"]
FIELDS = ["capacity", "observation", "batch", "buffer", "operation", "median_us", "min_us", "max_us"]
FIELDS += ["ratio", "reference", "rounds", *PACKAGES, "cpu"]

# In each round, by buffer, batch size (None for add) and operation
Times = dict[tuple[str, int | None, str], list[float]]

# Dict observations: the floats in two parts
PARTS = ("position", "velocity")
IN_PARTS = spaces.Dict({name: spaces.Box(0, 1, (4,), np.float32) for name in PARTS})

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Observation:
    """
    An observation to store, and how to measure with it.

    :param max_capacity: The largest buffer to fill with it
    :param rounds: Number of turns of each buffer; a tenth with ``--quick``
    :param calls: Calls of ``sample()`` in a block, by batch size
    """

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]
    max_capacity: int
    rounds: int
    calls: dict[int, int]

    @property
    def space(self) -> spaces.Box:
        return spaces.Box(0, 255 if self.dtype is np.uint8 else 1, self.shape, self.dtype)  # type: ignore[arg-type]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


FLOATS = Observation("8 float32", (8,), np.float32, 10_000_000, 120, {32: 100, 256: 50, 2048: 10})
# Buffers of 100,000 images would take 5.6 GB each
IMAGES = Observation("4x84x84 uint8", (4, 84, 84), np.uint8, 10_000, 40, {32: 10, 256: 2, 2048: 1})
# Rows that continue each other, with all checks
ROWS = Observation("8 float32, as in training", (8,), np.float32, 100_000, 200, {})
# Returns of several steps
STEPS = Observation("8 float32, returns of several steps", (8,), np.float32, 100_000, 120, {32: 100, 256: 50})
INDICES = Observation("none", (1,), np.float32, 10_000_000, 120, {256: 200})

# Observations whose results are on a separate page
OWN_PAGES = {ROWS.name: "adds", STEPS.name: "steps"}


@dataclass(frozen=True)
class Contender:
    """
    A full buffer with a common interface.

    :param sample: Takes a batch size
    :param add: Adds a row, the same every time
    :param settle: Does the work that ``add()`` defers, which is counted with it
    :param update: Takes what ``sample()`` returned and a new priority for each transition
    """

    sample: Callable[[int], Any]
    add: Callable[[], Any] | None = None
    settle: Callable[[], None] | None = None
    update: Callable[[Any, np.ndarray], None] | None = None


@dataclass(frozen=True)
class Cell:
    """
    Buffers that are compared with each other.

    :param contenders: Function that makes each of them; the first is the reference of the ratios
    """

    capacity: int
    observation: Observation
    contenders: Mapping[str, Callable[[], Contender]]

    @property
    def reference(self) -> str:
        return next(iter(self.contenders))

    def groups(self, memory: float) -> list[list[str]]:
        """Groups that fit into the memory (bytes); the reference is in every group."""
        # A transition: two observations; action, reward, ends and the tree of the priorities take less than 64 bytes
        at_once = int(memory / (self.capacity * (2 * self.observation.n_bytes + 64))) - 1
        others = list(self.contenders)[1:]
        if at_once < 1:
            return []
        return [[self.reference, *others[start : start + at_once]] for start in range(0, len(others), at_once)]


def random_priorities(n: int) -> np.ndarray:
    """Priorities in (0, 1], float32, as TD errors are."""
    return 1 - RNG.random(n, dtype=np.float32)


# ---- Stable-Baselines3 and this package


def as_arrays(value: np.ndarray | dict[str, np.ndarray]) -> Iterable[np.ndarray]:
    return value.values() if isinstance(value, dict) else [value]


def full(buffer_class: type[ReplayBuffer], capacity: int, space: Any, **settings: Any) -> Any:
    """A full buffer, every page of whose memory is written."""
    buffer = buffer_class(capacity, space, spaces.Discrete(2), device="cpu", **settings)
    for name in ("observations", "next_observations", "actions", "rewards"):
        for array in as_arrays(getattr(buffer, name)):
            array.fill(1)
    buffer.dones.fill(0)
    buffer.timeouts.fill(0)
    buffer.dones[EPISODE - 1 :: EPISODE] = 1
    buffer.pos, buffer.full = 0, True
    if isinstance(buffer, DecayedSampling):
        buffer.distribution.rows_added = buffer.buffer_size
        weighted = buffer.distribution._weighted
        if weighted is not None:
            weighted.p[:, 0] = random_priorities(buffer.buffer_size)
            weighted.largest = float(weighted.p.max())
            weighted.rows_added = buffer.buffer_size
    return buffer


def sb3_buffer(buffer_class: type[ReplayBuffer], capacity: int, space: Any, **settings: Any) -> Contender:
    if issubclass(buffer_class, DecayedSampling):
        # The others do not check for bad data; benchmarks/checkpoint.py measures this check
        settings["on_bad_transition"] = "allow"
    buffer = full(buffer_class, capacity, space, **settings)
    obs = space.sample()
    obs = {key: value[None] for key, value in obs.items()} if isinstance(obs, dict) else obs[None]
    action, reward, done = np.ones((1, 1), np.int64), np.ones(1, np.float32), np.zeros(1, np.float32)
    contender = partial(Contender, buffer.sample, partial(buffer.add, obs, obs, action, reward, done, [{}]))
    if not isinstance(buffer, DecayedSampling) or buffer.distribution._weighted is None:
        return contender()
    settle = buffer.distribution._weighted._bring_tree_up_to_date
    if not buffer.prioritized:
        return contender(settle)
    # The other libraries apply the exponent themselves
    return contender(settle, lambda batch, priorities: buffer.update_priorities(batch.indices, priorities**ALPHA))


def decays(capacity: int) -> dict[str, dict[str, Any]]:
    """The measured settings of DecayedReplayBuffer, by their names in the table."""
    linear = {"linear": {"horizon": 0.8 * capacity}}
    prioritized = {"prioritized": True, "beta": BETA}
    return {
        "no decay": {"half_life": math.inf},
        "exponential, half-life 1,000": {"half_life": 1_000},
        "exponential, half-life capacity/10": {"half_life": capacity / 10},
        "exponential, half-life 1,000, 10 % uniform": {"half_life": 1_000, "uniform_fraction": 0.1},
        "linear": {"decay": linear},
        "power law": {"decay": {"power_law": {"scale": 100}}},
        "window of capacity/10": {"decay": {"window": {"size": capacity / 10}}},
        "ERE": {"decay": "ere"},
        "exponential, half-life 1,000, random initial weights": {"half_life": 1_000, "initial_weights": "random"},
        "prioritized, no decay": {"half_life": math.inf, **prioritized},
        "prioritized, exponential, half-life capacity/10": {"half_life": capacity / 10, **prioritized},
        "prioritized, linear": {"decay": linear, **prioritized},
    }


# ---- Other libraries


def cpprb_buffer(capacity: int, observation: Observation, prioritized: bool) -> Contender:
    import cpprb

    fields: dict[str, dict[str, Any]] = {
        "obs": {"shape": observation.shape, "dtype": observation.dtype},
        "act": {"shape": (1,), "dtype": np.int64},
        "rew": {"shape": (1,), "dtype": np.float32},
        "next_obs": {"shape": observation.shape, "dtype": observation.dtype},
        "done": {"shape": (1,), "dtype": np.float32},
    }
    made = partial(cpprb.PrioritizedReplayBuffer, alpha=ALPHA) if prioritized else cpprb.ReplayBuffer
    buffer = made(capacity, fields)
    rows = {name: np.ones((CHUNK, *field["shape"]), field["dtype"]) for name, field in fields.items()}
    rows["done"][:] = 0
    rows["done"][EPISODE - 1 :: EPISODE] = 1
    for start in range(0, capacity, CHUNK):
        count = min(CHUNK, capacity - start)
        buffer.add(**{name: values[:count] for name, values in rows.items()})
        if prioritized:
            buffer.update_priorities(np.arange(start, start + count), random_priorities(count))
    assert buffer.get_stored_size() == capacity
    add = partial(buffer.add, **{name: values[0] for name, values in rows.items()})
    if not prioritized:
        return Contender(buffer.sample, add)
    sample = partial(buffer.sample, beta=BETA)
    return Contender(sample, add, update=lambda batch, values: buffer.update_priorities(batch["indexes"], values))


def tianshou_buffer(capacity: int, observation: Observation, prioritized: bool) -> Contender:
    from tianshou.data import Batch, PrioritizedReplayBuffer
    from tianshou.data import ReplayBuffer as TianshouReplayBuffer

    ends = np.arange(capacity) % EPISODE == EPISODE - 1
    rows = Batch(
        obs=np.ones((capacity, *observation.shape), observation.dtype),
        act=np.ones((capacity, 1), np.int64),
        rew=np.ones(capacity, np.float32),
        terminated=ends,
        truncated=np.full(capacity, False),
        done=ends.copy(),
        obs_next=np.ones((capacity, *observation.shape), observation.dtype),
    )
    made = partial(PrioritizedReplayBuffer, alpha=ALPHA, beta=BETA) if prioritized else TianshouReplayBuffer
    buffer = made(capacity)
    # As from_data() does
    buffer.set_batch(rows)
    buffer._size = capacity
    row = {"obs": np.ones(observation.shape, observation.dtype), "act": np.ones(1, np.int64), "rew": np.float32(1)}
    add = partial(buffer.add, Batch(**row, terminated=False, truncated=False, obs_next=row["obs"]))
    if not prioritized:
        return Contender(buffer.sample, add)
    for start in range(0, capacity, CHUNK):
        indices = np.arange(start, min(start + CHUNK, capacity))
        buffer.update_weight(indices, random_priorities(len(indices)))
    return Contender(buffer.sample, add, update=lambda batch, priorities: buffer.update_weight(batch[1], priorities))


PEERS = {"cpprb": cpprb_buffer, "tianshou": tianshou_buffer}


# ---- What is compared


def plain(capacity: int, observation: Observation) -> Cell:
    contenders = {"SB3 ReplayBuffer": partial(sb3_buffer, ReplayBuffer, capacity, observation.space)}
    for name, settings in decays(capacity).items():
        contenders[name] = partial(sb3_buffer, DecayedReplayBuffer, capacity, observation.space, **settings)
    for peer in installed_versions(list(PEERS)):
        contenders[f"{peer} ReplayBuffer"] = partial(PEERS[peer], capacity, observation, False)
        contenders[f"{peer} PrioritizedReplayBuffer"] = partial(PEERS[peer], capacity, observation, True)
    return Cell(capacity, observation, contenders)


def n_step(capacity: int, observation: Observation) -> Cell:
    arguments = (capacity, observation.space)
    ours = partial(sb3_buffer, DecayedNStepReplayBuffer, *arguments, n_steps=3, half_life=1_000)
    contenders = {
        "SB3 NStepReplayBuffer, 3 steps": partial(sb3_buffer, NStepReplayBuffer, *arguments, n_steps=3),
        "3 steps, exponential, half-life 1,000": ours,
    }
    return Cell(capacity, observation, contenders)


def several_steps() -> Cell:
    """`sample` with the default decay."""

    def make(buffer_class: type[ReplayBuffer], **settings: Any) -> Contender:
        return Contender(full(buffer_class, STEPS.max_capacity, STEPS.space, **settings).sample)

    contenders = {f"{n} step{'s' if n > 1 else ''}": partial(make, DecayedReplayBuffer, n_steps=n) for n in (1, 3, 10)}
    contenders["SB3 ReplayBuffer"] = partial(make, ReplayBuffer)
    for n in (3, 10):
        contenders[f"SB3 NStepReplayBuffer, {n} steps"] = partial(make, NStepReplayBuffer, n_steps=n)
    return Cell(STEPS.max_capacity, STEPS, contenders)


def dictionaries(capacity: int) -> Cell:
    ours = partial(sb3_buffer, DecayedDictReplayBuffer, capacity, IN_PARTS, half_life=1_000)
    contenders = {
        "SB3 DictReplayBuffer, 2 keys": partial(sb3_buffer, DictReplayBuffer, capacity, IN_PARTS),
        "2 keys, exponential, half-life 1,000": ours,
    }
    return Cell(capacity, FLOATS, contenders)


def index_drawing(capacity: int) -> Cell:
    """Decays with a closed form, without storage."""

    def make(settings: dict[str, Any]) -> Contender:
        buffer = DecayedReplayBuffer(capacity, INDICES.space, spaces.Discrete(2), device="cpu", **settings)
        buffer.distribution.rows_added = capacity
        return Contender(partial(buffer.distribution._draw, capacity))

    contenders = {"np.random.randint": lambda: Contender(partial(np.random.randint, 0, capacity))}
    for name, settings in decays(capacity).items():
        if not name.startswith(("no decay", "power law", "prioritized")) and "initial weights" not in name:
            contenders[name] = partial(make, settings)
    return Cell(capacity, INDICES, contenders)


def adding(n_envs: int, is_dict: bool) -> Cell:
    """`add` with the default options, rows that continue each other."""
    space = IN_PARTS if is_dict else ROWS.space
    store: Any = DictReplayBuffer if is_dict else ReplayBuffer
    decayed: Any = DecayedDictReplayBuffer if is_dict else DecayedReplayBuffer
    row = (np.ones(n_envs, np.int64), np.ones(n_envs, np.float32), np.zeros(n_envs, np.float32))
    infos = [{"TimeLimit.truncated": False} for _ in range(n_envs)]

    def random_observation() -> Any:
        if is_dict:
            return {name: RNG.random((n_envs, 4), dtype=np.float32) for name in PARTS}
        return RNG.random((n_envs, 8), dtype=np.float32)

    def make(buffer_class: type[ReplayBuffer], **settings: Any) -> Contender:
        buffer = full(buffer_class, ROWS.max_capacity * n_envs, space, n_envs=n_envs, **settings)
        observations = [random_observation() for _ in range(ADDS)]
        transitions = itertools.cycle(zip(observations, [*observations[1:], observations[0]], strict=True))
        return Contender(buffer.sample, lambda: buffer.add(*next(transitions), *row, infos))

    what = f"{n_envs} environment{'s' if n_envs > 1 else ''}{', Dict of 2 keys' if is_dict else ''}"
    contenders = {
        f"SB3's, {what}": partial(make, store),
        f"default options, {what}": partial(make, decayed),
        f"without the check for bad data, {what}": partial(make, decayed, on_bad_transition="allow"),
    }
    return Cell(ROWS.max_capacity, ROWS, contenders)


def all_cells(quick: bool) -> Iterator[Cell]:
    for capacity in CAPACITIES[: 1 if quick else None]:
        # Filling even small buffers of images takes longer than a quick run
        for observation in (FLOATS,) if quick else (FLOATS, IMAGES):
            if capacity <= observation.max_capacity:
                yield plain(capacity, observation)
                yield n_step(capacity, observation)
        yield dictionaries(capacity)
        yield index_drawing(capacity)


# ---- Measuring


def time_samples(contender: Contender, batch_size: int, calls: int) -> dict[str, float]:
    """Microseconds per call; with priorities, every sample is followed by its update."""
    clock = time.perf_counter_ns
    sampling = updating = 0
    for _ in range(calls):
        start = clock()
        batch = contender.sample(batch_size)
        sampling += clock() - start
        if contender.update is not None:
            priorities = random_priorities(batch_size)
            start = clock()
            contender.update(batch, priorities)
            updating += clock() - start
    times = {"sample": sampling}
    if contender.update is not None:
        times |= {"update_priorities": updating, "sample + update": sampling + updating}
    return {operation: value / calls / 1e3 for operation, value in times.items()}


def time_adds(contender: Contender) -> float:
    """Microseconds per call, including deferred work."""
    add, settle = contender.add, contender.settle
    assert add is not None
    start = time.perf_counter_ns()
    for _ in range(ADDS):
        add()
    if settle is not None:
        settle()
    return (time.perf_counter_ns() - start) / ADDS / 1e3


def measure(cell: Cell, names: list[str], rounds: int) -> Times:
    """Microseconds per call."""
    contenders = {name: cell.contenders[name]() for name in names}
    times: Times = defaultdict(list)
    # The first round, which compiles, is not counted
    for done in range(-1, rounds):
        for batch_size, calls in cell.observation.calls.items():
            for name, contender in shuffled(contenders.items()):
                for operation, value in time_samples(contender, batch_size, calls if done >= 0 else 2).items():
                    times[name, batch_size, operation].append(value)
        for name, contender in shuffled(contenders.items()):
            if contender.add is not None:
                times[name, None, "add"].append(time_adds(contender))
    return {key: values[1:] for key, values in times.items()}


def records_of(cell: Cell, groups: list[list[str]], rounds: int) -> Iterator[dict[str, Any]]:
    times, ratios = defaultdict(list), defaultdict(list)
    for names in groups:
        gc.collect()
        gc.disable()
        of_group = measure(cell, names, rounds)
        gc.enable()
        for key, values in of_group.items():
            _, batch_size, operation = key
            times[key] += values
            counterpart = of_group[cell.reference, batch_size, "add" if operation == "add" else "sample"]
            ratios[key] += list(np.divide(values, counterpart))
    order = list(cell.contenders)
    for key in sorted(times, key=lambda key: order.index(key[0])):
        (name, batch_size, operation), values = key, times[key]
        yield {
            "capacity": cell.capacity,
            "observation": cell.observation.name,
            "batch": batch_size,
            "buffer": name,
            "operation": "draw" if cell.observation is INDICES else operation,
            "median_us": f"{np.median(values):.3f}",
            "min_us": f"{min(values):.3f}",
            "max_us": f"{max(values):.3f}",
            "ratio": f"{np.median(ratios[key]):.3f}",
            "reference": cell.reference,
            "rounds": len(values),
            **installed_versions(PACKAGES),
            "cpu": processor_name(),
        }


def all_records(quick: bool, memory: float, page: str) -> Iterator[dict[str, Any]]:
    """The measurements of a page."""
    th.set_num_threads(1)
    np.random.seed(0)
    random.seed(0)
    if page == "adds":
        cells = [adding(n_envs, is_dict) for is_dict in (False, True) for n_envs in (1, 8)]
    elif page == "steps":
        cells = [several_steps()]
    else:
        for absent in sorted(PEERS.keys() - installed_versions(list(PEERS))):
            print(f"{absent} is not installed: left out; pip install '.[bench]' to compare with it", file=sys.stderr)
        cells = list(all_cells(quick))
    for cell in tqdm(cells, unit="table"):
        groups = cell.groups(memory)
        if not groups:
            what = f"{cell.reference} and the buffers compared with it, {cell.capacity:,} x {cell.observation.name}"
            tqdm.write(f"left out by --memory: {what}", file=sys.stderr)
        yield from records_of(cell, groups, cell.observation.rounds // (10 if quick else 1))


# ---- Tables


def number(text: str) -> str:
    return f"{int(text):,}"


def table(records: list[Record], columns: str) -> list[str]:
    """One line per buffer, one column per value of the field ``columns``."""
    values = distinct(records, columns)
    cells = {
        (record["buffer"], record[columns]): f"{float(record['median_us']):.1f} ({float(record['ratio']):.2f})"
        for record in records
    }
    rows = [[name, *(cells.get((name, value), "") for value in values)] for name in distinct(records, "buffer")]
    return tables.table([columns, *map(number, values)], rows)


def sections(records: list[Record]) -> Iterator[str]:
    """Tables with a column per capacity, or per batch size if there is only one capacity."""
    for observation in distinct(records, "observation"):
        of_observation = where(records, observation=observation)
        what = "index drawing alone" if observation == INDICES.name else f"observations {observation}"
        for operation in distinct(of_observation, "operation"):
            chosen = where(of_observation, operation=operation)
            capacities, batches = distinct(chosen, "capacity"), distinct(chosen, "batch")
            heading = f"## `{operation}`, {what}"
            if len(capacities) == 1 and len(batches) > 1:
                yield "\n".join([f"{heading}, capacity {number(capacities[0])}", "", *table(chosen, "batch")])
                continue
            for batch in batches:
                title = heading + (f", batch {number(batch)}" if batch else "")
                yield "\n".join([title, "", *table(where(chosen, batch=batch), "capacity")])


def left_out(records: list[Record]) -> Iterator[str]:
    """Sentences that state what the tables leave out."""
    measured_here = distinct(records, "observation")
    for observation in (one for one in (FLOATS, IMAGES) if one.name in measured_here):
        measured = distinct(where(records, observation=observation.name), "capacity")
        missing = [capacity for capacity in distinct(records, "capacity") if capacity not in measured]
        if missing:
            size = 2 * observation.n_bytes * min(map(int, missing)) / 1e9
            at = ", ".join(map(number, missing))
            yield f"Left out: observations {observation.name} at {at} transitions ({size:.1f} GB or more each)."
    for package in PACKAGES:
        if not records[0][package] and measured_here[0] not in OWN_PAGES:
            yield f"{package} was not installed (`pip install '.[bench]'`)."


def markdown(records: list[Record]) -> str:
    first = records[0]
    versions = ", ".join(f"{package} {first[package]}" for package in PACKAGES if first[package])
    fewest = {
        name: min(int(record["rounds"]) for record in where(records, observation=name))
        for name in distinct(records, "observation")
    }
    page = TEMPLATE.fill(
        OWN_PAGES.get(first["observation"], "page"),
        alpha=ALPHA,
        beta=BETA,
        adds=ADDS,
        environment=f"{first['cpu']}; {versions}",
        rounds=", ".join(f"{rounds} with observations {name}" for name, rounds in fewest.items()),
        sections=join([*left_out(records), *sections(records)]),
    )
    return page + "\n"


def main() -> None:
    parser = timings.command_line(__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--adds", action="store_true", help="only `add`, with the default options, as in training")
    only.add_argument("--steps", action="store_true", help="only `sample`, with returns of 1, 3 and 10 steps")
    parser.add_argument("--memory", type=float, default=13, help="GB that the buffers may take (default: 13)")
    arguments = parser.parse_args()
    if not arguments.memory >= 2:
        parser.error(f"--memory must be at least 2 (GB), got {arguments.memory:g}")

    page = "adds" if arguments.adds else "steps" if arguments.steps else "sampling"

    def measure_again(records: Records) -> None:
        records.discard()
        records.measure(all_records, arguments.quick, arguments.memory * 1e9, page)

    timings.run(parser, page, FIELDS, measure_again, markdown)


if __name__ == "__main__":
    main()
