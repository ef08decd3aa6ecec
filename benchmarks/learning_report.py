"""
docs/explanation/results_one_step.md and its figures, from the records of benchmarks/learning.py alone.

    python benchmarks/learning_report.py [--records benchmarks/results/learning]
        [--output docs/explanation/results_one_step.md]

The same records give the same bytes: the seeds of the bootstrap are fixed. Records may be incomplete; the tables state
the number of seeds. The prose is in `benchmarks/templates/results_one_step.md`.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import learning_figures as figures
import numpy as np
from learning import GAMES, RECORDS, ROOT, VOLUME_TASK, VOLUMES, Run, read_records, reference_returns
from learning_results import FIFO, PUBLISHED, USABLE, Matrices, Results, Statistic, best_of, if_known, scores
from methods import ABLATIONS, AUTO, DEFAULT, METHODS, ORACLE, SMALLER, UNIFORM, VOLUME_METHODS
from tasks import TASKS, Task

from sb3_reptile.evaluation import recovery
from sb3_reptile.evaluation import statistics as evaluation
from sb3_reptile.evaluation.records import BINS, Record
from sb3_reptile.evaluation.recovery import Change, after_changes
from sb3_reptile.evaluation.statistics import (
    Estimate,
    difference_of_iqms,
    iqm,
    probability_of_improvement,
    ratio_of_iqms,
)
from sb3_reptile.evaluation.tables import bold_if, cell, table
from sb3_reptile.evaluation.templates import PageTemplate, join
from sb3_reptile.replay.decay import make_decay

# Below this score, nothing has been learned that a change could destroy
LEARNED = 0.1
# Fewer half-lives are no curve
FEWEST_HALF_LIVES = 3
# Families whose way of forgetting is fixed in advance
FIXED = ("uniform", "fifo", "exponential", "power", "linear", "ere", "combined")
NO_RECORDS = "No records yet."
NOT_SIGNIFICANT = "no significant difference"

fill = PageTemplate(Path(__file__).parent / "templates" / "results_one_step.md").fill


# ---- Cells


def decimals_of(task: Task) -> int:
    scale = abs(np.max(task.reference_return) - np.min(task.random_return))
    return 0 if scale >= 100 else 1 if scale >= 1 else 2


def label_cell(method: str) -> str:
    return bold_if(method == DEFAULT.name, METHODS[method].label)


def returns_cell(results: Results, task: str, method: str, volume: float | None = None, bold: bool = False) -> str:
    """IQM of the returns with the number of runs; empty if there are none."""
    found = cell(results.estimate(task, method, volume), decimals_of(TASKS[task]))
    return found and f"{bold_if(bold, found)}, n = {len(results.of(task, method, volume))}"


def compared(function: Statistic, matrices: Matrices, method: str, other: str | None) -> Estimate | None:
    """A comparison with another method, if that has runs."""
    return None if other == method else if_known(function, matrices[method], matrices.get(other))


def verdict(difference: Estimate) -> str:
    if np.isnan(difference.low):
        return "too few runs"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else NOT_SIGNIFICANT


# ---- Tables


def tasks_table(names: list[str], role_of: Callable[[Task], str] = lambda task: task.role) -> list[str]:
    header = ["task", "description", "role", "steps", "transitions replayed per step", "random return", "reference"]
    rows = []
    for name in names:
        task = TASKS[name]
        row = [f"`{name}`", task.about, role_of(task), f"{task.steps:,}", f"{task.volume:g}"]
        levels = map(np.atleast_1d, (task.random_return, task.reference_return))
        rows.append([*row, *(", ".join(f"{value:g}" for value in by_phase) for by_phase in levels)])
    return table(header, rows, text_columns=3)


def aggregate_table(matrices: Matrices) -> list[str]:
    window, highest = best_of(matrices, FIFO), best_of(matrices, USABLE)
    comparisons = {
        "IQM / uniform": (ratio_of_iqms, UNIFORM.name),
        "P(above uniform)": (probability_of_improvement, UNIFORM.name),
        f"P(above {METHODS[window].label if window else 'the best FIFO'})": (probability_of_improvement, window),
    }
    rows = []
    for method, matrix in matrices.items():
        age = METHODS[method].mean_age
        value = bold_if(method == highest, cell(if_known(iqm, matrix)))
        row = [label_cell(method), "" if age is None else f"{age:,.0f}", str(len(matrix)), value]
        rows.append([*row, *(cell(compared(of, matrices, method, other)) for of, other in comparisons.values())])
    return table(["method", "mean age", "seeds", "IQM of the score", *comparisons], rows)


def task_table(results: Results, tasks: list[str]) -> list[str]:
    """IQM of the area under the curve in returns, by task."""
    methods = results.methods(tasks)
    returns = {task: {m: found for m in methods if len(found := results.returns(task, m))} for task in tasks}
    best = {task: best_of(returns[task], USABLE) for task in tasks}
    rows = [
        [label_cell(method), *(returns_cell(results, task, method, bold=method == best[task]) for task in tasks)]
        for method in methods
    ]
    return table(["method", *tasks], rows)


def mean_over_changes(runs: list[list[Change]], value: Callable[[Change], float]) -> Estimate:
    """IQM over the runs."""
    return if_known(iqm, np.array([[statistics.mean(map(value, changes))] for changes in runs]))


def recovery_table(results: Results, task: str) -> list[str]:
    by_method = {}
    for method in results.methods([task]):
        runs = [after_changes(scores(r), r["changes"], r["steps"]) for r in results.of(task, method)]
        if any(runs):
            by_method[method] = [changes for changes in runs if changes]
    before = {method: mean_over_changes(runs, lambda change: change.before) for method, runs in by_method.items()}
    best = max((estimate.value for estimate in before.values()), default=0.0)
    rows = []
    for method, runs in by_method.items():
        after = mean_over_changes(runs, lambda change: change.after)
        learned = [change for changes in runs for change in changes if change.before >= LEARNED]
        recovered = [change for change in learned if change.recovery is not None]
        steps = ""
        if learned:
            # Changes without a recovery count with the length of the phase
            median = statistics.median(c.length if c.recovery is None else c.recovery for c in learned)
            steps = f"{'not in ' if 2 * len(recovered) <= len(learned) else ''}{median:,.0f}"
        regret = mean_over_changes(runs, lambda change: change.regret(best))
        row = [label_cell(method), cell(before[method]), cell(after), steps]
        rows.append([*row, f"{len(recovered)} of {len(learned)}", cell(regret, 0)])
    return table(["method", "score before a change", "after the change", "steps to 90 %", "recovered", "regret"], rows)


def difference(results: Results, tasks: list[str], method: str, other: str) -> Estimate | None:
    """Difference of two methods' IQMs; None unless both have runs on all these tasks."""
    return if_known(difference_of_iqms, *(results.score_matrix(tasks, name) for name in (method, other)))


def compare(results: Results, tasks: list[str], method: str, other: str) -> list[str]:
    """A line for each task and one for all of them: the difference of two methods' IQMs."""
    found = {title: difference(results, chosen, method, other) for title, chosen in titled(tasks).items()}
    return [f"* {title}: {cell(less)}: {verdict(less)}" for title, less in found.items() if less is not None]


def titled(tasks: list[str]) -> dict[str, list[str]]:
    """Each task, and all of them if there are several."""
    return {f"`{task}`": [task] for task in tasks} | ({"all": tasks} if len(tasks) > 1 else {})


# ---- Sections


def methods_for_curves(results: Results, tasks: Iterable[str], matrices: Matrices) -> list[str]:
    chosen = ["uniform", best_of(matrices, FIFO) or "fifo-3000", AUTO.name, DEFAULT.name]
    return [method for method in chosen if method in results.methods(tasks)]


def group_section(results: Results, tasks: list[str], images: Path, name: str) -> str:
    """The results on a group of tasks."""
    if not tasks:
        return NO_RECORDS
    matrices = results.score_matrices(tasks)
    chosen = methods_for_curves(results, tasks, matrices)
    figures.draw_curves(results, tasks, chosen, images / f"results_{name}_curves.png")
    comparisons = []
    if UNIFORM.name in matrices and DEFAULT.name in matrices:
        method, differences = DEFAULT.label.capitalize(), compare(results, tasks, DEFAULT.name, UNIFORM.name)
        comparisons.append(fill("less_uniform", Method=method, differences=differences))
        for title, among in (("the best FIFO buffer", FIFO), ("the best published method", PUBLISHED)):
            if (rival := best_of(matrices, among)) is not None:
                differences, label = compare(results, tasks, DEFAULT.name, rival), METHODS[rival].label
                comparisons.append(fill("less_rival", Method=method, rival=label, title=title, differences=differences))
    return fill(
        "group",
        name=name,
        aggregate=fill("aggregate", table=aggregate_table(matrices)) if matrices else "",
        by_task=task_table(results, tasks),
        comparisons=join(comparisons),
        recoveries=recoveries(results, tasks),
    )


def recoveries(results: Results, tasks: list[str]) -> str:
    """What happens after the changes of the tasks that drift."""
    drifting = [task for task in tasks if TASKS[task].drifts]
    return join(fill("recovery", task=task, table=recovery_table(results, task)) for task in drifting)


def default_section(matrices: Matrices) -> str:
    if DEFAULT.name not in matrices:
        return ""
    ranked = sorted(matrices, key=lambda method: -iqm(matrices[method])[0])
    return fill(
        "default",
        Method=DEFAULT.label.capitalize(),
        value=cell(if_known(iqm, matrices[DEFAULT.name])),
        rank=ranked.index(DEFAULT.name) + 1,
        n_methods=len(ranked),
        best=METHODS[ranked[0]].label,
        highest=cell(if_known(iqm, matrices[ranked[0]])),
    )


def auto_section(results: Results, drifting: list[str], stationary: list[str], images: Path) -> str:
    """``half_life="auto"`` compared with the best fixed settings, an oracle, and itself without one of its parts."""
    drifting, stationary = (results.with_records(tasks, AUTO.name) for tasks in (drifting, stationary))
    if not drifting:
        return NO_RECORDS
    figures.draw_curves(
        results, drifting, [m.name for m in (UNIFORM, DEFAULT, AUTO, ORACLE)], images / "results_auto.png"
    )
    return fill(
        "auto",
        tasks=", ".join(f"`{task}`" for task in drifting),
        value=cell(if_known(iqm, results.score_matrix(drifting, AUTO.name))),
        differences=auto_differences(results, drifting),
        stationary=join(
            fill("auto_stationary", other=m.label, differences=compare(results, stationary, AUTO.name, m.name))
            for m in (UNIFORM, DEFAULT)
            if stationary
        ),
        parts=join(
            fill("auto_parts", task=task, differences=differences)
            for task in TASKS
            if (differences := auto_parts(results, task))
        ),
    )


def auto_differences(results: Results, tasks: list[str]) -> list[str]:
    """Differences of ``half_life="auto"`` to other methods on tasks that drift."""
    matrices = results.score_matrices(tasks)
    fixed = [method for method in results.methods(tasks) if METHODS[method].family in FIXED]
    lines = []
    if (single := best_of(matrices, fixed, fewest=1)) is not None:
        less = if_known(difference_of_iqms, matrices[AUTO.name], matrices[single])
        ratio = if_known(ratio_of_iqms, matrices[AUTO.name], results.best_of_each(tasks, fixed))
        lines = [
            f"* Minus the best single fixed setting in hindsight ({METHODS[single].label}): {cell(less)}",
            f"* Ratio to the best fixed setting of each task in hindsight: {cell(ratio)}",
        ]
    for method in (UNIFORM, DEFAULT, ORACLE):
        common = results.with_records(tasks, method.name)
        if (less := difference(results, common, AUTO.name, method.name)) is not None:
            where = "" if common == tasks else f" on the {len(common)} tasks with runs of it"
            lines.append(f"* Minus {method.label}{where}: {cell(less)}")
    return lines


def auto_parts(results: Results, task: str) -> list[str]:
    """Differences of ``half_life="auto"`` to the same with one part changed."""
    found = {part.label: difference(results, [task], AUTO.name, part.name) for part in ABLATIONS}
    return [f"* {label}: {cell(less)}" for label, less in found.items() if less is not None]


def volume_section(results: Results, images: Path) -> str:
    own = TASKS[VOLUME_TASK].volume
    volumes = {volume: volume for volume in VOLUMES if results.methods([VOLUME_TASK], volume)}
    if not volumes:
        return NO_RECORDS
    columns = dict(sorted([*volumes.items(), (own, None)]))
    figures.draw_volumes(results, columns, images / "results_volume.png")
    rows = [
        [label_cell(method), *(returns_cell(results, VOLUME_TASK, method, volume) for volume in columns.values())]
        for method in VOLUME_METHODS
    ]
    header = ["method", *(f"{volume:g} per step" for volume in columns)]
    return fill("volumes", task=VOLUME_TASK, table=table(header, rows))


def share_beyond(capacity: int, full: int) -> float:
    """Share of the default's draws from a full buffer that are older than all transitions in a smaller one."""
    weights = make_decay(DEFAULT.arguments["replay_buffer_kwargs"]["decay"])(np.arange(full))
    return float(weights[capacity:].sum() / weights.sum())


def capacity_section(results: Results, tasks: list[str]) -> str:
    """The default in smaller buffers, if there are such runs."""
    tried = [task for task in tasks if any(results.of(task, method.name) for method in SMALLER.values())]
    if not tried:
        return ""
    full = max(TASKS[task].settings["buffer_size"] for task in tried)
    rows = []
    for capacity, method in {**SMALLER, full: DEFAULT}.items():
        older = "" if capacity == full else f"{100 * share_beyond(capacity, full):.0f} %"
        rows.append([f"{capacity:,}", older, *(returns_cell(results, task, method.name) for task in tried)])
    return fill("capacity", full=f"{full:,}", table=table(["capacity", "older draws", *tried], rows))


def limits_section(results: Results, tasks: list[str]) -> str:
    """Where the default is not the best, task by task."""
    rows = []
    found: dict[str, dict[str, list[str]]] = {"uniform replay": {}, "the best FIFO": {}, "the best": {}}
    for task in tasks:
        matrices = results.score_matrices([task])
        if DEFAULT.name not in matrices:
            continue
        best = best_of(matrices, USABLE) or DEFAULT.name
        own, highest = (cell(if_known(iqm, matrices[method])) for method in (DEFAULT.name, best))
        row = [f"`{task}`", own, METHODS[best].label, highest]
        for title, rival in zip(found, (UNIFORM.name, best_of(matrices, FIFO), best), strict=True):
            less = compared(difference_of_iqms, matrices, DEFAULT.name, rival)
            row.append(cell(less))
            if less is not None:
                found[title].setdefault(verdict(less), []).append(f"`{task}`")
        rows.append(row)
    if not rows:
        return NO_RECORDS
    summary = []
    for title, verdicts in found.items():
        order = ("worse", "better", NOT_SIGNIFICANT)
        if parts := [f"{word} on {', '.join(verdicts[word])}" for word in order if word in verdicts]:
            summary.append(f"* The default compared with {title}: {'; '.join(parts)}.")
    header = ["task", "default", "best method in hindsight", "its IQM", "default minus uniform", "minus the best FIFO"]
    return fill("limits", summary=summary, table=table([*header, "minus the best"], rows))


# ---- The page


def report(records: dict[Run, Record], images: Path) -> str:
    """
    Draw the figures and write the page.

    :param records: What ``learning.read_records()`` returns
    :param images: Folder of the figures
    :return: The page, as Markdown
    """
    check_references(records)
    results = Results(records)
    tasks = results.grouped(
        {
            "tuning": lambda task: task.role == "tuning",
            "blind": lambda task: task.blind,
            "drift": lambda task: task.drifts,
            "stationary": lambda task: True,
        }
    )
    every_task = [task for group in tasks.values() for task in group]
    matrices = {name: results.score_matrices(group) for name, group in tasks.items()}
    page = fill(
        "page",
        n_records=len(records),
        hours=results.hours,
        fewest=evaluation.FEWEST_FOR_INTERVAL,
        bins=BINS,
        resamples=f"{evaluation.RESAMPLES:,}",
        recovered=recovery.RECOVERED,
        level=f"{100 * recovery.RECOVERY_LEVEL:.0f}",
        before=recovery.BEFORE,
        learned=LEARNED,
        tasks=tasks_table(results.with_records(TASKS)),
        **{name: group_section(results, group, images, name) for name, group in tasks.items()},
        default=default_section(matrices["tuning"]),
        glance=glance_section(results, matrices, images),
        ages=ages_section(results, every_task, images),
        auto=auto_section(results, tasks["drift"], tasks["stationary"], images),
        volumes=volume_section(results, images),
        capacity=capacity_section(results, every_task),
        limits=limits_section(results, every_task),
    )
    return page + "\n"


def check_references(records: dict[Run, Record]) -> None:
    """MinAtar's reference returns are results of this benchmark: check that they are up to date."""
    if any(run.task in GAMES and run.method == UNIFORM.name for run in records):
        measured = reference_returns(records)
        if measured != TASKS["minatar"].reference_return:
            raise ValueError(f"reference_return of minatar must be {measured}, by the records; correct it in tasks.py")


def glance_section(results: Results, matrices: dict[str, Matrices], images: Path) -> str:
    titles = {"tuning": "Tuning tasks", "drift": "Tasks that drift", "stationary": "Tasks that do not drift"}
    groups = {title: matrices[name] for name, title in titles.items() if matrices[name]}
    if not groups:
        return ""
    chosen = [methods_for_curves(results, TASKS, group) for group in groups.values()]
    figures.draw_profiles(groups, chosen, images / "results_profiles.png")
    figures.draw_improvement(groups, images / "results_improvement.png")
    return fill("glance")


def ages_section(results: Results, tasks: list[str], images: Path) -> str:
    """Only tasks with enough half-lives for a curve."""
    tasks = [task for task in tasks if len(figures.by_mean_age(results, task, "exponential")) >= FEWEST_HALF_LIVES]
    if not tasks:
        return ""
    figures.draw_half_lives(results, tasks, images / "results_half_life.png")
    return fill("ages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    page = ROOT / "docs" / "explanation" / "results_one_step.md"
    parser.add_argument("--output", type=Path, default=page, help="page to write")
    arguments = parser.parse_args()
    records = read_records(arguments.records)
    images = arguments.output.parent.parent / "images"
    for folder in (images, arguments.output.parent):
        folder.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(report(records, images), encoding="utf-8")
    print(f"{arguments.output}: {len(records)} records")


if __name__ == "__main__":
    main()
