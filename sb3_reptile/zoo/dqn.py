"""
Importing this module makes ReptileDQN the algorithm behind ``--algo dqn`` in this process, for unmodified rl_zoo3 and a
user's own ``dqn.yml``: ``python -m rl_zoo3.train --algo dqn --gym-packages sb3_reptile.zoo.dqn``.
"""

from sb3_reptile.zoo.patches import register

register("dqn")
