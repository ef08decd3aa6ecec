"""Evaluation during training in environments that drift, and in others, where it is SB3's."""

import os
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_reptile import ReptileDQN
from sb3_reptile.callbacks import DriftEvalCallback
from sb3_reptile.envs import DriftingPhysics, DriftingRewards, PermutedActions
from sb3_reptile.replay import Change
from tests.conftest import assert_same_parameters, cartpole, small

PERIOD = 40
QUICK = dict(n_eval_episodes=2, deterministic=True, warn=False, verbose=0)


class Constant(gym.Env):
    """Episodes of ten steps; each step is rewarded by the number ``pay``."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)
    pay = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), self.pay, self.left == 0, False, {}


class Season(Constant):
    """A drift of the user's own: what is paid grows by one every 40 steps."""

    def __init__(self):
        self.days, self.held = 0, False

    @property
    def pay(self):
        return 1.0 + max(self.days - 1, 0) // PERIOD

    def step(self, action):
        self.days += not self.held
        return super().step(action)

    def get_drift_clock(self):
        return {"phase": self.pay, "days": self.days}

    def set_drift_clock(self, clock, held):
        self.days, self.held = clock["days"], held


def changing(kind="abrupt"):
    return DriftingPhysics(Constant(), {"pay": [1.0, 3.0]}, PERIOD, kind)


def nested():
    return DriftingRewards(gym.wrappers.TimeLimit(Season(), 10), [1.0, 10.0], 2 * PERIOD)


def dqn(env, **kwargs):
    return DQN("MlpPolicy", env, **small(learning_starts=10_000, **kwargs))


class Evaluations(BaseCallback):
    """Keeps what an evaluation leaves behind, as a callback that is called after it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        parent = self.parent
        self.seen.append((parent.num_timesteps, parent.last_mean_reward, parent.best_mean_reward))
        return True


def evaluate(env, eval_env, freq=20, steps=160, **kwargs):
    seen = Evaluations()
    callback = DriftEvalCallback(eval_env, callback_after_eval=seen, eval_freq=freq, **QUICK, **kwargs)
    dqn(env).learn(steps, callback=callback)
    return callback, seen.seen


def test_evaluation_is_in_the_phase_of_the_last_step_of_training_and_the_best_model_is_reset():
    _, seen = evaluate(changing(), changing())
    steps, returns, best = zip(*seen, strict=True)
    assert steps == (20, 40, 60, 80, 100, 120, 140, 160)
    # At 40, 80, ... the next step would be one of the next phase
    assert returns == (10, 10, 30, 30, 10, 10, 30, 30)
    assert best == returns


def test_sb3s_callback_evaluates_in_a_world_that_is_gone():
    # Why there is another one
    callback = EvalCallback(changing(), eval_freq=60, **QUICK)
    dqn(changing()).learn(60, callback=callback)
    assert callback.last_mean_reward == 10
    assert evaluate(changing(), changing(), freq=60, steps=60)[1] == [(60, 30, 30)]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_clocks_are_synchronized_through_vectorized_environments(vec_env, normalize):
    # The fastest; Windows cannot fork
    kwargs = dict(start_method="fork") if vec_env is SubprocVecEnv and hasattr(os, "fork") else {}
    env = make_vec_env(changing, 2, vec_env_cls=vec_env, vec_env_kwargs=kwargs)
    eval_env = make_vec_env(changing, 3, vec_env_cls=vec_env, vec_env_kwargs=kwargs)
    if normalize:
        env, eval_env = VecNormalize(env), VecNormalize(eval_env, training=False, norm_reward=False)
    _, seen = evaluate(env, eval_env, steps=160)
    assert [reward for _, reward, _ in seen] == [10, 10, 30, 30]
    assert eval_env.get_attr("steps_taken") == [80, 80, 80]
    for one in (env, eval_env):
        one.close()


def test_copies_take_the_clocks_of_the_copies_with_their_numbers():
    env = DummyVecEnv([changing, changing, changing])
    env.env_method("set_wrapper_attr", "steps_taken", PERIOD, indices=[1])
    eval_env = DummyVecEnv([changing] * 4)
    callback, _ = evaluate(env, eval_env, freq=10, steps=30)
    assert eval_env.get_attr("steps_taken") == [10, 50, 10, 10]
    assert callback._last_world == (0.25, None)


def test_nested_drifts_of_all_kinds_are_synchronized():
    # Evaluations have half as many steps as the training between them
    _, seen = evaluate(nested(), nested(), freq=40)
    assert [reward for _, reward, _ in seen] == [10, 20, 300, 400]


def test_a_gradual_drift_is_held_where_it_is_and_nothing_is_comparable():
    _, seen = evaluate(changing("gradual"), changing("gradual"), freq=25, steps=75)
    rewards = [reward for _, reward, _ in seen]
    # 24/40 of the way from 1 to 3; 9/40 and 34/40 of the way back
    assert rewards == pytest.approx([22, 25.5, 13])
    assert [best for _, _, best in seen] == rewards


def test_a_gradual_drift_that_has_ended_is_comparable_again():
    env = lambda: DriftingPhysics(Constant(), {"pay": [1.0, 3.0]}, PERIOD, "gradual", recurring=False)  # noqa: E731
    callback, seen = evaluate(env(), env(), freq=30, steps=120)
    assert [reward for _, reward, _ in seen][1:] == [30, 30, 30]
    assert callback._last_world == (1.0, None)


@pytest.mark.parametrize("kind", ["abrupt", "gradual"])
def test_training_does_not_notice_evaluation(kind):
    env = lambda: PermutedActions(gym.make("CartPole-v1"), PERIOD, kind=kind)  # noqa: E731
    kwargs = small(learning_starts=20)
    model = DQN("MlpPolicy", env(), **kwargs)
    model.learn(300, callback=DriftEvalCallback(env(), eval_freq=50, **QUICK))
    assert_same_parameters(model, DQN("MlpPolicy", env(), **kwargs).learn(300))


def test_an_environment_that_is_trained_in_and_evaluated_in_drifts_by_training_only():
    env = DummyVecEnv([changing])
    evaluate(env, env, steps=100)
    assert env.get_attr("steps_taken") == [100]
    env.step(np.zeros(1, int))
    assert env.get_attr("steps_taken") == [101]


def test_an_alarm_resets_the_best_model():
    seen = Evaluations()
    callback = DriftEvalCallback(Constant(), callback_after_eval=seen, eval_freq=20, **QUICK | dict(verbose=1))
    model = ReptileDQN("MlpPolicy", Constant(), half_life="auto", **small(learning_starts=10_000))

    class Alarm(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 50:
                self.model.replay_buffer.consistency.changes.append(Change(50, 45, 1))
            callback.best_mean_reward += 1  # could not be reached by this environment
            return True

    model.learn(80, callback=[callback, Alarm()])
    assert [best for _, _, best in seen.seen] == [10, 30, 10, 30]
    assert callback._last_world == (None, 1)


def test_the_reason_for_a_reset_of_the_best_model_is_printed(capsys):
    callback = DriftEvalCallback(changing(), eval_freq=20, **QUICK | dict(verbose=1))
    dqn(changing()).learn(60, callback=callback)
    assert "The best model is reset: phase 0.0 -> 1.0" in capsys.readouterr().out


class Both(BaseCallback):
    """What is logged at each evaluation."""

    def __init__(self):
        super().__init__()
        self.written = []

    def _on_training_start(self):
        dump = self.logger.dump

        def keep(step):
            values = {key: value for key, value in self.logger.name_to_value.items() if "time/" not in key}
            self.written.append((step, values))
            dump(step)

        self.logger.dump = keep

    def _on_step(self):
        return True


@pytest.mark.parametrize("n_envs", [1, 2])
def test_without_drift_everything_is_as_with_sb3s_callback(n_envs, tmp_path):
    written, best, files, models = [], [], [], []
    for callback_class in (EvalCallback, DriftEvalCallback):
        folder, log = tmp_path / callback_class.__name__, Both()
        eval_env = make_vec_env("CartPole-v1", n_envs, seed=1)
        callback = callback_class(
            eval_env, eval_freq=50, log_path=str(folder), best_model_save_path=str(folder), **QUICK
        )
        # The best of another callback's evaluations, as SB3's keeps it
        callback.best_mean_reward = 9.0
        model = DQN("MlpPolicy", cartpole(n_envs), **small(learning_starts=20))
        model.learn(400, callback=[log, callback])
        written.append(log.written)
        best.append(callback.best_mean_reward)
        models.append(DQN.load(folder / "best_model"))
        with np.load(folder / "evaluations.npz") as saved:
            files.append({name: saved[name].tolist() for name in saved.files})
        assert sorted(path.name for path in folder.iterdir()) == ["best_model.zip", "evaluations.npz"]
    assert written[0] == written[1]
    assert any("eval/mean_reward" in values for _, values in written[0])
    assert best[0] == best[1]
    assert files[0] == files[1]
    assert_same_parameters(*models)


def test_the_log_is_in_its_place_when_callbacks_look_for_it(tmp_path):
    class Look(BaseCallback):
        def _on_step(self):
            with np.load(f"{self.parent.log_path}.npz") as saved:
                assert saved["timesteps"][-1] == self.num_timesteps
                assert len(saved["phases"]) == len(saved["timesteps"])
            return True

    evaluations = DriftEvalCallback(
        changing(), callback_after_eval=Look(), eval_freq=20, log_path=str(tmp_path), **QUICK
    )
    dqn(changing()).learn(60, callback=evaluations)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluations.npz"]


def test_an_evaluation_that_is_cut_short_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    callback = DriftEvalCallback(changing(), eval_freq=20, log_path=str(tmp_path), **QUICK)
    model = dqn(changing())
    model.learn(40, callback=callback)
    whole = (tmp_path / "evaluations.npz").read_bytes()

    def half(path, **arrays):
        with open(f"{path}.npz", "wb") as file:
            file.write(whole[:100])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", half)
        with pytest.raises(OSError, match="no space"):
            model.learn(20, callback=callback, reset_num_timesteps=False)
    assert (tmp_path / "evaluations.npz").read_bytes() == whole
    assert callback.log_path == str(tmp_path / "evaluations")
    model.learn(20, callback=callback, reset_num_timesteps=False)
    with np.load(tmp_path / "evaluations.npz") as saved:
        assert saved["phases"].tolist()[:2] == [0, 0]
        assert len(saved["phases"]) == len(saved["timesteps"])


def test_evaluations_continue_with_the_best_of_the_last_world(tmp_path):
    callback = DriftEvalCallback(changing(), eval_freq=20, log_path=str(tmp_path), **QUICK)
    dqn(changing()).learn(160, callback=callback)
    with np.load(tmp_path / "evaluations.npz") as saved:
        assert saved["phases"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert (saved["alarms"] == -1).all()
    for step, best, world in [(159, 30, (3, None)), (120, 10, (2, None)), (19, -np.inf, None)]:
        again = DriftEvalCallback(changing(), log_path=str(tmp_path), **QUICK)
        again.continue_from(step)
        assert again.best_mean_reward == best
        assert again._last_world == world
        assert again.evaluations_timesteps == [20 * k for k in range(1, step // 20 + 1)]
    # A file of SB3's callback does not say in which world its evaluations were
    np.savez(
        tmp_path / "evaluations.npz", timesteps=[20, 40], results=[[50.0] * 2, [60.0] * 2], ep_lengths=[[1] * 2] * 2
    )
    again = DriftEvalCallback(changing(), eval_freq=20, log_path=str(tmp_path), **QUICK)
    again.continue_from(100)
    assert again.best_mean_reward == 60
    dqn(changing()).learn(20, callback=again)
    assert again.best_mean_reward == 10


def damage(kind, path):
    good = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "flipped":
        path.write_bytes(bytes(byte ^ 255 if 100 < number < 200 else byte for number, byte in enumerate(good)))
    elif kind == "text":
        path.write_text("timesteps")
    elif kind == "other arrays":
        np.savez(path, steps=[1])
    elif kind == "objects":
        np.savez(path, timesteps=np.array([{}, {}]), results=[[1.0] * 2], ep_lengths=[[1] * 2])
    elif kind == "other lengths":
        np.savez(path, timesteps=[20, 40], results=[[1.0] * 2], ep_lengths=[[1] * 2] * 2)
    elif kind == "other episodes":
        np.savez(path, timesteps=[20], results=[[1.0] * 5], ep_lengths=[[1] * 5])
    elif kind == "other shapes":
        np.savez(path, timesteps=[20], results=[1.0], ep_lengths=[[1] * 2])
    elif kind == "words":
        np.savez(path, timesteps=[20], results=[["a"] * 2], ep_lengths=[[1] * 2])
    elif kind == "other successes":
        np.savez(path, timesteps=[20], results=[[1.0] * 2], ep_lengths=[[1] * 2], successes=[[True] * 2] * 2)


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "truncated",
        "flipped",
        "text",
        "other arrays",
        "objects",
        "other lengths",
        "other episodes",
        "other shapes",
        "words",
        "other successes",
    ],
)
def test_evaluations_that_cannot_be_continued_are_kept_aside_with_a_warning(kind, tmp_path):
    path = tmp_path / "evaluations.npz"
    np.savez(path, timesteps=[20, 40], results=[[1.0] * 2] * 2, ep_lengths=[[1] * 2] * 2)
    damage(kind, path)
    damaged = path.read_bytes()
    callback = DriftEvalCallback(changing(), eval_freq=20, log_path=str(tmp_path), **QUICK)
    with pytest.warns(UserWarning, match="evaluations start from scratch, those in .* are now in"):
        callback.continue_from(100)
    assert (tmp_path / "evaluations.old.npz").read_bytes() == damaged
    assert callback.best_mean_reward == -np.inf
    dqn(changing()).learn(20, callback=callback)
    with np.load(path) as saved:
        assert saved["timesteps"].tolist() == [20]
    path.write_text("again")
    with pytest.warns(UserWarning, match=r"are now in .*evaluations.old1.npz"):
        callback.continue_from(100)
    assert (tmp_path / "evaluations.old.npz").read_bytes() == damaged


def test_an_environment_that_has_no_clock_beside_one_that_has_is_warned_of():
    for env, eval_env, which in [(changing(), Constant(), "training"), (Constant(), changing(), "evaluation")]:
        with pytest.warns(UserWarning, match=f"the {which} environment has a drift clock and"):
            evaluate(env, eval_env, steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(Constant(), Constant(), steps=20)


def test_clocks_of_other_environments_are_refused():
    deeper = lambda: DriftingRewards(changing(), [1.0, 2.0], PERIOD)  # noqa: E731
    for env, eval_env in [(changing(), deeper()), (deeper(), changing()), (Season(), changing())]:
        with pytest.raises(ValueError, match="wrap the two environments in the same wrappers"):
            evaluate(env, eval_env, steps=20)


@pytest.mark.parametrize("clock", [{}, {"phase": "winter"}, 3])
def test_a_clock_without_a_phase_is_refused(clock):
    class Odd(Season):
        def get_drift_clock(self):
            return clock

    with pytest.raises(ValueError, match="must return a dictionary with a number `phase`, got"):
        evaluate(Odd(), Odd(), steps=20)
