"""Figures of several panels with one legend, in which a method has the same colour and line everywhere."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sb3_reptile import figures
from sb3_reptile.evaluation.records import BINS
from sb3_reptile.evaluation.statistics import Estimate
from sb3_reptile.figures import DASH_DOTTED, DASHED, DOTTED

#: Width of a figure in inches, and pixels per inch. A page shows 92 pixels per inch: a font of 9 points has 11 pixels
WIDTH, PIXELS = 8.0, 150


class Style(NamedTuple):
    color: str
    linestyle: Any = "solid"


STYLES = {
    "default": Style(figures.BLUE),
    "uniform": Style(figures.BLACK, DOTTED),
    "fifo": Style(figures.AMBER, DASHED),
    # Darker, for readers who see no colours
    "small fifo": Style("#7f5800", (0, (2, 1))),
    "exponential": Style(figures.SKY_BLUE),
    "power": Style(figures.GREEN),
    "linear": Style(figures.YELLOW),
    "prioritized": Style(figures.PURPLE),
    "auto": Style(figures.ORANGE, DASH_DOTTED),
    "oracle": Style(figures.GREY, (0, (3, 1, 1, 1, 1, 1))),
    # Methods that share a component with one of the above
    "another auto": Style(figures.ORANGE, DASHED),
    "another default": Style(figures.BLUE, DASHED),
    "another uniform": Style(figures.BLACK, DASHED),
}
OTHER = Style(figures.GREY)


def style_of(family: str) -> Style:
    """Colour and line of a family of methods, the same in all figures."""
    return STYLES.get(family, OTHER)


def grid(
    n_panels: int,
    height: float = 2.7,
    columns: int = 2,
    height_ratios: Sequence[float] | None = None,
    width: float | None = None,
) -> tuple[Any, list[Any]]:
    """
    :param n_panels: Number of panels
    :param height: Height of a panel (inches), the mean if they differ
    :param columns: Panels side by side
    :param height_ratios: Relative heights of the rows
    :param width: Width of a panel (inches); by default, all panels of a row are as wide as a page
    :return: A matplotlib figure and its panels
    :raises ImportError: without the extra ``plots``
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need the extra `plots`: pip install 'sb3-reptile[plots]'") from error

    columns = min(columns, n_panels)
    rows = math.ceil(n_panels / columns)
    figure = Figure(figsize=(WIDTH if width is None else width * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios).flat)
    for panel in panels[n_panels:]:
        panel.remove()
    for panel in panels[:n_panels]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    return figure, panels[:n_panels]


def label_panel(panel: Any, title: str, xlabel: str, ylabel: str = "") -> None:
    # A long title is as wide as half a figure
    panel.set_title(title, fontsize=10 if len(title) < 46 else 8.5, loc="left", parse_math=False)
    panel.set_xlabel(xlabel, fontsize=9)
    panel.set_ylabel(ylabel, fontsize=9)


def raise_title(panel: Any) -> None:
    """Leave room for marks between the title and the panel."""
    panel.set_title(panel.get_title(loc="left"), fontsize=10, loc="left", pad=16, parse_math=False)


def training_panel(panel: Any, title: str, steps: int, changes: Sequence[float] = ()) -> np.ndarray:
    """
    Prepare a panel for learning curves.

    :param panel: The panel
    :param title: Its title
    :param steps: Steps of the runs
    :param changes: Steps after which the task changes: grey lines
    :return: Where the points of a curve are, in thousands of steps
    """
    for step in changes:
        panel.axvline(step / 1000, color="#bbbbbb", linewidth=0.8, zorder=0)
    label_panel(panel, title, "thousand environment steps", "return per episode")
    panel.set_xlim(0, steps / 1000)
    return (np.arange(BINS) + 0.5) * steps / BINS / 1000


def with_seeds(task: str, numbers: Iterable[int]) -> str:
    """A title: the task, and the numbers of seeds of the methods."""
    seeds = set(numbers)
    counts = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"{task} ({counts} seed{'' if seeds == {1} else 's'})"


def smooth(curves: np.ndarray, changes: Sequence[int] = (), width: int = 9) -> np.ndarray:
    """
    Moving average, which does not mix what was before a change with what was after it.

    :param curves: Shape (curves, points)
    :param changes: Points at which a new phase begins
    :param width: Number of points that are averaged, fewer at the ends of a phase
    :return: Same shape
    """
    parts = np.split(np.asarray(curves, dtype=float), changes, axis=1)
    return np.concatenate([_moving_average(part, width) for part in parts if part.shape[1]], axis=1)


def _moving_average(curves: np.ndarray, width: int) -> np.ndarray:
    n_points = curves.shape[1]
    sums = np.concatenate([np.zeros((len(curves), 1)), curves.cumsum(axis=1)], axis=1)
    first = np.maximum(np.arange(n_points) - width // 2, 0)
    last = np.minimum(np.arange(n_points) + width // 2 + 1, n_points)
    return (sums[:, last] - sums[:, first]) / (last - first)


def draw_curve(panel: Any, x: Any, y: Sequence[Estimate], style: Style, label: str, band: float = 0.15) -> None:
    """
    A curve, with a band from the lower to the upper end of its intervals.

    :param band: Opacity of the band; 0 for none
    """
    value, low, high = zip(*y, strict=True)
    panel.plot(x, value, **style._asdict(), linewidth=1.8, label=label)
    if band:
        panel.fill_between(x, low, high, color=style.color, alpha=band, linewidth=0)


def error_bars(found: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """Values, and the distances to the ends of their intervals as matplotlib's ``errorbar`` takes them."""
    value, low, high = np.array(found).reshape(-1, 3).T
    return value, np.maximum(np.nan_to_num([value - low, high - value]), 0)


def save_with_legend(figure: Any, panels: Sequence[Any], path: Path) -> None:
    """Write a figure with one legend for all panels, below them."""
    legend_below(figure, panels)
    save(figure, path)


def legend_below(figure: Any, panels: Sequence[Any]) -> None:
    """One legend for all panels, below them, with one entry for each label."""
    handles = {
        text: handle for panel in panels for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    # As many columns as the longest entry leaves room for
    inches = 0.7 + 0.075 * max(map(len, handles), default=0)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, min(len(handles), 5, int(figure.get_figwidth() / inches))),
        frameon=False,
        fontsize=9,
    )


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, without matplotlib's name and version, so that its bytes do not depend on them."""
    figure.savefig(path, dpi=PIXELS, metadata={"Software": None})
