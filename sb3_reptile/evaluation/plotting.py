"""Figures of several panels with one legend, in which a method has the same colour and line everywhere."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sb3_reptile.evaluation.statistics import Estimate

DOTTED, DASHED, DASH_DOTTED = (0, (1, 1)), (0, (4, 1.5)), (0, (6, 1, 1, 1))


class Style(NamedTuple):
    color: str
    linestyle: Any = "solid"


# Colours by Okabe and Ito, which colour-blind readers can distinguish
STYLES = {
    "default": Style("#0072b2"),
    "uniform": Style("#000000", DOTTED),
    "fifo": Style("#e69f00", DASHED),
    "exponential": Style("#56b4e9"),
    "power": Style("#009e73"),
    "linear": Style("#f0e442"),
    "prioritized": Style("#cc79a7"),
    "auto": Style("#d55e00", DASH_DOTTED),
    # What two of a figure's curves have in common with one of the above
    "another default": Style("#0072b2", DASHED),
    "another uniform": Style("#000000", DASHED),
}
OTHER = Style("#999999")


def style_of(family: str) -> Style:
    """Colour and line of a family of methods, the same in all figures."""
    return STYLES.get(family, OTHER)


def grid(n_panels: int, width: float = 4.0, height: float = 2.9, columns: int | None = None) -> tuple[Any, list[Any]]:
    """
    :param n_panels: Number of panels
    :param width: Width of a panel (inches)
    :param height: Height of a panel (inches)
    :param columns: Panels side by side; 2 or 3 by default, so that few places stay empty
    :return: A matplotlib figure and its panels
    :raises ImportError: without the extra ``plots``
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need the extra `plots`: pip install 'sb3-reptile[plots]'") from error

    if columns is None:
        columns = 2 if n_panels in (2, 4) else 3
    columns = min(columns, n_panels)
    rows = math.ceil(n_panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[n_panels:]:
        panel.remove()
    for panel in panels[:n_panels]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure, panels[:n_panels]


def label_panel(panel: Any, title: str, xlabel: str, ylabel: str = "") -> None:
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_xlabel(xlabel, fontsize=8)
    panel.set_ylabel(ylabel, fontsize=8)


def draw_changes(panel: Any, steps: Sequence[float]) -> None:
    """Grey lines where the task changes, in thousands of steps."""
    for step in steps:
        panel.axvline(step / 1000, color="#bbbbbb", linewidth=0.8, zorder=0)


def draw_band(panel: Any, x: Any, y: Sequence[Estimate], style: Style, label: str, alpha: float = 0.15) -> None:
    """A curve with a band from the lower to the upper end of its intervals."""
    value, low, high = zip(*y, strict=True)
    panel.plot(x, value, **style._asdict(), linewidth=1.6, label=label)
    panel.fill_between(x, low, high, color=style.color, alpha=alpha, linewidth=0)


def error_bars(found: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """Values, and the distances to the ends of their intervals as matplotlib's ``errorbar`` takes them."""
    value, low, high = np.array(found).reshape(-1, 3).T
    return value, np.maximum(np.nan_to_num([value - low, high - value]), 0)


def legend_below(figure: Any, panels: Sequence[Any]) -> None:
    """One legend for all panels, below them, with one entry for each label."""
    handles = {
        text: handle for panel in panels for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    # As many columns as the longest entry leaves room for
    inches = 0.55 + 0.075 * max(map(len, handles), default=0)
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
    figure.savefig(path, dpi=110, metadata={"Software": None})
