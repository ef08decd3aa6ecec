"""The adapter for ns_gym."""

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env

from sb3_reptile.envs import NsGymTask
from tests.envs.tasks import make

# ns_gym


def changing_cartpole(**kwargs):
    pytest.importorskip("ns_gym", reason="needs the extra drift")
    from ns_gym.schedulers import PeriodicScheduler
    from ns_gym.update_functions import CyclicUpdate
    from ns_gym.wrappers import NSClassicControlWrapper

    length = CyclicUpdate(PeriodicScheduler(period=5, start=5), [1.5, 0.5])
    return NSClassicControlWrapper(gym.make("CartPole-v1"), {"length": length}, **kwargs)


@pytest.mark.parametrize("kwargs", [{}, dict(scalar_reward=False, change_notification=True)])
def test_ns_gym_goes_on_changing_from_episode_to_episode(kwargs):
    env = NsGymTask(changing_cartpole(**kwargs))
    lengths, phases = [], []
    for step in range(15):
        if step % 4 == 0:
            obs, info = env.reset(seed=0)
            assert obs in env.observation_space
        obs, reward, _, _, info = env.step(step % 2)
        assert obs in gym.make("CartPole-v1").observation_space
        assert reward == 1.0
        assert isinstance(reward, float)
        lengths.append(env.unwrapped.length)
        phases.append(info["phase"])
    assert lengths == [0.5] * 5 + [1.5] * 5 + [0.5] * 5
    assert phases == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.filterwarnings("ignore:.*WARN")
def test_ns_gyms_frozen_lake_passes_both_check_envs():
    pytest.importorskip("ns_gym", reason="needs the extra drift")
    from ns_gym.schedulers import PeriodicScheduler
    from ns_gym.update_functions import UniformDrift
    from ns_gym.wrappers import NSFrozenLakeWrapper

    lake = gym.make("FrozenLake-v1", is_slippery=False)
    env = NsGymTask(NSFrozenLakeWrapper(lake, {"P": UniformDrift(PeriodicScheduler(period=100, start=1), rate=0.1)}))
    check_env(env)
    # ns_gym's wrappers do not record their arguments, so that Gymnasium cannot make another one to close
    gymnasium_check_env(env, skip_render_check=True, skip_close_check=True)


def test_the_pole_of_the_walk_wanders_within_its_bounds_and_by_its_seed():
    def lengths(seed):
        env = make("DriftingCartPoleWalk-v0", period=1)
        env.reset(seed=seed)
        seen = []
        for _ in range(300):
            _, _, terminated, truncated, _ = env.step(0)
            seen.append(env.unwrapped.length)
            if terminated or truncated:
                env.reset()
        return seen

    assert lengths(0) == lengths(0) != lengths(1)
    assert min(lengths(0)) >= 0.25
    assert max(lengths(0)) <= 2.0
    assert len(set(lengths(0))) > 200


def test_what_is_not_of_ns_gym_is_refused():
    with pytest.raises(ValueError, match=r"NsGymTask needs an environment in one of ns_gym.wrappers, got <"):
        NsGymTask(gym.make("CartPole-v1"))


def test_a_clock_that_is_held_takes_the_parameters_over_and_keeps_them():
    env, other = NsGymTask(changing_cartpole()), NsGymTask(changing_cartpole())
    env.reset(seed=0)
    for step in range(6):
        env.step(step % 2)
    clock = env.get_drift_clock()
    assert clock["phase"] == 1
    other.set_drift_clock(clock, held=True)
    other.reset(seed=0)
    for step in range(8):
        assert other.step(step % 2)[4]["phase"] == 1
        assert other.unwrapped.length == 1.5
    assert other.unwrapped.polemass_length == 1.5 * other.unwrapped.masspole
    # An environment that is both trained in and evaluated in continues
    for held in (True, False):
        env.set_drift_clock(clock, held=held)
        env.reset(seed=0)
        lengths = []
        for step in range(6):
            env.step(step % 2)
            lengths.append(env.unwrapped.length)
        assert lengths == [1.5] * 6 if held else [1.5] * 4 + [0.5] * 2
