"""Feature extractors for images, small enough to train without a GPU."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_reptile.storage.values import register_former_name

__all__ = ["DqnCnn", "MinAtarCnn"]


class DqnCnn(BaseFeaturesExtractor):
    """
    The network of the first DQN (arXiv:1312.5602, section 4.1): two convolutional layers and a fully connected one. On
    images of 84 x 84 it needs a third of the multiplications of SB3's ``NatureCNN``.

    ``DQN("CnnPolicy", env, policy_kwargs=dict(features_extractor_class=DqnCnn))``

    :param observation_space: Images, channels first, at least 20 x 20
    :param features_dim: Number of features extracted
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


class MinAtarCnn(BaseFeaturesExtractor):
    """
    The network of MinAtar's authors (arXiv:1903.03176): a convolutional layer and a fully connected one. SB3's
    ``NatureCNN`` does not accept images smaller than 36 x 36.

    ``DQN("CnnPolicy", env, policy_kwargs=dict(features_extractor_class=MinAtarCnn, net_arch=[]))``

    :param observation_space: Images, channels first, at least 3 x 3
    :param features_dim: Number of features extracted
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        n_channels, height, width = observation_space.shape
        self.layers = nn.Sequential(
            nn.Conv2d(n_channels, 16, kernel_size=3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (height - 2) * (width - 2), features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape (batch, channels, height, width)
        :return: Shape (batch, features_dim)
        """
        return self.layers(observations)


register_former_name("sb3_reptile.envs.atari:DqnCnn", DqnCnn)
register_former_name("sb3_reptile.envs.minatar:MinAtarCnn", MinAtarCnn)
