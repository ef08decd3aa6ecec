"""
The runs of `docs/explanation/applications.md`: with decayed and with uniform replay, one record per run.

    python benchmarks/applications.py                     train the missing runs, two at a time
    python benchmarks/applications.py pong --jobs 1       only this one
    python benchmarks/applications.py --plan              list finished and missing runs
    python benchmarks/applications.py --report            make the table and the curves from the records
    python benchmarks/applications.py --films             make films of the agents trained here

A run is the command on the page, with a seed. Its models and logs are in `runs/applications`, its record is a line of
`benchmarks/results/applications/NAME.jsonl`. An interrupted run is repeated, or resumed if it keeps checkpoints. The
applications are in `benchmarks/application_runs.py`.
"""

import argparse
import math
import shlex
import shutil
from pathlib import Path

import application_runs as runs
from application_runs import DECAYED, Run

from sb3_reptile.evaluation.machine import versions_used
from sb3_reptile.evaluation.records import Record, learning_curve, now, sole_writer
from sb3_reptile.evaluation.runner import Job, train_or_exit

# Code on which a record depends
CODE = ("sb3_reptile", "zoo_configs", "examples", "benchmarks/applications.py", "benchmarks/application_runs.py")


class ApplicationJob(Job):
    """A run whose record is made from the files in its folder."""

    def __init__(self, run: Run) -> None:
        self.run_of_it, self.application = run, runs.APPLICATIONS[run.application]
        self.folder = runs.folder_of(run)
        name = f"{run.application}, {run.method}, seed {run.seed}"
        command = runs.command(run, str(self.folder))
        super().__init__(name, command, self.application.steps, cwd=runs.ROOT, output=self.folder / "output.txt")
        self.resumed = False

    def prepare(self) -> bool:
        begun = next((path.parent for path in self.folder.rglob("checkpoints") if any(path.iterdir())), None)
        if begun is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            return True
        self.resumed = True
        self.command += ["--resume", str(begun)]
        # The model is saved after the last step
        return not any(begun.glob("*.zip"))

    def steps_so_far(self) -> int:
        episodes = runs.episodes_of(self.application, self.folder)
        return min(episodes[-1][0], self.steps) if episodes else 0

    def record(self) -> Record:
        run, application = self.run_of_it, self.application
        curve = learning_curve(runs.episodes_of(application, self.folder), application.steps)
        if application.network is not None and run.method == DECAYED and run.seed == 0:
            keep_network(run, application.network)
        return {
            "task": run.application,
            "method": run.method,
            "seed": run.seed,
            "steps": application.steps,
            "curve": curve,
            **({"evaluation": evaluate(run, application.evaluated)} if application.evaluated else {}),
            "setup": runs.set_up(run),
            "resumed": self.resumed,
            "wall_seconds": round(self.seconds, 1),
            "command": shlex.join(["python", *runs.command(run, "FOLDER")]),
            "versions": versions_used(runs.ROOT, CODE),
            "finished": now(),
        }


def keep_network(run: Run, path: Path) -> None:
    """Save the network of a run for ``pretrained``, in half precision: a tenth of the model's size."""
    from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file

    _, parameters, _ = load_from_zip_file(runs.model_of(run), load_data=False)
    network = {
        name.removeprefix("q_net."): value.half()
        for name, value in parameters["policy"].items()
        if name.startswith("q_net.")
    }
    # The same tensors under both names are stored once
    policy = {f"{net}.{name}": value for net in ("q_net", "q_net_target") for name, value in network.items()}
    save_to_zip_file(path, params={"policy": policy})


def evaluate(run: Run, n_episodes: int) -> list[float]:
    """Returns of the trained agent, without exploration."""
    from stable_baselines3.common.evaluation import evaluate_policy

    model, env = runs.trained(run)
    returns, _ = evaluate_policy(model, env, n_episodes, return_episode_rewards=True)
    assert isinstance(returns, list)
    env.close()
    return returns


def print_plan(planned: list[Run], records: dict[Run, Record]) -> None:
    for name in dict.fromkeys(run.application for run in planned):
        own = [run for run in planned if run.application == name]
        done = sum(run in records for run in own)
        print(f"{name:<20}{done:>3} of {len(own):>2} runs of {runs.APPLICATIONS[name].steps:>9,} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(runs.APPLICATIONS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {known}; all by default")
    parser.add_argument("--jobs", type=int, help="number of runs at once (default: 2; with --ray, one per processor)")
    parser.add_argument("--ray", metavar="ADDRESS", help="train on the Ray cluster at this address; needs shared files")
    parser.add_argument("--hours", type=float, default=math.inf, help="start no run after this time")
    parser.add_argument("--seeds", type=int, help="only seeds below this number")
    parser.add_argument("--plan", action="store_true", help="list finished and missing runs; train nothing")
    parser.add_argument("--report", action="store_true", help="make the table and the curves; train nothing")
    parser.add_argument("--films", action="store_true", help="make films of the agents trained here; train nothing")
    arguments = parser.parse_args()
    names = arguments.names or list(runs.APPLICATIONS)
    if unknown := set(names) - set(runs.APPLICATIONS):
        parser.error(f"no such application: {', '.join(sorted(unknown))}; there are {known}")
    if arguments.report or arguments.films:
        import application_report

        if arguments.report:
            application_report.report()
        else:
            application_report.make_films(names)
        return
    planned = [run for run in runs.plan(names) if arguments.seeds is None or run.seed < arguments.seeds]
    if arguments.plan:
        print_plan(planned, runs.read_records())
        return
    with sole_writer(runs.RECORDS):
        records = runs.read_records()
        jobs = [ApplicationJob(run) for run in planned if run not in records]
        train_or_exit(jobs, runs.RECORDS, arguments.jobs, arguments.hours, max_failures=1, ray=arguments.ray)


if __name__ == "__main__":
    main()
