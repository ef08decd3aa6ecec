"""The report of a comparison: ``comparison.md``, ``comparison.png`` and ``comparison.csv``, from records alone."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_reptile.evaluation import plotting
from sb3_reptile.evaluation.methods import Method
from sb3_reptile.evaluation.notices import alarms_of, auto_section
from sb3_reptile.evaluation.records import Record, path_of
from sb3_reptile.evaluation.statistics import Estimate, estimates, iqm_of_points
from sb3_reptile.evaluation.tables import cell, decimals_for, number, table
from sb3_reptile.evaluation.templates import PageTemplate
from sb3_reptile.evaluation.trained_run import RANDOM
from sb3_reptile.evaluation.verdict import MethodResult, results_of, verdict

PAGE, PICTURE, TABLE = "comparison.md", "comparison.png", "comparison.csv"
TEMPLATE = Path(__file__).with_name("comparison.md")


@dataclass(frozen=True)
class Comparison:
    """
    The results of a comparison.

    :param folder: Folder of the report
    :param verdict: What it says in one sentence
    :param results: Results of each method, uniform replay first
    """

    folder: Path
    verdict: str
    results: tuple[MethodResult, ...]


def write_report(
    folder: Path, task: str, methods: Sequence[Method], runs: Mapping[Any, Record], command: str, n_planned: int
) -> Comparison:
    """
    :param folder: Folder of the records, in which the report is written
    :param task: Name of the task
    :param methods: The methods, uniform replay first
    :param runs: Records of the runs, by method and seed
    :param command: The command that makes the report
    :param n_planned: Number of runs of the comparison
    :return: The results
    """
    by_method: dict[str, list[Record]] = {}
    for record in runs.values():
        by_method.setdefault(record["method"], []).append(record)
    (random,) = by_method.pop(RANDOM)
    results = results_of(methods, by_method, random)
    sentence = verdict(results)
    _write(folder / TABLE, lambda path: path.write_text(_csv(results), encoding="utf-8", newline=""))
    _write(folder / PICTURE, lambda path: _draw(task, results, by_method, path))
    n_missing = n_planned - len(runs)
    page = PageTemplate(TEMPLATE).fill(
        "page",
        task=f"`{task}`",
        verdict=sentence,
        picture=PICTURE,
        table=_table(results, _decimals(results)),
        unfinished=f"{n_missing} of {n_planned} runs are missing." if n_missing else "",
        random=f"one run of {random['steps']:,} steps",
        random_return=number(random["auc"], _decimals(results)),
        auto=auto_section(by_method.get("auto", [])),
        facts=_facts(command, random, by_method),
        records=path_of(task, folder).name,
    )
    _write(folder / PAGE, lambda path: path.write_text(page + "\n", encoding="utf-8"))
    return Comparison(folder, sentence, tuple(results))


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under another name and rename it, so that an interruption leaves the former one."""
    aside = path.with_name(f".saving-{path.name}")
    write(aside)
    os.replace(aside, path)


# ---- Tables


def _decimals(results: Sequence[MethodResult]) -> int:
    return decimals_for(max(abs(result.auc.value) for result in results), digits=3)


def _table(results: Sequence[MethodResult], decimals: int) -> list[str]:
    rows = []
    for result in results:
        returns = [cell(estimate, decimals) for estimate in (result.auc, result.last)]
        gain = cell(result.gain, 0)
        row = [result.method.label, str(result.seeds), *returns, f"{gain} %" if gain else ""]
        rows.append([*row, cell(result.probability)])
    header = ["method", "seeds", "mean return", "at the end", "to uniform", "P(above uniform)"]
    return table(header, rows)


def _csv(results: Sequence[MethodResult]) -> str:
    columns: dict[str, Callable[[MethodResult], Estimate]] = {
        "auc": lambda result: result.auc,
        "last": lambda result: result.last,
        "difference_to_uniform": lambda result: result.difference,
        "percent_to_uniform": lambda result: result.gain,
        "probability_above_uniform": lambda result: result.probability,
    }
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    parts = [f"{name}{part}" for name in columns for part in ("", "_low", "_high")]
    writer.writerow(["method", "label", "seeds", *parts, "p_of_rank_test"])
    for result in results:
        numbers = [value for get in columns.values() for value in get(result)]
        cells = ["" if np.isnan(value) else f"{value:.6g}" for value in [*numbers, result.p]]
        writer.writerow([result.method.name, result.method.label, result.seeds, *cells])
    return file.getvalue()


def _facts(command: str, random: Record, by_method: Mapping[str, Sequence[Record]]) -> list[str]:
    all_runs = [record for found in by_method.values() for record in found]
    versions = random["versions"]
    names = [name for name in ("sb3_reptile", "stable_baselines3", "torch") if name in versions]
    packages = ", ".join(f"{name} {versions[name]}" for name in names)
    hours = sum(record["wall_seconds"] for record in all_runs) / 3600
    n_left_out = sum(record.get("not_finite", 0) for record in [random, *all_runs])
    left_out = f"* {n_left_out} episodes whose return is NaN or infinite are left out"
    return [
        f"* Command: `{command}`",
        f"* {len(all_runs)} runs of {random['steps']:,} steps, {hours:.1f} hours of training in total",
        f"* {packages}, Python {versions['python']}",
        *([left_out] if n_left_out else []),
    ]


# ---- Figure


def _draw(task: str, results: Sequence[MethodResult], by_method: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Learning curves with intervals; grey lines are changes of the phase, triangles alarms of ``auto``."""
    figure, (panel,) = plotting.grid(1, height=4.6)
    records = [record for found in by_method.values() for record in found]
    steps = records[0]["steps"]
    title = plotting.with_seeds(task, (result.seeds for result in results))
    x = plotting.training_panel(panel, title, steps, [step - 1 for step in records[0]["changes"]])
    for result in results:
        runs = by_method[result.method.name]
        points = estimates(iqm_of_points, np.array([[record["curve"]] for record in runs]))
        plotting.draw_curve(panel, x, points, result.method.style, result.method.label)
    alarms = [alarm[0] / 1000 for record in records for alarm in alarms_of(record)]
    if alarms:
        marks = dict(marker="v", linestyle="none", markersize=6, color=plotting.style_of("auto").color, clip_on=False)
        at_top = panel.get_xaxis_transform()
        panel.plot(alarms, np.full(len(alarms), 1.02), transform=at_top, label="alarm of auto", **marks)
        plotting.raise_title(panel)
    # savefig chooses the format by the ending
    plotting.save_with_legend(figure, [panel], path)
