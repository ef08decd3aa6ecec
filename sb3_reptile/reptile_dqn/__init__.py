"""DQN with decayed replay. The policies are SB3's DQN policies."""

from stable_baselines3.dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN
from sb3_reptile.reptile_dqn.whole_episodes import WholeEpisodes

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "ReptileDQN", "WholeEpisodes"]
