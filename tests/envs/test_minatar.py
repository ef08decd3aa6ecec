"""MinAtar's games in turn."""

import numpy as np
import pytest

from tests.envs.tasks import make, run

# MinAtar


def test_minatar_plays_its_games_in_turn_and_cuts_episodes_short():
    env = make("DriftingMinAtar-v0", period=30, games=["breakout", "seaquest", "freeway"])
    shown = [set(), set(), set()]
    for step, (obs, _, terminated, truncated, info) in enumerate(run(env, [0] * 120)):
        shown[info["phase"] % 3] |= set(np.flatnonzero(obs.any(axis=(1, 2))))
        assert set(np.unique(obs)) == {0, 255}
        assert truncated == (step % 30 == 29), (step, terminated)
    # Bricks are breakout's last channel; seaquest's gauge of oxygen and freeway's fastest cars have higher ones
    assert [max(channels) for channels in shown] == [3, 7, 6]
    # Breakout's bricks are back
    assert obs[3, 1:4].all()
    assert env.action_space.n == 6


def test_the_last_minatar_game_can_stay_and_one_game_alone_never_changes():
    env = make("DriftingMinAtar-v0", period=10, games=["breakout", "freeway"], recurring=False)
    assert [step[4]["phase"] for step in run(env, [0] * 30)] == [0] * 10 + [1] * 20
    steps = run(make("DriftingMinAtar-v0", period=10, games=["freeway"]), [0] * 30)
    assert not any(step[3] or step[4]["phase"] for step in steps)


def test_minatar_forgets_the_sticky_action_of_the_episode_before():
    env = make("DriftingMinAtar-v0", games=["breakout"], sticky_action_prob=1.0)
    env.reset(seed=0)
    env.unwrapped._game.last_action = 1  # left, until the episode ends
    env.reset(seed=0)
    obs = env.step(0)[0]
    assert np.flatnonzero(obs[0, 9]) == [4]  # the paddle stays


def test_a_picture_of_minatar_has_a_colour_for_each_channel():
    env = make("DriftingMinAtar-v0", games=["breakout"], render_mode="rgb_array")
    run(env, [0, 0])
    picture = env.render()
    assert picture.shape == (160, 160, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1 + 4  # nothing, or paddle, ball, its trail, bricks
    assert make("DriftingMinAtar-v0").unwrapped.render() is None


@pytest.mark.parametrize("games", [["pong"], "breakout", []])
def test_games_that_minatar_does_not_have_are_refused(games):
    with pytest.raises(ValueError, match=r"games must be a list of one or more of breakout, asterix, .*, got"):
        make("DriftingMinAtar-v0", games=games)
