"""benchmarks/recommender_limit.py: who knows more of the users has more clicks."""

import importlib

import numpy as np
import pytest

import tests.benchmarks  # noqa: F401
from sb3_reptile.envs.recommender import Recommender

limit = importlib.import_module("recommender_limit")


def test_who_knows_more_of_a_user_has_more_clicks(monkeypatch):
    monkeypatch.setattr(limit, "N_USERS", 40)
    monkeypatch.setattr(limit, "N_SUPPOSED", 400)
    known, inferred, _, explores, unknown, at_random = (limit.clicks(policy, 0.0).mean() for policy in limit.POLICIES)
    assert known > inferred > explores > unknown > at_random
    # As many as random items have by the environment's own account
    env, rates = Recommender(), []
    for seed in range(40):
        env.reset(seed=seed)
        rates.append(env.click_rates().mean())
    assert at_random == pytest.approx(limit.STEPS * np.mean(rates), rel=0.1)


def test_users_are_inferred_from_the_last_steps_only(monkeypatch):
    """With a memory of no step, what a user has clicked changes nothing."""
    monkeypatch.setattr(limit, "N_USERS", 3)
    monkeypatch.setattr(limit, "N_SUPPOSED", 50)
    shown = []
    step = Recommender.step
    monkeypatch.setattr(Recommender, "step", lambda env, item: (shown.append(item), step(env, item))[1])
    limit.clicks(limit.Policy("", 0), 0.0)
    of_users = np.reshape(shown, (3, limit.STEPS))
    assert (of_users == of_users[0]).all()
    shown.clear()
    limit.clicks(limit.Policy("", 8), 0.0)
    of_users = np.reshape(shown, (3, limit.STEPS))
    assert not (of_users == of_users[0]).all()
    # Nothing is known of any of them in the first step
    assert (of_users[:, 0] == of_users[0, 0]).all()
