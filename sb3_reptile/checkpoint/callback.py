"""When checkpoints are saved, and which of them are kept."""

import os
import shutil
import warnings
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_reptile.checkpoint.environments import record_episodes
from sb3_reptile.checkpoint.resuming import KIND, checkpoints_in, last_checkpoint_of, write_checkpoint
from sb3_reptile.storage import DamagedError, StorageError
from sb3_reptile.storage.folder import Folder


class ResumableCheckpoint(BaseCallback):
    """
    Saves all that training consists of, so that :func:`~sb3_reptile.checkpoint.resume` goes on from there: networks,
    optimizers, replay buffer, counters, the state of the environments and of all random number generators.

    It saves between two rollouts, at the beginning and at the end of training, and whenever the next rollout would
    bring the steps since the last checkpoint beyond ``save_freq``. A checkpoint is a folder that is written aside,
    flushed to the disk and renamed; older ones are removed when the new one has been read again. What did not change
    since the checkpoint before is linked to, not written again. Where saving fails, on a full disk for instance, a
    warning is given and training goes on.

    :param save_freq: How many steps, of all environments together, may be lost; with ``train_freq`` in episodes, up to
        one episode more
    :param path: The folder of the checkpoints
    :param keep: How many of them to keep
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
        there = checkpoints_in(self.path)
        last = last_checkpoint_of.get(self.model)
        if there and last not in there:
            raise ValueError(
                f"{self.path} holds checkpoints of another run: go on from them with resume({str(self.path)!r}, env), "
                "or name another path"
            )
        for leftover in (*self.path.glob(".*.saving"), *self.path.glob(".*.old")):  # of processes that ended
            shutil.rmtree(leftover, ignore_errors=True)
        self._kept = there[: there.index(last) + 1] if last in there else []
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
        # If it is interrupted it may be anywhere within a rollout or an update
        ended = self.model.num_timesteps >= self.model._total_timesteps
        if ended and self._tried_at != self.model.num_timesteps:
            self.save()

    def _on_step(self) -> bool:
        return True

    def save(self) -> None:
        """
        Save a checkpoint now. It must be called between two rollouts.
        """
        assert isinstance(self.model, OffPolicyAlgorithm)
        self._tried_at = self.model.num_timesteps
        there = checkpoints_in(self.path)
        number = int(there[-1].name[:6]) + 1 if there else 1
        path = self.path / f"{number:06d}-step-{self.model.num_timesteps}"
        try:
            self._write(path)
        except (OSError, DamagedError) as error:
            stays = f"{self._kept[-1]} stays" if self._kept else "there is none yet"
            warnings.warn(
                f"no checkpoint at step {self.model.num_timesteps}, training goes on: {error}; {stays}", stacklevel=2
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
            # A file that it shares with the one before may be
            shutil.rmtree(path)
            write_checkpoint(self.model, path, None)
            Folder(path, KIND).verify()

    def _prune(self) -> None:
        """Remove all but the newest of this run; among them are those that cannot be resumed from."""
        self._kept = self._kept[-self.keep :]
        for path in checkpoints_in(self.path):
            if path not in self._kept:
                # A folder that is half gone must not look like a checkpoint
                aside = path.with_name(f".{path.name}.old")
                try:
                    os.rename(path, aside)
                except OSError:
                    continue
                shutil.rmtree(aside, ignore_errors=True)
