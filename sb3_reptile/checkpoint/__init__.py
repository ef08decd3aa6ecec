"""Checkpoints of training: ``ResumableCheckpoint`` saves them, ``resume`` continues from them."""

from sb3_reptile.checkpoint.callback import ResumableCheckpoint
from sb3_reptile.checkpoint.episode_recorder import EpisodeRecorder
from sb3_reptile.checkpoint.resuming import resume

__all__ = ["EpisodeRecorder", "ResumableCheckpoint", "resume"]
