"""
Makes ``--algo dqn`` mean ReptileDQN in the process that imports this module, for unmodified rl_zoo3 and a user's own
``dqn.yml``: ``python -m rl_zoo3.train --algo dqn --gym-packages sb3_reptile.zoo.dqn``.
"""

from sb3_reptile.zoo.registration import register

register("dqn")
