"""Supervised learning: the sine waves of Nichol et al. (2018), with the same meta-learner."""

import importlib

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule

import tests.benchmarks  # noqa: F401
from sb3_reptile.meta import JointTasks, Regression, ReptileMetaLearner, SineWaves
from sb3_reptile.meta.sine_waves import SineWave
from tests.meta.learners import Written

benchmark = importlib.import_module("meta")
WAVES = benchmark.Waves(meta_iterations=400, inner_steps=8, n_held_out=100)


def test_zero_has_the_error_that_the_paper_implies():
    waves = [SineWaves()(np.random.default_rng(seed)) for seed in range(2_000)]
    inputs = np.linspace(-5, 5, 50)
    errors = [np.mean(wave.value(inputs) ** 2) for wave in waves]
    assert np.mean(errors) == pytest.approx(4.25, abs=0.25)


def test_reptile_adapts_better_than_joint_training():
    """A tenth of the steps of `benchmarks/meta.py`: the error after 32 gradient steps on 10 points of a new wave."""
    errors = {}
    for start in ("joint", "reptile"):
        policy = benchmark.pretrain_on_waves(benchmark.Run("sine-waves", start, 0), WAVES)
        errors[start] = benchmark.errors_on_waves(policy, WAVES, 0)
    assert errors["joint"][0] == pytest.approx(4.25, abs=0.8)
    assert errors["reptile"][-1] < 0.5 * errors["joint"][-1]
    assert errors["reptile"][-1] < 1.5


def test_the_benchmark_adapts_as_regression_does():
    wave = SineWaves(10)(np.random.default_rng([benchmark.HELD_OUT, 5, 0]))
    waves = benchmark.Waves(n_held_out=1)
    model = Regression("MlpPolicy", wave, learning_rate=waves.learning_rate, seed=0, device="cpu")
    expected = benchmark.errors_on_waves(model.policy, waves, 5)
    grid = np.linspace(-5, 5, 100, dtype=np.float32)[:, None]

    def error():
        with th.no_grad():
            return float(((model.policy(th.as_tensor(grid)).numpy() - wave.value(grid)) ** 2).mean())

    errors = [error()]
    for steps in np.diff(benchmark.GRADIENT_STEPS):
        model.learn(int(steps))
        errors.append(error())
    assert errors == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_regression_learns_a_wave():
    wave = SineWave(2.0, 1.0, np.linspace(-5, 5, 50))
    model = Regression("MlpPolicy", wave, seed=0, device="cpu", learning_rate=LinearSchedule(0.05, 0.01, 1.0))
    before, _ = evaluate_policy(model, wave, 50, warn=False)
    model.learn(1_500)
    after, _ = evaluate_policy(model, wave, 50, warn=False)
    assert before < -1
    assert after > -0.2
    assert model.num_timesteps == model._n_updates == 1_500


def test_each_epoch_uses_every_point_once():
    wave = SineWave(1.0, 0.0, np.arange(7.0) - 3)
    model = Regression("MlpPolicy", wave, batch_size=3, seed=0, device="cpu")
    model.env.reset()
    batches = model._batches()
    orders = []
    for _ in range(2):
        inputs = [next(batches)[0] for _ in range(3)]
        assert [len(batch) for batch in inputs] == [3, 3, 1]
        orders.append(th.cat(inputs).flatten().tolist())
        assert sorted(orders[-1]) == [-3, -2, -1, 0, 1, 2, 3]
    assert orders[0] != orders[1]


def test_joint_training_has_another_wave_in_each_epoch():
    model = Regression("MlpPolicy", JointTasks(SineWaves(4), seed=0), batch_size=4, seed=0, device="cpu")
    model.env.reset()
    batches = model._batches()
    inputs = {tuple(sorted(next(batches)[0].flatten().tolist())) for _ in range(5)}
    assert len(inputs) == 5


def test_environments_without_points_are_an_error():
    model = Regression("MlpPolicy", gym.make("Pendulum-v1"), device="cpu")
    with pytest.raises(ValueError, match=r"reset\(\) returns the points .* an info with \[\]"):
        model.learn(1)


def test_regression_is_saved_and_loaded_as_sb3_does(tmp_path):
    wave = SineWaves()(np.random.default_rng(0))
    learner = ReptileMetaLearner(Regression, SineWaves(), inner_timesteps=2, meta_batch_size=1, seed=0, device="cpu")
    learner.learn(1)
    learner.save(tmp_path / "meta.zip")
    model = Regression.load(tmp_path / "meta.zip", env=wave)
    obs = np.zeros((3, 1), np.float32)
    assert np.array_equal(model.predict(obs)[0], learner.predict(obs)[0])


def test_the_learning_rate_follows_its_schedule_and_what_is_learned_is_logged(tmp_path):
    rates, writer = [], Written()

    class Watch(BaseCallback):
        def _on_step(self):
            assert self.model.policy.training
            rates.append(self.model.policy.optimizer.param_groups[0]["lr"])
            return self.n_calls < 3

    model = Regression("MlpPolicy", SineWave(1.0, 0.0, np.arange(4.0)), LinearSchedule(1.0, 0.0, 1.0), device="cpu")
    model.set_logger(Logger(None, [writer]))
    model.predict(np.zeros(1, np.float32))
    model.learn(4, callback=Watch(), log_interval=2)
    assert rates == [1.0, 0.75, 0.5]
    assert model.num_timesteps == 3
    (row,) = writer.rows
    assert row["train/loss"] > 0
    assert row["train/learning_rate"] == 0.75


def test_the_seed_determines_the_network():
    wave = SineWave(1.0, 0.0, np.arange(4.0))
    first, again, other = (Regression("MlpPolicy", wave, seed=seed, device="cpu").policy for seed in (1, 1, 2))
    obs = np.ones((1, 1), np.float32)
    assert first.predict(obs)[0] == again.predict(obs)[0] != other.predict(obs)[0]
