"""Numbers, estimates and tables as Markdown."""

import math
from collections.abc import Sequence

from sb3_reptile.evaluation.statistics import Estimate


def number(value: float, decimals: int, separator: str = ",") -> str:
    """A number with a thousands separator, and without the sign of a rounded zero."""
    text = f"{value:,.{decimals}f}".replace(",", separator)
    return text.lstrip("-") if float(f"{value:.{decimals}f}") == 0 else text


def decimals_for(value: float, digits: int) -> int:
    """
    :param value: The largest of the numbers that are printed
    :param digits: How many significant digits it has
    :return: Number of decimals, 0 if it is larger
    """
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def cell(estimate: Estimate | None, decimals: int = 2, separator: str = ",") -> str:
    """An estimate with its interval, if it has one: "0.57 (0.55 to 0.59)"; empty if it is None or NaN."""
    if estimate is None or math.isnan(estimate.value):
        return ""
    value, low, high = (number(part, decimals, separator) if not math.isnan(part) else "" for part in estimate)
    return f"{value} ({low} to {high})" if low else value


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> list[str]:
    """Lines of a Markdown table and an empty one; columns after the first ``text_columns`` are aligned right."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)] + [""]


def bold_if(condition: bool, text: str) -> str:
    return f"**{text}**" if condition and text else text
