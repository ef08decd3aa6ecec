"""The model card and the upload of an agent, without a network."""

from tests.zoo.commands import run


def test_the_model_card_is_written_without_a_network(logs, tmp_path):
    output = run(
        *("-m", "sb3_reptile.zoo", "push_to_hub", "--algo", "reptile_dqn", "--env", "CartPole-v1", "-f", logs),
        *("-orga", "someone", "--no-render"),
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1"},
    )
    assert "Nothing was uploaded" in output
    card = (tmp_path / "hub" / "reptile_dqn-CartPole-v1" / "README.md").read_text()
    assert "# **ReptileDQN** Agent playing **CartPole-v1**" in card
    assert "sb3-reptile enjoy --algo reptile_dqn --env CartPole-v1" in card
    assert "rl_zoo3." not in card
    assert "library_name: stable-baselines3" in card
    assert (tmp_path / "hub" / "reptile_dqn-CartPole-v1" / "reptile_dqn-CartPole-v1.zip").is_file()
