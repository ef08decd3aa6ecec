"""
Three agents of mpe2's simple_spread share one ReptileDQN: each agent is one environment of the VecEnv.

    python examples/shared_policy.py [--half-life 3000] [--log logs/spread] [--gif spread.gif]

The agents must cover three landmarks, one each, without collisions. Return per episode and agent: -26 with random
actions, -18.3 over the last third of 300,000 steps of all agents together (-16.6 with --half-life inf: only the agents
themselves drift). The run takes two minutes on one core.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch as th
from PIL import Image
from stable_baselines3.common.vec_env import VecMonitor

from sb3_reptile import ReptileDQN
from sb3_reptile.vec_env import parallel_env_to_vec_env

try:
    from mpe2 import simple_spread_v3
except ImportError as error:
    raise ImportError("this example needs the extra `multi-agent`: pip install 'sb3-reptile[multi-agent]'") from error


def train(steps: int, seed: int, half_life: float | str | None, log: Path | None) -> ReptileDQN:
    env = VecMonitor(
        parallel_env_to_vec_env([simple_spread_v3.parallel_env(N=3, max_cycles=25) for _ in range(4)]),
        filename=None if log is None else str(log / "monitor.csv"),
        info_keywords=("agent",),
    )
    model = ReptileDQN(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        buffer_size=200_000,
        learning_starts=2_000,
        batch_size=128,
        gamma=0.9,
        train_freq=1,
        gradient_steps=2,  # for every 12 transitions: 3 agents in 4 environments
        target_update_interval=1_000,
        exploration_fraction=0.3,
        policy_kwargs=dict(net_arch=[128, 128]),
        half_life=half_life,
        seed=seed,
        device="cpu",
    )
    model.learn(steps, progress_bar=sys.stderr.isatty())
    env.close()
    if log is not None:
        model.save(log / "model")
    return model


def film(model: ReptileDQN, path: Path, n_frames: int = 100) -> None:
    """Draw the agents, acting without exploration, over as many episodes as needed."""
    env = parallel_env_to_vec_env(simple_spread_v3.parallel_env(N=3, max_cycles=25, render_mode="rgb_array"))
    env.seed(0)
    obs = env.reset()
    frames = []
    for _ in range(n_frames):
        frames.append(Image.fromarray(env.render()).resize((480, 480)).quantize(16))
        actions, _ = model.predict(obs, deterministic=True)
        obs, _, _, _ = env.step(actions)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)


def half_life(text: str) -> float | str | None:
    """An argument of ReptileDQN: 'auto', a number, or None for the default decay."""
    return {"auto": "auto", "default": None}[text] if text in ("auto", "default") else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--half-life",
        type=half_life,
        default="auto",
        help="in transitions; inf: uniform replay; default: the default decay (default: auto)",
    )
    parser.add_argument("--steps", type=int, default=300_000, help="of all agents together (default: 300000)")
    parser.add_argument("--log", type=Path, metavar="FOLDER", help="where monitor.csv and model.zip go")
    parser.add_argument("--gif", type=Path, metavar="PATH", help="film the trained agents")
    arguments = parser.parse_args()
    th.set_num_threads(1)  # the network is too small for more
    if arguments.log is not None:
        arguments.log.mkdir(parents=True, exist_ok=True)

    model = train(arguments.steps, arguments.seed, arguments.half_life, arguments.log)
    returns = [episode["r"] for episode in model.ep_info_buffer or ()]
    print(f"return per episode and agent, mean of the last {len(returns)}: {np.mean(returns):.1f}")
    if arguments.gif is not None:
        film(model, arguments.gif)


if __name__ == "__main__":
    main()
