"""The callback that decides when checkpoints are saved and which of them are kept."""

import contextlib
import os
from datetime import datetime
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_reptile.checkpoint.environments import record_episodes
from sb3_reptile.checkpoint.resuming import Origin, origin_of, write_checkpoint
from sb3_reptile.checkpoint.run_folder import KIND, RunFolder, list_candidates, number_of
from sb3_reptile.replay.checks import check_whole_number
from sb3_reptile.storage import NotStorableError, StorageError
from sb3_reptile.storage.errors import warn
from sb3_reptile.storage.folder import Folder
from sb3_reptile.storage.ownership import remove_if_ours


class ResumableCheckpoint(BaseCallback):
    """
    Saves the complete state of training, so that :func:`~sb3_reptile.resume` continues it: networks,
    optimizers, replay buffer, counters, environments and random number generators.

    It saves at the beginning and at the end of training, and between two rollouts whenever the next rollout would make
    the steps since the last checkpoint exceed ``save_freq``. A checkpoint is a folder that is written under a temporary
    name, flushed to disk and renamed. Older checkpoints are removed once the new one has been read and verified. Files
    that have not changed since the previous checkpoint are linked, not written again. If saving fails, for instance
    because the disk is full, it warns and training continues; but if there is no checkpoint yet, the second failure is
    an error. It also saves before training ends because workers of a ``RayVecEnv`` are lost. During training the folder
    is locked: another process that trains in it gets an error.

    :param save_freq: The maximum number of steps, summed over all environments, that an interruption can lose; with
        ``train_freq`` in episodes, up to one episode more
    :param path: The folder of the checkpoints
    :param keep: Number of checkpoints to keep
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises ValueError: if ``save_freq`` or ``keep`` is not a whole number >= 1; when training starts, if the folder
        holds checkpoints of another run
    """

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

    def _on_training_start(self) -> None:
        if not isinstance(self.model, OffPolicyAlgorithm):
            raise ValueError(
                f"ResumableCheckpoint is for off-policy algorithms, got {type(self.model).__name__}: "
                "use SB3's CheckpointCallback"
            )
        if not self.model._get_torch_save_params()[0]:
            raise ValueError(
                f"ResumableCheckpoint saves networks of PyTorch, {type(self.model).__name__} has none (SBX's are in "
                "JAX): use SB3's CheckpointCallback(save_replay_buffer=True), which saves model and replay buffer"
            )
        record_episodes(self.training_env, self.model.seed if self.num_timesteps == 0 else None)
        before_failure = getattr(self.training_env.unwrapped, "before_failure", None)
        if before_failure is not None and self.save not in before_failure:
            before_failure.append(self.save)
        self.path = Path(os.path.realpath(self.path))
        self._kept, self._tried_at, self._failures, self._ending = [], None, 0, False
        self._saved_at = self._now()
        with contextlib.suppress(OSError):  # the first save says so
            self._enter()
            self._tried_at = self.model.num_timesteps if self._kept else None

    def _enter(self) -> RunFolder:
        """Lock the folder, after making sure that it is this run's."""
        folder = RunFolder(self.path)
        try:
            existing, origin = list_candidates(self.path), origin_of.get(self.model)
            last = None if origin is None else origin.path
            if existing and last not in existing:
                raise ValueError(
                    f"{self.path} contains checkpoints of another run: continue it with resume({str(self.path)!r}, "
                    "env), or use another path"
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
        self._ending = True
        before_failure = getattr(self.training_env.unwrapped, "before_failure", [])
        if self.save in before_failure:
            before_failure.remove(self.save)
        if self.model.num_timesteps >= self.model._total_timesteps and self._tried_at != self.model.num_timesteps:
            self.save()
        elif self._folder is not None:
            self._folder.unlock()

    def _on_step(self) -> bool:
        return True

    def save(self) -> None:
        """
        Save a checkpoint now. Call it only between two rollouts, or where the environments are lost.

        :raises NotStorableError: if there is no checkpoint yet, and something cannot be saved without pickle
        :raises StorageError: if saving fails for the second time, and there is no checkpoint yet. When training has
            ended, this is a warning, so that its result is not lost.
        """
        self._tried_at = self.model.num_timesteps
        try:
            self._save()
        except Exception as error:  # whatever it is, training is worth more than a checkpoint of it
            self._report(error)
        finally:
            if self._ending and self._folder is not None:
                self._folder.unlock()

    def _save(self) -> None:
        assert isinstance(self.model, OffPolicyAlgorithm)
        folder = self._folder
        if folder is None or not folder.is_locked():
            folder = self._enter()
        folder.remove_leftovers()
        path = self.path / folder.next_name(self.model.num_timesteps)
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
        return f"step {self.model.num_timesteps} ({datetime.now():%Y-%m-%d %H:%M:%S})"

    def _report(self, error: Exception) -> None:
        """Warn that nothing was saved, or raise an error if nothing ever was."""
        self._failures += 1
        step, reason = self.model.num_timesteps, f"{type(error).__name__}: {error}"
        origin = origin_of.get(self.model)  # of a resumed model, if its folder cannot even be listed
        last = self._kept[-1] if self._kept else origin.path if origin and origin.path.parent == self.path else None
        if last is None and isinstance(error, NotStorableError):
            raise error
        if last is None and self._failures > 1 and not self._ending:
            raise StorageError(
                f"no checkpoint could be saved, {self._failures} times up to step {step}: {reason}; mend the cause, or "
                "train without ResumableCheckpoint"
            ) from error
        latest = "there is no checkpoint yet" if last is None else f"the latest checkpoint is {last}"
        if self._failures > 1:
            latest += f"; nothing has been saved since {self._saved_at}, {self._failures} times in a row"
        warn(f"no checkpoint was saved at step {step}, training continues: {reason}; {latest}")

    def _write(self, path: Path) -> None:
        assert isinstance(self.model, OffPolicyAlgorithm)
        try:
            previous = Folder(self._kept[-1], KIND) if self._kept else None
        except (OSError, StorageError):
            previous = None
        write_checkpoint(self.model, path, previous)
        try:
            Folder(path, KIND).verify()
        except (OSError, StorageError):
            # A file linked from the previous checkpoint can be damaged: write all files
            remove_if_ours(path, KIND)
            write_checkpoint(self.model, path, None)
            Folder(path, KIND).verify()
