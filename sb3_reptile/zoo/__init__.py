"""The RL Zoo plug: ``python -m sb3_reptile.zoo``, and ``patches.register()`` for callers of rl_zoo3 from Python."""
