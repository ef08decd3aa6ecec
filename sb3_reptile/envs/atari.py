"""A network for Atari games that a small machine has time for."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class DqnCnn(BaseFeaturesExtractor):
    """
    The network of the first DQN (arXiv:1312.5602, section 4.1): two convolutions, one layer. On images of 84 x 84 it
    has a third of the multiplications of SB3's ``NatureCNN``.

    ``DQN("CnnPolicy", env, policy_kwargs=dict(features_extractor_class=DqnCnn))``

    :param observation_space: Images, channels first, at least 20 x 20
    :param features_dim: Width of the layer
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim)
        n_channels, height, width = observation_space.shape
        after_first = [(side - 8) // 4 + 1 for side in (height, width)]
        rows, columns = ((side - 4) // 2 + 1 for side in after_first)
        self.layers = nn.Sequential(
            nn.Conv2d(n_channels, 16, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * rows * columns, features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape (batch, channels, height, width)
        :return: Shape (batch, features_dim)
        """
        return self.layers(observations)
