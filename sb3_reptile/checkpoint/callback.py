"""The callback that decides when checkpoints are saved and which of them are kept."""

import os
import shutil
import warnings
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_reptile.checkpoint.environments import record_episodes
from sb3_reptile.checkpoint.resuming import KIND, last_checkpoint_of, list_checkpoints, write_checkpoint
from sb3_reptile.storage import DamagedError, StorageError
from sb3_reptile.storage.folder import Folder


class ResumableCheckpoint(BaseCallback):
    """
    Saves the complete state of training, so that :func:`~sb3_reptile.checkpoint.resume` continues it: networks,
    optimizers, replay buffer, counters, environments and random number generators.

    It saves at the beginning and at the end of training, and between two rollouts whenever the next rollout would make
    the steps since the last checkpoint exceed ``save_freq``. A checkpoint is a folder that is written under a temporary
    name, flushed to disk and renamed. Older checkpoints are removed once the new one has been read and verified. Files
    that have not changed since the previous checkpoint are linked, not written again. If saving fails, for instance
    because the disk is full, it warns and training continues.

    :param save_freq: The maximum number of steps, summed over all environments, that an interruption can lose; with
        ``train_freq`` in episodes, up to one episode more
    :param path: The folder of the checkpoints
    :param keep: Number of checkpoints to keep
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises ValueError: if ``save_freq`` or ``keep`` is not a whole number >= 1
    """

    def __init__(self, save_freq: int, path: str | os.PathLike[str], keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in [("save_freq", save_freq), ("keep", keep)]:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        self.save_freq = save_freq
        self.path = Path(path)
        self.keep = keep
        self._kept: list[Path] = []
        self._tried_at: int | None = None

    def _on_training_start(self) -> None:
        if not isinstance(self.model, OffPolicyAlgorithm):
            raise ValueError(
                f"ResumableCheckpoint is for off-policy algorithms, got {type(self.model).__name__}: "
                "use SB3's CheckpointCallback"
            )
        record_episodes(self.training_env, self.model.seed if self.num_timesteps == 0 else None)
        self.path = self.path.resolve()
        existing = list_checkpoints(self.path)
        last = last_checkpoint_of.get(self.model)
        if existing and last not in existing:
            raise ValueError(
                f"{self.path} contains checkpoints of another run: continue it with resume({str(self.path)!r}, env), "
                "or use another path"
            )
        for leftover in (*self.path.glob(".*.saving"), *self.path.glob(".*.old")):  # of interrupted saves
            shutil.rmtree(leftover, ignore_errors=True)
        self._kept = existing[: existing.index(last) + 1] if last in existing else []
        self._tried_at = self.model.num_timesteps if self._kept else None

    def _on_rollout_start(self) -> None:
        if self._tried_at is None or self.model.num_timesteps + self._next_rollout() - self._tried_at > self.save_freq:
            self.save()

    def _next_rollout(self) -> int:
        train_freq = self.model.train_freq  # type: ignore[attr-defined]
        assert isinstance(train_freq, TrainFreq)
        in_steps = train_freq.unit == TrainFrequencyUnit.STEP
        return self.model.n_envs * (train_freq.frequency if in_steps else 1)

    def _on_training_end(self) -> None:
        # Training that a callback or an exception stops can be in the middle of a rollout or an update
        ended = self.model.num_timesteps >= self.model._total_timesteps
        if ended and self._tried_at != self.model.num_timesteps:
            self.save()

    def _on_step(self) -> bool:
        return True

    def save(self) -> None:
        """
        Save a checkpoint now. Call it only between two rollouts.
        """
        assert isinstance(self.model, OffPolicyAlgorithm)
        self._tried_at = self.model.num_timesteps
        existing = list_checkpoints(self.path)
        number = int(existing[-1].name[:6]) + 1 if existing else 1
        path = self.path / f"{number:06d}-step-{self.model.num_timesteps}"
        try:
            self._write(path)
        except (OSError, DamagedError) as error:
            latest = f"the latest checkpoint is {self._kept[-1]}" if self._kept else "there is no checkpoint yet"
            warnings.warn(
                f"no checkpoint was saved at step {self.model.num_timesteps}, training continues: {error}; {latest}",
                stacklevel=2,
            )
            return
        self._kept.append(path)
        last_checkpoint_of[self.model] = path
        self._prune()
        if self.verbose >= 1:
            print(f"Checkpoint: {path}")

    def _write(self, path: Path) -> None:
        assert isinstance(self.model, OffPolicyAlgorithm)
        try:
            previous = Folder(self._kept[-1], KIND) if self._kept else None
        except (OSError, StorageError):
            previous = None
        write_checkpoint(self.model, path, previous)
        try:
            Folder(path, KIND).verify()
        except DamagedError:
            # A file linked from the previous checkpoint can be damaged: write all files
            shutil.rmtree(path)
            write_checkpoint(self.model, path, None)
            Folder(path, KIND).verify()

    def _prune(self) -> None:
        """Remove all checkpoints but the newest of this run, also those that resume() found damaged."""
        self._kept = self._kept[-self.keep :]
        for path in list_checkpoints(self.path):
            if path not in self._kept:
                # Rename it first: a partly removed folder must not look like a checkpoint
                removed = path.with_name(f".{path.name}.old")
                try:
                    os.rename(path, removed)
                except OSError:
                    continue
                shutil.rmtree(removed, ignore_errors=True)
