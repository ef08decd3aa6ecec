"""
Reptile, the meta-learning algorithm of Nichol, Achiam & Schulman (2018), around algorithms of SB3. It is not the
experience replay of :class:`~sb3_reptile.ReptileDQN`, which has the same name.
"""

from sb3_reptile.meta.adaptation import adaptation_curve, area_under_curve
from sb3_reptile.meta.files import MetaCheckpoint, resume
from sb3_reptile.meta.meta_learner import ReptileMetaLearner
from sb3_reptile.meta.sine_waves import Regression, SineWaves
from sb3_reptile.meta.tasks import CartPoleControls, CartPolePhysics, JointTasks, MiniGridGoals, Navigation

__all__ = [
    "CartPoleControls",
    "CartPolePhysics",
    "JointTasks",
    "MetaCheckpoint",
    "MiniGridGoals",
    "Navigation",
    "Regression",
    "ReptileMetaLearner",
    "SineWaves",
    "adaptation_curve",
    "area_under_curve",
    "resume",
]
