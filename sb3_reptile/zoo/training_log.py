"""The training log in the folder of a run: written during training, continued by a resumed run, read by ``inspect``."""

import csv
import io
import math
import os
import warnings
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat

from sb3_reptile.evaluation.callback import SAVING, set_aside

LOG_FILE = "progress.csv"
#: Its column of environment steps
STEPS = "time/total_timesteps"


def read_log(path: Path) -> tuple[list[dict[str, str]], int]:
    """
    Read a training log, whatever has happened to it: a row that is too long is cut, one that is too short is filled up
    with empty cells, and a line that cannot be a row is left out.

    :param path: Path of the log
    :return: Its rows, and the number of lines that were left out
    """
    content = path.read_bytes()
    text = content.decode("utf-8-sig", errors="replace").replace("\0", "")
    if not text:
        return [], 1 if content else 0
    header, *rows = map(_cells, io.StringIO(text, newline=None))
    if text[-1] not in "\r\n":
        rows[-1:] = [[]]  # cut off, perhaps in the middle of a number
    whole = [dict(zip(header, [*row, *[""] * (len(header) - len(row))], strict=False)) for row in rows]
    known = [row for row in whole if math.isfinite(number(row.get(STEPS)))]
    return known, len(rows) - len(known)


def _cells(line: str) -> list[str]:
    # Each line alone, so that a missing quote damages one line only
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def number(cell: str | None) -> float:
    """
    :param cell: A cell of the log
    :return: The number in it, NaN if there is none
    """
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan


class LogToFile(BaseCallback):
    """
    Also write the training log to a CSV file. A resumed run keeps the rows up to the step at which it continues. Lines
    that cannot be read are left out with a warning; the file as it was is kept as ``progress.old.csv`` then.

    :param path: Path of the file
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def _on_training_start(self) -> None:
        continues = self.num_timesteps > 0 and self.path.is_file()
        self.logger.output_formats.append(self._continued() if continues else CSVOutputFormat(str(self.path)))

    def _continued(self) -> CSVOutputFormat:
        rows, n_left_out = read_log(self.path)
        if n_left_out > 0 or (not rows and self.path.stat().st_size > 0):
            kept = set_aside(self.path)
            warnings.warn(f"{n_left_out} damaged lines of {self.path} are left out; it is kept as {kept}", stacklevel=2)
        rows = [row for row in rows if number(row[STEPS]) <= self.num_timesteps]
        header = list(dict.fromkeys(key for row in rows for key in row))
        aside = self.path.with_suffix(f"{self.path.suffix}{SAVING}")
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(aside, self.path)
        # SB3 would empty the file
        output = CSVOutputFormat(os.devnull)
        output.file.close()
        output.file = self.path.open("r+", newline="", encoding="utf-8")
        output.file.seek(0, os.SEEK_END)
        output.keys = header
        return output

    def _on_step(self) -> bool:
        return True
