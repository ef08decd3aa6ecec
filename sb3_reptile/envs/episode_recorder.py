"""The former place of ``EpisodeRecorder``, which is in :mod:`sb3_reptile.checkpoint`."""

from typing import Any


def __getattr__(name: str) -> Any:
    # The specs of recorded environments name the class by this module. The import is deferred because
    # sb3_reptile.checkpoint imports sb3_reptile.envs.
    if name == "EpisodeRecorder":
        from sb3_reptile.checkpoint.episode_recorder import EpisodeRecorder

        return EpisodeRecorder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
