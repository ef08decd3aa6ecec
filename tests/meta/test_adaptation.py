"""Adaptation curves: when a model is evaluated, and on what."""

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_reptile import ReptileDQN
from sb3_reptile.meta import adaptation_curve, area_under_curve
from tests.meta.learners import DQN_ARGUMENTS, goal


def make_model(seed=0, **options):
    return ReptileDQN("MlpPolicy", goal(), seed=seed, device="cpu", **DQN_ARGUMENTS, **options)


def test_returns_are_those_after_the_numbers_of_episodes():
    model, env = make_model(), goal()
    curve = adaptation_curve(model, env, (0, 1, 3), n_eval_episodes=2, seed=7)
    assert len(curve) == 3
    assert model.num_timesteps == 30  # of three episodes of ten steps
    env.reset(seed=7)
    assert curve[0] == pytest.approx(evaluate_policy(make_model(), env, 2, warn=False)[0])
    shorter = make_model()
    assert adaptation_curve(shorter, env, (1,), n_eval_episodes=2, seed=7) == curve[1:2]
    assert shorter.num_timesteps == 10


def test_evaluations_do_not_change_training():
    models = []
    for episodes in ((0, 1, 2, 3, 5), (5,)):
        models.append(make_model())
        adaptation_curve(models[-1], goal(), episodes, n_eval_episodes=len(episodes))
    obs = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    first, second = (model.q_net(model.policy.obs_to_tensor(obs)[0]).tolist() for model in models)
    assert first == second


def test_adaptation_prints_no_tables(capsys):
    adaptation_curve(make_model(verbose=1), goal(), (0, 5), n_eval_episodes=1)
    assert "rollout/" not in capsys.readouterr().out


def test_a_model_that_is_trained_before_has_no_effect_on_the_count():
    model = make_model()
    model.learn(20)
    curve = adaptation_curve(model, goal(), (0, 2), n_eval_episodes=1)
    assert len(curve) == 2
    assert model.num_timesteps == 20


@pytest.mark.parametrize("episodes", [(), (1, 1), (2, 1), (-1, 2)])
def test_numbers_of_episodes_must_increase(episodes):
    with pytest.raises(ValueError, match="episodes must be increasing whole numbers >= 0"):
        adaptation_curve(make_model(), goal(), episodes)
    with pytest.raises(ValueError, match="n_eval_episodes must be >= 1, got 0"):
        adaptation_curve(make_model(), goal(), n_eval_episodes=0)


def test_the_area_is_the_mean_over_episodes():
    assert area_under_curve([3.0, 3.0], (0, 10)) == 3.0
    assert area_under_curve([0.0, 2.0, 2.0], (0, 5, 10)) == 1.5
    assert area_under_curve([3.0, 1.0], (5, 10)) == 2.0
    assert area_under_curve([3.0], (5,)) == 3.0


def test_the_area_needs_no_function_that_only_numpy_2_has(monkeypatch):
    monkeypatch.delattr(np, "trapezoid", raising=False)
    assert area_under_curve([-10.0, -4.0, -2.0], (0, 1, 3)) == pytest.approx((-7.0 - 6.0) / 3)
