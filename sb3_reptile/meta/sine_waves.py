"""The sine waves of Nichol et al. (2018), and supervised learning of functions as one of SB3's algorithms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, create_mlp
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

LARGEST_INPUT, LARGEST_OUTPUT = 5.0, 100.0
AMPLITUDES = (0.1, 5.0)

SelfRegression = TypeVar("SelfRegression", bound="Regression")


class SineWave(gym.Env):
    """
    Regression on a sine wave as an environment of one-step episodes: the observation is ``x``, the action a prediction
    of ``y = amplitude * sin(x + phase)``, the reward the negative squared error.

    ``reset()`` returns the points to learn from in ``info["inputs"]`` and ``info["targets"]``, each of shape (n, 1).

    :param amplitude: Amplitude
    :param phase: Phase
    :param inputs: The inputs of these points, shape (n,)
    """

    def __init__(self, amplitude: float, phase: float, inputs: np.ndarray) -> None:
        self.amplitude, self.phase = amplitude, phase
        inputs = np.asarray(inputs, np.float32)[:, None]
        self._points = {"inputs": inputs, "targets": self.value(inputs)}
        self.observation_space = spaces.Box(-LARGEST_INPUT, LARGEST_INPUT, (1,), np.float32)
        self.action_space = spaces.Box(-LARGEST_OUTPUT, LARGEST_OUTPUT, (1,), np.float32)
        self._input = np.zeros(1, np.float32)

    def value(self, inputs: np.ndarray) -> np.ndarray:
        """
        :param inputs: Inputs
        :return: The wave at these inputs
        """
        return (self.amplitude * np.sin(inputs + self.phase)).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._input = self.np_random.uniform(-LARGEST_INPUT, LARGEST_INPUT, 1).astype(np.float32)
        return self._input.copy(), {key: array.copy() for key, array in self._points.items()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        error = float(np.asarray(action).item() - self.value(self._input).item())
        return self._input.copy(), -(error**2), True, False, {}


@dataclass(frozen=True)
class SineWaves:
    """
    Sine waves with amplitudes from 0.1 to 5, any phase, and inputs from -5 to 5 (Nichol et al. 2018, section 3). The
    mean of all waves is 0: joint training learns to predict 0, with a mean squared error of 4.25.

    :param n_points: Number of points to learn from
    """

    n_points: int = 50

    def __call__(self, rng: np.random.Generator) -> gym.Env:
        """
        :param rng: Random generator
        :return: The environment of a random wave
        """
        amplitude, phase = rng.uniform(*AMPLITUDES), rng.uniform(0, 2 * math.pi)
        return SineWave(amplitude, phase, rng.uniform(-LARGEST_INPUT, LARGEST_INPUT, self.n_points))


class RegressionPolicy(BasePolicy):
    """
    A network that predicts a vector.

    :param observation_space: Space of the inputs
    :param action_space: Space of the predictions
    :param lr_schedule: Learning rate schedule
    :param net_arch: Units of the hidden layers
    :param activation_fn: Activation function
    :param features_extractor_class: Features extractor
    :param features_extractor_kwargs: Its arguments
    :param optimizer_class: Optimizer, stochastic gradient descent by default
    :param optimizer_kwargs: Its arguments, except the learning rate
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[th.nn.Module] = th.nn.Tanh,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.SGD,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.features_extractor = self.make_features_extractor()
        units = [64, 64] if net_arch is None else net_arch
        layers = create_mlp(
            self.features_extractor.features_dim, int(np.prod(action_space.shape)), units, activation_fn
        )
        self.net = th.nn.Sequential(*layers)
        self.optimizer = optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def forward(self, obs: th.Tensor) -> th.Tensor:
        """
        :param obs: Inputs
        :return: Predictions
        """
        return self.net(self.extract_features(obs, self.features_extractor))

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return self(observation)


class Regression(BaseAlgorithm):
    """
    Supervised learning of a function with the squared error, in the form of an algorithm of SB3. Its environment
    returns points in the info of ``reset()``, see :class:`SineWave`. It is reset, and the points are permuted, before
    each epoch.

    :param policy: The policy model to use (MlpPolicy)
    :param env: The environment
    :param learning_rate: The learning rate, it can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: Minibatch size for each gradient update
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run.
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": RegressionPolicy}

    def __init__(
        self,
        policy: str | type[RegressionPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 0.02,
        batch_size: int = 10,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            supported_action_spaces=(spaces.Box,),
        )
        self.batch_size = batch_size
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def _batches(self) -> Iterator[tuple[th.Tensor, th.Tensor]]:
        assert self.env is not None
        while True:
            (points,) = self.env.reset_infos
            if not {"inputs", "targets"} <= points.keys():
                raise ValueError(
                    "Regression needs an environment whose reset() returns the points to learn from in "
                    f"info['inputs'] and info['targets'], got an info with {sorted(points)}"
                )
            inputs, targets = (th.as_tensor(points[key], device=self.device) for key in ("inputs", "targets"))
            for chosen in th.randperm(len(inputs), device=self.device).split(self.batch_size):
                yield inputs[chosen], targets[chosen]
            self.env.reset()

    def learn(
        self: SelfRegression,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str = "Regression",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRegression:
        """
        :param total_timesteps: Number of gradient steps
        :param callback: Callback(s) called after every gradient step
        :param log_interval: Gradient steps between two logs
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether or not to reset the current timestep number
        :param progress_bar: Display a progress bar using tqdm and rich.
        :return: The trained model
        :raises ValueError: if the environment returns no points
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        self.policy.set_training_mode(True)
        for inputs, targets in self._batches():
            if self.num_timesteps >= total_timesteps:
                break
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self._update_learning_rate(self.policy.optimizer)
            loss = th.nn.functional.mse_loss(self.policy(inputs), targets)
            self.policy.optimizer.zero_grad()
            loss.backward()
            self.policy.optimizer.step()
            self.num_timesteps += 1
            self._n_updates += 1
            self.logger.record("train/loss", loss.item())
            if log_interval is not None and self.num_timesteps % log_interval == 0:
                self.logger.dump(step=self.num_timesteps)
            if not callback.on_step():
                break
        callback.on_training_end()
        return self
