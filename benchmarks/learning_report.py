"""
docs/results.md and its figures, from the records of benchmarks/learning.py and from nothing else.

    python benchmarks/learning_report.py [--records benchmarks/results/learning] [--output docs/results.md]

The same records give the same bytes: the seeds of the bootstrap are fixed. Records may be incomplete; the tables tell
how many seeds there are. Statistics: rliable (https://arxiv.org/abs/2108.13264).
"""

import argparse
import math
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import learning
import matplotlib
import numpy as np
from learning import BINS, CAPACITIES, DEFAULT, SMALLER, TASKS, VOLUME_METHODS, VOLUME_TASK, Record, Run, Task
from rliable import library

from sb3_reptile.replay.decay import make_decay

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
RESAMPLES = 2_000
# Fewer runs than this say nothing about their spread
FEWEST_FOR_INTERVAL = 3

# The level before a change: the mean over this many points of the curve, or the whole phase if it is shorter
BEFORE = 6
# Points in a row that must reach the level again, so that one lucky episode does not count
RECOVERED = 3
RECOVERY_LEVEL = 0.9
# Below this score nothing had been learned that could be lost
LEARNED = 0.1

Records = dict[Run, Record]


# ---- Statistics


class Estimate(NamedTuple):
    """A statistic and its 95 % bootstrap interval, which is NaN where there are too few runs."""

    value: float
    low: float
    high: float


def estimates(function: Callable[..., np.ndarray], *scores: np.ndarray) -> list[Estimate]:
    """
    Statistics with stratified bootstrap intervals: runs are drawn with replacement within each task.

    :param function: Takes matrices as given and returns the statistics, shape (k,)
    :param scores: Matrices of shape (runs, tasks, ...), drawn from independently of each other
    :return: k estimates
    """
    # rliable draws from numpy's global state; every estimate has the same seed, so that none depends on the others
    np.random.seed(0)
    sampled: Any = scores[0] if len(scores) == 1 else scores
    points, intervals = library.get_interval_estimates({"": sampled}, function, reps=RESAMPLES)
    low, high = intervals[""]
    if min(len(matrix) for matrix in scores) < FEWEST_FOR_INTERVAL:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    return [Estimate(*map(float, numbers)) for numbers in zip(points[""], low, high, strict=True)]


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean over runs and tasks: rliable's ``aggregate_iqm``, but without scipy's costs for each call."""
    ordered = np.sort(scores, axis=None)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(keepdims=True)


def iqm_of_points(curves: np.ndarray) -> np.ndarray:
    """The same over runs only, at each point of their curves; shape (runs, 1, points)."""
    ordered = np.sort(curves[:, 0], axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(axis=0)


def ratio_of_iqms(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """NaN where the others are not better than random actions, as a ratio then means nothing."""
    below = iqm(others)
    return iqm(scores) / np.where(below > 0, below, np.nan)


def difference_of_iqms(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    return iqm(scores) - iqm(others)


def probability_of_improvement(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """That a run scores higher than one of the others on the same task; as rliable, without scipy's costs likewise."""
    x, y = scores[:, None], others[None]
    return np.array([((x > y).mean() + (x == y).mean() / 2)])


class Change(NamedTuple):
    """
    What a change of the task did to a run. Scores are 0 for random actions and 1 for the reference.

    :param before: Mean score before the change
    :param after: Mean score from the change to the next one or the end
    :param recovery: Steps until 90 % of that are reached again; None if they are not before the next change or the end
    :param length: Steps until the next change or the end
    """

    before: float
    after: float
    recovery: float | None
    length: float

    def regret(self, level: float) -> float:
        """Score lost against going on at some level, summed over the steps until the next change or the end."""
        return (level - self.after) * self.length


def after_changes(curve: np.ndarray, changes: list[int], steps: int) -> list[Change]:
    """
    Recovery is looked for from the second point after the change on: in the first end episodes that began before it.

    :param curve: Scores, shape (BINS,)
    :param changes: The steps, counted from 1, that are the first of a new phase
    :param steps: Steps of the run
    """
    width = steps / BINS
    # Where a change falls within a point, that point belongs to neither phase
    firsts = [math.ceil((step - 1) / width) for step in changes]
    lasts = [math.floor((step - 1) / width) for step in changes]
    found = []
    for number, first in enumerate(firsts):
        end = lasts[number + 1] if number + 1 < len(lasts) else BINS
        previous = firsts[number - 1] if number else 0
        level = curve[max(previous, lasts[number] - BEFORE) : lasts[number]]
        phase = curve[first:end]
        if len(level) == 0 or len(phase) <= RECOVERED:
            continue
        before = float(level.mean())
        means = np.convolve(phase, np.full(RECOVERED, 1 / RECOVERED), "valid")
        reached = np.flatnonzero(means[1:] >= RECOVERY_LEVEL * before - 1e-12)
        recovery = (1 + int(reached[0])) * width if len(reached) else None
        found.append(Change(before, float(phase.mean()), recovery, len(phase) * width))
    return found


# ---- What the records hold


def methods_with_records(records: Records, tasks: Iterable[str], volume: float | None = None) -> list[str]:
    """Planned methods first, in their order; then others that somebody ran."""
    present = {run.method for run in records if run.task in tasks and run.volume == volume}
    planned = [method for method in learning.METHODS if method in present]
    return planned + sorted(present - set(planned))


def runs_of(records: Records, task: str, method: str, volume: float | None = None) -> list[Record]:
    return [record for run, record in records.items() if (run.task, run.method, run.volume) == (task, method, volume)]


def returns(records: Records, task: str, method: str, volume: float | None = None) -> np.ndarray:
    """Area under the return curve of each run, that is the mean over its points; shape (runs, 1)."""
    return np.array([[record["auc"]] for record in runs_of(records, task, method, volume)])


def scores(record: Record) -> np.ndarray:
    """The learning curve as scores, shape (BINS,)."""
    return np.array(TASKS[record["task"]].scores(record["curve"], record["changes"]))


def score_matrix(records: Records, tasks: list[str], method: str) -> np.ndarray | None:
    """
    Scores of the areas, shape (runs, tasks). Where tasks have different numbers of runs, the first of each count, so
    that all tasks do equally. None if a task has no run.
    """
    columns = [[np.mean(scores(record)) for record in runs_of(records, task, method)] for task in tasks]
    runs = min(map(len, columns), default=0)
    return np.array([column[:runs] for column in columns]).T if runs else None


def score_matrices(records: Records, tasks: list[str]) -> dict[str, np.ndarray]:
    matrices = {method: score_matrix(records, tasks, method) for method in methods_with_records(records, tasks)}
    return {method: matrix for method, matrix in matrices.items() if matrix is not None}


def with_records(records: Records, tasks: list[str]) -> list[str]:
    present = {run.task for run in records if run.volume is None}
    return [task for task in tasks if task in present]


WINDOWS = r"fifo-\d+"
# See learning.arguments_of() for the papers
PUBLISHED = r"exp-\d+|power-1|linear-\d+|ere|combined|prioritized"


# What anybody could use, which an oracle is not
USABLE = r"(?!oracle-).*"


def best_of(matrices: dict[str, np.ndarray], pattern: str) -> str | None:
    """The method with the highest IQM, in hindsight, of those whose name has this form and that have runs enough."""
    methods = [
        method
        for method, values in matrices.items()
        if re.fullmatch(pattern, method) and len(values) >= FEWEST_FOR_INTERVAL
    ]
    return max(methods, key=lambda method: iqm(matrices[method])[0], default=None)


# ---- Words


def label(method: str) -> str:
    """A method's name for readers."""
    parts = method.split("-")
    number = f"{int(parts[-1]):,}" if parts[-1].isdecimal() else ""
    match parts:
        case ["auto", *inner, "forgets" | "reexplores" as change]:
            return f"auto, {label('-'.join(inner))}, {change}"
        case ["auto", *inner, "ordinary", "clock"]:
            return f"auto, {label('-'.join(inner))}, ordinary clock"
        case ["auto" | "oracle" as kind, *inner]:
            return f"{kind}, {label('-'.join(inner))}"
        case [*decay, "in", _]:
            return f"{label('-'.join(decay))}, buffer of {number}"
        case ["uniform"]:
            return "uniform (SB3)"
        case ["fifo", _]:
            return f"FIFO {number}"
        case ["exp", half_life, "uniform", share]:
            return f"half-life {int(half_life):,}, {100 * float(share):.0f} % uniform"
        case ["exp", _]:
            return f"half-life {number}"
        case ["power", "1"]:
            return "1/age"
        case ["power", _]:
            return f"1/(age + {number})"
        case ["power", scale, exponent]:
            return f"1/(age + {int(scale):,})^{exponent}"
        case ["linear", _]:
            return f"linear to {number}"
        case ["ere"]:
            return "ERE"
        case ["prioritized", "exp", _]:
            return f"prioritized, half-life {number}"
        case ["loss", "exp", _]:
            return f"half-life {number} in the loss"
    return method


def mean_age(method: str) -> float | None:
    """Mean age of what is replayed from a large buffer, in transitions, where it depends on nothing else."""
    family, _, number = method.rpartition("-")
    if family == "fifo":
        return (int(number) - 1) / 2
    if family == "exp":
        return int(number) / math.log(2)
    return None


def number(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text if float(text.replace(",", "")) != 0 else text.lstrip("-")


def cell(estimate: Estimate, decimals: int = 2) -> str:
    if math.isnan(estimate.value):
        return ""
    if math.isnan(estimate.low):
        return number(estimate.value, decimals)
    return f"{number(estimate.value, decimals)} ({number(estimate.low, decimals)} to {number(estimate.high, decimals)})"


def decimals_of(task: Task) -> int:
    return 0 if abs(np.max(task.reference_return) - np.min(task.random_return)) >= 100 else 1


def table(header: list[str], rows: list[list[str]], text_columns: int = 1) -> list[str]:
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)] + [""]


def returns_in_words(episode_return: float | tuple[float, ...]) -> str:
    by_phase = episode_return if isinstance(episode_return, tuple) else (episode_return,)
    return ", ".join(f"{value:g}" for value in by_phase)


def bold_if(condition: bool, text: str) -> str:
    return f"**{text}**" if condition and text else text


# ---- Figures

# Okabe and Ito's colours, which colour-blind people can tell apart
COLORS = {
    "uniform": "#000000",
    "fifo": "#e69f00",
    "exp": "#56b4e9",
    "power": "#009e73",
    "prioritized": "#cc79a7",
    "linear": "#f0e442",
    "auto": "#d55e00",
    DEFAULT: "#0072b2",
}
DASHES = {"uniform": (0, (1, 1)), "fifo": (0, (4, 1.5)), "auto": (0, (6, 1, 1, 1))}


def color_of(method: str) -> str:
    return COLORS.get(method, COLORS.get(method.split("-")[0], "#999999"))


def dashes_of(method: str) -> Any:
    return DASHES.get(method.split("-")[0], "solid")


def grid(n_panels: int, width: float = 4.0, height: float = 2.9, columns: int = 3) -> tuple[Any, list[Any]]:
    columns = min(columns, n_panels)
    rows = math.ceil(n_panels / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), layout="constrained", squeeze=False
    )
    panels = list(axes.flat)
    for panel in panels[n_panels:]:
        panel.remove()
    for panel in panels[:n_panels]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure, panels[:n_panels]


def save(figure: Any, path: Path) -> None:
    # Without matplotlib's name and version in it
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def legend_below(figure: Any, panels: list[Any]) -> None:
    handles = {
        text: handle for panel in panels for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    # Of the longest entry, so that none is cut off
    inches = 0.55 + 0.075 * max(map(len, handles), default=0)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, min(len(handles), 5, int(figure.get_figwidth() / inches))),
        frameon=False,
        fontsize=9,
    )


def draw_curves(records: Records, tasks: list[str], methods: list[str], path: Path) -> None:
    """IQM over the seeds of the return at each point of training, with its interval."""
    figure, panels = grid(len(tasks), columns=2 if len(tasks) in (2, 4) else 3)
    for name, panel in zip(tasks, panels, strict=True):
        task = TASKS[name]
        x = (np.arange(BINS) + 0.5) * task.steps / BINS / 1000
        changes = next((record["changes"] for run, record in records.items() if run.task == name), [])
        for step in changes:
            panel.axvline((step - 1) / 1000, color="#bbbbbb", linewidth=0.8, zorder=0)
        for method in methods:
            runs = runs_of(records, name, method)
            if not runs:
                continue
            curves = np.array([[record["curve"]] for record in runs])
            points = estimates(iqm_of_points, curves)
            color = color_of(method)
            y = [point.value for point in points]
            panel.plot(x, y, color=color, linestyle=dashes_of(method), linewidth=1.6, label=label(method))
            low, high = [point.low for point in points], [point.high for point in points]
            panel.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        seeds = {len(runs_of(records, name, method)) for method in methods} - {0}
        counts = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
        panel.set_title(f"{name} ({counts} seed{'' if seeds == {1} else 's'})", fontsize=9, loc="left")
        panel.set_xlim(0, task.steps / 1000)
    for panel in panels:
        panel.set_xlabel("thousand environment steps", fontsize=8)
        panel.set_ylabel("return per episode", fontsize=8)
    legend_below(figure, panels)
    save(figure, path)


def draw_half_lives(records: Records, tasks: list[str], path: Path) -> None:
    """Area under the curve by mean age of what is replayed, for decay and for windows."""
    figure, panels = grid(len(tasks))
    for name, panel in zip(tasks, panels, strict=True):
        for family, marker, text in (("exp", "o", "exponential decay"), ("fifo", "s", "FIFO buffer")):
            found = []
            for method in methods_with_records(records, [name]):
                age = mean_age(method)
                if method.startswith(family) and age is not None:
                    (estimate,) = estimates(iqm, returns(records, name, method))
                    found.append((age, *estimate))
            if not found:
                continue
            age, value, low, high = np.array(sorted(found)).T
            errors = np.nan_to_num([value - low, high - value])
            style: dict[str, Any] = dict(color=COLORS[family], linestyle=dashes_of(family), marker=marker, markersize=4)
            panel.errorbar(age, value, np.maximum(errors, 0), linewidth=1.4, capsize=2, label=text, **style)
        if len(returns(records, name, "uniform")):
            (uniform,) = estimates(iqm, returns(records, name, "uniform"))
            panel.axhline(uniform.value, color=COLORS["uniform"], linestyle=dashes_of("uniform"), label="uniform (SB3)")
            if not math.isnan(uniform.low):
                panel.axhspan(uniform.low, uniform.high, color=COLORS["uniform"], alpha=0.08, linewidth=0)
        panel.set_xscale("log")
        panel.set_title(name, fontsize=9, loc="left")
        panel.set_xlabel("mean age replayed, transitions", fontsize=8)
        panel.set_ylabel("mean return over training", fontsize=8)
    legend_below(figure, panels)
    save(figure, path)


def draw_profiles(groups: dict[str, dict[str, np.ndarray]], methods: list[list[str]], path: Path) -> None:
    """Share of the runs above each score."""
    figure, panels = grid(len(groups))
    thresholds = np.linspace(-0.1, 1.1, 61)

    def profile(scores: np.ndarray) -> np.ndarray:
        return (scores.reshape(-1, 1) > thresholds).mean(axis=0)

    for (title, matrices), chosen, panel in zip(groups.items(), methods, panels, strict=True):
        for method in chosen:
            if method not in matrices:
                continue
            points = estimates(profile, matrices[method])
            color = color_of(method)
            y = [point.value for point in points]
            panel.plot(thresholds, y, color=color, linestyle=dashes_of(method), linewidth=1.6, label=label(method))
            low, high = [point.low for point in points], [point.high for point in points]
            panel.fill_between(thresholds, low, high, color=color, alpha=0.12, linewidth=0)
        panel.set_title(title, fontsize=9, loc="left")
        panel.set(xlim=(thresholds[0], thresholds[-1]), ylim=(0, 1.02))
        panel.set_xlabel("score τ of a run's area under the curve", fontsize=8)
        panel.set_ylabel("share of runs above τ", fontsize=8)
    legend_below(figure, panels)
    save(figure, path)


def draw_improvement(groups: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Probability that a run of a method is better than one of uniform replay, and than one of the best FIFO buffer."""
    methods = [method for method in learning.METHODS if any(method in matrices for matrices in groups.values())]
    figure, panels = grid(len(groups), height=0.9 + 0.21 * len(methods))
    for (title, matrices), panel in zip(groups.items(), panels, strict=True):
        window = best_of(matrices, WINDOWS)
        shown = [method for method in methods if method in matrices][::-1]
        for other, marker, color, shift in (
            ("uniform", "o", COLORS["uniform"], 0.13),
            (window, "s", COLORS["fifo"], -0.13),
        ):
            if other is None or other not in matrices:
                continue
            places = [place for place, method in enumerate(shown) if method != other]
            found = [
                estimates(probability_of_improvement, matrices[shown[place]], matrices[other])[0] for place in places
            ]
            value, low, high = np.array(found).reshape(-1, 3).T
            errors = np.maximum(np.nan_to_num([value - low, high - value]), 0)
            y = np.array(places) + shift
            panel.errorbar(
                value,
                y,
                xerr=errors,
                fmt=marker,
                color=color,
                markersize=4,
                linewidth=1.2,
                label=f"over {label(other)}",
            )
        panel.axvline(0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
        panel.set_yticks(range(len(shown)), [label(method) for method in shown])
        panel.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(shown) - 0.4))
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_xlabel("probability of improvement", fontsize=8)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), frameon=False, fontsize=8, ncols=2)
    save(figure, path)


def draw_volumes(records: Records, path: Path) -> None:
    """Area under the curve by replay volume: decay on one side, windows on the other, uniform replay on both."""
    figure, panels = grid(2, columns=2)
    volumes = {volume: float(volume) for volume in learning.VOLUMES} | {None: TASKS[VOLUME_TASK].volume}
    for panel, family in zip(panels, ("exp", "fifo"), strict=True):
        for rank, method in enumerate(["uniform", *(m for m in VOLUME_METHODS if m.startswith(family))]):
            found = [
                (shown, *estimates(iqm, returns(records, VOLUME_TASK, method, volume))[0])
                for volume, shown in volumes.items()
                if len(returns(records, VOLUME_TASK, method, volume))
            ]
            if not found:
                continue
            volume, value, low, high = np.array(sorted(found)).T
            errors = np.maximum(np.nan_to_num([value - low, high - value]), 0)
            panel.errorbar(
                volume * 1.03 ** (rank - 2),  # apart, so that intervals do not hide each other
                value,
                errors,
                color=color_of(method),
                alpha=1 if method == "uniform" else 1.1 - 0.2 * rank,
                linestyle=dashes_of(method),
                marker="xos^D"[rank],
                markersize=4,
                linewidth=1.3,
                capsize=2,
                label=label(method),
            )
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted(volumes.values()), [f"{volume:g}" for volume in sorted(volumes.values())])
        panel.set_xlabel("replay volume, transitions per environment step", fontsize=8)
        panel.set_ylabel("mean return over training", fontsize=8)
        panel.set_title(VOLUME_TASK, fontsize=9, loc="left")
    panels[1].sharey(panels[0])
    legend_below(figure, panels)
    save(figure, path)


# ---- Sections


def aggregate_table(matrices: dict[str, np.ndarray]) -> list[str]:
    window = best_of(matrices, WINDOWS)
    values = {method: estimates(iqm, matrix)[0] for method, matrix in matrices.items()}
    highest = best_of(matrices, USABLE)
    rows = []
    for method, matrix in matrices.items():
        age = mean_age(method)
        row = [
            bold_if(method == DEFAULT, label(method)),
            "" if age is None else f"{age:,.0f}",
            str(len(matrix)),
            bold_if(method == highest, cell(values[method])),
        ]
        for function, other in (
            (ratio_of_iqms, "uniform"),
            (probability_of_improvement, "uniform"),
            (probability_of_improvement, window),
        ):
            compared = other is not None and other in matrices and other != method
            row.append(cell(estimates(function, matrix, matrices[other])[0]) if compared else "")
        rows.append(row)
    over_window = "" if window is None else f" {label(window)}"
    header = ["method", "mean age", "seeds", "IQM of the score", "IQM / uniform's", "P(above uniform)"]
    return table([*header, f"P(above{over_window})" if window else "P(above the best FIFO)"], rows)


def task_table(records: Records, tasks: list[str]) -> list[str]:
    """IQM of the area under the curve in returns, by task."""
    methods = methods_with_records(records, tasks)
    found = {
        task: {method: values for method in methods if len(values := returns(records, task, method))} for task in tasks
    }
    best = {task: best_of(found[task], USABLE) for task in tasks}
    rows = []
    for method in methods:
        row = [bold_if(method == DEFAULT, label(method))]
        for task in tasks:
            if method in found[task]:
                values = found[task][method]
                text = cell(estimates(iqm, values)[0], decimals_of(TASKS[task]))
                row.append(f"{bold_if(method == best[task], text)}, n = {len(values)}")
            else:
                row.append("")
        rows.append(row)
    return table(["method", *tasks], rows)


def mean_over_changes(runs: list[list[Change]], value: Callable[[Change], float]) -> np.ndarray:
    """Shape (runs, 1)."""
    return np.array([[statistics.mean(map(value, changes))] for changes in runs])


def recovery_table(records: Records, task: str) -> list[str]:
    by_method = {}
    for method in methods_with_records(records, [task]):
        runs = [after_changes(scores(r), r["changes"], r["steps"]) for r in runs_of(records, task, method)]
        if any(runs):
            by_method[method] = [changes for changes in runs if changes]
    before = {
        method: estimates(iqm, mean_over_changes(runs, lambda change: change.before))[0]
        for method, runs in by_method.items()
    }
    best = max((estimate.value for estimate in before.values()), default=0.0)
    rows = []
    for method, runs in by_method.items():
        row = [bold_if(method == DEFAULT, label(method)), cell(before[method])]
        row.append(cell(estimates(iqm, mean_over_changes(runs, lambda change: change.after))[0]))
        learned = [change for changes in runs for change in changes if change.before >= LEARNED]
        recovered = [change for change in learned if change.recovery is not None]
        steps = ""
        if learned:
            # Those that have not recovered count with the length of the phase
            median = statistics.median(c.length if c.recovery is None else c.recovery for c in learned)
            steps = f"{'not in ' if 2 * len(recovered) <= len(learned) else ''}{median:,.0f}"
        row += [steps, f"{len(recovered)} of {len(learned)}"]
        (regret,) = estimates(iqm, mean_over_changes(runs, lambda change: change.regret(best)))
        rows.append([*row, cell(regret, 0)])
    return table(["method", "score before a change", "after it", "steps to 90 %", "recovered", "regret"], rows)


def verdict(difference: Estimate) -> str:
    if math.isnan(difference.low):
        return "too few runs to say"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "the interval has 0 in it"


def compare(records: Records, tasks: list[str], method: str, other: str) -> list[str]:
    """One line for each task and one for all of them: the difference of two methods' IQMs."""
    lines = []
    for title, chosen in [*((f"`{task}`", [task]) for task in tasks), ("all of them", tasks)]:
        first, second = score_matrix(records, chosen, method), score_matrix(records, chosen, other)
        if first is None or second is None:
            continue
        (difference,) = estimates(difference_of_iqms, first, second)
        lines.append(f"* {title}: {cell(difference)}: {verdict(difference)}")
    return [*lines, ""]


def group_section(
    records: Records, tasks: list[str], images: Path, prefix: str, name: str, chosen: list[str]
) -> list[str]:
    picture = f"results_{name}_curves.png"
    draw_curves(records, tasks, chosen, images / picture)
    matrices = score_matrices(records, tasks)
    lines = [f"![Return over training; grey lines are changes of the task]({prefix}{picture})", ""]
    if matrices:
        lines += ["All tasks together (methods that have been run on each of them):", "", *aggregate_table(matrices)]
    lines += ["Each task: mean return over training, IQM over the seeds:", "", *task_table(records, tasks)]
    if "uniform" in matrices and DEFAULT in matrices:
        lines += [f"{label(DEFAULT).capitalize()} less uniform replay, difference of the IQMs of the score:", ""]
        lines += compare(records, tasks, DEFAULT, "uniform")
        rivals = {
            "the best FIFO buffer": best_of(matrices, WINDOWS),
            "the best published method": best_of(matrices, PUBLISHED),
        }
        for title, rival in rivals.items():
            if rival is not None:
                lines += [f"{label(DEFAULT).capitalize()} less {label(rival)}, here {title} in hindsight:", ""]
                lines += compare(records, tasks, DEFAULT, rival)
    for task in tasks:
        if TASKS[task].drifts:
            lines += [f"After the changes of `{task}`:", "", *recovery_table(records, task)]
    return lines


def chosen_for_curves(matrices: dict[str, np.ndarray], records: Records, tasks: list[str]) -> list[str]:
    window = best_of(matrices, WINDOWS) or "fifo-3000"
    chosen = ["uniform", window, learning.AUTO[0], DEFAULT]
    return [method for method in chosen if method in methods_with_records(records, tasks)]


def report(records: Records, images: Path, prefix: str) -> str:
    """
    Draw the figures and write the page.

    :param records: What ``learning.read_records()`` gives
    :param images: Folder of the figures
    :param prefix: Where the page finds them
    :return: The page, as Markdown
    """
    tuning = with_records(records, [name for name, task in TASKS.items() if task.role == "tuning"])
    drifting = with_records(records, [n for n, task in TASKS.items() if task.role == "reporting" and task.drifts])
    stationary = with_records(records, [n for n, task in TASKS.items() if task.role == "reporting" and not task.drifts])
    games_alone = any(run.task in learning.GAMES and run.method == "uniform" for run in records)
    if games_alone and learning.reference_returns(records) != TASKS["minatar"].reference_return:
        raise ValueError(f"reference_return of minatar must be {learning.reference_returns(records)}, by the records")
    hours = sum(record["cpu_seconds"] for record in records.values()) / 3600
    lines = [
        "# Results",
        "",
        f"{len(records)} training runs, {hours:.1f} hours of one processor core, one record each in",
        "[`benchmarks/results/learning`](../benchmarks/results/learning). `python benchmarks/learning.py` makes them,",
        "each names the command that makes it again (digit for digit on the same kind of processor, which the later",
        "ones name), and `python benchmarks/learning_report.py` makes this page and its figures from them, byte for",
        "byte. In bold are the package's default and the highest of a column, if it has "
        f"{FEWEST_FOR_INTERVAL} runs and is no oracle.",
        "",
        "## How it is measured",
        "",
        f"* **Area under the curve**: the mean return of the episodes that end in each of {BINS} equal parts of a run,",
        "  averaged over the parts.",
        "* **Score**: (return - that of random actions) / (the reference - that of random actions), which for MinAtar",
        "  depend on the game. The reference is the return at which Gymnasium calls a task solved; for MinAtar, which",
        "  has no such number, what SB3's DQN reaches on a game alone in as many steps as a phase has (mean over the",
        "  last third of the runs).",
        f"* **IQM**: the mean of the middle half of all runs; in brackets the 95 % interval of {RESAMPLES:,} bootstrap",
        "  samples, runs drawn within each task ([Agarwal et al. 2021](https://arxiv.org/abs/2108.13264), computed by",
        "  rliable). Over several tasks, each counts with as many runs as the one with the fewest.",
        "* **P(above X)**: how likely a run of the method scores higher than one of X on the same task. The best FIFO",
        "  buffer, and the best published method, is the one with the highest IQM in the same table, chosen in",
        "  hindsight. Published are exponential decay ([2605.10236](https://arxiv.org/abs/2605.10236)), 1/age",
        "  ([2110.02421](https://arxiv.org/abs/2110.02421)), linear decay",
        "  ([2604.01913](https://arxiv.org/abs/2604.01913)), ERE ([1906.04009](https://arxiv.org/abs/1906.04009)),",
        "  combined ([1712.01275](https://arxiv.org/abs/1712.01275)) and prioritized replay",
        "  ([1511.05952](https://arxiv.org/abs/1511.05952)).",
        f"* **Steps to 90 %**: from a change until {RECOVERED} points of the curve in a row are on average at "
        f"{100 * RECOVERY_LEVEL:.0f} % of the score",
        f"  before it (the mean of the {BEFORE} points before); the median over all changes and seeds that had",
        f"  reached a score of {LEARNED} before.",
        "* **Regret**: the highest score before a change that any method has on the task, less the method's own score",
        "  after it, summed over the steps until the next change; 1 is a step at the reference.",
        "* **Mean age**: of the transitions replayed, as far as the buffer holds more than that.",
        "* **FIFO** is SB3's uniform replay from a smaller buffer. All else is the same for all methods of a task; the",
        "  settings are in [`benchmarks/learning.py`](../benchmarks/learning.py). Those of tasks that do not drift are",
        "  the RL Zoo's tuned ones, their buffers too; where tasks drift, the buffer holds 100,000, and exploration",
        "  is down to its final rate before the first change.",
        "",
        "Defaults are chosen on the tuning tasks; those that do not drift were added to them, and `pendulum-motor` to",
        "the reporting tasks, after first runs of others. When the default was chosen it came first of what had been",
        "run on the tuning tasks with three seeds, close to a half-life of 300; one seed of the reporting tasks was",
        "known. FIFO 3,000 was run later; with five seeds the two cannot be told apart.",
        "",
        *table(
            ["task", "what it is", "role", "steps", "transitions replayed a step", "random return", "reference"],
            [
                [
                    f"`{name}`",
                    task.about,
                    task.role,
                    f"{task.steps:,}",
                    f"{task.volume:g}",
                    returns_in_words(task.random_return),
                    returns_in_words(task.reference_return),
                ]
                for name, task in TASKS.items()
            ],
            text_columns=3,
        ),
    ]
    groups = {}
    for title, name, tasks in (
        ("Tuning tasks", "tuning", tuning),
        ("Reporting tasks that drift", "drift", drifting),
        ("Reporting tasks that do not drift", "stationary", stationary),
    ):
        lines += [f"## {title}", ""]
        if not tasks:
            lines += ["No records yet.", ""]
            continue
        matrices = score_matrices(records, tasks)
        if matrices:
            groups[title] = matrices
        lines += group_section(records, tasks, images, prefix, name, chosen_for_curves(matrices, records, tasks))
        if name == "tuning":
            lines += default_section(matrices)
    if groups:
        chosen = [chosen_for_curves(matrices, records, list(TASKS)) for matrices in groups.values()]
        draw_profiles(groups, chosen, images / "results_profiles.png")
        draw_improvement(groups, images / "results_improvement.png")
        lines += [
            "## All runs at a glance",
            "",
            f"![Performance profiles]({prefix}results_profiles.png)",
            "",
            f"![Probability of improvement]({prefix}results_improvement.png)",
            "",
        ]
    tasks = tuning + drifting + stationary
    if tasks:
        draw_half_lives(records, tasks, images / "results_half_life.png")
        lines += [
            "## How old what is replayed should be",
            "",
            f"![Mean return by mean age of what is replayed]({prefix}results_half_life.png)",
            "",
        ]
    lines += auto_section(records, drifting, stationary, images, prefix)
    lines += volume_section(records, images, prefix)
    lines += capacity_section(records, tasks)
    lines += limits_section(records, tasks)
    return "\n".join(lines).rstrip() + "\n"


def default_section(matrices: dict[str, np.ndarray]) -> list[str]:
    if DEFAULT not in matrices:
        return []
    values = {method: estimates(iqm, matrix)[0] for method, matrix in matrices.items()}
    ranked = sorted(values, key=lambda method: -values[method].value)
    return [
        "## The default",
        "",
        f"{label(DEFAULT).capitalize()}: IQM {cell(values[DEFAULT])} on the tuning tasks, number "
        f"{ranked.index(DEFAULT) + 1} of {len(ranked)} methods. The highest has {label(ranked[0])}: "
        f"{cell(values[ranked[0]])}.",
        "",
    ]


# What forgets by a rule that is fixed beforehand
FIXED = ("uniform", "fifo", "exp", "power", "linear", "ere", "combined")


def best_of_each(records: Records, tasks: list[str], methods: list[str]) -> np.ndarray:
    """Scores of the best of some methods on each task, in hindsight, shape (runs, tasks)."""
    columns = []
    for task in tasks:
        found = [matrix for method in methods if (matrix := score_matrix(records, [task], method)) is not None]
        columns.append(max(found, key=lambda matrix: iqm(matrix)[0])[:, 0])
    runs = min(map(len, columns))
    return np.array([column[:runs] for column in columns]).T


def auto_section(records: Records, drifting: list[str], stationary: list[str], images: Path, prefix: str) -> list[str]:
    """``half_life="auto"`` next to the best there is, to what it could be, and to what it is without its parts."""
    auto, oracle = learning.AUTO
    lines = ["## Replay that notices changes by itself", ""]
    # Tasks that it has been run on
    drifting, stationary = (
        [task for task in tasks if len(runs_of(records, task, auto))] for tasks in (drifting, stationary)
    )
    if not drifting:
        return [*lines, "No records yet.", ""]
    draw_curves(records, drifting, ["uniform", DEFAULT, auto, oracle], images / "results_auto.png")
    matrices = score_matrices(records, drifting)
    fixed = [method for method in methods_with_records(records, drifting) if method.split("-")[0] in FIXED]
    others = {method: matrices[method] for method in fixed if method in matrices}
    single = max(others, key=lambda method: iqm(others[method])[0], default=None)
    (value,) = estimates(iqm, matrices[auto])
    lines += [
        f'`half_life="auto"` ({label(auto)}) on the reporting tasks that drift,',
        f"{', '.join(f'`{task}`' for task in drifting)}:",
        "",
        f"![Return over training with auto and with an oracle; grey lines are changes]({prefix}results_auto.png)",
        "",
        f"* IQM of the score: {cell(value)}",
    ]
    if single is not None:
        (difference,) = estimates(difference_of_iqms, matrices[auto], others[single])
        (ratio,) = estimates(ratio_of_iqms, matrices[auto], best_of_each(records, drifting, fixed))
        lines += [
            f"* Less the best single fixed setting in hindsight ({label(single)}): {cell(difference)}",
            f"* As a ratio to the best fixed setting of each task in hindsight: {cell(ratio)}",
        ]
    for other in ("uniform", DEFAULT, oracle):
        common = [task for task in drifting if len(runs_of(records, task, other))]
        first, second = score_matrix(records, common, auto), score_matrix(records, common, other)
        if first is not None and second is not None:
            (difference,) = estimates(difference_of_iqms, first, second)
            where = "" if common == drifting else f" on the {len(common)} that it was run on"
            lines.append(f"* Less {label(other)}{where}: {cell(difference)}")
    lines += [""]
    for other in ("uniform", DEFAULT):
        if stationary:
            lines += [f"Where nothing drifts, less {label(other)}:", "", *compare(records, stationary, auto, other)]
    for task in TASKS:
        matrices = score_matrices(records, [task])
        parts = [method for method in learning.ABLATIONS if method in matrices]
        if parts and auto in matrices:
            differences = [estimates(difference_of_iqms, matrices[auto], matrices[part])[0] for part in parts]
            lines += [
                f"On `{task}`, less what it is with one of its parts changed:",
                "",
                *(f"* {label(part)}: {cell(less)}" for part, less in zip(parts, differences, strict=True)),
                "",
            ]
    return lines


def volume_section(records: Records, images: Path, prefix: str) -> list[str]:
    lines = ["## Replay volume", ""]
    volumes: list[float | None] = [
        volume for volume in learning.VOLUMES if methods_with_records(records, [VOLUME_TASK], volume)
    ]
    if not volumes:
        return [*lines, "No records yet.", ""]
    draw_volumes(records, images / "results_volume.png")
    own = TASKS[VOLUME_TASK].volume
    columns = sorted([*volumes, None], key=lambda volume: own if volume is None else volume)
    rows = []
    for method in VOLUME_METHODS:
        row = [bold_if(method == DEFAULT, label(method))]
        for volume in columns:
            found = returns(records, VOLUME_TASK, method, volume)
            text = cell(estimates(iqm, found)[0], decimals_of(TASKS[VOLUME_TASK])) if len(found) else ""
            row.append(f"{text}, n = {len(found)}" if text else "")
        rows.append(row)
    header = ["method", *(f"{own if volume is None else volume:g} a step" for volume in columns)]
    return [
        *lines,
        f"`{VOLUME_TASK}` with more and fewer updates; mean return over training, IQM over the seeds:",
        "",
        *table(header, rows),
        f"![Mean return by replay volume]({prefix}results_volume.png)",
        "",
    ]


def share_beyond(capacity: int, full: int) -> float:
    """Of the draws that the default takes from a full buffer, those that are older than another one holds."""
    _, arguments = learning.arguments_of(DEFAULT)
    weights = make_decay(arguments["replay_buffer_kwargs"]["decay"])(np.arange(full))
    return float(weights[capacity:].sum() / weights.sum())


def capacity_section(records: Records, tasks: list[str]) -> list[str]:
    """The default in smaller buffers, if that has been run."""
    found = {
        task: {capacity: returns(records, task, method) for method, capacity in zip(SMALLER, CAPACITIES, strict=True)}
        for task in tasks
    }
    tried = [task for task in tasks if any(map(len, found[task].values()))]
    if not tried:
        return []
    full = max(TASKS[task].settings["buffer_size"] for task in tried)
    rows = []
    for capacity in (*CAPACITIES, full):
        row = [f"{capacity:,}", "" if capacity == full else f"{100 * share_beyond(capacity, full):.0f} %"]
        for task in tried:
            values = returns(records, task, DEFAULT) if capacity == full else found[task][capacity]
            text = cell(estimates(iqm, values)[0], decimals_of(TASKS[task])) if len(values) else ""
            row.append(f"{text}, n = {len(values)}" if text else "")
        rows.append(row)
    return [
        "## Capacity",
        "",
        "The default in buffers that hold less than a run; mean return over training, IQM over the seeds, and the",
        f"share of its draws from a full buffer of {full:,} that a smaller one has no longer:",
        "",
        *table(["capacity", "no longer there", *tried], rows),
    ]


def limits_section(records: Records, tasks: list[str]) -> list[str]:
    """Where the default is not the best, task by task."""
    lines = ["## When not to use it", ""]
    rows = []
    found: dict[tuple[str, str], list[str]] = {}
    for task in tasks:
        matrices = score_matrices(records, [task])
        if DEFAULT not in matrices:
            continue
        best = best_of(matrices, USABLE) or DEFAULT
        row = [f"`{task}`", cell(estimates(iqm, matrices[DEFAULT])[0]), label(best)]
        row.append(cell(estimates(iqm, matrices[best])[0]))
        rivals = {"uniform replay": "uniform", "the best FIFO": best_of(matrices, WINDOWS), "the best": best}
        for title, rival in rivals.items():
            if rival is None or rival not in matrices or rival == DEFAULT:
                row.append("")
                continue
            (difference,) = estimates(difference_of_iqms, matrices[DEFAULT], matrices[rival])
            row.append(cell(difference))
            found.setdefault((title, verdict(difference)), []).append(f"`{task}`")
        rows.append(row)
    if not rows:
        return [*lines, "No records yet.", ""]
    for title in ("uniform replay", "the best FIFO", "the best"):
        of_title = {word: ", ".join(names) for (other, word), names in found.items() if other == title}
        parts = [f"{word} on {of_title[word]}" for word in ("worse", "better") if word in of_title]
        if "the interval has 0 in it" in of_title:
            parts.append(f"not told apart on {of_title['the interval has 0 in it']}")
        if parts:
            lines.append(f"* The default next to {title}: {'; '.join(parts)}.")
    header = ["task", "default", "best method in hindsight", "its IQM", "default less uniform", "less the best FIFO"]
    return [
        *lines,
        "",
        "IQM of the score on each task; the best, and the best FIFO, in hindsight:",
        "",
        *table([*header, "less the best"], rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=learning.RECORDS, help="folder of the records")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results.md", help="page to write")
    arguments = parser.parse_args()
    records = learning.read_records(arguments.records)
    images = arguments.output.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(report(records, images, "images/"))
    print(f"{arguments.output}: {len(records)} records")


if __name__ == "__main__":
    main()
