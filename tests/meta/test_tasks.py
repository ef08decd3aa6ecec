"""The families of tasks, and which tasks are accepted."""

import itertools
import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile.meta import CartPoleControls, CartPolePhysics, MiniGridGoals, Navigation, SineWaves
from sb3_reptile.meta.navigation import HiddenGoal
from sb3_reptile.meta.task_sampling import TaskSampler
from sb3_reptile.meta.tasks import FAMILIES, PermutedForces
from tests.meta.learners import goal, left, right

EVERY = [*(family() for family in FAMILIES.values()), CartPoleControls(n_forces=4), SineWaves()]


def draw(family, seed):
    return family(np.random.default_rng(seed))


@pytest.mark.parametrize("family", EVERY, ids=lambda family: type(family).__name__)
def test_families_make_environments_that_the_seed_determines(family):
    check_env(draw(family, 0).unwrapped, skip_render_check=True)
    first, again, other = draw(family, 0), draw(family, 0), draw(family, 1)
    trajectories = []
    for env in (first, again, other):
        env.reset(seed=0)
        env.action_space.seed(0)
        trajectories.append([env.step(env.action_space.sample())[:2] for _ in range(3 if env.spec else 1)])
        env.close()
    assert str(trajectories[0]) == str(trajectories[1])
    assert first.observation_space == other.observation_space
    assert first.action_space == other.action_space


def test_inverted_cartpole_is_cartpole_with_its_actions_swapped():
    tasks = [draw(CartPoleControls(max_force=(10.0, 10.0)), seed) for seed in range(20)]
    by_forces = {tuple(env.unwrapped.forces): env for env in tasks}
    assert set(by_forces) == {(-10.0, 10.0), (10.0, -10.0)}
    theirs = CartPoleEnv()
    for forces, env in by_forces.items():
        env.reset(seed=4)
        theirs.reset(seed=4)
        for action in (0, 1, 1, 0, 1):
            ours = env.step(action)[0]
            expected = theirs.step(action if forces == (-10.0, 10.0) else 1 - action)[0]
            assert np.array_equal(ours, expected)


def test_forces_are_numbered_from_the_left_to_the_right():
    assert PermutedForces((0, 1)).forces.tolist() == [-10.0, 10.0]
    assert PermutedForces((2, 0, 1), max_force=4.0).forces.tolist() == [4.0, -4.0, 0.0]


def test_permuted_forces_are_applied():
    env = draw(CartPoleControls(n_forces=4, max_force=(9.0, 9.0)), 0).unwrapped
    assert sorted(env.forces) == pytest.approx([-9.0, -3.0, 3.0, 9.0])
    speeds = []
    for action in range(4):
        env.reset(seed=0)
        env.steps_beyond_terminated = None
        speeds.append(env.step(action)[0][1])
    assert np.argsort(speeds).tolist() == np.argsort(env.forces).tolist()


def test_the_strongest_force_is_drawn_from_its_range():
    strongest = [draw(CartPoleControls(max_force=(4.0, 8.0)), seed).unwrapped.forces.max() for seed in range(50)]
    assert 4.0 <= min(strongest) < 4.5 < 7.5 < max(strongest) <= 8.0


def test_held_out_permutations_are_never_drawn_in_training():
    drawn, held_out = CartPoleControls(n_forces=4).permutations, CartPoleControls(4, held_out=True).permutations
    assert len(held_out) == 6
    assert sorted([*drawn, *held_out]) == sorted(itertools.permutations(range(4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_forces=7), "n_forces must be 2 to 6, got 7"),
        (dict(held_out=True), "none can be held out"),
        (dict(max_force=(0.0, 1.0)), "max_force must be a range of positive forces"),
    ],
)
def test_controls_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        CartPoleControls(**options)


def test_physics_of_cartpole_vary_consistently():
    family = CartPolePhysics(lengths=(0.5, 2.0), masses=(0.05, 0.5))
    envs = [draw(family, seed).unwrapped for seed in range(50)]
    assert 0.5 <= min(env.length for env in envs) < 0.7 < 1.7 < max(env.length for env in envs) <= 2.0
    for env in envs:
        assert env.polemass_length == env.masspole * env.length
        assert env.total_mass == env.masspole + env.masscart


def test_goals_are_on_a_circle_and_are_not_observed():
    family = Navigation(radius=0.6)
    goals = np.array([draw(family, seed).goal for seed in range(50)])
    assert np.hypot(*goals.T) == pytest.approx(np.full(50, 0.6))
    assert np.abs(goals.mean(0)).max() < 0.25
    first, other = (draw(family, seed).reset(seed=1)[0] for seed in (1, 2))
    assert np.array_equal(first, other)


def test_navigation_rewards_the_way_to_the_goal_and_ends_there():
    env = HiddenGoal((0.8, 0.0))
    env.reset(seed=0)
    rewards, terminated, truncated = [], False, False
    while not (terminated or truncated):
        _, reward, terminated, truncated, _ = env.step(0)
        rewards.append(reward)
    assert terminated
    assert not truncated
    assert len(rewards) < 12
    assert rewards == sorted(rewards)
    assert rewards[-1] >= -0.15
    env.reset(seed=0)
    ends = [env.step(1)[2:4] for _ in range(40)]
    assert ends[-1] == (False, True)
    assert set(ends[:-1]) == {(False, False)}


def test_navigation_stays_in_the_square_and_is_not_exact():
    env = HiddenGoal((-0.8, 0.0))
    positions = [env.reset(seed=0)[0], *(env.step(0)[0] for _ in range(15))]
    steps = np.diff(positions, axis=0)
    assert max(position[0] for position in positions) == 1
    assert not np.allclose(steps[:5], (0.1, 0.0), atol=1e-3)
    assert np.allclose(steps[:5], (0.1, 0.0), atol=0.1)


def test_an_episode_that_ends_at_the_goal_in_its_last_step_is_not_truncated():
    env = HiddenGoal((0.8, 0.0))
    env.reset(seed=0)
    n_steps = 1
    while not any(env.step(0)[2:4]):
        n_steps += 1
    short = HiddenGoal((0.8, 0.0), max_steps=n_steps)
    short.reset(seed=0)
    assert [short.step(0)[2:4] for _ in range(n_steps)][-1] == (True, False)


@pytest.mark.parametrize("family", [CartPoleControls, Navigation, CartPolePhysics, MiniGridGoals])
def test_families_have_a_time_limit(family):
    if family is MiniGridGoals:
        pytest.importorskip("minigrid")
    env = draw(family(max_steps=3), 0)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("wrong", [(2.0, 0.0), (0.0, 0.0, 0.0), (float("nan"), 0.0)])
def test_goals_outside_are_refused(wrong):
    with pytest.raises(ValueError, match="goal must be two numbers"):
        HiddenGoal(wrong)
    with pytest.raises(ValueError, match="max_steps must be a whole number"):
        HiddenGoal((0.0, 0.0), max_steps=0)


def test_minigrid_goals_are_in_the_cells_of_rooms():
    pytest.importorskip("minigrid")
    places = set()
    for seed in range(30):
        env = draw(MiniGridGoals(), seed)
        env.reset(seed=0)
        places.add(env.unwrapped.goal)
        assert env.unwrapped.grid.get(*env.unwrapped.goal).type == "goal"
        assert sum(cell is not None and cell.type == "goal" for cell in env.unwrapped.grid.grid) == 1
    assert len(places) > 10
    assert not any(4 in place for place in places)


def test_tasks_of_a_sequence_are_all_drawn_and_different_within_a_draw():
    sampler = TaskSampler([goal, left, right])
    rng = np.random.default_rng(0)
    draws = [[task.number for task in sampler.draw(rng, 2)] for _ in range(50)]
    assert all(len(set(one)) == 2 for one in draws)
    counts = np.bincount(np.ravel(draws))
    assert counts.min() > 20


def test_a_task_that_was_drawn_is_the_same_each_time():
    (task,) = TaskSampler(Navigation()).draw(np.random.default_rng(0), 1)
    env = task.make_vec_env(3)
    assert len({tuple(one.unwrapped.goal) for one in env.envs}) == 1


class Open(HiddenGoal):
    def __init__(self):
        super().__init__((0.0, 0.5))
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        ("CartPole-v1", TypeError, r"got 'CartPole-v1': use \['CartPole-v1'\]"),
        (CartPoleEnv, TypeError, "for a single task"),
        ([], ValueError, "got an empty sequence"),
        (7, TypeError, "got int"),
        ([7], TypeError, "task 0 must be a Gymnasium id, environment or function"),
        (["CartPole-v1", "Nowhere-v0"], ValueError, "Nowhere"),
        ([Open()], TypeError, "task 0 cannot be copied .* pass a function that makes it"),
        ([lambda rng: goal()], TypeError, "task 0 is called with no arguments, which it does not take .*rng"),
        (left, TypeError, r"tasks is called with a numpy\.random\.Generator.* one that draws a random task is given"),
    ],
)
def test_tasks_that_are_not_allowed(tasks, error, message):
    with pytest.raises(error, match=message):
        TaskSampler(tasks)


class Closes(DummyVecEnv):
    is_closed = False

    def close(self):
        self.is_closed = True


def test_vectorized_environments_are_refused():
    env = DummyVecEnv([goal])
    with pytest.raises(TypeError, match="tasks must be"):
        TaskSampler(env)
    with pytest.raises(TypeError, match="task 0 must be"):
        TaskSampler([env])
    vectorized = [Closes([goal])]
    (task,) = TaskSampler(lambda rng: vectorized[0]).draw(np.random.default_rng(0), 1)
    with pytest.raises(TypeError, match="got Closes: return one environment that is not vectorized; n_envs"):
        task.make()
    assert vectorized[0].is_closed
    (task,) = TaskSampler(lambda rng: iter([goal()])).draw(np.random.default_rng(0), 1)
    with pytest.raises(TypeError, match="must be a Gymnasium environment, got list_iterator"):
        task.make()


def test_environments_in_wrappers_are_copied():
    env = gym.wrappers.TimeLimit(goal(), 5)
    (task,) = TaskSampler([env]).draw(np.random.default_rng(0), 1)
    copy = task.make()
    assert copy is not env
    assert copy.unwrapped is not env.unwrapped
    assert copy._max_episode_steps == 5
