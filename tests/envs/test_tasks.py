"""The drifting tasks registered with Gymnasium."""

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
from stable_baselines3.common.env_checker import check_env

from sb3_reptile.envs import STATIONARY_TASKS, TASKS, DriftingPhysics
from sb3_reptile.networks import MinAtarCnn
from tests.envs.tasks import make, run

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "reference" / "drifting_tasks.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*WARN", "ignore:The minimal resolution", "ignore:.*unconventional shape")
@pytest.mark.parametrize("task", TASKS)
def test_every_task_passes_both_check_envs(task):
    check_env(make(task))
    gymnasium_check_env(make(task), skip_render_check=True)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reports_its_phase(task):
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
def test_the_tables_of_the_docs_have_every_task_and_its_arguments(task):
    described, arguments = re.findall(rf"^\| `{task}` \|(.*)\|$", PAGE, re.MULTILINE)
    assert described.strip()
    period, kind, recurring, parameters, others = (cell.strip() for cell in arguments.split("|"))
    taken = dict(inspect.signature(TASKS[task][0]).parameters)
    taken.pop("env_kwargs")
    assert int(period.replace(",", "")) == taken.pop("period").default
    assert kind == (f'`"{taken.pop("kind").default}"`' if "kind" in taken else "")
    assert recurring == (f"`{taken.pop('recurring').default}`" if "recurring" in taken else "")
    assert re.findall(r"`(\w+)`", parameters) == list(taken.pop("parameters").default if "parameters" in taken else [])
    assert set(re.findall(r"`(\w+)[=`]", others)) - {"BoundedRandomWalk"} == set(taken)


@pytest.mark.filterwarnings("ignore:.*WARN")
@pytest.mark.parametrize("task", STATIONARY_TASKS)
def test_every_task_without_drift_passes_both_check_envs_and_has_its_time_limit(task):
    check_env(gym.make(task))
    gymnasium_check_env(gym.make(task), skip_render_check=True)
    assert gym.spec(task).max_episode_steps == gym.spec(f"Drifting{task}").max_episode_steps
    assert f"`{task}`" in PAGE


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


def test_actions_of_any_registered_environment_are_permuted():
    env = make("DriftingPermutedActions-v0", env="Acrobot-v1", period=[30, 10], permutations=[[0, 1, 2], [2, 1, 0]])
    plain = gym.make("Acrobot-v1")
    env.set_wrapper_attr("steps_taken", 30)
    mirrored = [2 - action for action in (0, 1, 2, 0, 0, 2)]
    for ours, theirs in zip(run(env, mirrored), run(plain, [0, 1, 2, 0, 0, 2]), strict=True):
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]
        assert ours[4]["phase"] == 1
    env.set_wrapper_attr("steps_taken", 0)
    assert any(step[3] for step in run(env, [1] * 500))  # the time limit of Acrobot itself


def test_actions_of_a_drifting_task_with_one_phase_are_permuted():
    make("DriftingMinAtar-v0", games=["breakout"])  # skipped without MinAtar
    env = make("DriftingPermutedActions-v0", env="DriftingMinAtar-v0", games=["breakout"], period=20)
    assert [step[4]["phase"] for step in run(env, [0] * 45)] == [0] * 20 + [1] * 20 + [2] * 5


def test_days_of_a_log_may_have_irregular_lengths():
    env = make("DriftingFashionShop-v0", period=[4, 2])
    assert [step[4]["phase"] for step in run(env, [0] * 9)] == [0] * 4 + [1] * 2 + [2] * 3
    env.get_wrapper_attr("set_drift_clock")(env.get_wrapper_attr("get_drift_clock")(), True)
    assert [env.step(0)[4]["phase"] for _ in range(5)] == [2] * 5


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
    page = (DOCS / "how_to" / "make_a_task_drift.md").read_text(encoding="utf-8")
    wrapped, minatar = (yaml.safe_load(example) for example in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    env = get_wrapper_class(wrapped["CartPole-v1"])(gym.make("CartPole-v1"))
    assert isinstance(env, DriftingPhysics)
    assert env.parameters["length"][0] == env.unwrapped.length
    assert eval(minatar["DriftingMinAtar-v0"]["policy_kwargs"])["features_extractor_class"] is MinAtarCnn
