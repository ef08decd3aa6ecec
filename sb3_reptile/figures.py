"""Figures of a replay buffer on matplotlib axes. Callers create the axes and save the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

# Colours are wanted by programs that do without PyTorch, too
if TYPE_CHECKING:
    from sb3_reptile.replay import Change, DecayedSampling

__all__ = ["draw_consistency", "draw_probability_by_age", "draw_stored_and_replayed"]

# Okabe & Ito's palette, for color-blind readers. sb3_reptile.evaluation.plotting assigns them to methods
BLACK, BLUE, SKY_BLUE, ORANGE, AMBER = "#000000", "#0072b2", "#56b4e9", "#d55e00", "#e69f00"
GREEN, PURPLE, YELLOW, GREY = "#009e73", "#cc79a7", "#f0e442", "#999999"
DOTTED, DASHED, DASH_DOTTED = (0, (1, 1)), (0, (4, 1.5)), (0, (6, 1, 1, 1))


def label_axes(axes: Any, xlabel: str, ylabel: str) -> None:
    """
    :param axes: matplotlib axes
    :param xlabel: Label of the x axis, with its unit
    :param ylabel: Label of the y axis
    """
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)


def _by_age(buffer: DecayedSampling) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct ages stored, the number of transitions of each, and the probability of drawing each age."""
    ages, probabilities = buffer.ages().ravel(), buffer.sampling_probabilities().ravel()
    stored = ages >= 0
    distinct, index = np.unique(ages[stored], return_inverse=True)
    return distinct, np.bincount(index), np.bincount(index, weights=probabilities[stored])


def draw_probability_by_age(axes: Any, buffer: DecayedSampling) -> None:
    """
    Draw the cumulative probability of a draw by age, and that of uniform replay. O(size)

    :param axes: matplotlib axes
    :param buffer: The replay buffer
    :raises ValueError: if it is empty
    """
    ages, counts, probabilities = _by_age(buffer)
    axes.plot(ages, probabilities.cumsum(), color=BLUE, label="this buffer")
    axes.plot(
        ages, counts.cumsum() / counts.sum(), color=BLACK, linestyle=DOTTED, linewidth=1.5, label="uniform replay"
    )
    axes.set(ylim=(0, 1.02), xlim=(0, max(ages[-1], 1)))
    axes.legend(frameon=False, loc="lower right")
    label_axes(axes, "age (transitions)", "probability of a draw up to this age")


def draw_stored_and_replayed(axes: Any, buffer: DecayedSampling, n_bins: int = 20) -> None:
    """
    Draw the share of the stored and of the drawn transitions in each interval of ages. O(size)

    :param axes: matplotlib axes
    :param buffer: The replay buffer
    :param n_bins: Number of intervals
    :raises ValueError: if it is empty
    """
    ages, counts, probabilities = _by_age(buffer)
    edges = np.linspace(0, ages[-1] + 1, n_bins + 1)
    stored, _ = np.histogram(ages, edges, weights=counts / counts.sum())
    drawn, _ = np.histogram(ages, edges, weights=probabilities)
    axes.stairs(stored, edges, fill=True, color=GREY, alpha=0.4, label="stored")
    axes.stairs(drawn, edges, color=BLUE, linewidth=1.5, label="drawn")
    axes.set(xlim=(0, edges[-1]))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    label_axes(axes, "age (transitions)", "share of the transitions")


def draw_consistency(
    axes: Any, history: list[tuple[int, np.ndarray, np.ndarray]], changes: list[Change], true_changes: list[int]
) -> Any:
    """
    Draw the consistency of each segment over the course of training. Each row of the image is a time of training, from
    top to bottom; from left to right it shows what was stored up to then.

    :param axes: matplotlib axes
    :param history: History recorded by :class:`sb3_reptile.callbacks.ConsistencyHistory`
    :param changes: The changes detected
    :param true_changes: Times of the true changes, in transitions, as far as known
    :return: The image, for a color bar
    """
    from matplotlib.ticker import MaxNLocator

    n = len(history)
    last = history[-1][0]
    picture = np.full((n, n), np.nan)
    for index, (added, starts, consistencies) in enumerate(history):
        stored = (np.arange(n) + 0.5) * last / n
        kept = (stored >= starts[0]) & (stored < added)
        picture[index, kept] = consistencies[np.searchsorted(starts, stored[kept], side="right") - 1]
    image = axes.imshow(
        picture, extent=(0, last, last, 0), cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    for step in true_changes:
        axes.axhline(step, color=GREY, linewidth=0.8, linestyle="--")
    for change in [change for change in changes if change.noticed_at <= last]:
        axes.plot(
            change.happened_at, change.noticed_at, marker="v", color=ORANGE, markersize=7, markeredgecolor="white"
        )
    axes.set(xlim=(0, last), ylim=(last, 0))
    for axis in (axes.xaxis, axes.yaxis):
        # Few, so that long numbers do not touch
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter("{x:,.0f}")
    label_axes(axes, "stored at (transitions)", "judged at (transitions)")
    return image
