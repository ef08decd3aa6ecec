"""The applications of `docs/explanation/applications.md` as data, and their runs: commands, folders and records."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from sb3_reptile.evaluation import records as evaluation
from sb3_reptile.evaluation.records import Record

ROOT = Path(__file__).parent.parent
RECORDS = Path(__file__).parent / "results" / "applications"
RUNS = ROOT / "runs" / "applications"
IMAGES = ROOT / "docs" / "images"

DECAYED, UNIFORM, AUTO = "decayed", "uniform", "auto"


@dataclass(frozen=True)
class Application:
    """
    A task with the commands that train on it.

    :param about: Description for the report
    :param section: Name of the figure with its curve
    :param command: Command of a run, without seed, folder and arguments of the method
    :param methods: The arguments of each method
    :param steps: Environment steps of a run
    :param changes: Steps at which the task changes
    :param seeds: Runs of each method
    :param counts: Steps that SB3's Monitor counts per step of the agent
    :param monitor: The Monitor's files that hold the returns, in the folder of a run
    :param evaluated: Number of episodes for which the trained agent is evaluated without exploration
    :param clicks: Environment whose ``info`` has the click rates of an oracle and of a random policy
    :param network: File for the network of the first decayed run, for runs that start from it
    """

    about: str
    section: str
    command: tuple[str, ...]
    methods: dict[str, tuple[str, ...]]
    steps: int
    changes: tuple[int, ...] = ()
    seeds: int = 5
    counts: int = 1
    monitor: str = "**/*monitor.csv"
    evaluated: int = 0
    clicks: str | None = None
    network: Path | None = None


ZOO = ("-m", "sb3_reptile.zoo", "train")
NO_DECAY = "half_life:float('inf')"
# The decay of the RL Zoo's entry, and none
OWN_DECAY = {DECAYED: (), UNIFORM: ("-params", NO_DECAY)}
# The same learner with the replay of ReptileDQN's defaults, and with other replay
HALF_LIVES = {AUTO: "half_life:'auto'", DECAYED: "half_life:None", UNIFORM: NO_DECAY}
SAME_LEARNER = {method: () if method == AUTO else ("-params", own) for method, own in HALF_LIVES.items()}


def zoo(
    about: str,
    section: str,
    env: str,
    steps: int,
    *params: str,
    algo: str = "reptile_dqn",
    period: int | None = None,
    methods: dict[str, tuple[str, ...]] = SAME_LEARNER,
    **others: Any,
) -> Application:
    """An entry of ``zoo_configs``: ReptileDQN with ``methods``, another algorithm with its decay and without."""
    command = (*ZOO, "--algo", algo, "--env", env)
    if algo != "reptile_dqn":
        command = (*command, "-conf", f"zoo_configs/{algo}.yml")
        uniform = "replay_buffer_kwargs:dict(half_life=float('inf'))"
        methods = {DECAYED: ("-params", *params) if params else (), UNIFORM: ("-params", *params, uniform)}
    changes = () if period is None else tuple(range(period, steps, period))
    return Application(about, section, (*command, "-n", str(steps)), methods, steps, changes, **others)


def small(*layers: int) -> tuple[str, str]:
    """Networks and batches smaller than the RL Zoo's, for training on a small machine."""
    return f"policy_kwargs:dict(net_arch=[{','.join(map(str, layers))}])", "batch_size:128"


CONTROL = {
    "pendulum": ("Pendulum-v1", 10_000, (*small(64, 64), "learning_starts:500")),
    "lander": ("LunarLanderContinuous-v3", 40_000, small(256, 256)),
    "cheetah": ("HalfCheetah-v5", 30_000, (*small(64, 64), "learning_starts:1000")),
}

# Pong's actions are none, fire, up, down, and up and down with fire
SWAPPED = (
    "env_wrapper:[{'stable_baselines3.common.atari_wrappers.AtariWrapper': dict(screen_size=64)}, "
    "{'sb3_reptile.envs.PermutedActions': dict(period=1, permutations=[[0, 1, 3, 2, 5, 4]])}]"
)
PONG_NETWORK = RECORDS / "pong_network.zip"
FROM_PONG = (
    f"pretrained:'{PONG_NETWORK.relative_to(ROOT)}'",
    # Many random actions would hide what the network can do
    "exploration_initial_eps:0.1",
)

# Hashes of records contain the former paths of these classes, and the former default of the RL Zoo's entries
RECORDED_AS = {
    "__import__('sb3_reptile.networks').networks.": "__import__('sb3_reptile.envs').envs.",
    '"half_life": "auto"': '"half_life": null',
}

# Sections of tasks that do not change: their figure shows differences, not curves
WITHOUT_DRIFT = {"control"}

# Family of each method, which decides its colour and line in figures
FAMILIES = {
    DECAYED: "default",
    UNIFORM: "uniform",
    AUTO: "auto",
    f"{DECAYED}, from scratch": "another default",
    f"{DECAYED}, from Pong's network": "default",
    f"{UNIFORM}, from Pong's network": "uniform",
    "both auto": "auto",
    "both uniform": "uniform",
    "predator auto, prey uniform": "another auto",
    "predator uniform, prey auto": "another uniform",
}

PONG: dict[str, Any] = dict(seeds=1, counts=4, evaluated=20)

APPLICATIONS = {
    "pong": zoo("Pong", "pong", "PongNoFrameskip-v4", 600_000, methods=OWN_DECAY, network=PONG_NETWORK, **PONG),
    # Returns of 5 steps and double Q-learning, as the entry has them
    "pong-short": zoo(
        "Pong, half the steps",
        "pong",
        "PongNoFrameskip-v4",
        300_000,
        methods={**OWN_DECAY, AUTO: ("-params", HALF_LIVES[AUTO])},
        seeds=3,
        counts=4,
    ),
    "pong-swapped": Application(
        "Pong with its controls swapped",
        "pong",
        (*ZOO, "--algo", "reptile_dqn", "--env", "PongNoFrameskip-v4", "-n", "300000"),
        {
            f"{DECAYED}, from scratch": ("-params", SWAPPED),
            f"{DECAYED}, from Pong's network": ("-params", SWAPPED, *FROM_PONG),
            f"{UNIFORM}, from Pong's network": ("-params", SWAPPED, *FROM_PONG, NO_DECAY),
        },
        300_000,
        **PONG,
    ),
    "obstacles": zoo("A robot among moving obstacles", "navigation", "MiniGrid-Dynamic-Obstacles-6x6-v0", 40_000),
    "rooms": zoo(
        "A robot whose goal moves to another room",
        "navigation",
        "DriftingRooms-v0",
        80_000,
        period=20_000,
    ),
    "motorway": zoo(
        "Driving in changing traffic",
        "driving",
        "DriftingHighway-v0",
        20_000,
        period=5_000,
    ),
    **{
        name: zoo(about, "recommendation", env, steps, period=period, clicks=env)
        for name, about, env, steps, period in [
            ("recommender", "Recommending to users whose interests change", "DriftingRecommender-v0", 100_000, 20_000),
            ("shop", "Showing items by a fashion shop's log", "DriftingFashionShop-v0", 70_000, 10_000),
        ]
    },
    **{
        f"{name}-{algo}": zoo(f"{env} with {algo.upper()}", "control", env, steps, *params, algo=algo, seeds=3)
        for name, (env, steps, params) in CONTROL.items()
        for algo in ("sac", "td3", "tqc")
    },
    "pendulum-discrete": zoo("Pendulum-v1 with ReptileDQN and DiscreteActions", "control", "Pendulum-v1", 20_000),
    "spread": Application(
        "Three agents that share one policy",
        "agents",
        ("examples/shared_policy.py",),
        {AUTO: (), DECAYED: ("--half-life", "default"), UNIFORM: ("--half-life", "inf")},
        300_000,
    ),
    "tag": Application(
        "A predator's return against a prey that learns, too",
        "agents",
        ("examples/opponents.py",),
        {
            "both auto": (),
            "both uniform": ("--predator-half-life", "inf", "--prey-half-life", "inf"),
            "predator auto, prey uniform": ("--prey-half-life", "inf"),
            "predator uniform, prey auto": ("--predator-half-life", "inf"),
        },
        60_000,
        monitor="predator/monitor.csv",
    ),
}


class Run(NamedTuple):
    application: str
    method: str
    seed: int


def plan(names: list[str]) -> list[Run]:
    """All runs of these applications, seed by seed."""
    applications = {name: APPLICATIONS[name] for name in names}
    most = max(application.seeds for application in applications.values())
    return [
        Run(name, method, seed)
        for seed in range(most)
        for name, application in applications.items()
        if seed < application.seeds
        for method in application.methods
    ]


def is_of_the_zoo(name: str) -> bool:
    return APPLICATIONS[name].command[: len(ZOO)] == ZOO


def zoo_entry(run: Run) -> tuple[str, dict[str, Any]]:
    """The algorithm of a run of the RL Zoo, and the entry of ``zoo_configs`` that it trains with."""
    algo, env = (APPLICATIONS[run.application].command[index] for index in (len(ZOO) + 1, len(ZOO) + 3))
    entries = yaml.safe_load((ROOT / "zoo_configs" / f"{algo}.yml").read_text(encoding="utf-8"))
    return algo, entries.get(env, entries["default"])


def command(run: Run, folder: str) -> list[str]:
    """The command that trains it, run in the root of the repository."""
    application = APPLICATIONS[run.application]
    own = application.methods[run.method]
    if is_of_the_zoo(run.application):
        where = ["--seed", str(run.seed), "-f", folder, "--eval-freq", "-1", "--verbose", "0", "--num-threads", "1"]
        return [*application.command, *where, *own]
    return [*application.command, "--seed", str(run.seed), "--log", folder, *own]


def set_up(run: Run) -> str:
    """Hash of a run's configuration, eight digits; records with another hash are ignored."""
    what: list[Any] = [command(run, "FOLDER")]
    if is_of_the_zoo(run.application):
        what.append(zoo_entry(run)[1])
    if any(AUTO in method for method in APPLICATIONS[run.application].methods):
        what.append("the defaults of ReptileDQN")
    text = json.dumps(what, sort_keys=True)
    for present, recorded in RECORDED_AS.items():
        text = text.replace(present, recorded)
    return evaluation.hash_of(text)


# ---- Records


def read_records() -> dict[Run, Record]:
    """The records of the present applications."""
    return evaluation.read(
        RECORDS,
        [path.stem for path in sorted(RECORDS.glob("*.jsonl"))],
        lambda record: Run(record["task"], record["method"], record["seed"]),
        set_up,
    )


def folder_of(run: Run) -> Path:
    return RUNS / f"{run.application}-{run.method}-{run.seed}".replace(" ", "_")


def episodes_of(application: Application, folder: Path) -> list[tuple[int, float]]:
    """Last step and return of each episode of a run."""
    files = sorted(folder.glob(application.monitor))
    episodes: list[tuple[int, float]] = []
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(line for line in file if line[0] != "#") if row["l"]]
        # Parallel environments take the same number of steps
        ends = np.cumsum([int(float(row["l"])) for row in rows]) * len(files) // application.counts
        episodes += zip(ends.tolist(), (float(row["r"]) for row in rows), strict=True)
    return sorted(episodes)


def model_of(run: Run, folder: Path | None = None) -> Path:
    """File of the model trained by a run of the RL Zoo."""
    (model_path,) = (path for path in (folder or folder_of(run)).glob("*/*_1/*.zip") if "_steps" not in path.stem)
    return model_path


def trained(run: Run, folder: Path | None = None, steps: int | None = None) -> tuple[Any, Any]:
    """
    The model trained by a run of the RL Zoo, and its environment with rendering.

    :param folder: Folder of the run
    :param steps: Training steps of the model; by default the last model
    """
    from rl_zoo3 import ALGOS, create_test_env, get_saved_hyperparams

    from sb3_reptile.zoo.registration import register

    register()
    model_path = model_of(run, folder)
    algo, env_id = model_path.parts[-3], model_path.stem
    saved = model_path.parent / env_id
    settings, stats = get_saved_hyperparams(str(saved), norm_reward=False, test_mode=True)
    kwargs = {"render_mode": "rgb_array"}
    env = create_test_env(env_id, stats_path=stats, seed=0, hyperparams=settings, env_kwargs=kwargs)
    if steps is not None and steps != APPLICATIONS[run.application].steps:
        model_path = model_path.with_name(f"rl_model_{steps}_steps.zip")
    return ALGOS[algo].load(model_path, device="cpu", custom_objects={"buffer_size": 1}), env
