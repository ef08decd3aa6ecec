"""Replay with ``half_life="auto"`` on a CartPole whose actions swap back and forth; plots the consistencies."""

import argparse

from matplotlib.figure import Figure

from sb3_reptile import ReptileDQN
from sb3_reptile.callbacks import ConsistencyHistory, OnChange
from sb3_reptile.figures import draw_consistency


def main(steps: int, period: int, output: str) -> None:
    import gymnasium as gym

    env = gym.make("sb3_reptile.envs:DriftingCartPoleActions-v0", period=period)
    model = ReptileDQN(
        "MlpPolicy",
        env,
        half_life="auto",
        learning_rate=2.3e-3,
        batch_size=64,
        learning_starts=1_000,
        train_freq=256,
        gradient_steps=64,
        target_update_interval=10,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=0,
    )
    history = ConsistencyHistory(every=max(steps // 150, 1))
    model.learn(steps, callback=[history, OnChange(lambda callback, change: print(change))])

    assert model.replay_buffer.consistency is not None
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    true_changes = list(range(period, steps, period))
    image = draw_consistency(axes, history.history, model.replay_buffer.consistency.changes, true_changes)
    figure.colorbar(image, label="consistency")
    axes.set_title("Dashed: the actions swap. Triangles: alarms.", fontsize=10, loc="left")
    figure.savefig(output, dpi=120)
    print(f"drawn: {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--period", type=int, default=10_000)
    parser.add_argument("--output", default="consistency.png")
    arguments = parser.parse_args()
    main(arguments.steps, arguments.period, arguments.output)
