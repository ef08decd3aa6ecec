"""
A predator and its prey (mpe2's simple_tag), each with its own ReptileDQN. They learn in turns, so that the environment
of each drifts: its opponent learns.

    python examples/opponents.py [--predator-half-life inf] [--prey-half-life inf] [--log logs/tag] [--gif tag.gif]

The predator gets a reward of 10 for every step in which it touches the prey; the prey gets -10, and a small penalty for
leaving the arena. First the predator learns to catch; then the prey, which is faster, learns to escape. 60,000 steps of
each take about two minutes on one core.
"""

import argparse
from pathlib import Path

import numpy as np
import torch as th
from PIL import Image
from stable_baselines3.common.monitor import Monitor
from tqdm import tqdm

from sb3_reptile import ReptileDQN
from sb3_reptile.vec_env import OneAgent

try:
    from mpe2 import simple_tag_v3
except ImportError as error:
    raise ImportError("this example needs the extra `multi-agent`: pip install 'sb3-reptile[multi-agent]'") from error

AGENTS = {"predator": "adversary_0", "prey": "agent_0"}
TURN = 500  # steps: 20 episodes


def one_side(role: str, render_mode: str | None = None) -> OneAgent:
    """An environment in which ``role`` learns and its opponent acts greedily."""
    parallel_env = simple_tag_v3.parallel_env(
        num_good=1, num_adversaries=1, num_obstacles=0, max_cycles=25, render_mode=render_mode
    )
    return OneAgent(parallel_env, AGENTS[role], deterministic=True)


def train(
    steps: int, seed: int, half_lives: dict[str, float | str | None], log: Path | None
) -> tuple[dict[str, ReptileDQN], dict[str, list[float]]]:
    """The trained models, and the returns of their episodes."""
    sides = {role: one_side(role) for role in AGENTS}
    monitors = {}
    models = {}
    for number, (role, side) in enumerate(sides.items()):
        monitors[role] = Monitor(side, None if log is None else str(log / role / "monitor.csv"))
        models[role] = ReptileDQN(
            "MlpPolicy",
            monitors[role],
            learning_rate=1e-3,
            buffer_size=100_000,
            learning_starts=1_000,
            batch_size=64,
            gamma=0.9,
            train_freq=4,
            gradient_steps=2,
            target_update_interval=500,
            # Constant, because an opponent that learns always requires exploration
            exploration_initial_eps=0.1,
            exploration_final_eps=0.1,
            policy_kwargs=dict(net_arch=[64, 64]),
            half_life=half_lives[role],
            seed=2 * seed + number,
            device="cpu",
        )
    for side in sides.values():
        # The models themselves, not copies: each plays against the latest policy of the other
        side.policies = {AGENTS[role]: model for role, model in models.items()}

    for _ in tqdm(range(steps // TURN), unit="turn", disable=None):  # None: unless stderr is a terminal
        for model in models.values():
            model.learn(TURN, reset_num_timesteps=False)

    for role, monitor in monitors.items():
        monitor.close()
        if log is not None:
            models[role].save(log / role / "model")
    return models, {role: monitor.get_episode_rewards() for role, monitor in monitors.items()}


def film(models: dict[str, ReptileDQN], path: Path, n_frames: int = 100) -> None:
    """Draw predator (red) and prey (green), as they act without exploration."""
    env = one_side("predator", render_mode="rgb_array")
    env.policies = {AGENTS["prey"]: models["prey"]}
    obs, _ = env.reset(seed=0)
    frames = []
    for _ in range(n_frames):
        frames.append(Image.fromarray(env.render()).resize((480, 480)).quantize(16))
        action, _ = models["predator"].predict(obs, deterministic=True)
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)


def half_life(text: str) -> float | str | None:
    """An argument of ReptileDQN: 'auto', a number, or None for the default decay."""
    return {"auto": "auto", "default": None}[text] if text in ("auto", "default") else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    for role in AGENTS:
        parser.add_argument(
            f"--{role}-half-life",
            type=half_life,
            default="auto",
            help="in transitions; inf: uniform replay; default: the default decay (default: auto)",
        )
    parser.add_argument("--steps", type=int, default=60_000, help="of each of the two (default: 60000)")
    parser.add_argument("--log", type=Path, metavar="FOLDER", help="where predator/ and prey/ go, monitor.csv in each")
    parser.add_argument("--gif", type=Path, metavar="PATH", help="film the trained agents")
    arguments = parser.parse_args()
    if arguments.steps < 10 * TURN:
        parser.error(f"--steps must be at least {10 * TURN}")
    th.set_num_threads(1)  # the networks are too small for more
    if arguments.log is not None:
        for role in AGENTS:
            (arguments.log / role).mkdir(parents=True, exist_ok=True)

    half_lives = {"predator": arguments.predator_half_life, "prey": arguments.prey_half_life}
    models, returns = train(arguments.steps, arguments.seed, half_lives, arguments.log)
    print("return per episode, in tenths of the training:")
    for role, values in returns.items():
        print(f"  {role:<8}", *(f"{tenth.mean():6.1f}" for tenth in np.array_split(values, 10)))
    if arguments.gif is not None:
        film(models, arguments.gif)


if __name__ == "__main__":
    main()
