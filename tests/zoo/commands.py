"""The RL Zoo's commands as a user types them, and what they leave behind."""

import os
import subprocess
import sys
from pathlib import Path

from sb3_reptile import ReptileDQN

ROOT = Path(__file__).parent.parent.parent
FAST = ["-n", "1200", "--eval-freq", "600", "--eval-episodes", "1", "--seed", "1", "--num-threads", "1"]


def run(*arguments, cwd=ROOT, code=0, env=None):
    command = [sys.executable, *map(str, arguments)]
    environ = {**os.environ, **(env or {})}
    result = subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=300, env=environ)
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    return output


def saved_model(logs, algo, model_class=ReptileDQN):
    return model_class.load(logs / algo / "CartPole-v1_1" / "CartPole-v1.zip")
