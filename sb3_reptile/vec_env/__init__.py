"""Multi-agent environments for SB3: one policy shared by all agents, or one learner per agent."""

from sb3_reptile.vec_env.one_agent import OneAgent
from sb3_reptile.vec_env.parallel_env import AgentsVecEnv, parallel_env_to_vec_env

__all__ = ["AgentsVecEnv", "OneAgent", "parallel_env_to_vec_env"]
