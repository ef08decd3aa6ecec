"""
Plot the replay buffer of a short training run: probability by age, TD error by age.

    python examples/replay_figures.py [replay_figures.png]
"""

import sys

from matplotlib import pyplot as plt

from sb3_reptile import ReptileDQN
from sb3_reptile.figures import BLACK, BLUE, GREY

model = ReptileDQN("MlpPolicy", "CartPole-v1", half_life=500, seed=0, device="cpu").learn(4_000)
buffer = model.replay_buffer
ages = buffer.ages().ravel()
stored = ages >= 0
order = ages[stored].argsort()

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.5), layout="constrained")
left.plot(ages[stored][order], buffer.sampling_probabilities().ravel()[stored][order].cumsum(), color=BLUE)
left.set(xlabel="age (transitions)", ylabel="probability of a draw up to this age", ylim=(0, 1.02))

indices = stored.nonzero()[0]
errors = model.td_errors(indices).abs().flatten().numpy()
right.scatter(ages[indices], errors, s=3, alpha=0.3, color=GREY, linewidths=0)
by_age = errors[ages[indices].argsort()].reshape(20, -1).mean(axis=1)
right.plot(range(100, 4_000, 200), by_age, color=BLACK, label="mean of 200 transitions")
right.set(xlabel="age (transitions)", ylabel="absolute TD error", ylim=(0, None))
right.legend(frameon=False)
figure.suptitle("4,000 steps of CartPole-v1, half-life 500", fontsize=10)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "replay_figures.png", dpi=80)
