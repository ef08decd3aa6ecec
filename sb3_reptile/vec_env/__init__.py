"""
Vectorized environments: PettingZoo's, with one policy shared by all agents or one learner per agent, and those on a Ray
cluster.
"""

from sb3_reptile.vec_env.one_agent import OneAgent
from sb3_reptile.vec_env.parallel_env import AgentsVecEnv, parallel_env_to_vec_env
from sb3_reptile.vec_env.ray_asynchronous import Asynchronous
from sb3_reptile.vec_env.ray_vec_env import RayVecEnv
from sb3_reptile.vec_env.ray_workers import WorkersLostError

__all__ = ["AgentsVecEnv", "Asynchronous", "OneAgent", "RayVecEnv", "WorkersLostError", "parallel_env_to_vec_env"]
