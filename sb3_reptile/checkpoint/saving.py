"""When a checkpoint is written into a run's folder, what is kept of the older ones, and what happens if it fails."""

import contextlib
import os
from abc import abstractmethod
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from stable_baselines3.common.callbacks import BaseCallback

from sb3_reptile.checkpoint.resuming import Origin, origin_of
from sb3_reptile.checkpoint.run_folder import KIND, RunFolder, list_candidates, number_of
from sb3_reptile.replay.checks import check_whole_number
from sb3_reptile.storage import NotStorableError, StorageError
from sb3_reptile.storage.errors import warn
from sb3_reptile.storage.folder import Folder
from sb3_reptile.storage.ownership import remove_if_ours


class SavesCheckpoints(BaseCallback):
    """
    What callbacks that save checkpoints have in common.

    :param save_freq: How often it saves
    :param path: The folder of the checkpoints
    :param keep: Number of checkpoints to keep
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises ValueError: if ``save_freq`` or ``keep`` is not a whole number >= 1
    """

    #: The kind of the checkpoints, the second argument of the function that resumes from them, what it counts
    kind: ClassVar[str] = KIND
    resumed_with: ClassVar[str] = "env"
    unit: ClassVar[str] = "step"

    def __init__(self, save_freq: int, path: str | os.PathLike[str], keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in [("save_freq", save_freq), ("keep", keep)]:
            check_whole_number(name, value)
        self.save_freq = save_freq
        self.path = Path(path)
        self.keep = keep
        self._folder: RunFolder | None = None
        self._kept: list[Path] = []
        self._tried_at: int | None = None
        self._failures = 0

    @abstractmethod
    def _write_checkpoint(self, path: Path, previous: Folder | None) -> None:
        """
        Write one checkpoint.

        :param path: Its folder
        :param previous: The previous checkpoint
        """

    def _step(self) -> int:
        """The number in the checkpoint's name."""
        return self.model.num_timesteps

    def _total(self) -> int:
        """What that number is at the end of training."""
        return self.model._total_timesteps

    def _start(self) -> None:
        """To be called when training starts."""
        self.path = Path(os.path.realpath(self.path))
        self._kept, self._tried_at, self._failures, self._ending = [], None, 0, False
        self._saved_at = self._now()
        with contextlib.suppress(OSError):  # the first save says so
            self._enter()
            self._tried_at = self._step() if self._kept else None

    def _end(self) -> None:
        """To be called when training ends."""
        # Training that a callback or an exception stops can be in the middle of a rollout or an update
        self._ending = True
        if self._step() >= self._total() and self._tried_at != self._step():
            self.save()
        elif self._folder is not None:
            self._folder.unlock()

    def _enter(self) -> RunFolder:
        """Lock the folder, after making sure that it is this run's."""
        folder = RunFolder(self.path, self.kind)
        try:
            existing, origin = list_candidates(self.path), origin_of.get(self.model)
            last = None if origin is None else origin.path
            if existing and last not in existing:
                raise ValueError(
                    f"{self.path} contains checkpoints of another run: continue it with resume({str(self.path)!r}, "
                    f"{self.resumed_with}), or use another path"
                )
            if origin is not None and existing and number_of(existing[-1]) > origin.newest:
                raise ValueError(
                    f"another process has continued the run in {self.path} since this model was resumed: resume again, "
                    "or use another path"
                )
        except BaseException:
            folder.unlock()
            raise
        folder.remove_leftovers()
        if not self._kept:
            self._kept = existing[: existing.index(last) + 1] if last is not None and existing else []
        self._folder = folder
        return folder

    def save(self) -> None:
        """
        Save a checkpoint now. Call it only between two rollouts, or where the environments are lost.

        :raises NotStorableError: if there is no checkpoint yet, and something cannot be saved without pickle
        :raises StorageError: if saving fails for the second time, and there is no checkpoint yet. When training has
            ended, this is a warning, so that its result is not lost.
        """
        self._tried_at = self._step()
        try:
            self._save()
        except Exception as error:  # whatever it is, training is worth more than a checkpoint of it
            self._report(error)
        finally:
            if self._ending and self._folder is not None:
                self._folder.unlock()

    def _save(self) -> None:
        folder = self._folder
        if folder is None or not folder.is_locked():
            folder = self._enter()
        folder.remove_leftovers()
        path = self.path / folder.next_name(self._step())
        if self._kept:
            origin_of[self.model] = Origin(self._kept[-1], number_of(path))
        self._write(path)
        self._kept.append(path)
        origin_of[self.model] = Origin(path, number_of(path))
        self._failures, self._saved_at = 0, self._now()
        self._kept = self._kept[-self.keep :]
        try:
            folder.prune(self._kept)
        except OSError as error:
            warn(f"older checkpoints than {path} could not be removed: {error}")
        if self.verbose >= 1:
            print(f"Checkpoint: {path}")

    def _now(self) -> str:
        return f"{self.unit} {self._step()} ({datetime.now():%Y-%m-%d %H:%M:%S})"

    def _report(self, error: Exception) -> None:
        """Warn that nothing was saved, or raise an error if nothing ever was."""
        self._failures += 1
        at, reason = f"{self.unit} {self._step()}", f"{type(error).__name__}: {error}"
        origin = origin_of.get(self.model)  # of a resumed model, if its folder cannot even be listed
        last = self._kept[-1] if self._kept else origin.path if origin and origin.path.parent == self.path else None
        if last is None and isinstance(error, NotStorableError):
            raise error
        if last is None and self._failures > 1 and not self._ending:
            raise StorageError(
                f"no checkpoint could be saved, {self._failures} times up to {at}: {reason}; mend the cause, or "
                f"train without {type(self).__name__}"
            ) from error
        latest = "there is no checkpoint yet" if last is None else f"the latest checkpoint is {last}"
        if self._failures > 1:
            latest += f"; nothing has been saved since {self._saved_at}, {self._failures} times in a row"
        warn(f"no checkpoint was saved at {at}, training continues: {reason}; {latest}")

    def _write(self, path: Path) -> None:
        try:
            previous: Any = Folder(self._kept[-1], self.kind) if self._kept else None
        except (OSError, StorageError):
            previous = None
        self._write_checkpoint(path, previous)
        try:
            Folder(path, self.kind).verify()
        except (OSError, StorageError):
            # A file linked from the previous checkpoint can be damaged: write all files
            remove_if_ours(path, self.kind)
            self._write_checkpoint(path, None)
            Folder(path, self.kind).verify()
