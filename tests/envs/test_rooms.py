"""The robot whose goal moves to another room."""

import numpy as np
import pytest

from tests.envs.tasks import make, run

# A robot's rooms


def route(env):
    """The fewest actions to the goal, by search over places and directions."""
    inside = env.unwrapped
    todo, known = [((*map(int, inside.agent_pos), inside.agent_dir), [])], set()
    for (column, row, direction), actions in todo:
        if (column, row, direction) in known:
            continue
        known.add((column, row, direction))
        if (column, row) == goal_of(env):
            return actions
        right, down = [(1, 0), (0, 1), (-1, 0), (0, -1)][direction]
        ahead = inside.grid.get(column + right, row + down)
        steps = [((column, row, (direction - 1) % 4), 0), ((column, row, (direction + 1) % 4), 1)]
        if ahead is None or ahead.type == "goal":
            steps.append(((column + right, row + down, direction), 2))
        todo += [(place, [*actions, action]) for place, action in steps]
    raise AssertionError("no way to the goal")


def goal_of(env):
    grid = env.unwrapped.grid
    cells = [(column, row) for column in range(9) for row in range(9)]
    (goal,) = [cell for cell in cells if (thing := grid.get(*cell)) is not None and thing.type == "goal"]
    return goal


def test_the_goal_moves_to_another_room_with_the_next_episode_and_can_be_reached():
    env = make("DriftingRooms-v0", period=100)
    for clock, goal in ((0, (2, 2)), (99, (2, 2)), (100, (6, 6)), (200, (2, 2))):
        env.set_wrapper_attr("steps_taken", clock)
        for seed in range(5):
            env.reset(seed=seed)
            assert goal_of(env) == goal
            actions = route(env)
            rewards = [env.step(action)[1] for action in actions]
            assert rewards == [0] * (len(actions) - 1) + [pytest.approx(1 - 0.9 * len(actions) / 100)]
            env.set_wrapper_attr("steps_taken", clock)


def test_the_robot_knows_where_it_is_and_what_it_sees():
    env = make("DriftingRooms-v0")
    for seed in range(10):
        obs, _ = env.reset(seed=seed)
        inside = env.unwrapped
        column, row, direction, walls, goal = np.split(obs, [9, 18, 22, 71])
        assert (column.argmax(), row.argmax()) == tuple(inside.agent_pos)
        assert direction.argmax() == inside.agent_dir
        assert column.sum() == row.sum() == direction.sum() == 1
        seen = inside.gen_obs()["image"][:, :, 0]
        assert np.array_equal(walls.reshape(7, 7), seen == 2)
        assert np.array_equal(goal.reshape(7, 7), seen == 8)


def test_episodes_in_the_rooms_are_cut_short():
    steps = run(make("DriftingRooms-v0", max_steps=7), [0] * 20)
    assert [step[3] for step in steps] == [n % 7 == 6 for n in range(20)]
    assert not any(step[2] for step in steps)
