"""
How soon `half_life="auto"` notices that a task has changed, how often it is wrong, and what it then holds to be true.

    python benchmarks/detection.py [--seeds 20] [--task ...] [--jobs 1]      run what is missing, then write the table
    python benchmarks/detection.py --from-records                            write the table only
    python benchmarks/detection.py --run TASK SEED                           one run; prints its record
    python benchmarks/detection.py --picture docs/images/evidence.png        draw the evidence over time

Nothing is trained. Policies are scripted and improve as those of an agent do: the share of random actions falls from 1
to 0.05 over each run; the other actions are those of a heuristic. So the visited states change all the time, which must
not be mistaken for a change of the task. A run is a line of `benchmarks/results/detection.jsonl`; the table goes to
`benchmarks/results/detection.md`.
"""

import argparse
import json
import math
import os
import statistics
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

# Read when numpy and torch are imported
os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from sb3_reptile import envs
from sb3_reptile.evaluation import tables
from sb3_reptile.evaluation.machine import installed_versions
from sb3_reptile.evaluation.templates import PageTemplate
from sb3_reptile.replay import DecayedReplayBuffer
from sb3_reptile.replay.auto import Settings

RESULTS = Path(__file__).parent / "results"
TEMPLATE = PageTemplate(Path(__file__).parent / "templates" / "detection.md")
Heuristic = Callable[[gym.Env, np.ndarray], Any]

# Alarms up to this number of steps after a change are attributed to it
WINDOW = 3_000
# Consistencies are measured from this number of steps after a change on
SETTLED = 1_000
FINAL_RANDOM = 0.05
# Share of habits among random actions, and how long they last
HABITS, HABIT_STEPS = 0.8, 1_000


def balance(env: gym.Env, obs: np.ndarray) -> int:
    """CartPole: push in the direction in which the pole falls."""
    return int(obs[2] + 0.3 * obs[3] + 0.02 * obs[0] + 0.05 * obs[1] > 0)


def swing(env: gym.Env, obs: np.ndarray) -> int:
    """Acrobot: torque in the direction of the second joint's motion adds energy."""
    return 2 if obs[5] > 0 else 0


def rock(env: gym.Env, obs: np.ndarray) -> int:
    """MountainCar: accelerate in the direction of motion."""
    return 2 if obs[1] > 0 else 0


def pump(env: gym.Env, obs: np.ndarray) -> np.ndarray:
    """Pendulum: with the motion while it hangs, against the angle near the top."""
    cosine, sine, speed = obs
    torque = -8 * sine - 2 * speed if cosine > 0.8 else 2 * np.sign(speed)
    return np.clip(np.array([torque], dtype=np.float32), -2, 2)


def land(env: gym.Env, obs: np.ndarray) -> Any:
    """LunarLander: Gymnasium's own heuristic."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    action = heuristic(env.unwrapped, obs)
    return action if isinstance(action, int) else np.asarray(action, dtype=np.float32)


def set_price(env: gym.Env, obs: np.ndarray) -> int:
    """Pricing: the price is higher the fewer goods there are, relative to the mean."""
    pricing: Any = env.unwrapped
    return int(np.argmin(np.abs(pricing.prices - pricing.goods / max(obs[0] * pricing._most, 5.0))))


def advertise(env: gym.Env, obs: np.ndarray) -> int:
    """Clicks: what visitors like best in the first phase."""
    return int((env.unwrapped._appeals[0] @ obs).argmax())  # type: ignore[attr-defined]


def open_counters(env: gym.Env, obs: np.ndarray) -> int:
    """Queue: one more counter for every four who wait."""
    return min(3, int(obs[0] * 30 / 4))


@cache
def best_actions(env: gym.Env, discount: float = 0.99) -> np.ndarray:
    """The best action in each state of an environment of Gymnasium's `toy_text`, by value iteration."""
    model: Any = env.unwrapped.P  # type: ignore[attr-defined]
    values = np.zeros(len(model))

    def value(outcomes: list[tuple[float, int, float, bool]]) -> float:
        return sum(p * (reward + discount * values[then] * (not over)) for p, then, reward, over in outcomes)

    for _ in range(300):
        of_actions = np.array([[value(outcomes) for outcomes in actions.values()] for actions in model.values()])
        values = of_actions.max(axis=1)
    return of_actions.argmax(axis=1)


def plan(env: gym.Env, obs: np.ndarray) -> int:
    """Tables: the best action."""
    return int(best_actions(env)[int(obs)])


def steps_ahead(robot: Any) -> dict[tuple[int, ...], int]:
    """For each cell and direction of a robot in rooms, the number of steps to the goal."""
    grid, moves = robot.grid, ((1, 0), (0, 1), (-1, 0), (0, -1))
    cells = [(x, y) for x in range(robot.width) for y in range(robot.height)]
    free = {cell for cell in cells if grid.get(*cell) is None or grid.get(*cell).can_overlap()}
    goals = [cell for cell in free if grid.get(*cell) is not None]
    distance = {(*goal, direction): 0 for goal in goals for direction in range(4)}
    queue = list(distance)
    for x, y, direction in queue:
        behind = (x - moves[direction][0], y - moves[direction][1])
        turned = [(x, y, (direction + side) % 4) for side in (1, 3)]
        for before in turned + [(*behind, direction)] * (behind in free):
            if before not in distance:
                distance[before] = distance[x, y, direction] + 1
                queue.append(before)
    return distance


def walk_to_goal(env: gym.Env, obs: np.ndarray) -> int:
    """Rooms: the shortest way to the goal."""
    robot: Any = env.unwrapped
    distance, (x, y), direction = steps_ahead(robot), robot.agent_pos, robot.agent_dir
    ahead = tuple(robot.front_pos)
    after = [(x, y, (direction - 1) % 4), (x, y, (direction + 1) % 4), (*ahead, direction)]
    return int(np.argmin([distance.get(tuple(map(int, place)), math.inf) for place in after]))


def habit(env: gym.Env, obs: np.ndarray, number: int) -> int:
    """An arbitrary action, always the same one in this situation for this number."""
    return zlib.crc32(np.asarray(obs).tobytes(), number) % int(env.action_space.n)  # type: ignore[attr-defined]


def wander(env: gym.Env, obs: np.ndarray) -> Any:
    return env.action_space.sample()


@dataclass(frozen=True)
class Task:
    """
    :param about: Description for the table
    :param make: Makes the environment
    :param heuristic: The policy towards the end
    :param steps: Steps of a run
    :param gradual: Whether it changes continuously
    :param has_habits: Whether most random actions are habits, as those of an agent that has learned little: always the
        same one in the same situation, until ``HABIT_STEPS`` steps later it is another one
    """

    about: str
    make: Callable[[], gym.Env]
    heuristic: Heuristic
    steps: int = 60_000
    gradual: bool = False
    has_habits: bool = False


def stationary(env: str, heuristic: Heuristic, **kwargs: Any) -> Task:
    return Task(env, partial(gym.make, env, **kwargs), heuristic)


def drifting(about: str, env: str, heuristic: Heuristic, **kwargs: Any) -> Task:
    return Task(about, partial(gym.make, env, period=15_000, **kwargs), heuristic)


def pendulum_gravity() -> gym.Env:
    return envs.DriftingPhysics(gym.make("Pendulum-v1"), {"g": [10.0, 5.0]}, 15_000)


MASSES = {"LINK_MASS_2": [1.0, 0.02]}
GAMES = ["breakout", "space_invaders"]
TASKS = {
    "cartpole": stationary("CartPole-v1", balance),
    "acrobot": stationary("Acrobot-v1", swing),
    "mountaincar": stationary("MountainCar-v0", rock),
    "lunarlander": stationary("LunarLander-v3", land),
    "pendulum": stationary("Pendulum-v1", pump),
    "pricing": stationary("Pricing-v0", set_price, elasticity=0.6, weekend=2.0),
    "clicks": stationary("Clicks-v0", advertise),
    "queue": stationary("Queue-v0", open_counters, arrivals=4.0, service=4.0),
    "frozenlake": replace(stationary("FrozenLake-v1", plan), has_habits=True),
    "taxi": replace(stationary("Taxi-v4", plan), has_habits=True),
    "rooms": Task("Rooms", partial(gym.make, "DriftingRooms-v0", period=10**9), walk_to_goal, has_habits=True),
    "rooms-goal": replace(drifting("Rooms, the goal moves", "DriftingRooms-v0", walk_to_goal), has_habits=True),
    "pricing-elasticity": drifting(
        "Pricing, price elasticity changes", "DriftingPricing-v0", set_price, parameters={"elasticity": [0.6, 2.0]}
    ),
    "clicks-fashion": drifting("Clicks, other advertisements are liked", "DriftingClicks-v0", advertise),
    "queue-business": drifting("Queue, arrivals and service change", "DriftingQueue-v0", open_counters),
    "cartpole-actions": drifting("CartPole, actions swap", "DriftingCartPoleActions-v0", balance),
    "cartpole-physics": drifting("CartPole, pole length and force change", "DriftingCartPolePhysics-v0", balance),
    "acrobot-masses": drifting("Acrobot, link masses change", "DriftingAcrobot-v0", swing, parameters=MASSES),
    "lunarlander-engines": drifting("LunarLander, side engines swap", "DriftingLunarLanderEngines-v0", land),
    "lunarlander-gravity": drifting("LunarLander, gravity and wind change", "DriftingLunarLander-v0", land),
    "pendulum-gravity": Task("Pendulum, gravity changes", pendulum_gravity, pump),
    "minatar": drifting("MinAtar, breakout and space_invaders in turn", "DriftingMinAtar-v0", wander, games=GAMES),
    "cartpole-gradual": replace(
        drifting("CartPole, pole length and force move", "DriftingCartPolePhysics-v0", balance, kind="gradual"),
        gradual=True,
    ),
}


def live(task: Task, seed: int, env: gym.Env) -> Iterator[tuple[DecayedReplayBuffer, int]]:
    """After each step, the replay buffer and the phase of the step."""
    generator = np.random.default_rng(seed)
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    buffer = DecayedReplayBuffer(100_000, env.observation_space, env.action_space, "cpu", half_life="auto")
    for step in range(task.steps):
        is_random = generator.random() < max(1 - step / (0.8 * task.steps), FINAL_RANDOM)
        if not is_random:
            action = task.heuristic(env, obs)
        elif task.has_habits and generator.random() < HABITS:
            action = habit(env, obs, step // HABIT_STEPS)
        else:
            action = env.action_space.sample()
        next_obs, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        infos = [{"TimeLimit.truncated": truncated and not terminated}]
        arrays = (np.array([value]) for value in (obs, next_obs, action, reward, done))
        buffer.add(*arrays, infos)
        obs = env.reset()[0] if done else next_obs
        # All tasks that drift alternate between two phases
        yield buffer, info.get("phase", 0) % 2


def run(name: str, seed: int) -> dict[str, Any]:
    """The record of a task with this seed of environment and policy."""
    task = TASKS[name]
    phases: list[int] = []
    # Mean consistencies of the rows of the present phase, and of those of the other
    of_phase: dict[bool, list[float]] = {True: [], False: []}
    for step, (buffer, phase) in enumerate(live(task, seed, task.make())):
        assert buffer.consistency is not None
        phases.append(phase)
        if step % 500 == 499 and not task.gradual:
            is_present = np.array(phases) == phase
            if is_present[-SETTLED - 1 :].all():
                lengths = np.diff(np.append(buffer.consistency.starts, step + 1))
                c = np.repeat(buffer.consistency.consistencies, lengths)
                for is_valid, found in of_phase.items():
                    if len(chosen := c[is_present == is_valid]):
                        found.append(float(chosen.mean()))
    valid, invalid = (round(statistics.mean(found), 4) if found else None for found in of_phase.values())
    return {
        "task": name,
        "seed": seed,
        "steps": task.steps,
        "changes": [] if task.gradual else (np.flatnonzero(np.diff(phases)) + 1).tolist(),
        "alarms": [list(change) for change in buffer.consistency.changes],  # type: ignore[union-attr]
        "consistency_of_true": valid,
        "consistency_of_untrue": invalid,
        "command": f"python benchmarks/detection.py --run {name} {seed}",
        "versions": installed_versions(("gymnasium", "numpy", "sb3_reptile")),
    }


def delays(record: dict[str, Any]) -> list[float]:
    """Steps from each change to the first alarm after it; infinite if there is none within ``WINDOW``."""
    noticed = [alarm[0] for alarm in record["alarms"]]
    found = [[at - change for at in noticed if 0 < at - change <= WINDOW] for change in record["changes"]]
    return [float(after[0]) if after else math.inf for after in found]


def false_alarms(record: dict[str, Any]) -> int:
    noticed = [alarm[0] for alarm in record["alarms"]]
    return sum(not any(0 < at - change <= WINDOW for change in record["changes"]) for at in noticed)


def page(records: list[dict[str, Any]]) -> str:
    rows = []
    for name, task in TASKS.items():
        of_task = [record for record in records if record["task"] == name]
        if not of_task:
            continue
        all_delays = [delay for record in of_task for delay in delays(record)]
        n_noticed = sum(map(math.isfinite, all_delays))
        quiet = sum(record["steps"] - WINDOW * len(record["changes"]) for record in of_task)
        n_false = sum(map(false_alarms, of_task))
        means = []
        for key in ("consistency_of_true", "consistency_of_untrue"):
            values = [record[key] for record in of_task if record[key] is not None]
            means.append(f"{statistics.mean(values):.2f}" if values else "")
        alarms = f"({1e5 * n_false / quiet:.1f} alarms)" if task.gradual else f"{1e5 * n_false / quiet:.1f}"
        noticed = f"{n_noticed} of {len(all_delays)}" if all_delays else ""
        median = statistics.median(all_delays) if all_delays else math.inf
        delay = f"{median:.0f}" if math.isfinite(median) else ""
        rows.append([task.about, str(len(of_task)), noticed, delay, alarms, *means])
    header = ["task", "seeds", "changes noticed", "delay", "false alarms per 100k"]
    lines = tables.table([*header, "consistency, valid", "consistency, invalid"], rows)
    return TEMPLATE.fill("page", window=f"{WINDOW:,}", settled=f"{SETTLED:,}", table=lines) + "\n"


def draw(path: Path) -> None:
    """Draw the evidence against both phases of a CartPole whose actions swap, and their consistencies."""
    from matplotlib.figure import Figure

    from sb3_reptile.figures import BLUE, GREY, ORANGE, label_axes

    period, steps = 2_000, 8_000
    task = replace(TASKS["cartpole-actions"], steps=steps)
    watched = {"stored in the first phase": (period // 2, BLUE), "in the second": (3 * period // 2, ORANGE)}
    settings = Settings()
    cusum: dict[str, list[tuple[int, float, float]]] = {name: [] for name in watched}
    env = gym.make("DriftingCartPoleActions-v0", period=period)
    for step, (buffer, _) in enumerate(live(task, 0, env), start=1):
        consistency = buffer.consistency
        assert consistency is not None
        for name, (row, _) in watched.items():
            if step > row and step % settings.chunk_size == 0:
                index = int(np.searchsorted(consistency.starts, row, side="right")) - 1
                cusum[name].append(
                    (step, float(consistency.segments[index].cusum.max()), float(consistency.consistencies[index]))
                )
    figure = Figure(figsize=(7, 4), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    for name, (_, color) in watched.items():
        x, against, c = np.array(cusum[name]).T
        above.plot(x, against, color=color, linewidth=1.4, label=f"a segment {name}")
        below.plot(x, c, color=color, linewidth=1.4)
    above.axhline(settings.doubt, color=GREY, linewidth=0.8, linestyle=":")
    above.text(20, settings.doubt + 0.3, "doubt", color=GREY, fontsize=8)
    for axes in (above, below):
        for change in range(period, steps, period):
            axes.axvline(change, color=GREY, linewidth=0.8, linestyle="--")
    above.set(ylim=(0, settings.bound + 0.5))
    above.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.2), ncols=2)
    below.set(ylim=(-0.05, 1.05), xlim=(0, steps))
    label_axes(above, "", "evidence against it (nats)")
    label_axes(below, "transitions; dashed: the actions swap", "consistency")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--run", nargs=2, metavar=("TASK", "SEED"))
    parser.add_argument("--from-records", action="store_true")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--records", type=Path, default=RESULTS / "detection.jsonl")
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run(arguments.run[0], int(arguments.run[1]))))
        return
    if arguments.picture:
        draw(arguments.picture)
        return
    records = read(arguments.records)
    if not arguments.from_records:
        there = {(record["task"], record["seed"]) for record in records}
        wanted = [(name, seed) for seed in range(arguments.seeds) for name in arguments.task]
        missing = [pair for pair in wanted if pair not in there]
        with ProcessPoolExecutor(arguments.jobs) as pool, arguments.records.open("a", encoding="utf-8") as file:
            runs = pool.map(run, *zip(*missing, strict=True)) if missing else iter(())
            for record in tqdm(runs, total=len(missing), mininterval=1 if sys.stderr.isatty() else 60):
                file.write(json.dumps(record) + "\n")
                file.flush()
                records.append(record)
    arguments.records.with_suffix(".md").write_text(page(records), encoding="utf-8")
    print(page(records))


if __name__ == "__main__":
    main()
