"""`sb3-reptile inspect`: one picture of what replay is doing, from a saved replay buffer and what was logged."""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.save_util import load_from_pkl

from sb3_reptile.figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    draw_probability_by_age,
    draw_stored_and_replayed,
    label_axes,
)
from sb3_reptile.replay import DecayedSampling
from sb3_reptile.zoo.registration import LOG_FILE, STEPS

BUFFER_FILE = "replay_buffer.pkl"  # rl_zoo3's name for it
QUARTERS = ["newest quarter of a batch", "second", "third", "oldest quarter"]


def inspect() -> None:
    """
    The command, which takes its arguments from the command line and ends the process with code 1 if there is nothing to
    draw.
    """
    parser = argparse.ArgumentParser(
        description="Draw what replay is doing into one picture: the probability of a draw by age and the ages in the "
        "replay buffer (of a run that was trained with --save-replay-buffer), effective sample size and TD error by "
        "age (where they were logged). Saved replay buffers are pickles: inspect only those you trust."
    )
    parser.add_argument("path", type=Path, help="folder of a run, or a saved replay buffer (.pkl)")
    parser.add_argument("-o", "--output", type=Path, help="file to draw to (default: replay.png in the run's folder)")
    args = parser.parse_args()

    folder = args.path if args.path.is_dir() else args.path.parent
    buffer_path = folder / BUFFER_FILE if args.path.is_dir() else args.path
    if not args.path.exists():
        sys.exit(f"error: there is no {args.path}")
    buffer = _load(buffer_path) if buffer_path.is_file() else None
    logged = _read(folder / LOG_FILE) if args.path.is_dir() else {}
    if buffer is None and "replay/effective_sample_size" not in logged:
        sys.exit(
            f"error: {folder} holds neither {BUFFER_FILE} (train with --save-replay-buffer) nor a {LOG_FILE} in which "
            "ReptileDQN logged what it replayed (train with sb3-reptile)"
        )
    output = args.output or folder / "replay.png"
    try:
        figure = _draw(buffer, logged, str(args.path))
    except RuntimeError as error:  # no episode has ended that hindsight replay could draw from
        sys.exit(f"error: {error}")
    figure.savefig(output, dpi=100)
    print(f"Drawn to {output}")


def _load(path: Path) -> DecayedSampling:
    try:
        buffer = load_from_pkl(path)
    except Exception as error:  # a pickle can fail with any
        sys.exit(f"error: {path} is not a saved replay buffer: {error}")
    if not isinstance(buffer, DecayedSampling):
        sys.exit(f"error: {path} holds a {type(buffer).__name__}; only decayed replay buffers can be inspected")
    if buffer.size() == 0:
        sys.exit(f"error: the replay buffer in {path} is empty")
    return buffer


def _read(path: Path) -> dict[str, np.ndarray]:
    """What was logged of replay, by name; NaN where it was not."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [key for key in (rows[0] if rows else ()) if key.startswith("replay/") or key == STEPS]
    return {key: np.array([float(row[key] or "nan") for row in rows]) for key in keys}


def _draw(buffer: DecayedSampling | None, logged: dict[str, np.ndarray], title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    (by_age, stored), (concentration, td_error) = figure.subplots(2, 2)
    if buffer is None:
        _leave_empty(by_age, "no replay buffer was saved\n(--save-replay-buffer)")
        _leave_empty(stored, "")
    else:
        draw_probability_by_age(by_age, buffer)
        draw_stored_and_replayed(stored, buffer)
    spread = {"replay/effective_sample_size": ("effective sample size", BLUE), "replay/mean_age": ("mean age", ORANGE)}
    _draw_lines(concentration, logged, spread, "transitions")
    colours = (ORANGE, PURPLE, GREEN, BLUE)
    quarters = {f"replay/td_error_age_q{k + 1}": (QUARTERS[k], colours[k]) for k in range(4)}
    _draw_lines(td_error, logged, quarters, "absolute TD error")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _draw_lines(axes: Any, logged: dict[str, np.ndarray], lines: dict[str, tuple[str, str]], ylabel: str) -> None:
    present = [key for key in lines if key in logged and np.isfinite(logged[key]).any()]
    if not present:
        _leave_empty(axes, f"not logged: {', '.join(label for label, _ in lines.values())}")
        return
    steps = logged[STEPS]
    for key in present:
        label, colour = lines[key]
        known = np.isfinite(logged[key])
        axes.plot(steps[known], logged[key][known], color=colour, linewidth=1.2, label=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    label_axes(axes, "environment steps", ylabel)


def _leave_empty(axes: Any, why: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color="#666666")
