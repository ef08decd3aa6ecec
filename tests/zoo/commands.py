"""The RL Zoo's commands as a user types them, and what they leave behind."""

from pathlib import Path

from sb3_reptile import ReptileDQN
from tests.processes import run_python

ROOT = Path(__file__).parent.parent.parent
FAST = ["-n", "1200", "--eval-freq", "600", "--eval-episodes", "1", "--seed", "1", "--num-threads", "1"]


def run(*arguments, cwd=ROOT, code=0, env=None):
    result = run_python(*arguments, cwd=cwd, env=env)
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    return output


def saved_model(logs, algo, model_class=ReptileDQN):
    return model_class.load(logs / algo / "CartPole-v1_1" / "CartPole-v1.zip")
