"""Smoothed curves, and colours and lines by which readers distinguish methods."""

import itertools

import numpy as np
import pytest

from sb3_reptile.evaluation import plotting
from sb3_reptile.evaluation.statistics import Estimate


def test_smoothing_is_a_moving_average():
    (curve,) = plotting.smooth(np.array([[0.0, 0, 3, 0, 0, 6]]), width=3)
    assert curve == pytest.approx([0, 1, 1, 1, 2, 3])


def test_smoothing_does_not_mix_phases():
    curve = np.array([[1.0] * 10 + [5.0] * 10 + [2.0] * 3])
    assert plotting.smooth(curve, [10, 20], width=9).tolist() == curve.tolist()
    mixed = plotting.smooth(curve, width=9)[0]
    assert 1 < mixed[9] < mixed[10] < 5


def luminance(color):
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2


def test_no_two_families_have_the_same_colour_and_line():
    styles = [(style.color, str(style.linestyle)) for style in plotting.STYLES.values()]
    assert len(set(styles)) == len(styles)
    colors = {style.color for name, style in plotting.STYLES.items() if not name.startswith("another")}
    assert len(colors) == len([name for name in plotting.STYLES if not name.startswith("another")])


def test_what_is_compared_most_often_differs_in_brightness_or_line():
    """For readers who see no colours, and for print."""
    compared = ["default", "auto", "uniform", "fifo", "small fifo", "oracle"]
    for one, other in itertools.combinations((plotting.STYLES[name] for name in compared), 2):
        assert str(one.linestyle) != str(other.linestyle) or abs(luminance(one.color) - luminance(other.color)) > 0.2


def test_a_curve_has_a_band_only_on_demand():
    figure, (with_band, without) = plotting.grid(2)
    points = [Estimate(1, 0, 2), Estimate(2, 1, 3)]
    plotting.draw_curve(with_band, [0, 1], points, plotting.style_of("default"), "default")
    plotting.draw_curve(without, [0, 1], points, plotting.style_of("default"), "default", band=0)
    assert [len(panel.collections) for panel in (with_band, without)] == [1, 0]
    assert figure.get_figwidth() == plotting.WIDTH
