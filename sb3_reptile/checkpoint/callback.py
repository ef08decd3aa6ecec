"""The callback that saves checkpoints of a training run."""

from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_reptile.checkpoint.environments import record_episodes
from sb3_reptile.checkpoint.resuming import write_checkpoint
from sb3_reptile.checkpoint.saving import SavesCheckpoints
from sb3_reptile.storage.folder import Folder


class ResumableCheckpoint(SavesCheckpoints):
    """
    Saves the complete state of training, so that :func:`~sb3_reptile.resume` continues it: networks,
    optimizers, replay buffer, counters, environments and random number generators.

    It saves at the beginning and at the end of training, and between two rollouts whenever the next rollout would make
    the steps since the last checkpoint exceed ``save_freq``. A checkpoint is a folder that is written under a temporary
    name, flushed to disk and renamed. Older checkpoints are removed once the new one has been read and verified, and so
    are newer ones than the one that training was resumed from. Files that have not changed since the previous
    checkpoint are linked, not written again. If saving fails, for instance because the disk is full, it warns and
    training continues; but if there is no checkpoint yet, the second failure is an error. It also saves before training
    ends because workers of a ``RayVecEnv`` are lost. During training the folder is locked: another process that trains
    in it gets an error.

    :param save_freq: The maximum number of steps, summed over all environments, that an interruption can lose; with
        ``train_freq`` in episodes, up to one episode more
    :param path: The folder of the checkpoints
    :param keep: Number of checkpoints to keep
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises ValueError: if ``save_freq`` or ``keep`` is not a whole number >= 1; when training starts, if the folder
        holds checkpoints of another run, or another callback calls it at its steps only, as ``EveryNTimesteps`` does
    """

    def _init_callback(self) -> None:
        self._check_parents()

    def _check_parents(self) -> None:
        parent = self.parent
        while parent is not None:
            for name in ("_on_rollout_start", "_on_training_end"):
                if getattr(type(parent), name) is getattr(BaseCallback, name):
                    raise ValueError(
                        f"ResumableCheckpoint saves between rollouts, where {type(parent).__name__} does not call it: "
                        "give it to learn() beside that callback, with its own save_freq, "
                        f"learn(..., callback=[ResumableCheckpoint({self.save_freq}, {str(self.path)!r}), ...])"
                    )
            parent = parent.parent

    def _on_training_start(self) -> None:
        self._check_parents()  # a CallbackList sets the parent after _init_callback()
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
        # SB3 gives the seed to the first reset only, of a model that has stored nothing
        buffer = self.model.replay_buffer
        is_first = self.model.num_timesteps == 0 and (buffer is None or buffer.size() == 0)
        record_episodes(self.training_env, self.model.seed if is_first else None)
        before_failure = getattr(self.training_env.unwrapped, "before_failure", None)
        if before_failure is not None and self.save not in before_failure:
            before_failure.append(self.save)
        self._start()

    def _on_rollout_start(self) -> None:
        if self._tried_at is None or self.model.num_timesteps + self._next_rollout() - self._tried_at > self.save_freq:
            self.save()

    def _next_rollout(self) -> int:
        train_freq = self.model.train_freq  # type: ignore[attr-defined]
        assert isinstance(train_freq, TrainFreq)
        in_steps = train_freq.unit == TrainFrequencyUnit.STEP
        return self.model.n_envs * (train_freq.frequency if in_steps else 1)

    def _on_training_end(self) -> None:
        before_failure = getattr(self.training_env.unwrapped, "before_failure", [])
        if self.save in before_failure:
            before_failure.remove(self.save)
        self._end()

    def _on_step(self) -> bool:
        return True

    def _write_checkpoint(self, path: Path, previous: Folder | None) -> None:
        assert isinstance(self.model, OffPolicyAlgorithm)
        write_checkpoint(self.model, path, previous)
