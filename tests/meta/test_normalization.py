"""VecNormalize in meta-training: its statistics belong to what is learned."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import ObservationWrapper, spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_reptile import ReptileDQN
from sb3_reptile.meta import MetaCheckpoint, Navigation, ReptileMetaLearner, adaptation_curve, resume
from sb3_reptile.meta.learned_parameters import learned_parameters, meta_update
from tests.meta.learners import DQN_ARGUMENTS, assert_equal, dqn_learner, goal, left, right, sine_learner, up


def statistics(parameters):
    return {name: value for name, value in parameters.items() if name.startswith("vec_normalize.")}


@pytest.mark.parametrize("n_envs", [1, 4])
def test_one_run_on_one_task_is_the_algorithm_in_vec_normalize(n_envs):
    options = dict(clip_obs=1.5)
    learner = dqn_learner([goal], meta_batch_size=1, n_envs=n_envs, inner_timesteps=24 * n_envs, normalize=options)
    learner.learn(1)
    env = VecNormalize(DummyVecEnv([goal] * n_envs), **options)
    model = ReptileDQN("MlpPolicy", env, seed=3, device="cpu", **DQN_ARGUMENTS)
    model.learn(24 * n_envs)
    assert_equal(learner.parameters, learned_parameters(model))
    ours = learner.get_vec_normalize_env()
    assert np.array_equal(ours.obs_rms.mean, env.obs_rms.mean)
    assert ours.obs_rms.count == env.obs_rms.count
    assert ours.ret_rms.var == env.ret_rms.var


def test_the_next_run_starts_from_the_statistics_and_they_are_averaged():
    learner = dqn_learner([left, right], normalize=True, meta_step_size=0.5)
    learner.learn(1)
    start = learner.parameters
    outcomes = []
    for run in learner._inner_runs():
        model = learner.make_model((left, right)[run.task.number](), seed=run.seed)
        assert_equal(learned_parameters(model), start)
        model.learn(32, log_interval=None)
        outcomes.append(learned_parameters(model))
    learner.learn(1)
    expected, _ = meta_update(start, outcomes, 0.5)
    assert_equal(statistics(learner.parameters), statistics(expected))
    # 33 observations of each run, half of which count
    assert learner.parameters["vec_normalize.obs_rms.count"].item() == pytest.approx(1e-4 + 33 / 2 + 33 / 2)


def test_the_distance_is_without_statistics():
    start = {"a": th.zeros(1), "vec_normalize.obs_rms.count": th.tensor(1e-4, dtype=th.float64)}
    adapted = {"a": th.ones(1), "vec_normalize.obs_rms.count": th.tensor(1000.0, dtype=th.float64)}
    assert meta_update(start, [adapted], 1.0)[1] == 1.0


def test_two_processes_give_the_result_of_one_with_normalization():
    results = []
    for n_processes in (1, 2):
        learner = dqn_learner([left, right, up], n_processes=n_processes, normalize=True, replay_buffer="task")
        results.append(learner.learn(2).parameters)
    assert_equal(results[1], results[0])


class Named(ObservationWrapper):
    def __init__(self):
        super().__init__(goal())
        self.observation_space = spaces.Dict(place=self.env.observation_space, x=spaces.Box(-1, 1, (1,)))

    def observation(self, observation):
        return {"place": observation, "x": observation[:1]}


def test_dict_observations_have_statistics_by_key():
    learner = dqn_learner(
        [Named, Named], policy="MultiInputPolicy", normalize=dict(norm_obs_keys=["place"], norm_reward=False)
    )
    learner.learn(1)
    found = statistics(learner.parameters)
    assert list(found) == [f"vec_normalize.obs_rms.place.{part}" for part in ("mean", "var", "count")]
    assert found["vec_normalize.obs_rms.place.mean"].shape == (2,)
    assert (
        learner.get_vec_normalize_env().obs_rms["place"].mean.tolist()
        == found["vec_normalize.obs_rms.place.mean"].tolist()
    )


def test_rewards_are_normalized_with_the_discount_of_the_algorithm():
    assert dqn_learner(normalize=True, algorithm_kwargs=dict(gamma=0.5)).get_vec_normalize_env().gamma == 0.5
    own = dqn_learner(normalize=dict(gamma=0.7), algorithm_kwargs=dict(gamma=0.5))
    assert own.get_vec_normalize_env().gamma == 0.7


def test_statistics_are_saved_and_resumed(tmp_path):
    learner = dqn_learner(normalize=dict(norm_reward=False), optimizer_state="carried")
    learner.learn(2, callback=MetaCheckpoint(1, tmp_path / "checkpoints"))
    learner.save(tmp_path / "meta.zip")
    assert statistics(learner.parameters)
    for again in (
        ReptileMetaLearner.load(tmp_path / "meta.zip", Navigation(), device="cpu"),
        resume(tmp_path / "checkpoints", Navigation(), device="cpu"),
    ):
        assert_equal(again.parameters, learner.parameters)
        assert again.normalize == dict(norm_reward=False)
        assert again.optimizers.keys() == learner.optimizers.keys()
    for other in (False, True):
        with pytest.raises(ValueError, match=r"the parameters differ|has no vec_normalize\.ret_rms"):
            ReptileMetaLearner.load(tmp_path / "meta.zip", Navigation(), normalize=other)


def test_reptile_dqn_starts_with_the_saved_statistics(tmp_path):
    learner = dqn_learner(normalize=True)
    learner.learn(1)
    learner.save(tmp_path / "meta.zip")
    learner.get_vec_normalize_env().save(tmp_path / "vec_normalize.pkl")
    env = VecNormalize.load(tmp_path / "vec_normalize.pkl", DummyVecEnv([goal]))
    model = ReptileDQN("MlpPolicy", env, pretrained=tmp_path / "meta.zip", device="cpu", **DQN_ARGUMENTS)
    assert_equal(learned_parameters(model), learner.parameters)


def test_a_model_that_adapts_does_not_change_the_statistics_of_the_learner():
    learner = dqn_learner(normalize=True)
    learner.learn(1)
    before = {name: value.clone() for name, value in learner.parameters.items()}
    for env in (goal(), VecNormalize(DummyVecEnv([goal]))):
        model = learner.make_model(env)
        if isinstance(env, VecNormalize):
            assert model.get_env() is env
        assert_equal(learned_parameters(model), before)
        model.learn(30, log_interval=None)
        assert model.get_vec_normalize_env().obs_rms.count == pytest.approx(2 * 33, abs=1e-3)
    assert_equal(learned_parameters(learner.model), before)
    with pytest.raises(ValueError, match=r"vec_normalize\.obs_rms\.mean is missing in the meta-learner"):
        dqn_learner().make_model(VecNormalize(DummyVecEnv([goal])))


def test_sb3s_callbacks_have_the_statistics(tmp_path):
    learner = dqn_learner(normalize=True)
    learner.set_logger(Logger(None, []))
    eval_env = VecNormalize(DummyVecEnv([lambda: Monitor(goal())]), training=False)
    learner.learn(
        1,
        callback=[
            EvalCallback(eval_env, eval_freq=1, n_eval_episodes=1, verbose=0),
            CheckpointCallback(1, str(tmp_path), save_vecnormalize=True),
        ],
    )
    assert eval_env.obs_rms.count == learner.parameters["vec_normalize.obs_rms.count"].item()
    assert (tmp_path / "rl_model_vecnormalize_64_steps.pkl").is_file()
    assert dqn_learner().get_vec_normalize_env() is None


def test_what_cannot_be_normalized():
    with pytest.raises(ValueError, match="normalize needs an off-policy algorithm"):
        sine_learner(normalize=True)
    with pytest.raises(TypeError, match="normalize must be True, False or a dict of arguments of VecNormalize, got 3"):
        dqn_learner(normalize=3)
    for task in (lambda: VecNormalize(DummyVecEnv([goal])), VecNormalize(DummyVecEnv([goal]))):
        with pytest.raises(TypeError, match="normalize=True puts it in VecNormalize"):
            dqn_learner([task], meta_batch_size=1)


def far_away():
    """A task whose observations are of no use without statistics."""
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    return TransformObservation(goal(), lambda obs: (100 * obs + 500).astype(np.float32), space)


def normalized_model(learner):
    return learner.make_model(far_away(), seed=0)


def evaluated(model):
    """Mean return with the statistics of a model."""
    env = VecNormalize(DummyVecEnv([far_away]), training=False, norm_reward=False)
    env.obs_rms = model.get_vec_normalize_env().obs_rms
    env.envs[0].reset(seed=7)
    return evaluate_policy(model, env, 3, warn=False)[0]


def test_models_are_evaluated_with_their_statistics_as_they_change():
    learner = dqn_learner([far_away], meta_batch_size=1, normalize=True)  # its statistics are those of nothing
    model = normalized_model(learner)
    curve = adaptation_curve(model, far_away(), (0, 3), n_eval_episodes=3, seed=7)
    untrained, trained = normalized_model(learner), normalized_model(learner)
    untrained.env.reset()  # as training begins
    adaptation_curve(trained, far_away(), (3,), n_eval_episodes=1)
    assert curve == [evaluated(one) for one in (untrained, trained)]
    # More evaluations change neither the parameters nor the statistics
    assert_equal(learned_parameters(model), learned_parameters(trained))


class Picture(gym.Env):
    """An image, one pixel of which varies."""

    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.image = np.zeros((36, 36, 3), np.uint8)
        return self.image, {}

    def step(self, action):
        self.image = self.image.copy()
        self.image[0, 0, 0] = self.np_random.integers(256)
        return self.image, 1.0, self.np_random.random() < 0.5, False, {}


def test_models_of_images_are_evaluated_with_their_statistics():
    arguments = dict(policy_kwargs=dict(normalize_images=False))
    learner = dqn_learner([Picture], policy="CnnPolicy", meta_batch_size=1, normalize=True, algorithm_kwargs=arguments)
    (mean,) = adaptation_curve(learner.make_model(Picture()), Picture(), (0,), n_eval_episodes=3)
    assert mean >= 1.0
