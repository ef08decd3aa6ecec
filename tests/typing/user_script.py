"""A script that `mypy --strict` accepts, but for the lines that end with the code of the error that they must give."""

import torch as th
from stable_baselines3 import SAC
from typing_extensions import assert_type

from sb3_reptile import (
    DecayedDictReplayBuffer,
    DecayedDictReplayBufferSamples,
    DecayedHerReplayBuffer,
    DecayedReplayBuffer,
    DecayedReplayBufferSamples,
    DecayedSampling,
    EmphasizingRecent,
    Exponential,
    HalfLifeSchedule,
    Linear,
    PowerLaw,
    ReptileDQN,
    ResumableCheckpoint,
    Window,
    resume,
)
from sb3_reptile.envs import DriftingActions
from sb3_reptile.replay import Consistency


def train() -> None:
    model = ReptileDQN("MlpPolicy", "CartPole-v1", half_life="auto", priority="td_error", learner="fast", loss="mse")
    model.learn(
        100, callback=[HalfLifeSchedule({"start": 1, "end": 2, "end_fraction": 1}), ResumableCheckpoint(9, "a")]
    )
    assert_type(model.replay_buffer, DecayedSampling)
    assert_type(model.replay_buffer.consistency, Consistency | None)
    if model.replay_buffer.consistency is not None:
        print(model.replay_buffer.consistency.starts)
    batch = model.replay_buffer.sample(32)
    assert_type(batch, DecayedReplayBufferSamples)
    assert_type(batch.observations, th.Tensor)
    model.replay_buffer.update_priorities(batch.indices, batch.weights)
    model.replay_buffer.weighting = "loss"
    assert_type(ReptileDQN.load("model"), ReptileDQN)


def transfer() -> None:
    ReptileDQN(
        "MlpPolicy",
        "CartPole-v1",
        pretrained="teacher.zip",
        transfer={"actions": [0, None], "observations": [1, 2], "freeze_steps": 100, "learning_rate_factor": 0.1},
    )
    ReptileDQN("MlpPolicy", "CartPole-v1", transfer={"action": [0]})  # error: typeddict-item
    ReptileDQN("MlpPolicy", "CartPole-v1", transfer={"actions": [0.5]})  # error: list-item


def continue_training() -> None:
    model = resume("checkpoints", "CartPole-v1", algorithm=ReptileDQN)
    assert_type(model, ReptileDQN)
    assert_type(model.learn(100), ReptileDQN)
    assert_type(resume("checkpoints", "Pendulum-v1", algorithm=SAC), SAC)
    print(resume("checkpoints", "CartPole-v1").half_life)  # error: attr-defined


def buffers(of_vectors: DecayedReplayBuffer, of_dicts: DecayedDictReplayBuffer, her: DecayedHerReplayBuffer) -> None:
    assert_type(of_vectors.sample(32).observations.shape, th.Size)
    assert_type(of_dicts.sample(32), DecayedDictReplayBufferSamples)
    assert_type(of_dicts.transitions(of_dicts.drawable()).next_observations["x"], th.Tensor)
    assert_type(her.sample(32).observations["desired_goal"], th.Tensor)
    of_vectors.sample(32).observations["x"].keys()  # error: call-overload


def options(space: DecayedReplayBuffer) -> None:
    observations, actions = space.observation_space, space.action_space
    for decay in (Exponential(1), Linear(1), PowerLaw(), Window(1), EmphasizingRecent()):
        DecayedReplayBuffer(10, observations, actions, decay=decay, weighting="loss", on_bad_transition="skip")
    DecayedReplayBuffer(10, observations, actions, decay={"linear": {"horizon": 9}}, initial_weights="random")
    DecayedReplayBuffer(10, observations, actions, initial_weights={"random": {"seed": 0}})
    DecayedReplayBuffer(10, observations, actions, decay=lambda age: 1 / (1 + age))
    DecayedReplayBuffer(10, observations, actions, decay=3)  # error: arg-type
    DecayedReplayBuffer(10, observations, actions, weighting="losses")  # error: arg-type
    DecayedReplayBuffer(10, observations, actions, on_bad_transition="ignore")  # error: arg-type
    DecayedReplayBuffer(10, observations, actions, initial_weights="uniformly")  # error: arg-type
    ReptileDQN("MlpPolicy", "CartPole-v1", half_life="automatic")  # error: arg-type
    ReptileDQN("MlpPolicy", "CartPole-v1", learner="quick")  # error: arg-type
    ReptileDQN("MlpPolicy", "CartPole-v1", loss="l1")  # error: arg-type
    ReptileDQN("MlpPolicy", "CartPole-v1", priority="error")  # error: arg-type
    space.weighting = "losses"  # error: assignment


def tasks(env: DriftingActions) -> None:
    DriftingActions(env, [1.0, -1.0], period=100, kind="gradual")
    DriftingActions(env, [1.0, -1.0], period=100, kind="slow")  # error: arg-type
