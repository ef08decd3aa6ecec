"""The table, curves and films of `benchmarks/applications.py`, from its records and from models trained here."""

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import application_runs as runs
import gymnasium as gym
import numpy as np
from application_runs import AUTO, DECAYED, UNIFORM, Application, Run

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


def over_all_and_end(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each curve, and of its last third."""
    return curves.mean(axis=-1), curves[..., -BINS // 3 :].mean(axis=-1)


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


# ---- Figures

WITH_BAND = (DECAYED, UNIFORM, "both auto", "both uniform")
# Those that have the line of another panel's method; the page says what they are
IN_LEGEND = {
    "both auto": AUTO,
    "both uniform": f"{UNIFORM} replay",
    f"{DECAYED}, from Pong's network": f"{DECAYED} replay",
    f"{UNIFORM}, from Pong's network": f"{UNIFORM} replay",
}


def draw(names: list[str], records: dict[Run, Record], path: Path) -> None:
    """
    Learning curves: mean, lowest and highest seed. Intervals of so few seeds would hide the curves; they are in the
    table.
    """
    figure, panels = plotting.grid(len(names))
    for name, panel in zip(names, panels, strict=True):
        application = runs.APPLICATIONS[name]
        x = plotting.training_panel(panel, application.about, application.steps, application.changes)
        phases = [round(step * BINS / application.steps) for step in application.changes]
        if application.clicks is not None:
            levels = plotting.smooth(oracle_and_random(application), phases)
            for level, linestyle, label in zip(levels, ("dashed", "dashdot"), ("oracle", "random"), strict=True):
                panel.plot(x, level, color=plotting.OTHER.color, linestyle=linestyle, linewidth=1.4, label=label)
        for method in application.methods:
            curves = curves_of(records, name, method)
            if len(curves):
                seeds = plotting.smooth(curves, phases)
                points = list(map(Estimate, seeds.mean(axis=0), seeds.min(axis=0), seeds.max(axis=0)))
                label = IN_LEGEND.get(method, label_of(method))
                style = plotting.style_of(runs.FAMILIES.get(method, ""))
                # Bands of more than two methods hide the curves
                band = 0.15 if method in WITH_BAND else 0
                plotting.draw_curve(panel, x, points, style, label, band)
    plotting.save_with_legend(figure, panels, path)


def uniform_of(application: Application) -> str:
    """The method with uniform replay; of several agents, that in which all have it."""
    return UNIFORM if UNIFORM in application.methods else f"both {UNIFORM}"


def difference_to_uniform(records: dict[Run, Record], name: str, method: str) -> Estimate | None:
    """Mean return over training, minus that with uniform replay; None without two records of both."""
    curves = [curves_of(records, name, one) for one in (method, uniform_of(runs.APPLICATIONS[name]))]
    return welch_interval(*(one.mean(axis=1) for one in curves)) if min(map(len, curves)) > 1 else None


class Row(NamedTuple):
    """A line of a forest plot."""

    label: str
    family: str
    difference: Estimate


def rows_of_methods(names: list[str], records: dict[Run, Record]) -> dict[str, list[Row]]:
    """A block for each application: all its methods."""
    return {
        runs.APPLICATIONS[name].about: [
            Row(method, runs.FAMILIES[method], found)
            for method in runs.APPLICATIONS[name].methods
            if method != uniform_of(runs.APPLICATIONS[name])
            and (found := difference_to_uniform(records, name, method)) is not None
        ]
        for name in names
    }


def rows_of_algorithms(names: list[str], records: dict[Run, Record]) -> dict[str, list[Row]]:
    """A block for each environment: all algorithms, with the method that comes first."""
    blocks: dict[str, list[Row]] = {}
    for name in names:
        method = next(iter(runs.APPLICATIONS[name].methods))
        found = difference_to_uniform(records, name, method)
        if found is not None:
            env, _, algorithm = runs.APPLICATIONS[name].about.partition(" with ")
            label = algorithm.removesuffix(" and DiscreteActions")
            blocks.setdefault(env, []).append(Row(label, runs.FAMILIES[method], found))
    return blocks


def draw_differences(blocks: dict[str, list[Row]], path: Path) -> None:
    """
    Forest plot of differences to uniform replay.

    :param blocks: By title; the returns of each have their own unit
    :param path: The picture
    """
    blocks = {title: rows for title, rows in blocks.items() if rows}
    sizes = list(map(len, blocks.values()))
    height = 0.35 * (1 + sum(sizes) / len(sizes))
    figure, panels = plotting.grid(len(blocks), columns=1, height=height, height_ratios=sizes)
    for number, ((title, rows), panel) in enumerate(zip(blocks.items(), panels, strict=True)):
        value, errors = plotting.error_bars([row.difference for row in rows])
        places = np.arange(len(rows))[::-1]
        for row, x, error, place in zip(rows, value, errors.T, places, strict=True):
            color = plotting.style_of(row.family).color
            bar = np.reshape(error, (2, 1))
            panel.errorbar(x, place, xerr=bar, fmt="o", color=color, markersize=6, linewidth=1.8, capsize=3)
        panel.axvline(0, color="#bbbbbb", linewidth=1, zorder=0)
        panel.set_yticks(places, [row.label for row in rows])
        # Zero in the middle
        furthest = 1.1 * np.max(np.abs(value) + errors)
        panel.set(xlim=(-furthest, furthest), ylim=(-0.6, len(rows) - 0.4))
        is_last = number == len(blocks) - 1
        about = "worse than uniform replay  ←  difference of the mean return  →  better" if is_last else ""
        plotting.label_panel(panel, title, about)
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
        curves = {m: found for m in application.methods if len(found := curves_of(records, name, m))}
        uniform = next((method for method in curves if UNIFORM in method), None)
        for method, of_method in curves.items():
            whole, end = over_all_and_end(of_method)
            less = ""
            if uniform not in (None, method) and min(len(of_method), len(curves[uniform])) > 1:
                less = cell(welch_interval(whole, curves[uniform].mean(axis=1)))
            # The record of a resumed run has the duration of its last part only
            own = records_of(records, name, method)
            seconds = [record["wall_seconds"] for record in own if not record["resumed"]]
            minutes = f"{float(np.median(seconds)) / 60:.1f}" if seconds else ""
            returns = cell(student_interval(whole)), less, cell(student_interval(end))
            rows.append([application.about, method, str(len(own)), *returns, minutes])
        if curves and application.clicks is not None:
            for policy, level in zip(("oracle", "random"), oracle_and_random(application), strict=True):
                # One curve: no interval
                whole, end = (cell(student_interval(part)) for part in over_all_and_end(level[None]))
                rows.append([application.about, policy, "", whole, "", end, ""])
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
        path = runs.IMAGES / f"applications_{section}.png"
        if section in runs.WITHOUT_DRIFT:
            draw_differences(rows_of_algorithms(names, records), path)
        else:
            draw(names, records, path)
    compared = [name for name in known if any(AUTO in method for method in runs.APPLICATIONS[name].methods)]
    if compared:
        draw_differences(rows_of_methods(compared, records), runs.IMAGES / "applications_differences.png")
    parts = {part.__name__: part(records) for part in (table, between_changes, evaluations)}
    (runs.RECORDS.parent / "applications.md").write_text(fill("page", **parts) + "\n", encoding="utf-8")


# ---- Films


class Scene(NamedTuple):
    """
    A part of a film.

    :param caption: What it shows
    :param trained: Training steps of the agents
    :param at: Step of training at which the environment is shown
    """

    caption: str
    trained: int
    at: int


# Applications that change and can be rendered: before a change, right after it and later
FILMS = {
    "rooms": (
        Scene("Before the change: the goal is in the first room", 20_000, 0),
        Scene("Right after it: the goal is in another room", 20_000, 20_000),
        Scene("20,000 steps later: the goal is in another room", 40_000, 20_000),
    ),
}
# Frames of a scene, their duration, and the width of one of the two pictures, which are side by side
FRAMES, MILLISECONDS, WIDTH = 45, 200, 480
CAPTION_HEIGHT = 34


def film(name: str) -> None:
    """
    A GIF of the agents of the first seed, with ``auto`` or decay and with uniform replay, in each scene. The runs are
    those of the records, repeated with saved models on the way.
    """
    from PIL import Image

    forgetting = next(method for method in (AUTO, DECAYED) if method in runs.APPLICATIONS[name].methods)
    folders = {method: film_run(name, method) for method in (UNIFORM, forgetting)}
    pictures = []
    for scene in FILMS[name]:
        played = {method: play(runs.Run(name, method, 0), folder, scene) for method, folder in folders.items()}
        for pair in zip(*played.values(), strict=True):
            pictures.append(titled_pair(dict(zip(played, pair, strict=True)), scene.caption))
    path = runs.IMAGES / f"applications_{name}.gif"
    # One palette, so that colours do not flicker
    palette = pictures[0].quantize(64)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [MILLISECONDS] * len(pictures)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)
    print(f"{path.name}: {len(pictures)} frames, {path.stat().st_size // 1024} KB")


def film_run(name: str, method: str) -> Path:
    """Folder of a run with the models that the film needs; trained if it is missing."""
    folder = runs.RUNS / "films" / f"{name}-{method}"
    every = math.gcd(*(scene.trained for scene in FILMS[name]))
    if not (folder / "finished").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [*runs.command(Run(name, method, 0), str(folder)), "--save-freq", str(every)]
        subprocess.run([sys.executable, *command], cwd=runs.ROOT, check=True)
        (folder / "finished").touch()
    return folder


def play(run: Run, folder: Path, scene: Scene) -> list[Any]:
    """Frames of one agent in a scene, as it acts in training: without exploration, some agents turn in a circle."""
    model, env = runs.trained(run, folder, scene.trained)
    model.set_random_seed(0)
    env.env_method("set_wrapper_attr", "steps_taken", scene.at)
    env.seed(0)
    obs, frames = env.reset(), []
    for _ in range(FRAMES):
        frames.append(env.render())
        action, _ = model.predict(obs, deterministic=False)
        obs, *_ = env.step(action)
    env.close()
    return frames


def label_of(method: str) -> str:
    return f"{method} replay" if method in (DECAYED, UNIFORM) else method


def titled_pair(pair: dict[str, Any], caption: str) -> Any:
    """The frames of two methods in one picture, with the caption above."""
    from PIL import Image, ImageDraw, ImageFont

    frames = [Image.fromarray(frame) for frame in pair.values()]
    height = WIDTH * frames[0].height // frames[0].width
    picture = Image.new("RGB", (2 * WIDTH + 8, height + 2 * CAPTION_HEIGHT), "white")
    draw_on, font = ImageDraw.Draw(picture), ImageFont.load_default(20)
    draw_on.text((8, 6), caption, fill="black", font=font)
    for x, frame, method in zip((0, WIDTH + 8), frames, pair, strict=True):
        color = plotting.style_of(runs.FAMILIES[method]).color
        draw_on.text((x + 8, CAPTION_HEIGHT + 4), label_of(method), fill=color, font=font)
        picture.paste(frame.resize((WIDTH, height)), (x, 2 * CAPTION_HEIGHT))
    return picture


def make_films(names: list[str]) -> None:
    for name in names:
        if name in FILMS:
            film(name)
