"""The table, curves and films of `benchmarks/applications.py`, from its records and from models trained here."""

from pathlib import Path
from typing import NamedTuple

import application_runs as runs
import gymnasium as gym
import numpy as np
from application_runs import DECAYED, UNIFORM, Application, Run

from sb3_reptile.evaluation import plotting, tables
from sb3_reptile.evaluation.records import BINS, Record
from sb3_reptile.evaluation.statistics import Estimate, student_interval, welch_interval
from sb3_reptile.evaluation.templates import PageTemplate

fill = PageTemplate(Path(__file__).parent / "templates" / "applications.md").fill


def records_of(records: dict[Run, Record], application: str, method: str) -> list[Record]:
    return [record for run, record in records.items() if run[:2] == (application, method)]


def curves_of(records: dict[Run, Record], application: str, method: str) -> np.ndarray:
    """Shape (runs, BINS)."""
    return np.array([record["curve"] for record in records_of(records, application, method)])


def over_all(curves: np.ndarray) -> np.ndarray:
    """The mean of each curve."""
    return curves.mean(axis=-1)


def over_last_third(curves: np.ndarray) -> np.ndarray:
    """The mean of the end of each curve."""
    return curves[..., -BINS // 3 :].mean(axis=-1)


def smooth(curves: np.ndarray, width: int = 5) -> np.ndarray:
    """Moving average; shorter at the ends."""
    kernel = np.ones(width)
    count = np.convolve(np.ones(curves.shape[1]), kernel, "same")
    return np.array([np.convolve(curve, kernel, "same") / count for curve in curves])


def oracle_and_random(application: Application) -> np.ndarray:
    """
    The returns of an oracle and of a random policy, for users who are shown random items.

    :return: Returns per episode over a run, shape (2, BINS)
    """
    env = gym.make(f"sb3_reptile.envs:{application.clicks}")
    assert env.spec is not None
    assert env.spec.max_episode_steps is not None
    rates = np.empty((2, application.steps))
    env.action_space.seed(0)
    env.reset(seed=0)
    for step in range(application.steps):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        rates[:, step] = info["oracle_click_rate"], info["random_click_rate"]
        if terminated or truncated:
            env.reset()
    parts = np.array_split(rates * env.spec.max_episode_steps, BINS, axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


# ---- Curves


def draw(names: list[str], records: dict[Run, Record], path: Path) -> None:
    """
    Learning curves: mean, lowest and highest seed. Intervals of so few seeds would hide the curves; they are in the
    table.
    """
    figure, panels = plotting.grid(len(names))
    for name, panel in zip(names, panels, strict=True):
        application = runs.APPLICATIONS[name]
        x = (np.arange(BINS) + 0.5) * application.steps / BINS / 1000
        plotting.draw_changes(panel, application.changes)
        if application.clicks is not None:
            levels = smooth(oracle_and_random(application))
            for level, style, label in zip(levels, ("dashed", "dashdot"), ("oracle", "random"), strict=True):
                panel.plot(x, level, color="#888888", linestyle=style, linewidth=1.2, label=label)
        for method in application.methods:
            curves = curves_of(records, name, method)
            if len(curves):
                seeds = smooth(curves)
                points = list(map(Estimate, seeds.mean(axis=0), seeds.min(axis=0), seeds.max(axis=0)))
                label = f"{method} replay" if method in (DECAYED, UNIFORM) else method
                plotting.draw_band(panel, x, points, plotting.style_of(runs.FAMILIES.get(method, "")), label)
        plotting.label_panel(panel, application.about, "thousand environment steps", "return per episode")
        panel.set_xlim(0, application.steps / 1000)
    plotting.legend_below(figure, panels)
    plotting.save(figure, path)


# ---- Table


def cell(estimate: Estimate) -> str:
    magnitude = abs(estimate.value)
    return tables.cell(estimate, 2 if magnitude < 10 else 1 if magnitude < 100 else 0, separator="")


def table(records: dict[Run, Record]) -> list[str]:
    """
    For each method the mean return over training, its difference to that of uniform replay, and the mean return over
    the last third of training, with intervals over the seeds; for recommenders also the returns of an oracle.
    """
    rows = []
    for name, application in runs.APPLICATIONS.items():
        known = {method: own for method in application.methods if (own := records_of(records, name, method))}
        curves = {method: curves_of(records, name, method) for method in known}
        uniform = next((method for method in known if UNIFORM in method), None)
        for method, own in known.items():
            whole, end = over_all(curves[method]), over_last_third(curves[method])
            less = ""
            if uniform not in (None, method) and len(own) > 1 and len(known[uniform]) > 1:
                less = cell(welch_interval(whole, over_all(curves[uniform])))
            # The record of a resumed run has the duration of its last part only
            seconds = [record["wall_seconds"] for record in own if not record["resumed"]]
            minutes = f"{float(np.median(seconds)) / 60:.1f}" if seconds else ""
            returns = cell(student_interval(whole)), less, cell(student_interval(end))
            rows.append([application.about, method, str(len(own)), *returns, minutes])
        if known and application.clicks is not None:
            for policy, level in zip(("oracle", "random"), oracle_and_random(application), strict=True):
                # One curve: no interval
                part = (cell(student_interval(mean(level[None]))) for mean in (over_all, over_last_third))
                rows.append([application.about, policy, "", next(part), "", next(part), ""])
    header = ["", "method", "seeds", "mean return over training", "difference to uniform", "last third of training"]
    return tables.table([*header, "minutes per run"], rows, text_columns=2)


def between_changes(records: dict[Run, Record]) -> str:
    """The mean return of each method in each phase."""
    lines = []
    for name, application in runs.APPLICATIONS.items():
        ends = [round(step * BINS / application.steps) for step in application.changes]
        for method in application.methods:
            curves = curves_of(records, name, method)
            if ends and len(curves):
                means = "; ".join(f"{part.mean():.2f}" for part in np.split(curves, ends, axis=1))
                lines.append(f"* {application.about}, {method}: {means}")
    return fill("between_changes", lines=lines) if lines else ""


def evaluations(records: dict[Run, Record]) -> str:
    """Returns of the trained agents without exploration, for applications with ``evaluated`` episodes."""
    lines = []
    for run, record in records.items():
        if returns := record.get("evaluation"):
            about = f"{runs.APPLICATIONS[run.application].about}, {run.method}, seed {run.seed}"
            mean, low, high = np.mean(returns), min(returns), max(returns)
            lines.append(f"* {about}: {mean:.2f} over {len(returns)} episodes ({low:.0f} to {high:.0f})")
    return fill("evaluations", lines=lines) if lines else ""


def report() -> None:
    """Draw the figures of `docs/explanation/applications.md` and write the table."""
    records = runs.read_records()
    known = [name for name in runs.APPLICATIONS if any(run.application == name for run in records)]
    for section in dict.fromkeys(runs.APPLICATIONS[name].section for name in known):
        names = [name for name in known if runs.APPLICATIONS[name].section == section]
        draw(names, records, runs.IMAGES / f"applications_{section}.png")
    parts = {part.__name__: part(records) for part in (table, between_changes, evaluations)}
    (runs.RECORDS.parent / "applications.md").write_text(fill("page", **parts) + "\n", encoding="utf-8")


# ---- Films


class Film(NamedTuple):
    """Film of a trained agent: number of frames, steps per frame, duration and width of a frame."""

    frames: int
    every: int = 1
    milliseconds: int = 80
    width: int = 240


# Applications with rendering
FILMS = {
    "pong": Film(300, every=4),
    "obstacles": Film(60, milliseconds=250),
    "rooms": Film(60, milliseconds=250),
    "motorway": Film(60, milliseconds=200, width=480),
    "lander-sac": Film(150, every=4),
}


def film(name: str) -> None:
    """A GIF of the agent of the first decayed run, in its environment at the end of training."""
    from PIL import Image

    (frames, every, milliseconds, width), application = FILMS[name], runs.APPLICATIONS[name]
    model, env = runs.trained(Run(name, DECAYED, 0))
    if application.changes:
        env.env_method("set_wrapper_attr", "steps_taken", application.steps - frames * every)
    obs, pictures = env.reset(), []
    for step in range(frames * every):
        if step % every == 0:
            picture = Image.fromarray(env.render())
            picture = picture.resize((width, width * picture.height // picture.width))
            pictures.append(picture.quantize(64))
        action, _ = model.predict(obs, deterministic=True)
        obs, *_ = env.step(action)
    path = runs.IMAGES / f"applications_{name}.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True)
    print(f"{path.relative_to(runs.ROOT)}: {path.stat().st_size // 1024} KB")


def make_films(names: list[str]) -> None:
    for name in names:
        if name in FILMS:
            film(name)
