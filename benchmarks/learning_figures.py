"""The figures of `docs/explanation/results_one_step.md`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from learning import VOLUME_TASK
from learning_results import FIFO, Matrices, Results, best_of
from methods import METHODS, PLANNED, VOLUME_METHODS
from tasks import TASKS

from sb3_reptile.evaluation import plotting
from sb3_reptile.evaluation.plotting import draw_curve, error_bars, label_panel, style_of
from sb3_reptile.evaluation.records import BINS
from sb3_reptile.evaluation.statistics import Estimate, estimate, estimates, iqm_of_points, probability_of_improvement

# Ages at which the axis of `draw_half_lives` has ticks
AGES = {100: "100", 300: "300", 1_000: "1k", 3_000: "3k", 10_000: "10k", 30_000: "30k"}
# Methods whose intervals are drawn as bands; more than two bands hide the curves
WITH_BAND = ("default", "uniform")


def points_of(function: Callable[..., np.ndarray], scores: np.ndarray, band: float) -> list[Estimate]:
    """Estimates for a curve; without the bootstrap, which takes long, if no band shows the intervals."""
    return estimates(function, scores) if band else [Estimate(value, np.nan, np.nan) for value in function(scores)]


def draw_curves(results: Results, tasks: list[str], methods: list[str], path: Path) -> None:
    """IQM over the seeds of the return at each point of training, smoothed within each phase."""
    figure, panels = plotting.grid(len(tasks))
    for name, panel in zip(tasks, panels, strict=True):
        task = TASKS[name]
        found = {method: runs for method in methods if (runs := results.of(name, method))}
        title = plotting.with_seeds(name, map(len, found.values()))
        changes = [step - 1 for step in next(iter(found.values()))[0]["changes"]]
        x = plotting.training_panel(panel, title, task.steps, changes)
        phases = [round(step * BINS / task.steps) for step in changes]
        for method, runs in found.items():
            curves = plotting.smooth(np.array([record["curve"] for record in runs]), phases)
            style, label = METHODS[method].style, METHODS[method].label
            band = 0.15 if label in WITH_BAND else 0
            draw_curve(panel, x, points_of(iqm_of_points, curves[:, None], band), style, label, band)
    plotting.save_with_legend(figure, panels, path)


def by_mean_age(results: Results, task: str, family: str) -> dict[float, str]:
    """Methods of a family with records of a task, by the mean age of the transitions that they replay."""
    members = (method for method in map(METHODS.get, results.methods([task])) if method.family == family)
    return {method.mean_age: method.name for method in members if method.mean_age is not None}


def draw_half_lives(results: Results, tasks: list[str], path: Path) -> None:
    """Area under the curve by mean age of the replayed transitions, for decay and for FIFO buffers."""
    figure, panels = plotting.grid(len(tasks), columns=3, height=2.4)
    for number, (name, panel) in enumerate(zip(tasks, panels, strict=True)):
        for family, marker, text in (("exponential", "o", "exponential decay"), ("fifo", "s", "FIFO buffer")):
            members = by_mean_age(results, name, family)
            value, errors = error_bars([results.estimate(name, members[age]) for age in sorted(members)])
            style = dict(style_of(family)._asdict(), marker=marker, markersize=4, linewidth=1.6, capsize=2)
            panel.errorbar(sorted(members), value, errors, label=text, **style)
        uniform, style = results.estimate(name, "uniform"), style_of("uniform")
        panel.axhline(uniform.value, **style._asdict(), label=METHODS["uniform"].label)
        if not np.isnan(uniform.low):
            panel.axhspan(uniform.low, uniform.high, color=style.color, alpha=0.08, linewidth=0)
        panel.set_xscale("log")
        panel.set_xticks(list(AGES), AGES.values())
        panel.set_xticks([], minor=True)
        panel.set_xlim(min(AGES), 2 * max(AGES))
        label_panel(panel, name, "mean age (transitions)", "" if number % 3 else "return over training")
    plotting.save_with_legend(figure, panels, path)


def draw_profiles(groups: dict[str, Matrices], methods: list[list[str]], path: Path) -> None:
    """Performance profiles: share of the runs above each score."""
    figure, panels = plotting.grid(len(groups), columns=3, height=2.9)
    thresholds = np.linspace(-0.1, 1.1, 61)

    def profile(scores: np.ndarray) -> np.ndarray:
        return (scores.reshape(-1, 1) > thresholds).mean(axis=0)

    for number, ((title, matrices), chosen, panel) in enumerate(zip(groups.items(), methods, panels, strict=True)):
        for method in (METHODS[name] for name in chosen if name in matrices):
            band = 0.12 if method.label in WITH_BAND else 0
            points = points_of(profile, matrices[method.name], band)
            draw_curve(panel, thresholds, points, method.style, method.label, band)
        label_panel(panel, title, "score of a run", "" if number else "share of runs above the score")
        panel.set(xlim=(thresholds[0], thresholds[-1]), ylim=(0, 1.02))
    plotting.save_with_legend(figure, panels, path)


def draw_improvement(groups: dict[str, Matrices], path: Path) -> None:
    """Probability of improvement over uniform replay and over the best FIFO buffer."""
    methods = [method.name for method in PLANNED if any(method.name in matrices for matrices in groups.values())][::-1]
    figure, panels = plotting.grid(len(groups), height=1.3 + 0.24 * len(methods), columns=3)
    for number, ((title, matrices), panel) in enumerate(zip(groups.items(), panels, strict=True)):
        for other, marker, shift in (("uniform", "o", 0.15), (best_of(matrices, FIFO), "s", -0.15)):
            if other is None or other not in matrices:
                continue
            places = [place for place, method in enumerate(methods) if method in matrices and method != other]
            compared = [estimate(probability_of_improvement, matrices[methods[i]], matrices[other]) for i in places]
            value, errors = error_bars(compared)
            style = dict(fmt=marker, color=METHODS[other].style.color, markersize=4.5, linewidth=1.4)
            panel.errorbar(value, np.array(places) + shift, xerr=errors, label=f"over {METHODS[other].label}", **style)
        panel.axvline(0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
        panel.set_yticks(range(len(methods)), [] if number else [METHODS[method].label for method in methods])
        panel.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(methods) - 0.4), xticks=[0, 0.5, 1])
        label_panel(panel, title, "probability of improvement")
    plotting.save_with_legend(figure, panels, path)


def draw_volumes(results: Results, volumes: dict[float, float | None], path: Path) -> None:
    """
    Area under the curve by replay volume, shown and as records have it: decay on one side, FIFO on the other, uniform
    replay on both.
    """
    figure, panels = plotting.grid(2)
    kinds = {"exponential": "exponential decay", "fifo": "FIFO buffer"}
    for panel, (family, kind) in zip(panels, kinds.items(), strict=True):
        names = ["uniform", *(name for name in VOLUME_METHODS if METHODS[name].family == family)]
        for rank, method in enumerate(METHODS[name] for name in names):
            found = {
                shown: of_volume
                for shown, volume in volumes.items()
                if (of_volume := results.estimate(VOLUME_TASK, method.name, volume)) is not None
            }
            if not found:
                continue
            value, errors = error_bars(list(found.values()))
            # Shifted, so that intervals do not overlap
            x = np.array(list(found)) * 1.03 ** (rank - 2)
            style = dict(method.style._asdict(), marker="xos^D"[rank], markersize=4, linewidth=1.3, capsize=2)
            style["alpha"] = 1 if method.name == "uniform" else 1.1 - 0.2 * rank
            panel.errorbar(x, value, errors, label=method.label, **style)
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(volumes), [f"{volume:g}" for volume in volumes])
        label_panel(panel, f"{VOLUME_TASK}, {kind}", "transitions replayed per environment step", "mean return")
    panels[1].sharey(panels[0])
    panels[0].set_ylim(0, 1.05 * max(panel.dataLim.ymax for panel in panels))
    plotting.save_with_legend(figure, panels, path)
