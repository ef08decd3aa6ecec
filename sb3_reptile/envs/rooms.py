"""A robot that searches four rooms for a goal, made with MiniGrid (extra ``minigrid``)."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Goal, Wall
from minigrid.minigrid_env import MiniGridEnv

SIZE = 9
MIDDLE = SIZE // 2
# The center of each room, and the openings between rooms
ROOMS = ((2, 2), (6, 2), (2, 6), (6, 6))
DOORS = ((MIDDLE, 1), (MIDDLE, 7), (1, MIDDLE), (7, MIDDLE))


class Rooms(MiniGridEnv):
    """
    Four rooms of 3 x 3 cells, with openings along the outer walls. The robot starts in a random cell; its goal is the
    center of the room ``goal_room``. As in MiniGrid, the reward for reaching it is ``1 - 0.9 * steps / max_steps``.

    :class:`DriftingPhysics` can change the attribute ``goal_room``, from 0 to 3. A change takes effect in the next
    episode.

    :param goal_room: Number of the room with the goal
    :param max_steps: Time limit of an episode
    :param render_mode: ``"rgb_array"``, ``"human"`` or ``None``
    :param goal: Column and row of the goal instead of the center of a room, none of them in a wall
    """

    def __init__(
        self,
        goal_room: int = 0,
        max_steps: int = 100,
        render_mode: str | None = None,
        goal: tuple[int, int] | None = None,
    ) -> None:
        self.goal_room = goal_room
        self.goal = goal
        mission = MissionSpace(mission_func=lambda: "get to the goal")
        super().__init__(mission, grid_size=SIZE, max_steps=max_steps, render_mode=render_mode)
        # Turn left, turn right, move forward; there are no objects to pick up or to open
        self.action_space = spaces.Discrete(3)

    def _gen_grid(self, width: int, height: int) -> None:
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        self.grid.horz_wall(0, MIDDLE)
        self.grid.vert_wall(MIDDLE, 0)
        for door in DOORS:
            self.grid.set(*door, None)
        self.put_obj(Goal(), *(ROOMS[int(self.goal_room)] if self.goal is None else self.goal))
        self.place_agent()
        self.mission = "get to the goal"


class RobotView(gym.ObservationWrapper):
    """
    Observations of a robot with odometry: its position and direction, and the walls and the goal within the 7 x 7 cells
    in front of it. One-hot and binary, shape (2 * size + 4 + 98,).

    :param env: A MiniGrid environment
    """

    SEEN = (Wall, Goal)

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        inside: Any = env.unwrapped
        self._size = max(inside.width, inside.height)
        length = 2 * self._size + 4 + len(self.SEEN) * inside.agent_view_size**2
        self.observation_space = spaces.Box(0.0, 1.0, (length,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """
        :param observation: Observation of MiniGrid
        :return: Position, direction, walls and goal in view
        """
        inside: Any = self.env.unwrapped
        kinds = observation["image"][:, :, 0]
        seen = [kinds == OBJECT_TO_IDX[kind.__name__.lower()] for kind in self.SEEN]
        column, row = (np.eye(self._size)[place] for place in inside.agent_pos)
        parts = [column, row, np.eye(4)[inside.agent_dir], *(array.ravel() for array in seen)]
        return np.concatenate(parts).astype(np.float32)
