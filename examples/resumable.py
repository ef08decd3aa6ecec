"""Training that can be interrupted at any time: the same command continues from the last checkpoint."""

import argparse
from pathlib import Path

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=50_000)
parser.add_argument("--path", type=Path, default=Path("checkpoints"))
arguments = parser.parse_args()

try:
    model = resume(arguments.path, "CartPole-v1")
    print(f"continues from step {model.num_timesteps}")
except FileNotFoundError:  # no checkpoint yet
    model = ReptileDQN("MlpPolicy", "CartPole-v1", learning_rate=1e-3, seed=0)

checkpoint = ResumableCheckpoint(save_freq=2_000, path=arguments.path)
remaining = arguments.steps - model.num_timesteps
model.learn(remaining, callback=checkpoint, reset_num_timesteps=model.num_timesteps == 0)
print(f"{model.num_timesteps} steps are done")
