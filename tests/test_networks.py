"""The feature extractors for images."""

import importlib
import importlib.util

import numpy as np
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.envs import FakeImageEnv

from sb3_reptile.networks import DqnCnn, MinAtarCnn
from tests.envs.tasks import make


def test_the_first_dqn_s_network_takes_images_of_any_shape_and_has_its_size():
    images = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert sum(parameter.numel() for parameter in DqnCnn(images).parameters()) == 4_112 + 8_224 + 256 * (32 * 9 * 9 + 1)
    for shape in ((4, 64, 64), (1, 20, 20), (3, 40, 61)):
        n_channels, height, width = shape
        env = FakeImageEnv(6, height, width, n_channels, discrete=True, channel_first=True)
        model = DQN("CnnPolicy", env, policy_kwargs=dict(features_extractor_class=DqnCnn), buffer_size=20)
        model.predict(np.zeros(shape, np.uint8))
        assert model.q_net.q_net[0].in_features == 256


def test_minatar_cnn_learns_from_small_images():
    env = make("DriftingMinAtar-v0", games=["breakout"])
    policy_kwargs = dict(features_extractor_class=MinAtarCnn, net_arch=[])
    model = DQN("CnnPolicy", env, learning_starts=10, buffer_size=100, policy_kwargs=policy_kwargs, seed=0)
    extractor = model.q_net.features_extractor
    before = extractor.layers[0].weight.detach().clone()
    model.learn(40)
    assert not np.array_equal(before, extractor.layers[0].weight.detach())
    assert extractor.features_dim == 128


def test_former_import_paths_name_the_same_classes():
    """Saved models, checkpoints and hyperparameter files name these."""
    for module in ("sb3_reptile.envs", "sb3_reptile.envs.atari"):
        assert importlib.import_module(module).DqnCnn is DqnCnn
    for module in ("sb3_reptile.envs", "sb3_reptile.envs.minatar"):
        assert importlib.import_module(module).MinAtarCnn is MinAtarCnn
