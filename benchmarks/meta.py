"""
From which start an agent adapts fastest to a new task: random parameters, joint training on all tasks, or Reptile.

    python benchmarks/meta.py --jobs 2                        train the missing runs, then make the tables and figures
    python benchmarks/meta.py --plan                          list finished and missing runs
    python benchmarks/meta.py --report                        make the tables and figures only
    python benchmarks/meta.py --run FAMILY START SEED         one run; prints its record, which names this command

A run pretrains on the tasks of a family, with equal numbers of environment steps (of gradient steps for sine waves) for
joint training and Reptile, and none from scratch. It then adapts to held-out tasks, with the same settings from every
start, and is evaluated on the way. Every finished run is a line of `benchmarks/results/meta/FAMILY.jsonl`; an
interrupted run is repeated. The page is `benchmarks/results/meta.md`.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from torch.func import functional_call, grad, vmap

from sb3_reptile import ReptileDQN, meta
from sb3_reptile.evaluation import plotting, records, tables
from sb3_reptile.evaluation.machine import versions_used
from sb3_reptile.evaluation.records import Record, now, sole_writer
from sb3_reptile.evaluation.runner import Job, train_or_exit
from sb3_reptile.evaluation.statistics import (
    difference_of_iqms,
    estimate,
    estimates,
    iqm,
    iqm_of_points,
    probability_of_improvement,
)
from sb3_reptile.evaluation.templates import PageTemplate
from sb3_reptile.meta import JointTasks, Regression, ReptileMetaLearner, SineWaves, adaptation_curve, area_under_curve
from sb3_reptile.meta.learned_parameters import learned_parameters, set_learned_parameters
from sb3_reptile.meta.sine_waves import LARGEST_INPUT

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
RECORDS = RESULTS / "meta"
PICTURES = ROOT / "docs" / "images"
TEMPLATE = Path(__file__).parent / "templates" / "meta.md"
# Code on which a record depends
CODE = ("sb3_reptile", "benchmarks/meta.py")

STARTS = {"scratch": "from scratch", "joint": "joint training", "reptile": "Reptile"}
# Families of methods whose colours and lines they have
STYLES = {"scratch": "uniform", "joint": "fifo", "reptile": "default"}
SEEDS = 10
# Numbers of training episodes after which an agent is evaluated, and of gradient steps on a wave
EPISODES = (0, 1, 2, 5, 10)
GRADIENT_STEPS = (0, 1, 2, 4, 8, 16, 32)
# Held-out tasks are drawn from other streams than those of training
HELD_OUT = 777


@dataclass(frozen=True)
class Family:
    """
    Tasks for reinforcement learning.

    :param about: Description for the table
    :param tasks: Name of the family in ``sb3_reptile.meta``, and its arguments
    :param held_out: Arguments of the held-out tasks
    :param settings: Arguments of ReptileDQN, in pretraining and in adaptation
    :param adaptation: Arguments of ReptileDQN that are different in adaptation
    :param joint: Those that are different in joint training
    :param inner_timesteps: Steps of an inner run
    :param meta_batch_size: Tasks of a meta-iteration
    :param meta_iterations: Meta-iterations
    :param n_held_out: Number of held-out tasks of each run
    """

    about: str
    tasks: tuple[str, dict[str, Any]]
    held_out: dict[str, Any]
    settings: dict[str, Any]
    adaptation: dict[str, Any]
    joint: dict[str, Any]
    inner_timesteps: int
    meta_batch_size: int
    meta_iterations: int
    n_held_out: int = 8

    @property
    def pretraining_steps(self) -> int:
        return self.inner_timesteps * self.meta_batch_size * self.meta_iterations

    def make_tasks(self, **arguments: Any) -> Any:
        name, common = self.tasks
        return getattr(meta, name)(**{**common, **arguments})


@dataclass(frozen=True)
class Waves:
    """
    Sine waves, for supervised learning (Nichol et al. 2018, section 3).

    :param about: Description for the table
    :param meta_iterations: Meta-iterations, with one wave each
    :param inner_steps: Gradient steps on each wave, on 10 points each
    :param meta_step_size: ``ε`` at the beginning; it is annealed to 0
    :param learning_rate: Of stochastic gradient descent, in pretraining and in adaptation
    :param n_points: Points of a wave in pretraining
    :param n_held_out: Number of held-out waves of each run
    """

    about: str = "regression on sine waves"
    meta_iterations: int = 10_000
    inner_steps: int = 5
    meta_step_size: float = 1.0
    learning_rate: float = 0.02
    n_points: int = 50
    n_held_out: int = 500

    @property
    def pretraining_steps(self) -> int:
        return self.meta_iterations * self.inner_steps


# What the families have in common: few and large updates of a small network, uniform replay
SMALL: dict[str, Any] = dict(
    policy_kwargs=dict(net_arch=[32, 32]), half_life=math.inf, buffer_size=50_000, learning_starts=20
)
NEARLY_GREEDY = dict(exploration_initial_eps=0.2, exploration_final_eps=0.2)

FAMILIES: dict[str, Family | Waves] = {
    "navigation": Family(
        about="navigation to a hidden goal",
        tasks=("Navigation", {}),
        held_out={},
        settings=dict(
            SMALL,
            learning_rate=3e-3,
            batch_size=128,
            gamma=0.95,
            train_freq=4,
            target_update_interval=20,
            exploration_fraction=0.5,
            exploration_final_eps=0.1,
        ),
        adaptation=NEARLY_GREEDY,
        joint=dict(exploration_fraction=0.3),
        inner_timesteps=200,
        meta_batch_size=4,
        meta_iterations=30,
    ),
    "cartpole-inverted": Family(
        about="CartPole, controls inverted or not",
        tasks=("CartPoleControls", dict(n_forces=2)),
        held_out={},
        settings=dict(
            SMALL,
            learning_rate=1e-3,
            batch_size=64,
            gamma=0.98,
            train_freq=1,
            target_update_interval=25,
            exploration_fraction=1e-4,
            **NEARLY_GREEDY,
        ),
        adaptation={},
        joint=dict(exploration_fraction=0.3, exploration_initial_eps=1.0, exploration_final_eps=0.1),
        inner_timesteps=300,
        meta_batch_size=4,
        meta_iterations=16,
    ),
    "sine-waves": Waves(),
}


class Run(NamedTuple):
    """Key of a record."""

    family: str
    start: str
    seed: int


def plan() -> list[Run]:
    """All runs, ordered by seed, reinforcement learning first."""
    groups = [[name for name, family in FAMILIES.items() if isinstance(family, kind)] for kind in (Family, Waves)]
    return [Run(name, start, seed) for group in groups for seed in range(SEEDS) for name in group for start in STARTS]


def set_up(run: Run) -> str:
    """Hash of a run's configuration, eight digits; records with another hash are ignored."""
    return records.hash_of([repr(FAMILIES[run.family]), run.start, EPISODES, GRADIENT_STEPS, HELD_OUT])


def read_records() -> dict[Run, Record]:
    def run_of(record: Record) -> Run:
        return Run(record["task"], record["start"], record["seed"])

    return dict(sorted(records.read(RECORDS, FAMILIES, run_of, set_up).items()))


def command(run: Run) -> list[str]:
    """The command that makes this record, run in the root of the repository."""
    return ["benchmarks/meta.py", "--run", run.family, run.start, str(run.seed)]


# ---- One run


def algorithm_of(algorithm: Any, env: Any, seed: int, **settings: Any) -> Any:
    """A model that logs nothing."""
    model = algorithm("MlpPolicy", env, seed=seed, device="cpu", **settings)
    model.set_logger(Logger(None, []))
    return model


def reptile(
    algorithm: Any, tasks: Any, seed: int, step_size: float, settings: dict[str, Any], **kwargs: Any
) -> ReptileMetaLearner:
    """Meta-learning whose step size is annealed to 0."""
    kwargs |= dict(meta_step_size=LinearSchedule(step_size, 0.0, 1.0), algorithm_kwargs=settings)
    return ReptileMetaLearner(algorithm, tasks, seed=seed, device="cpu", **kwargs)


def pretrain(run: Run, family: Family) -> Any:
    """Parameters to start adaptation from, None for random ones."""
    if run.start == "scratch":
        return None
    settings = {"n_steps": 1, **family.settings}
    if run.start == "joint":
        env = JointTasks(family.make_tasks(), seed=run.seed)
        model = algorithm_of(ReptileDQN, env, run.seed, **{**settings, **family.joint})
        model.learn(family.pretraining_steps, log_interval=None)
        return learned_parameters(model)
    kwargs = dict(inner_timesteps=family.inner_timesteps, meta_batch_size=family.meta_batch_size)
    learner = reptile(ReptileDQN, family.make_tasks(), run.seed, 1.0, settings, **kwargs)
    return learner.learn(family.meta_iterations, log_interval=None).parameters


def curves_of(run: Run, family: Family) -> list[list[float]]:
    """Adaptation curve on each held-out task, which are the same for all starts."""
    parameters, held_out = pretrain(run, family), family.make_tasks(**family.held_out)
    curves = []
    for number in range(family.n_held_out):
        env, eval_env = (held_out(np.random.default_rng([HELD_OUT, run.seed, number])) for _ in range(2))
        settings = {"n_steps": 1, **family.settings, **family.adaptation}
        seed = 1_000 * (run.seed + 1) + number
        model = algorithm_of(ReptileDQN, env, seed, **settings)
        if parameters is not None:
            set_learned_parameters(model, parameters)
        curve = adaptation_curve(model, eval_env, EPISODES, n_eval_episodes=3, seed=seed)
        curves.append([round(value, 2) for value in curve])
        for made in (env, eval_env):
            made.close()
    return curves


def pretrain_on_waves(run: Run, waves: Waves) -> Any:
    """The network to start adaptation from."""
    tasks, settings = SineWaves(waves.n_points), dict(learning_rate=waves.learning_rate)
    if run.start != "reptile":
        model = algorithm_of(Regression, JointTasks(tasks, seed=run.seed), run.seed, **settings)
        return model.learn(waves.pretraining_steps if run.start == "joint" else 0, log_interval=None).policy
    kwargs = dict(inner_timesteps=waves.inner_steps, meta_batch_size=1)
    learner = reptile(Regression, tasks, run.seed, waves.meta_step_size, settings, **kwargs)
    return learner.learn(waves.meta_iterations, log_interval=None).policy


def errors_on_waves(policy: Any, waves: Waves, seed: int) -> list[float]:
    """
    Mean squared error on held-out waves after gradient steps on 10 points of each. All waves at once: the same updates
    as those of ``Regression`` on one wave after the other.
    """
    held_out = [SineWaves(10)(np.random.default_rng([HELD_OUT, seed, number])) for number in range(waves.n_held_out)]
    grid = np.linspace(-LARGEST_INPUT, LARGEST_INPUT, 100, dtype=np.float32)[:, None]
    points = [wave.reset()[1] for wave in held_out]
    x, y = (th.as_tensor(np.stack([one[key] for one in points])) for key in ("inputs", "targets"))
    everywhere = th.as_tensor(np.stack([wave.value(grid) for wave in held_out]))
    parameters = {
        name: value.detach().expand(waves.n_held_out, *value.shape).clone()
        for name, value in policy.net.named_parameters()
    }

    def loss(of_one: dict[str, th.Tensor], inputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
        return th.nn.functional.mse_loss(functional_call(policy.net, of_one, inputs), targets)

    def error() -> float:
        predict = vmap(lambda of_one: functional_call(policy.net, of_one, th.as_tensor(grid)))
        return float((predict(parameters) - everywhere).square().mean())

    errors = []
    for step in range(max(GRADIENT_STEPS) + 1):
        if step in GRADIENT_STEPS:
            errors.append(round(error(), 4))
        gradients = vmap(grad(loss))(parameters, x, y)
        parameters = {name: value - waves.learning_rate * gradients[name] for name, value in parameters.items()}
    return errors


def train(run: Run) -> Record:
    """The record of a run."""
    th.set_num_threads(1)
    # Before training, so that the commit is that of the running code
    versions = versions_used(ROOT, CODE)
    family = FAMILIES[run.family]
    start, cpu_start = time.perf_counter(), time.process_time()
    if isinstance(family, Waves):
        found: dict[str, Any] = {"errors": errors_on_waves(pretrain_on_waves(run, family), family, run.seed)}
    else:
        found = {"curves": curves_of(run, family)}
    return {
        "task": run.family,
        "start": run.start,
        "seed": run.seed,
        "pretraining_steps": 0 if run.start == "scratch" else family.pretraining_steps,
        **found,
        "setup": set_up(run),
        "wall_seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu_start, 1),
        "command": "python " + " ".join(command(run)),
        "versions": versions,
        "finished": now(),
    }


# ---- The report


def matrices_of(found: dict[Run, Record], family: str) -> dict[str, np.ndarray]:
    """For each start with records, the mean over the held-out tasks at each point, shape (runs, 1, points)."""
    means: dict[str, list[Any]] = {}
    for run, record in found.items():
        if run.family == family:
            of_run = np.mean(record["curves"], axis=0) if "curves" in record else record["errors"]
            means.setdefault(run.start, []).append([of_run])
    return {start: np.array(means[start], dtype=float) for start in STARTS if start in means}


def points_of(family: str) -> tuple[int, ...]:
    return GRADIENT_STEPS if isinstance(FAMILIES[family], Waves) else EPISODES


def curve_section(name: str, matrices: dict[str, np.ndarray]) -> list[str]:
    family = FAMILIES[name]
    decimals, score = (2, "error after gradient steps") if isinstance(family, Waves) else (1, "return after episodes")
    rows = [
        [STARTS[start], str(len(matrix)), *(tables.cell(point, decimals) for point in estimates(iqm_of_points, matrix))]
        for start, matrix in matrices.items()
    ]
    about = f"{family.about}: {family.pretraining_steps:,} steps of pretraining, {family.n_held_out} new tasks"
    header = [f"{score}:", "runs", *map(str, points_of(name))]
    return [f"## {about[0].upper()}{about[1:]}", "", *tables.table(header, rows)]


def area_row(family: Family, matrices: dict[str, np.ndarray]) -> list[str]:
    """Mean return over the episodes of adaptation, shape (runs, 1), from each start and compared."""
    areas = {
        start: np.array([[area_under_curve(curve, EPISODES)] for curve in matrix[:, 0]])
        for start, matrix in matrices.items()
    }
    row = [family.about, f"{family.pretraining_steps:,}"]
    row += [tables.cell(estimate(iqm, values), 1) for values in areas.values()]
    for other in ("scratch", "joint"):
        for function, decimals in ((difference_of_iqms, 1), (probability_of_improvement, 2)):
            row.append(tables.cell(estimate(function, areas["reptile"], areas[other]), decimals))
    return row


def draw(found: dict[Run, Record], path: Path) -> None:
    """IQM over the seeds at each point of adaptation, with its interval."""
    matrices = {name: of_family for name in FAMILIES if (of_family := matrices_of(found, name))}
    figure, panels = plotting.grid(len(matrices), columns=3)
    for (name, of_family), panel in zip(matrices.items(), panels, strict=True):
        for start, matrix in of_family.items():
            style, points = plotting.style_of(STYLES[start]), estimates(iqm_of_points, matrix)
            plotting.draw_curve(panel, points_of(name), points, style, STARTS[start])
        if isinstance(FAMILIES[name], Waves):
            labels = ("gradient steps on a new wave", "mean squared error")
        else:
            labels = ("training episodes on a new task", "return, without exploration")
        plotting.label_panel(panel, FAMILIES[name].about, *labels)
        # Those that do not touch each other
        panel.set_xticks([point for point in points_of(name) if point == 0 or 8 * point >= max(points_of(name))])
    plotting.save_with_legend(figure, panels, path)


def page(found: dict[Run, Record]) -> str:
    """The text of `benchmarks/results/meta.md`."""
    matrices = {name: of_family for name in FAMILIES if (of_family := matrices_of(found, name))}
    curves = [line for name, of_family in matrices.items() for line in curve_section(name, of_family)]
    rows = [
        area_row(family, matrices[name])
        for name, family in FAMILIES.items()
        if isinstance(family, Family) and len(matrices.get(name, ())) == len(STARTS)
    ]
    header = ["family", "steps of pretraining", *STARTS.values()]
    areas = tables.table([*header, "Reptile - scratch", "P(better)", "Reptile - joint", "P(better)"], rows)
    return PageTemplate(TEMPLATE).fill("page", curves=curves, areas=areas, seeds=SEEDS) + "\n"


def report() -> None:
    """Write `benchmarks/results/meta.md` and the figure."""
    found = read_records()
    if not found:
        raise SystemExit(f"there are no records in {RECORDS}: train runs first")
    (RESULTS / "meta.md").write_text(page(found), encoding="utf-8")
    draw(found, PICTURES / "meta_adaptation.png")


# ---- Command line


def print_plan(planned: list[Run], found: dict[Run, Record]) -> None:
    for name in dict.fromkeys(run.family for run in planned):
        own = [run for run in planned if run.family == name]
        seconds = [found[run]["cpu_seconds"] for run in own if run in found]
        print(f"{name:<20}{len(seconds):>3} of {len(own):>2} runs{sum(seconds):>8.0f} s so far")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="number of processes (default: 2)")
    parser.add_argument("--hours", type=float, default=math.inf, help="start no run after this time")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="only these families")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="only seeds below this number")
    parser.add_argument("--plan", action="store_true", help="list finished and missing runs; train nothing")
    parser.add_argument("--report", action="store_true", help="make the tables and figures; train nothing")
    parser.add_argument("--run", nargs=3, metavar=("FAMILY", "START", "SEED"), help="one run; prints its record")
    arguments = parser.parse_args()
    if arguments.run:
        family, start, seed = arguments.run
        if family not in FAMILIES or start not in STARTS or not seed.isdecimal():
            parser.error(f"--run takes a family ({', '.join(FAMILIES)}), a start ({', '.join(STARTS)}) and a seed")
        print(json.dumps(train(Run(family, start, int(seed))), separators=(",", ":")), flush=True)
        return
    if arguments.report:
        report()
        return
    planned = [run for run in plan() if run.family in arguments.family and run.seed < arguments.seeds]
    if arguments.plan:
        print_plan(planned, read_records())
        return
    with sole_writer(RECORDS):
        found = read_records()
        missing = [run for run in planned if run not in found]
        jobs = [Job(" ".join(map(str, run)), [__file__, *command(run)[1:]], steps=1) for run in missing]
        train_or_exit(jobs, RECORDS, arguments.jobs, arguments.hours)
    report()


if __name__ == "__main__":
    main()
