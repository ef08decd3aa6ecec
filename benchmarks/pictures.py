"""
The pictures of the README and of docs/: headline, flow chart, shapes of the decays, flow of the data.

    python benchmarks/pictures.py [--records benchmarks/results/learners] [--output docs/images]

The headline is drawn from the records of `benchmarks/learning.py --learner` alone.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from learner_report import SHOWN, glance, with_learner
from learning import LEARNER_RECORDS, ROOT, read_records
from learning_results import Matrices, Results
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from methods import DEFAULT, METHODS

from sb3_reptile.evaluation import plotting
from sb3_reptile.evaluation.plotting import error_bars, label_panel, style_of
from sb3_reptile.evaluation.statistics import Estimate, estimate, iqm
from sb3_reptile.replay import Decay, Exponential, Linear, PowerLaw, Window
from sb3_reptile.replay.decay import DEFAULT_DECAY

BLUE, ORANGE, GREY, BLACK = "#0072b2", "#d55e00", "#666666", "#222222"
# Fill, edge and font of boxes
QUESTION, ANSWER = ("#e8f1f8", BLUE, "normal"), ("#fff3e0", ORANGE, "bold")

#: Decays of the picture: label, decay (None: uniform replay), family of its style
SHAPES: tuple[tuple[str, Decay | None, str], ...] = (
    ("uniform replay", None, "uniform"),
    ("default, (1 + age/100)^-1.5", DEFAULT_DECAY, "default"),
    ("half_life=1000", Exponential(1_000), "exponential"),
    ("1/age", PowerLaw(), "power"),
    ("linear, horizon 80,000", Linear(80_000), "linear"),
    ("window, or FIFO buffer, of 3,000", Window(3_000), "fifo"),
)
CAPACITY = 100_000

#: The flow chart: each question, the answer that ends it, and what to use then. The last line is for all other tasks
QUESTIONS: tuple[tuple[str, str, str], ...] = (
    (
        "Does your algorithm have\na replay buffer (DQN, SAC, TD3, ...)?",
        "no",
        "nothing to decay:\nPPO and A2C forget anyway",
    ),
    ("Does the task change during training,\nor might it?", "no", "SB3's uniform replay, or\nReptileDQN(...) as it is"),
    ("Do you know when it changes?", "yes", "model.replay_buffer.reset()\nat each change"),
    ("Is your algorithm DQN?", "yes", "ReptileDQN(...) as it is"),
)
OTHERWISE = "the default decay:\nreplay_buffer_class=\nDecayedReplayBuffer"


class Bar(NamedTuple):
    label: str
    family: str
    estimate: Estimate


def headline(matrices: Matrices) -> list[Bar]:
    """The IQM of the scores of each method."""
    labels = ("uniform\n(SB3)", "FIFO\n3,000", "default", "auto")
    return [
        Bar(label, METHODS[method].family if method != DEFAULT.name else "default", estimate(iqm, matrices[method]))
        for label, method in zip(labels, SHOWN, strict=True)
    ]


def draw_headline(results: Results, path: Path) -> None:
    groups = glance(results)
    figure, panels = plotting.grid(2, width=3.5, height=2.9)
    for number, (panel, (title, (tasks, matrices))) in enumerate(zip(panels, groups.items(), strict=True)):
        bars = headline(matrices)
        value, errors = error_bars([bar.estimate for bar in bars])
        colors = [style_of(bar.family).color for bar in bars]
        panel.bar(range(len(bars)), value, color=colors, width=0.7, alpha=0.9)
        # With a light edge, so that it can be seen on a dark bar
        for color, width in (("white", 4.5), (BLACK, 2)):
            lines = dict(ecolor=color, elinewidth=width, capthick=width)
            panel.errorbar(range(len(bars)), value, errors, fmt="none", capsize=5, **lines)
        for place, bar in enumerate(bars):
            panel.text(place, 0.02, f"{bar.estimate.value:.2f}", ha="center", color="white", fontsize=11, weight="bold")
        panel.set_xticks(range(len(bars)), [bar.label for bar in bars], fontsize=10)
        panel.set_ylim(0, 1)
        label_panel(panel, f"{len(tasks)} {title}", "", "" if number else "score (1 = solved)")
        panel.title.set_fontsize(11)
    save(figure, path)


def draw_decays(path: Path) -> None:
    """The decays, and the share of the draws that they take from transitions up to an age."""
    figure, panels = plotting.grid(2, width=4.2, height=3.4)
    ages = np.arange(CAPACITY)
    shown = np.unique(np.geomspace(1, CAPACITY, 400).astype(int)) - 1
    for label, decay, family in SHAPES:
        factor = np.ones(CAPACITY) if decay is None else decay(ages)
        style = dict(style_of(family)._asdict(), linewidth=1.8)
        panels[0].plot(shown + 1, factor[shown], label=label, **style)
        panels[1].plot(shown + 1, (factor.cumsum() / factor.sum())[shown], **style)
    for panel in panels:
        panel.set_xscale("log")
        panel.grid(alpha=0.25)
    label_panel(panels[0], "How fast the weight of a transition falls", "age, in transitions", "sampling weight")
    label_panel(panels[1], "Where the draws come from", "age, in transitions", "share of draws that are younger")
    plotting.legend_below(figure, panels)
    save(figure, path)


def draw_chart(path: Path) -> None:
    """The flow chart "Which replay for my task?"."""
    figure, axes = _canvas(7.7, 1.35 * len(QUESTIONS) + 1.1)
    top = 1.35 * len(QUESTIONS)
    for number, (question, reply, answer) in enumerate(QUESTIONS):
        y = top - 1.35 * number
        _box(axes, 0.1, y, 3.6, 0.85, f"{number + 1}. {question}", QUESTION)
        _box(axes, 4.9, y, 2.7, 0.85, answer, ANSWER)
        _arrow(axes, (3.75, y + 0.425), (4.85, y + 0.425), reply, "above")
        other = "yes" if reply == "no" else "no"
        _arrow(axes, (1.9, y - 0.05), (1.9, y - 0.45), other)
    _box(axes, 0.1, top - 1.35 * len(QUESTIONS), 3.6, 0.85, OTHERWISE, ANSWER)
    save(figure, path)


def draw_data_flow(path: Path) -> None:
    """What the parts of replay pass on to each other."""
    figure, axes = _canvas(8.2, 4.3)
    boxes = (
        (0.1, 3.0, 1.8, "environment"),
        (2.9, 3.0, 2.4, "buffer\nstores transitions"),
        (6.3, 3.0, 1.8, "learner\ncomputes losses"),
        (2.9, 1.0, 2.4, "distribution\nsampling weight =\ninitial weight \u00d7 decay(age)\n\u00d7 consistency"),
        (6.3, 1.0, 1.8, "policy"),
    )
    for x, y, width, text in boxes:
        _box(axes, x, y, width, 1.1, text, QUESTION)
    _arrow(axes, (1.95, 3.55), (2.85, 3.55), "add", "above")
    _arrow(axes, (5.35, 3.55), (6.25, 3.55), "batch", "above")
    _arrow(axes, (3.3, 2.95), (3.3, 2.15), "number of rows,\ninitial weights", "left")
    _arrow(axes, (3.9, 2.15), (3.9, 2.95), "indices,\nprobabilities")
    _arrow(axes, (7.2, 2.95), (7.2, 2.15), "update")
    _arrow(axes, (6.25, 3.15), (5.35, 1.8), "priorities")
    axes.plot([7.2, 7.2, 1.0], [0.95, 0.4, 0.4], color=GREY, linewidth=1.3)
    _arrow(axes, (1.0, 0.4), (1.0, 2.95), "action")
    save(figure, path)


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure with one panel whose unit is an inch, without axes."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(-0.1, height - 0.1))
    axes.axis("off")
    return figure, axes


def _box(axes: Any, x: float, y: float, width: float, height: float, text: str, kind: tuple[str, str, str]) -> None:
    fill, edge, weight = kind
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=1.4))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10.5, weight=weight)


# Where the text of an arrow is: distance from its middle, and alignment
PLACES = {
    "above": (0, 0.06, "center", "bottom"),
    "right": (0.1, 0, "left", "center"),
    "left": (-0.1, 0, "right", "center"),
}


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], text: str, place: str = "right") -> None:
    axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=GREY, linewidth=1.3, mutation_scale=14))
    right, up, align, vertical = PLACES[place]
    x, y = (start[0] + end[0]) / 2 + right, (start[1] + end[1]) / 2 + up
    axes.text(x, y, text, ha=align, va=vertical, fontsize=10, color=GREY)


def save(figure: Any, path: Path) -> None:
    """Write an SVG whose bytes depend on its content alone."""
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=LEARNER_RECORDS, help="folder of the records")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    draw_headline(with_learner(read_records(arguments.records)), arguments.output / "headline.svg")
    draw_chart(arguments.output / "which_replay.svg")
    draw_decays(arguments.output / "decays.svg")
    draw_data_flow(arguments.output / "data_flow.svg")


if __name__ == "__main__":
    main()
