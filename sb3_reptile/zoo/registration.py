"""The former place of ``register()``, which is in :mod:`sb3_reptile.zoo.patches`."""

# Scripts that call rl_zoo3 from Python import these names from here, as docs/how_to/rl_zoo.md used to say
from sb3_reptile.zoo.experiment_manager import ALGO, LogToFile, ReptileExperimentManager, zoo_configs
from sb3_reptile.zoo.patches import register

__all__ = ["ALGO", "LogToFile", "ReptileExperimentManager", "register", "zoo_configs"]
