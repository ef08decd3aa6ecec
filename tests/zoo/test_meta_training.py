"""`sb3-reptile meta-train`: from the command line to the network that ReptileDQN starts from."""

import re

import pytest
import torch as th

from sb3_reptile import ReptileDQN
from sb3_reptile.meta import CartPoleControls, Navigation, ReptileMetaLearner
from sb3_reptile.meta.learned_parameters import learned_parameters
from tests.meta.learners import assert_equal, goal

SMALL = [
    *("meta-train", "--inner-timesteps", "30", "--meta-batch-size", "2", "--seed", "1", "--device", "cpu"),
    *("-params", "learning_starts:10", "buffer_size:100", "policy_kwargs:dict(net_arch=[4])"),
]
ARGUMENTS = dict(learning_starts=10, buffer_size=100, policy_kwargs=dict(net_arch=[4]))


def test_meta_train_makes_a_start_for_reptile_dqn_and_resumes(here, tmp_path):
    command = [*SMALL, "--tasks", "navigation", "--task-params", "radius:0.5", "--checkpoint", tmp_path / "checkpoints"]
    output = here(*command, "-n", "1", "-o", "meta.zip", "--save-freq", "1", cwd=tmp_path)
    assert "Saved to meta.zip" in output
    assert "meta_iterations | 1" in output
    here(*command, "-n", "2", "-o", "meta.zip", cwd=tmp_path)
    learner = ReptileMetaLearner.load(tmp_path / "meta.zip", Navigation(0.5))
    assert learner.num_meta_iterations == 2
    assert learner.algorithm is ReptileDQN
    model = ReptileDQN("MlpPolicy", goal(), pretrained=tmp_path / "meta.zip", device="cpu", **ARGUMENTS)
    assert_equal(learned_parameters(model), learner.parameters)
    first = ReptileMetaLearner(
        ReptileDQN, Navigation(0.5), inner_timesteps=30, meta_batch_size=2, algorithm_kwargs=ARGUMENTS, seed=1
    )
    assert not th.equal(first.parameters["policy.q_net.q_net.0.weight"], model.q_net.q_net[0].weight)
    # An argument that differs from the saved one
    output = here(*command, "-n", "3", "--policy", "CnnPolicy", code=2, cwd=tmp_path)
    assert "was saved with another policy: repeat the command as it was" in output
    assert "another seed" in here(*command, "--seed", "2", code=2, cwd=tmp_path)


def test_another_algorithm_and_gymnasium_ids(here, tmp_path):
    command = [*SMALL, "--algo", "qrdqn", "--env", "CartPole-v1", "Acrobot-v1", "-o", "meta.zip"]
    output = here(*command, "-n", "1", code=2, cwd=tmp_path)
    assert "all tasks must have the same" in output
    assert len(output.strip().splitlines()) <= 2
    here(*command[:-4], "CartPole-v1", "CartPole-v0", "-o", "meta.zip", "-n", "1", "--verbose", "0", cwd=tmp_path)
    learner = ReptileMetaLearner.load(tmp_path / "meta.zip", CartPoleControls())
    assert learner.algorithm.__name__ == "QRDQN"


def test_normalization_and_the_number_of_environments_are_hyperparameters_as_in_the_rl_zoo(here, tmp_path):
    command = [*SMALL, "gamma:0.9", "n_envs:2"]
    rest = ["--tasks", "navigation", "--verbose", "0", "-n", "1", "--checkpoint", tmp_path / "checkpoints"]
    here(*command, "normalize:dict(norm_reward=False)", *rest, cwd=tmp_path)
    learner = ReptileMetaLearner.load(tmp_path / "meta.zip", Navigation())
    assert (learner.normalize, learner.n_envs) == (dict(norm_reward=False), 2)
    assert learner.algorithm_kwargs == {**ARGUMENTS, "gamma": 0.9}
    # Of each run: the first observation and 16 others in two environments, as a rollout is 4 steps in each
    assert learner.get_vec_normalize_env().obs_rms.count == pytest.approx(2 * 17, abs=1e-3)
    assert "another normalize" in here(*command, "normalize:true", *rest, code=2, cwd=tmp_path)
    # The name of the file, in which .zip is added
    saved = tmp_path / "folder" / "both.zip"
    output = here(*SMALL, "normalize:true", *rest[:-2], "-o", tmp_path / "folder" / "both", cwd=tmp_path)
    assert f"Saved to {saved}\n" in output
    assert ReptileMetaLearner.load(saved, Navigation()).normalize is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --tasks --env is required"),
        (["--tasks", "nothing"], "invalid choice: 'nothing'"),
        (["--tasks", "navigation", "--env", "CartPole-v1"], "not allowed with argument"),
        (["--tasks", "navigation", "--task-params", "size:3"], "--task-params: .*size"),
        (["--tasks", "cartpole-controls", "--task-params", "n_forces:9"], "n_forces must be 2 to 6, got 9"),
        (["--env", "CartPole-v1", "--task-params", "size:3"], "are the arguments of a family"),
        (["--env", "Nowhere-v0"], "Nowhere"),
        (["--tasks", "navigation", "--algo", "ppo"], "--algo must be an off-policy algorithm"),
        (["--tasks", "navigation", "-n", "0"], "--meta-iterations must be >= 1, got 0"),
        (["--tasks", "navigation", "--meta-step-size", "lin_x"], "it must be a number or lin_NUMBER, got 'lin_x'"),
        (["--tasks", "navigation", "--meta-step-size", "2"], r"meta_step_size must be in \[0, 1\]"),
        (["--tasks", "navigation", "--processes", "9"], "n_processes must be at most meta_batch_size"),
        (["--tasks", "navigation", "-o", "."], "--output must be a file, . is a folder"),
        (["--tasks", "navigation", "-o", f"{__file__}/meta.zip"], "--output cannot be written to .*meta.zip: "),
        (["--tasks", "navigation", "-params", "learning_starts:40"], "no gradient step in 30 steps"),
        (["--tasks", "navigation", "-params", "normalize:3"], "normalize must be True, False or a dict .*got 3"),
    ],
)
def test_arguments_that_are_not_allowed(here, arguments, message, tmp_path):
    output = here(*SMALL[:7], *arguments, code=2, cwd=tmp_path)
    assert re.search(message, output), output
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())
