"""What ``half_life="auto"`` has noticed in the runs of a comparison, as a section of its report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_reptile.evaluation.records import Record
from sb3_reptile.evaluation.tables import table
from sb3_reptile.evaluation.templates import PageTemplate

TEMPLATE = Path(__file__).with_name("comparison.md")
# Alarms up to this number of steps after a change are attributed to it, as in benchmarks/detection.py
WINDOW = 3_000


def auto_section(records: Sequence[Record]) -> str:
    """
    :param records: Records of the runs of ``auto``
    :return: The section
    """
    page = PageTemplate(TEMPLATE)
    if not records:
        return page.fill("no_auto")
    return page.fill("auto", alarms=_alarms(records), chance=_chance(records), sensitivity="")


def _alarms(records: Sequence[Record]) -> list[str]:
    n_alarms = sum(len(record["alarms"]) for record in records)
    n_steps = sum(record["steps"] for record in records)
    if n_alarms == 0:
        lines = [f"There was no alarm in {n_steps:,} transitions."]
    else:
        lines = [f"All alarms in {n_steps:,} transitions:", "", *_table_of_alarms(records)]
    return [*lines, *_changes(records)]


def _table_of_alarms(records: Sequence[Record]) -> list[str]:
    rows = []
    for record in records:
        for noticed_at, happened_at, regime in record["alarms"]:
            before = [change - 1 for change in record["changes"] if 0 <= noticed_at - (change - 1) <= WINDOW]
            row = [str(record["seed"]), f"{noticed_at:,}", f"{happened_at:,}", str(regime)]
            rows.append([*row, f"{noticed_at - before[-1]:,}" if before else "false"])
    header = ["seed", "noticed after transition", "estimated change", "regime", "transitions since the change"]
    columns = len(header) if any(record["changes"] for record in records) else len(header) - 1
    return table(header[:columns], [row[:columns] for row in rows], text_columns=0)


def _changes(records: Sequence[Record]) -> list[str]:
    """How many of the known changes were noticed."""
    known = [(record, change - 1) for record in records for change in record["changes"]]
    if not known:
        return ["The environment states no changes (`info[\"phase\"]`), so that none of the alarms can be checked."]
    noticed = [any(0 <= alarm[0] - change <= WINDOW for alarm in record["alarms"]) for record, change in known]
    return [f"{sum(noticed)} of {len(known)} changes of `info[\"phase\"]` were noticed within {WINDOW:,} transitions."]


def _chance(records: Sequence[Record]) -> list[str]:
    rates = np.array([record["false_alarm_rate"] for record in records])
    of_reward, of_dynamics = rates[:, 0], rates[:, 1:].max(axis=1, initial=0)
    return [
        "Segments were contradicted by accident, as estimated at the end of training, in "
        f"{_per_cent(of_reward)} of the comparisons of a reward and in {_per_cent(of_dynamics)} of those of the "
        "number of the observation where this is most frequent."
    ]


def _per_cent(rates: np.ndarray) -> str:
    low, high = 100 * rates.min(), 100 * rates.max()
    return f"{low:.1f} to {high:.1f} %" if high - low >= 0.05 else f"{high:.1f} %"
