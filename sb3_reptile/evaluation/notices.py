"""What ``half_life="auto"`` has noticed in the runs of a comparison, and what it would notice: a part of the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    measured = {record["seed"]: record["sensitivity"] for record in records}
    known = {seed: found for seed, found in measured.items() if isinstance(found, Mapping)}
    if known:
        shared = next(iter(known.values()))
        sensitivity = page.fill(
            "sensitivity",
            answer=_answer(list(known.values())),
            table=_sensitivities(known),
            within=f"{shared['within']:,}",
        )
    else:
        sensitivity = f"Which changes would be noticed was not measured: {next(iter(measured.values()))}."
    return page.fill("auto", alarms=_alarms(records), sensitivity=sensitivity)


# ---- Alarms


def alarms_of(record: Record) -> list[Any]:
    """
    :param record: Record of a run
    :return: Its alarms, if it is one of ``auto``, each with the steps at which a change was noticed and happened, and
        the regime. The last rollout goes past the end of the run; changes of the phase are not recorded there, and
        alarms are left out.
    """
    return [alarm for alarm in record.get("alarms", ()) if alarm[0] <= record["steps"]]


def _alarms(records: Sequence[Record]) -> list[str]:
    n_steps = sum(record["steps"] for record in records)
    if any(alarms_of(record) for record in records):
        lines = [f"All alarms in {len(records)} runs, {n_steps:,} steps:", "", *_table_of_alarms(records)]
    else:
        lines = [f"There was no alarm in {len(records)} runs, {n_steps:,} steps.", ""]
    return [*lines, _changes(records)]


def _table_of_alarms(records: Sequence[Record]) -> list[str]:
    rows = []
    for record in records:
        for noticed_at, happened_at, regime in alarms_of(record):
            since = [noticed_at - change for change in _changed_after(record) if 0 <= noticed_at - change <= WINDOW]
            row = [str(record["seed"]), f"{noticed_at:,}", f"{happened_at:,}", str(regime)]
            rows.append([*row, f"{since[-1]:,} steps after a change" if since else "no change before it"])
    header = ["seed", "noticed at step", "estimated step of the change", "regime", '`info["phase"]`']
    n_columns = len(header) if any(record["changes"] for record in records) else len(header) - 1
    return table(header[:n_columns], [row[:n_columns] for row in rows], text_columns=0)


def _changed_after(record: Record) -> list[int]:
    """Number of steps before each change of the phase."""
    return [step - 1 for step in record["changes"]]


def _changes(records: Sequence[Record]) -> str:
    """How many of the known changes were noticed, and how many alarms have no such change before them."""
    known = [(record, change) for record in records for change in _changed_after(record)]
    if not known:
        return (
            'No change is known: `info["phase"]` did not change, or the environment does not state it. '
            "In a task that does not change, every alarm is false."
        )
    noticed = [any(0 <= alarm[0] - change <= WINDOW for alarm in alarms_of(record)) for record, change in known]
    false = [
        alarm
        for record in records
        for alarm in alarms_of(record)
        if not any(0 <= alarm[0] - change <= WINDOW for change in _changed_after(record))
    ]
    return (
        f'{sum(noticed)} of {len(known)} changes of `info["phase"]` were noticed within {WINDOW:,} steps; '
        f"{len(false)} alarms have no such change before them."
    )


# ---- Sensitivity


def _sensitivities(known: Mapping[int, Mapping[str, Any]]) -> list[str]:
    header = ["seed", "transitions", "contradicted by accident", "accidental alarms", "reward", "dynamics"]
    rows = [
        [
            str(seed),
            f"{found['n_transitions']:,}",
            f"{100 * found['accidental_contradictions']:.1f} %",
            str(found["accidental_alarms"]),
            _size(found, "reward"),
            _size(found, "dynamics"),
        ]
        for seed, found in known.items()
    ]
    return table(header, rows, text_columns=0)


def _size(found: Mapping[str, Any], of: str) -> str:
    smallest = found[f"smallest_{of}_change"]
    return f"more than {found[f'largest_{of}_change']:.3g}" if smallest is None else f"{smallest:.3g}"


def _answer(found: Sequence[Mapping[str, Any]]) -> str:
    sizes = {of: [one[f"smallest_{of}_change"] for one in found] for of in ("reward", "dynamics")}
    parts = []
    for of, unit in (("reward", ""), ("dynamics", " standard deviations")):
        largest = max(one[f"largest_{of}_change"] for one in found)
        parts.append(
            f"not even changes of the {of} by {largest:.3g}{unit} are noticed with every seed"
            if None in sizes[of]
            else f"changes of the {of} by {max(sizes[of]):.3g}{unit} or more are noticed with every seed"
        )
    return f"{parts[0][:1].upper()}{parts[0][1:]}, {parts[1]}"
