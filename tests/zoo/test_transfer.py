"""A start from a pretrained network, spelled in the RL Zoo's hyperparameter files and on the command line."""

import pytest
from stable_baselines3 import DQN

from sb3_reptile import ReptileDQN
from sb3_reptile.reptile_dqn.transfer import Transfer
from tests.conftest import small
from tests.zoo.commands import saved_model

CONFIG = """
CartPole-v1:
  n_timesteps: 300
  policy: MlpPolicy
  learning_starts: 50
  buffer_size: 1000
  pretrained: {path}
  transfer:
    actions: [1, null]
    observations: [3, 2, null, 0]
    freeze_steps: 400
    freeze_layers: 1
    learning_rate_factor: 0.1
  callback:
    - sb3_reptile.checkpoint.ResumableCheckpoint: {{save_freq: 100, path: checkpoints}}
"""


@pytest.fixture
def command(tmp_path):
    DQN("MlpPolicy", "CartPole-v1", **small()).save(tmp_path / "teacher")
    (tmp_path / "transfer.yml").write_text(CONFIG.format(path=tmp_path / "teacher.zip"))
    of_run = ["--algo", "reptile_dqn", "--env", "CartPole-v1", "-f", tmp_path / "logs"]
    return ["train", *of_run, "-conf", tmp_path / "transfer.yml", "--eval-freq", "-1", "--seed", "1"]


def first_layer_learns(model):
    return [parameter.requires_grad for parameter in model.q_net.q_net[0].parameters()]


def test_a_file_transfers_and_its_run_goes_on_frozen_as_it_was(command, here, tmp_path):
    here(*command)
    model = saved_model(tmp_path / "logs", "reptile_dqn")
    assert model.transfer == Transfer((1, None), (3, 2, None, 0), 1, 400, 0.1)
    assert first_layer_learns(model) == [False, False]
    (tmp_path / "teacher.zip").unlink()
    run = tmp_path / "logs" / "reptile_dqn" / "CartPole-v1_1"
    here(*command, "-n", "600", "--resume", run)
    resumed = saved_model(tmp_path / "logs", "reptile_dqn")
    assert resumed.num_timesteps == 600
    assert first_layer_learns(resumed) == [True, True]
    enjoy = [
        "enjoy",
        "--algo",
        "reptile_dqn",
        "--env",
        "CartPole-v1",
        "-f",
        tmp_path / "logs",
        "-n",
        "50",
        "--no-render",
    ]
    here(*enjoy)


def test_the_command_line_overrides_the_file(command, here, tmp_path):
    here(*command, "-n", "60", "-params", "transfer:{'freeze_steps':10,'freeze_layers':2}")
    assert saved_model(tmp_path / "logs", "reptile_dqn").transfer == Transfer(freeze_steps=10, freeze_layers=2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("transfer:{'actions':[0,1,1]}", "must have one entry for each of this environment's 2 actions, got 3"),
        ("transfer:{'freeze':10}", "transfer has no option 'freeze'; did you mean 'freeze_steps'"),
        ("transfer:freeze", "transfer must be a dict of actions, observations"),
        ("pretrained:nothing.zip", "pretrained: there is no file nothing.zip"),
    ],
)
def test_mistakes_give_one_line(given, said, command, here):
    output = here(*command, "-params", given, code=2)
    (line,) = [line for line in output.splitlines() if "error:" in line]
    assert said in line
    assert "Traceback" not in output


def test_continuing_a_trained_agent_refuses_another_start(command, here, tmp_path):
    ReptileDQN("MlpPolicy", "CartPole-v1", **small()).save(tmp_path / "agent")
    assert "cannot be given to load()" in here(*command, "-i", tmp_path / "agent.zip", code=2)
