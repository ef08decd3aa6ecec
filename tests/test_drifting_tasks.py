"""The drifting tasks registered with Gymnasium, and the adapter for ns_gym; skipped where their extra is missing."""

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3 import DQN
from stable_baselines3.common.env_checker import check_env

from sb3_reptile.envs import TASKS, DriftingPhysics, MinAtarCnn, NsGymTask, Recommender

PAGE = (Path(__file__).parent.parent / "docs" / "drifting_tasks.md").read_text()
NEEDS = {
    "DriftingCartPoleWalk-v0": "ns_gym",
    "DriftingLunarLander-v0": "Box2D",
    "DriftingLunarLanderEngines-v0": "Box2D",
    "DriftingMinAtar-v0": "minatar",
    "DriftingFashionShop-v0": "obp",
    "DriftingRooms-v0": "minigrid",
    "DriftingHighway-v0": "highway_env",
}
EXTRAS = {
    "obp": "logs",
    "ns_gym": "drift",
    "Box2D": "box2d",
    "minatar": "minatar",
    "minigrid": "minigrid",
    "highway_env": "highway",
}


def make(task, **kwargs):
    # obp's files are read, and it is not imported
    if task in NEEDS and importlib.util.find_spec(NEEDS[task]) is None:
        pytest.skip(f"{task} needs the extra {EXTRAS[NEEDS[task]]}")
    return gym.make(task, **kwargs)


def run(env, actions, seed=0):
    """Take the actions, over as many episodes as it needs; return what each step returned."""
    env.reset(seed=seed)
    steps = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            env.reset()
    return steps


@pytest.mark.filterwarnings("ignore:.*WARN", "ignore:The minimal resolution", "ignore:.*unconventional shape")
@pytest.mark.parametrize("task", TASKS)
def test_every_task_passes_both_check_envs(task):
    check_env(make(task))
    gymnasium_check_env(make(task), skip_render_check=True)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_tells_its_phase(task):
    env = make(task, period=40)
    assert env.reset()[1]["phase"] == 0
    actions = [env.action_space.sample() for _ in range(130)]
    assert [step[4]["phase"] for step in run(env, actions)] == [0] * 40 + [1] * 40 + [2] * 40 + [3] * 10


@pytest.mark.parametrize("task", TASKS)
def test_every_task_repeats_itself_with_the_same_seed(task):
    def rollout(seed):
        env = make(task, period=60)
        env.action_space.seed(3)
        actions = [env.action_space.sample() for _ in range(200)]
        return [(obs.tolist(), *rest) for obs, *rest in run(env, actions, seed)]

    assert rollout(1) == rollout(1)
    assert rollout(1) != rollout(2)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_in_the_table_of_the_docs_with_its_period(task):
    (period,) = re.findall(rf"\| `{task}` \|.*\| ([\d,]+) \|", PAGE)
    assert int(period.replace(",", "")) == inspect.signature(TASKS[task][0]).parameters["period"].default


PHYSICS = ["DriftingCartPolePhysics-v0", "DriftingAcrobot-v0", "DriftingLunarLander-v0"]


@pytest.mark.parametrize("task", PHYSICS)
def test_physics_differ_between_phases_and_not_within_one(task):
    env = make(task, period=1000)
    seen = []
    for clock in (0, 500, 1000, 1500, 2000):
        env.set_wrapper_attr("steps_taken", clock)
        seen.append([obs.tolist() for obs, *_ in run(env, [1, 0, 1, 1, 0], seed=5)])
    assert seen[0] == seen[1] == seen[4] != seen[2] == seen[3]


@pytest.mark.parametrize("task", PHYSICS)
def test_gradual_physics_are_half_way_in_mid_phase(task):
    env = make(task, period=1000, kind="gradual")
    drift = next(layer for layer in layers(env) if isinstance(layer, DriftingPhysics))
    env.set_wrapper_attr("steps_taken", 500)
    env.reset()
    for name, (before, after) in drift.parameters.items():
        assert getattr(env.unwrapped, name) == pytest.approx((before + after) / 2)


def layers(env):
    while True:
        yield env
        if env is env.unwrapped:
            return
        env = env.env


def test_other_values_can_be_given():
    env = gym.make("DriftingAcrobot-v0", parameters={"LINK_LENGTH_1": [1.0, 3.0]}, period=1, recurring=False)
    run(env, [0, 0, 0])
    assert env.unwrapped.LINK_LENGTH_1 == 3.0


def test_the_moon_pulls_differently_at_once():
    env = make("DriftingLunarLander-v0", period=3)
    run(env, [0] * 3)
    assert env.unwrapped.world.gravity == (0, -10)
    env.step(0)
    assert env.unwrapped.world.gravity == (0, -2)
    assert env.unwrapped.wind_power > 0
    assert env.unwrapped.enable_wind


def test_the_side_engines_of_the_lander_swap():
    env = make("DriftingLunarLanderEngines-v0", period=100)
    before = [run(env, [action] * 3) for action in range(4)]
    env.set_wrapper_attr("steps_taken", 100)
    after = [run(env, [action] * 3) for action in range(4)]
    for action, same in enumerate([0, 3, 2, 1]):
        assert np.array_equal(after[action][2][0], before[same][2][0])


def test_arguments_of_the_environment_are_passed_on():
    env = make("DriftingLunarLander-v0", continuous=True)
    assert env.action_space.shape == (2,)


@pytest.mark.parametrize(
    ("task", "blocked", "extra"),
    [
        ("DriftingMinAtar-v0", ["minatar"], "minatar"),
        ("DriftingLunarLander-v0", ["gymnasium.envs.box2d.lunar_lander"], "box2d"),
        ("DriftingLunarLanderEngines-v0", ["gymnasium.envs.box2d.lunar_lander"], "box2d"),
        ("DriftingCartPoleWalk-v0", ["ns_gym", "ns_gym.schedulers"], "drift"),
        ("DriftingRooms-v0", ["sb3_reptile.envs.rooms"], "minigrid"),
        ("DriftingHighway-v0", ["sb3_reptile.envs.highway"], "highway"),
    ],
)
def test_without_its_extra_a_task_names_it(task, blocked, extra, monkeypatch):
    for module in blocked:
        monkeypatch.setitem(sys.modules, module, None)
    message = rf"{task} needs the extra `{extra}`: pip install 'sb3-reptile\[{extra}\]'"
    with pytest.raises(ImportError, match=message):
        gym.make(task)


def test_tasks_are_registered_by_name_alone_and_import_no_extra():
    code = (
        "import sys, gymnasium; gymnasium.make('sb3_reptile.envs:DriftingCartPoleActions-v0');"
        "assert not {'minatar', 'Box2D', 'ns_gym', 'mujoco', 'minigrid', 'highway_env'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_yaml_of_the_docs_makes_a_task_drift():
    wrapped, minatar = (yaml.safe_load(example) for example in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    env = get_wrapper_class(wrapped["CartPole-v1"])(gym.make("CartPole-v1"))
    assert isinstance(env, DriftingPhysics)
    assert env.parameters["length"][0] == env.unwrapped.length
    assert eval(minatar["DriftingMinAtar-v0"]["policy_kwargs"])["features_extractor_class"] is MinAtarCnn


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
    env.unwrapped._game.last_action = 1  # left, for ever
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


def test_minatar_cnn_learns_from_small_images():
    env = make("DriftingMinAtar-v0", games=["breakout"])
    policy_kwargs = dict(features_extractor_class=MinAtarCnn, net_arch=[])
    model = DQN("CnnPolicy", env, learning_starts=10, buffer_size=100, policy_kwargs=policy_kwargs, seed=0)
    extractor = model.q_net.features_extractor
    before = extractor.layers[0].weight.detach().clone()
    model.learn(40)
    assert not np.array_equal(before, extractor.layers[0].weight.detach())
    assert extractor.features_dim == 128


# A robot's rooms


def route(env):
    """The fewest actions to the goal, by search over places and directions."""
    inside = env.unwrapped
    todo, known = [((*map(int, inside.agent_pos), inside.agent_dir), [])], set()
    for (column, row, direction), actions in todo:
        if (column, row, direction) in known:
            continue
        known.add((column, row, direction))
        if (column, row) == goal_of(env):
            return actions
        right, down = [(1, 0), (0, 1), (-1, 0), (0, -1)][direction]
        ahead = inside.grid.get(column + right, row + down)
        steps = [((column, row, (direction - 1) % 4), 0), ((column, row, (direction + 1) % 4), 1)]
        if ahead is None or ahead.type == "goal":
            steps.append(((column + right, row + down, direction), 2))
        todo += [(place, [*actions, action]) for place, action in steps]
    raise AssertionError("no way to the goal")


def goal_of(env):
    grid = env.unwrapped.grid
    cells = [(column, row) for column in range(9) for row in range(9)]
    (goal,) = [cell for cell in cells if (thing := grid.get(*cell)) is not None and thing.type == "goal"]
    return goal


def test_the_goal_moves_to_another_room_with_the_next_episode_and_can_be_reached():
    env = make("DriftingRooms-v0", period=100)
    for clock, goal in ((0, (2, 2)), (99, (2, 2)), (100, (6, 6)), (200, (2, 2))):
        env.set_wrapper_attr("steps_taken", clock)
        for seed in range(5):
            env.reset(seed=seed)
            assert goal_of(env) == goal
            actions = route(env)
            rewards = [env.step(action)[1] for action in actions]
            assert rewards == [0] * (len(actions) - 1) + [pytest.approx(1 - 0.9 * len(actions) / 100)]
            env.set_wrapper_attr("steps_taken", clock)


def test_the_robot_knows_where_it_is_and_what_it_sees():
    env = make("DriftingRooms-v0")
    for seed in range(10):
        obs, _ = env.reset(seed=seed)
        inside = env.unwrapped
        column, row, direction, walls, goal = np.split(obs, [9, 18, 22, 71])
        assert (column.argmax(), row.argmax()) == tuple(inside.agent_pos)
        assert direction.argmax() == inside.agent_dir
        assert column.sum() == row.sum() == direction.sum() == 1
        seen = inside.gen_obs()["image"][:, :, 0]
        assert np.array_equal(walls.reshape(7, 7), seen == 2)
        assert np.array_equal(goal.reshape(7, 7), seen == 8)


def test_episodes_in_the_rooms_are_cut_short():
    steps = run(make("DriftingRooms-v0", max_steps=7), [0] * 20)
    assert [step[3] for step in steps] == [n % 7 == 6 for n in range(20)]
    assert not any(step[2] for step in steps)


# A motorway


def gaps_between_cars(env):
    places = sorted(vehicle.position[0] for vehicle in env.unwrapped.road.vehicles)
    return np.diff(places).mean()


def test_traffic_becomes_denser_with_the_next_episode():
    env = make("DriftingHighway-v0", period=100)

    def mean_gap(clock):
        gaps = []
        for seed in range(5):
            env.set_wrapper_attr("steps_taken", clock)
            env.reset(seed=seed)
            gaps.append(gaps_between_cars(env))
        return np.mean(gaps)

    thin = mean_gap(0)
    assert mean_gap(100) == pytest.approx(thin / 1.5, rel=0.05)
    assert mean_gap(200) == thin


def test_the_motorway_is_highway_env_s_where_nothing_drifts():
    ours, theirs = make("DriftingHighway-v0", period=10_000), gym.make("highway_env:highway-fast-v0")
    for (ours_obs, *ours_rest), (obs, *rest) in zip(
        run(ours, [1, 0, 2, 3] * 10), run(theirs, [1, 0, 2, 3] * 10), strict=True
    ):
        assert np.array_equal(ours_obs, obs)
        assert ours_rest[:3] == rest[:3]


# ns_gym


def changing_cartpole(**kwargs):
    pytest.importorskip("ns_gym", reason="needs the extra drift")
    from ns_gym.schedulers import PeriodicScheduler
    from ns_gym.update_functions import CyclicUpdate
    from ns_gym.wrappers import NSClassicControlWrapper

    length = CyclicUpdate(PeriodicScheduler(period=5, start=5), [1.5, 0.5])
    return NSClassicControlWrapper(gym.make("CartPole-v1"), {"length": length}, **kwargs)


@pytest.mark.parametrize("kwargs", [{}, dict(scalar_reward=False, change_notification=True)])
def test_ns_gym_goes_on_changing_from_episode_to_episode(kwargs):
    env = NsGymTask(changing_cartpole(**kwargs))
    lengths, phases = [], []
    for step in range(15):
        if step % 4 == 0:
            obs, info = env.reset(seed=0)
            assert obs in env.observation_space
        obs, reward, _, _, info = env.step(step % 2)
        assert obs in gym.make("CartPole-v1").observation_space
        assert reward == 1.0
        assert isinstance(reward, float)
        lengths.append(env.unwrapped.length)
        phases.append(info["phase"])
    assert lengths == [0.5] * 5 + [1.5] * 5 + [0.5] * 5
    assert phases == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.filterwarnings("ignore:.*WARN")
def test_ns_gyms_frozen_lake_passes_both_check_envs():
    pytest.importorskip("ns_gym", reason="needs the extra drift")
    from ns_gym.schedulers import PeriodicScheduler
    from ns_gym.update_functions import UniformDrift
    from ns_gym.wrappers import NSFrozenLakeWrapper

    lake = gym.make("FrozenLake-v1", is_slippery=False)
    env = NsGymTask(NSFrozenLakeWrapper(lake, {"P": UniformDrift(PeriodicScheduler(period=100, start=1), rate=0.1)}))
    check_env(env)
    # ns_gym's wrappers do not record their arguments, so that Gymnasium cannot make another one to close
    gymnasium_check_env(env, skip_render_check=True, skip_close_check=True)


def test_the_pole_of_the_walk_wanders_within_its_bounds_and_by_its_seed():
    def lengths(seed):
        env = make("DriftingCartPoleWalk-v0", period=1)
        env.reset(seed=seed)
        seen = []
        for _ in range(300):
            _, _, terminated, truncated, _ = env.step(0)
            seen.append(env.unwrapped.length)
            if terminated or truncated:
                env.reset()
        return seen

    assert lengths(0) == lengths(0) != lengths(1)
    assert min(lengths(0)) >= 0.25
    assert max(lengths(0)) <= 2.0
    assert len(set(lengths(0))) > 200


def test_what_is_not_of_ns_gym_is_refused():
    with pytest.raises(ValueError, match=r"NsGymTask needs an environment in one of ns_gym.wrappers, got <"):
        NsGymTask(gym.make("CartPole-v1"))


def test_a_recommender_tells_click_rates_and_clicks_as_often():
    env = Recommender(n_items=5, memory=3)
    clicks, told = 0, 0.0
    for seed in range(400):
        env.reset(seed=seed)
        for _ in range(10):
            rates = env.click_rates()
            item = int(env.np_random.integers(5))
            obs, reward, _, _, info = env.step(item)
            assert info["click_rate"] == rates[item]
            assert info["oracle_click_rate"] == rates.max() >= rates.mean() == info["random_click_rate"]
            newest = obs.reshape(3, -1)[0]
            assert newest[-1] == (1 if reward else -1)
            np.testing.assert_allclose(newest[:-1], env.items[item], rtol=1e-6)
            clicks += reward
            told += rates[item]
    assert clicks == pytest.approx(told, rel=0.1)


def test_what_was_just_shown_is_clicked_less_until_it_is_forgotten():
    env = Recommender(memory=2)
    env.reset(seed=0)
    fresh = env.click_rates()
    env.step(3)
    env.step(3)
    tired = env.click_rates()
    assert tired[3] == pytest.approx(fresh[3] * 0.95**2)
    env.step(1)
    env.step(1)
    assert env.click_rates()[3] == pytest.approx(fresh[3])
    assert env.reset(seed=0)[0].any() == False  # noqa: E712 -- a NumPy bool
    np.testing.assert_array_equal(env.click_rates(), fresh)


def test_moods_of_the_public_move_interests_and_seeds_do_not():
    def best(env, mood):
        env.reset(seed=1)
        env.mood = mood
        return env.click_rates()

    one, other = Recommender(), Recommender(world=1)
    assert not np.allclose(one.items, other.items)
    np.testing.assert_array_equal(best(one, 0.0), best(Recommender(), 0.0))
    assert best(one, 0.0).argmax() != best(one, 1.0).argmax()
    env = gym.make("DriftingRecommender-v0", period=10, kind="gradual")
    for _ in range(5):
        env.reset(seed=0)
        env.step(0)
    assert env.unwrapped.mood == pytest.approx(0.4)  # that of the last step taken


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_items=1), "n_items must be a whole number >= 2, got 1"),
        (dict(memory=2.5), "memory must be a whole number >= 1, got 2.5"),
        (dict(own_taste=-1), "own_taste must be >= 0, got -1"),
        (dict(mood=1.5), r"mood must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_recommender_refuses_what_it_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Recommender(**arguments)
