"""The wrappers that make a task drift."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile.envs import (
    DriftingActions,
    DriftingPhysics,
    DriftingRewards,
    DriftWrapper,
    PermutedActions,
)


class Echo(gym.Env):
    """Reports the action it received."""

    observation_space = spaces.Discrete(10)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return int(action), 0.0, False, False, {"kept": True}


def test_actions_rotate_every_period_over_all_episodes():
    env = PermutedActions(Echo(spaces.Discrete(3, start=2)), period=4)
    seen = []
    for step in range(12):
        if step % 3 == 0:
            env.reset()
        obs, _, _, _, info = env.step(np.int64(2))
        seen.append((obs, info["phase"]))
        assert info["kept"]
    assert seen == [(2, 0)] * 4 + [(3, 1)] * 4 + [(4, 2)] * 4
    assert env.step(3)[0] == 3  # phase 3 is phase 0 again


def test_two_actions_swap_on_cartpole():
    swapped, plain = PermutedActions(gym.make("CartPole-v1"), period=1), gym.make("CartPole-v1")
    swapped.reset(seed=0)
    plain.reset(seed=0)
    swapped.step(0)
    plain.step(0)
    assert np.array_equal(swapped.step(0)[0], plain.step(1)[0])


def test_permuted_actions_passes_check_env():
    check_env(PermutedActions(gym.make("CartPole-v1"), period=10))


@pytest.mark.parametrize("period", [0, -1, 2.5, "10"])
def test_bad_periods_are_refused(period):
    with pytest.raises(ValueError, match="period must be a whole number >= 1"):
        PermutedActions(gym.make("CartPole-v1"), period=period)


def test_permutations_define_what_actions_do_in_each_phase():
    env = PermutedActions(Echo(spaces.Discrete(3, start=2)), period=4, permutations=[[2, 3, 4], [4, 3, 2], [3, 4, 2]])
    done = [[env.step(np.int64(action))[0] for action in (2, 3, 4, 2)] for _ in range(3)]
    assert done == [[2, 3, 4, 2], [4, 3, 2, 4], [3, 4, 2, 3]]
    staying = PermutedActions(Echo(spaces.Discrete(2)), period=1, permutations=[[0, 1], [1, 0]], recurring=False)
    assert [staying.step(0)[0] for _ in range(4)] == [0, 1, 1, 1]


def test_a_gradual_permutation_takes_over_little_by_little():
    env = PermutedActions(Echo(spaces.Discrete(2)), period=1000, kind="gradual")
    env.reset(seed=0)
    done = np.array([env.step(0)[0] for _ in range(2000)])
    shares = done.reshape(8, 250).mean(axis=1)  # expected: 1/8, 3/8, 5/8, 7/8 and back
    assert shares == pytest.approx([0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125], abs=0.1)
    # Drawn for each action: not the same one all along
    assert 0 < done[:250].sum() < 250


@pytest.mark.parametrize("permutations", [[], [[0, 1], [0, 0]], [[0, 1], [1, 2]], [[0, 1], [1]], [0, 1], "01"])
def test_what_is_no_permutation_is_refused(permutations):
    with pytest.raises(ValueError, match="permutations must have for each phase a list of the actions 0 to 1"):
        PermutedActions(gym.make("CartPole-v1"), period=10, permutations=permutations)


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="needs a Discrete action space, got Box"):
        PermutedActions(gym.make("Pendulum-v1"), period=10)


class Weight(gym.Env):
    """An environment with a number that can drift; every reward is 2."""

    observation_space = spaces.Box(-10, 10, (1,))
    action_space = spaces.Discrete(2)
    is_heavy = True

    def __init__(self):
        self.mass = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action):
        return np.array([self.mass], dtype=np.float32), 2.0, False, False, {"action": int(action)}


DRIFTS = [
    pytest.param(lambda env, **how: PermutedActions(env, **how), id="PermutedActions"),
    pytest.param(lambda env, **how: DriftingRewards(env, [1.0, -1.0], **how), id="DriftingRewards"),
    pytest.param(lambda env, **how: DriftingPhysics(env, {"mass": [1.0, 3.0]}, **how), id="DriftingPhysics"),
]


@pytest.mark.parametrize("drift", DRIFTS)
def test_info_contains_the_phase_of_each_step_over_all_episodes(drift):
    env = drift(Weight(), period=4)
    phases = []
    for step in range(12):
        if step % 3 == 0:
            assert env.reset()[1]["phase"] == step // 4  # that of the next step
        phases.append(env.step(0)[4]["phase"])
    assert phases == [0] * 4 + [1] * 4 + [2] * 4
    staying = drift(Weight(), period=4, recurring=False)
    assert [staying.step(0)[4]["phase"] for _ in range(12)] == [0] * 4 + [1] * 8


@pytest.mark.parametrize("drift", DRIFTS)
def test_phases_of_irregular_lengths_follow_each_other_and_start_again(drift):
    env = drift(Weight(), period=[3, 1, 2])
    env.reset()
    assert [env.step(0)[4]["phase"] for _ in range(14)] == [0] * 3 + [1] + [2] * 2 + [3] * 3 + [4] + [5] * 2 + [6] * 2
    staying = drift(Weight(), period=[3, 1, 2], recurring=False)
    assert [staying.step(0)[4]["phase"] for _ in range(12)] == [0] * 3 + [1] * 9


def test_equal_lengths_in_a_list_are_one_number():
    one, listed = (DriftingPhysics(Weight(), {"mass": [1.0, 7.0]}, period, "gradual") for period in (7, [7, 7, 7]))
    for _ in range(50):
        assert one.step(0)[0] == listed.step(0)[0]
        assert (one.phase, one.progress) == (listed.phase, listed.progress)


def test_gradual_drift_takes_as_long_as_its_phase():
    env = DriftingPhysics(Weight(), {"mass": [0.0, 8.0]}, period=[8, 2], kind="gradual")
    seen = [env.step(0)[0] for _ in range(12)]
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 0, 1]


def test_three_regimes_take_turns_with_any_number_of_lengths():
    env = PermutedActions(Echo(spaces.Discrete(3)), [2, 1], [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
    assert [env.step(0)[0] for _ in range(10)] == [0, 0, 2, 1, 1, 0, 2, 2, 1, 0]


def test_phases_of_drifts_within_drifts_add_up():
    env = DriftingRewards(gym.wrappers.TimeLimit(DriftingPhysics(Weight(), {"mass": [1, 3]}, 3), 100), [1, -1], 2)
    assert env.reset()[1]["phase"] == 0
    assert [env.step(0)[4]["phase"] for _ in range(7)] == [0, 0, 1, 2, 3, 3, 5]


def test_a_phase_of_the_environment_itself_is_not_added_to():
    class Traffic(Weight):
        def step(self, action):
            return *super().step(action)[:4], {"phase": "green"}

    assert DriftingRewards(Traffic(), [1, -1], 2).step(0)[4]["phase"] == 0


@pytest.mark.parametrize(
    ("kind", "recurring", "masses"),
    [
        ("abrupt", True, [1] * 4 + [3] * 4 + [0] * 4 + [1] * 4),
        ("abrupt", False, [1] * 4 + [3] * 4 + [0] * 8),
        ("gradual", True, [1, 1.5, 2, 2.5, 3, 2.25, 1.5, 0.75, 0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5]),
        ("gradual", False, [1, 1.5, 2, 2.5, 3, 2.25, 1.5, 0.75, 0, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_values_are_abrupt_or_gradual_and_recur_or_stay(kind, recurring, masses):
    env = DriftingPhysics(Weight(), {"mass": [1, 3, 0]}, period=4, kind=kind, recurring=recurring)
    assert [float(env.step(0)[0][0]) for _ in range(16)] == masses
    env = DriftingRewards(Weight(), [1, 3, 0], period=4, kind=kind, recurring=recurring)
    assert [env.step(0)[1] for _ in range(16)] == [2 * mass for mass in masses]


class Motor(gym.Env):
    """Reports the torques it received."""

    observation_space = spaces.Box(-3, 3, (2,))
    action_space = spaces.Box(np.array([-2, -1], np.float32), np.array([2, 3], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return action.copy(), 0.0, False, False, {}


def test_continuous_actions_have_a_factor_and_stay_within_their_bounds():
    env = DriftingActions(Motor(), factors=[1, -1, 1.5], period=2)
    action = np.array([1.5, 1], np.float32)
    torques = [env.step(action)[0].tolist() for _ in range(7)]
    assert torques == [[1.5, 1]] * 2 + [[-1.5, -1]] * 2 + [[2, 1.5]] * 2 + [[1.5, 1]]
    assert action.tolist() == [1.5, 1]
    gradual = DriftingActions(Motor(), factors=[1, -1], period=4, kind="gradual", recurring=False)
    assert [float(gradual.step(action)[0][1]) for _ in range(6)] == [1, 0.5, 0, -0.5, -1, -1]


@pytest.mark.parametrize("inside", ["CartPole-v1", "Pendulum-v1"])
def test_a_factor_is_for_continuous_actions_only(inside):
    env = gym.make(inside)
    if inside == "CartPole-v1":
        with pytest.raises(ValueError, match=r"DriftingActions needs Box actions, got Discrete\(2\): use PermutedAct"):
            DriftingActions(env, [1, -1], 10)
    else:
        check_env(DriftingActions(env, [1, -1], 10))
        with pytest.raises(ValueError, match="factors"):
            DriftingActions(env, [], 10)


def test_rewards_have_a_factor_and_an_offset():
    env = DriftingRewards(Weight(), factors=[1, -1], offsets=[0, 5], period=2)
    assert [env.step(0)[1] for _ in range(5)] == [2, 2, 3, 3, 2]


def test_the_first_reset_finds_the_physics_of_the_first_phase():
    env = DriftingPhysics(Weight(), {"mass": [7, 3]}, period=2)
    assert env.unwrapped.mass == 7
    env.steps_taken = 2
    env.reset()
    assert env.unwrapped.mass == 3


def test_seeds_do_not_set_the_clock_back_but_users_can():
    env = DriftingPhysics(gym.make("CartPole-v1"), {"length": [0.5, 2.0]}, period=2)
    monitored = DummyVecEnv([lambda: gym.wrappers.RecordEpisodeStatistics(env)])
    for _ in range(3):
        env.reset(seed=0)
        env.step(0)
    assert env.reset(seed=0)[1]["phase"] == 1
    monitored.env_method("set_wrapper_attr", "steps_taken", 10)
    assert env.reset()[1]["phase"] == 5


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_new_environment_with_the_same_seed_repeats_everything(drift):
    def rollout(seed):
        env = drift(Weight(), period=5, kind="gradual")
        history = [env.reset(seed=seed)]
        for step in range(40):
            history.append(env.step(step % 2))
            if step % 7 == 6:
                history.append(env.reset())
        return str(history)

    assert rollout(1) == rollout(1)
    assert rollout(1) != rollout(2)


def cartpole_after(env, action):
    env.reset(seed=0)
    env.unwrapped.state = np.array([0.1, 0.2, 0.05, -0.3])
    return env.step(action)[0].tolist()


def test_cartpole_obeys_its_new_physics_at_once():
    """Values that CartPole derives from its pole in the constructor are recomputed."""
    env = DriftingPhysics(gym.make("CartPole-v1"), {"length": [0.5, 2.0], "masspole": [0.1, 0.4]}, period=2)
    first, again, changed = (cartpole_after(env, 1) for _ in range(3))
    assert first == again == cartpole_after(gym.make("CartPole-v1"), 1)
    long_pole = gym.make("CartPole-v1")
    long_pole.unwrapped.length, long_pole.unwrapped.masspole = 2.0, 0.4
    long_pole.unwrapped.polemass_length, long_pole.unwrapped.total_mass = 0.8, 1.4
    assert changed == cartpole_after(long_pole, 1) != first


def test_after_change_is_called_when_values_have_changed():
    calls = []
    env = DriftingPhysics(Weight(), {"mass": [1, 3]}, 2, after_change=lambda inside: calls.append(inside.mass))
    for _ in range(5):
        env.step(0)
    assert calls == [1, 3, 1]


def test_a_drift_of_ones_own_overrides_one_method():
    class FewerRewards(DriftWrapper):
        def drift_reward(self, reward):
            return float(reward) / (1 + self.phase)

    env = FewerRewards(Weight(), period=1)
    assert [env.step(0)[1] for _ in range(3)] == [2, 1, 2 / 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda env: DriftingPhysics(env, {"lenght": [1, 2]}, 5),  # codespell:ignore
            r"no number 'lenght'; it has force_mag, gravity, length",  # codespell:ignore
        ),
        (lambda env: DriftingPhysics(env, {"isopen": [0, 1]}, 5), r"no number 'isopen'"),
        (lambda env: DriftingPhysics(env, {"total_mass": [1, 2]}, 5), r"computes 'total_mass' from others"),
        (lambda env: DriftingPhysics(env, {}, 5), r"as many values for each, one for each phase, got \{\}"),
        (lambda env: DriftingPhysics(env, {"length": [1, 2], "gravity": [9]}, 5), r"as many values for each"),
        (lambda env: DriftingPhysics(env, {"length": 1.0}, 5), r"length must be a list of numbers.*got 1.0"),
        (lambda env: DriftingPhysics(env, {"length": []}, 5), r"length must be a list of numbers.*got \[\]"),
        (lambda env: DriftingPhysics(env, {"length": [1, np.nan]}, 5), r"length must be a list of numbers"),
        (
            lambda env: DriftingPhysics(env, {"length": [1, 2]}, 0),
            r"period must be a whole number >= 1 \(steps\), or a list of them, got 0",
        ),
        (lambda env: PermutedActions(env, [5, 0]), r"or a list of them, got \[5, 0\]"),
        (lambda env: PermutedActions(env, []), r"or a list of them, got \[\]"),
        (lambda env: PermutedActions(env, "7"), r"or a list of them, got '7'"),
        (lambda env: DriftingRewards(env, "12", 5), r"factors must be a list of numbers, one for each phase, got '12'"),
        (lambda env: DriftingRewards(env, 2.0, 5), r"factors must be a list of numbers"),
        (lambda env: DriftingRewards(env, [1, 2], 5, offsets=[1]), r"as many values for each"),
        (
            lambda env: DriftingRewards(env, [1, 2], 5, kind="sudden"),
            r"kind must be 'abrupt' or 'gradual', got 'sudden'",
        ),
    ],
)
def test_arguments_that_make_no_drift_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(gym.make("CartPole-v1"))


@pytest.mark.filterwarnings("ignore:.*WARN")
@pytest.mark.parametrize("kind", ["abrupt", "gradual"])
@pytest.mark.parametrize("drift", DRIFTS)
def test_the_wrappers_pass_both_check_envs(drift, kind):
    env = drift(Weight(), period=10_000_000, kind=kind)
    check_env(env)
    # Gymnasium takes it for chance when a step gives another reward the second time, as under a gradual drift of them
    if not (kind == "gradual" and isinstance(env, DriftingRewards)):
        gymnasium_check_env(env, skip_render_check=True)


def test_a_drifting_environment_can_be_made_again_from_its_spec():
    env = DriftingPhysics(gym.make("CartPole-v1"), {"length": [0.5, 2.0]}, period=7, kind="gradual", recurring=False)
    again = gym.make(env.spec)
    assert isinstance(again, DriftingPhysics)
    assert (again.parameters, again.period, again.kind, again.recurring) == (
        {"length": [0.5, 2.0]},
        7,
        "gradual",
        False,
    )


@pytest.mark.parametrize("make", DRIFTS)
def test_a_clock_that_is_held_stays_in_the_phase_of_the_last_step_and_then_goes_on(make):
    env, other = (make(Weight(), period=4) for _ in range(2))
    env.reset(seed=0)
    assert env.get_drift_clock()["phase"] == 0
    for _ in range(4):
        env.step(0)
    assert env.phase == 1
    clock = env.get_drift_clock()
    assert clock["phase"] == 0
    other.set_drift_clock(clock, held=True)
    other.reset(seed=0)
    assert [other.step(0)[4]["phase"] for _ in range(9)] == [0] * 9
    other.set_drift_clock(clock, held=False)
    ours, theirs = env.step(1), other.step(1)
    assert ours[4]["phase"] == theirs[4]["phase"] == 1
    assert ours[1:] == theirs[1:]
