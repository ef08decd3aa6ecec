"""The RL Zoo plug: `python -m sb3_reptile.zoo`, and `registration` for those who call rl_zoo3 from Python."""
