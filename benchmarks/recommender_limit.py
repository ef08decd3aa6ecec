"""
How many clicks can be had in DriftingRecommender-v0: policies that know the world, but not the users, who are learned
about from what they were shown and clicked.

    python benchmarks/recommender_limit.py     two minutes; makes results/recommender_limit.md

The rational policy shows the item whose click is most probable by Bayes' rule. The observation holds the last 8 items
and clicks; a policy that remembers the whole episode shows what is lost by that.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sb3_reptile.envs.recommender import Recommender
from sb3_reptile.evaluation import tables
from sb3_reptile.evaluation.statistics import Estimate, student_interval
from sb3_reptile.evaluation.templates import PageTemplate

PAGE = Path(__file__).parent / "results" / "recommender_limit.md"
MOODS = (0.0, 1.0)
# Episodes have as many steps as in DriftingRecommender-v0
STEPS = 50
N_USERS = 500
# Users who represent all that there can be
N_SUPPOSED = 4_000
# exploration_final_eps in zoo_configs
EPSILON = 0.05
TEMPLATE = PageTemplate(Path(__file__).parent / "templates" / "recommender_limit.md")


class Policy(NamedTuple):
    """
    :param about: Description for the report
    :param memory: Number of steps from which users are inferred; None: the user is known
    :param epsilon: Share of random items
    """

    about: str
    memory: int | None
    epsilon: float = 0.0


POLICIES = (
    Policy("knows each user", None),
    Policy("infers the user from the whole episode", STEPS),
    Policy("infers the user from the observation, 8 steps", 8),
    Policy(f"the same, with {EPSILON:.0%} of random items, as in training", 8, EPSILON),
    Policy("knows nothing of the user", 0),
    Policy("random items", 0, 1.0),
)


def clicks(policy: Policy, mood: float) -> np.ndarray:
    """Expected clicks of each user's episode, shape (N_USERS,)."""
    env, generator = Recommender(mood=mood), np.random.default_rng(0)
    supposed = np.stack(list(rates_of_users(env)))
    sums = np.zeros(N_USERS)
    for user in range(N_USERS):
        env.reset(seed=user)
        log_likelihoods: list[np.ndarray] = [np.zeros(N_SUPPOSED)]
        shown: list[int] = []
        for _ in range(STEPS):
            # What those who were shown an item recently are less likely to do again
            tired = env.FATIGUE ** np.bincount(shown[-env.memory :], minlength=len(env.items))
            if policy.memory is None:
                expected = env.click_rates()
            else:
                evidence = sum(log_likelihoods[len(log_likelihoods) - policy.memory :], np.zeros(N_SUPPOSED))
                weights = np.exp(evidence - evidence.max())
                expected = weights @ supposed * tired
            is_random = generator.random() < policy.epsilon
            item = int(generator.integers(len(expected)) if is_random else expected.argmax())
            _, clicked, _, _, info = env.step(item)
            rates = supposed[:, item] * tired[item]
            log_likelihoods.append(np.log(rates if clicked else 1 - rates))
            shown.append(item)
            sums[user] += info["click_rate"]
    return sums


def rates_of_users(env: Recommender) -> Iterator[np.ndarray]:
    """Click probabilities of ``N_SUPPOSED`` users who have not been shown anything."""
    for number in range(N_SUPPOSED):
        # Other users than those of the episodes
        env.reset(seed=N_USERS + number)
        yield env.click_rates()


def report() -> str:
    rows = []
    for policy in POLICIES:
        of_moods = [clicks(policy, mood) for mood in MOODS]
        both: list[Estimate] = [student_interval(values) for values in (*of_moods, np.mean(of_moods, axis=0))]
        rows.append([policy.about, *(tables.cell(estimate, 1, separator="") for estimate in both)])
    header = ["policy", *(f"mood {mood:g}" for mood in MOODS), "both"]
    return TEMPLATE.fill("page", steps=STEPS, users=N_USERS, table=tables.table(header, rows)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(report(), encoding="utf-8")
    print(PAGE)
