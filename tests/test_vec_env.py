"""Several agents: all with one policy (``parallel_env_to_vec_env``), or each with its own (``OneAgent``)."""

import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3 import DQN
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_reptile import ReptileDQN
from sb3_reptile.vec_env import OneAgent, parallel_env_to_vec_env
from sb3_reptile.vec_env.threaded_vec_env import ThreadedVecEnv

ALL_OVER = {"red": "truncated", "blue": "truncated"}


class Diary:
    """
    A parallel environment that writes down what it is given. An agent sees (episodes since the last seed, step, number
    of the agent), and is rewarded with 10 x its number + its action.

    :param ends: step -> agent -> "terminated" or "truncated"
    """

    metadata = {"render_modes": ["rgb_array"], "name": "diary"}  # noqa: RUF012 -- as PettingZoo has it

    def __init__(self, ends=None, agents=("red", "blue"), render_mode=None):
        self.ends = {3: dict.fromkeys(agents, "truncated")} if ends is None else ends
        self.possible_agents = list(agents)
        self.render_mode = render_mode
        self.seeds, self.options, self.actions = [], [], []
        self.episode = -1
        self.space = spaces.Box(0, 255, (3,), np.float32)
        self.choices = spaces.Discrete(10)
        self.closed = False

    @property
    def unwrapped(self):
        return self

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.choices

    def observe(self):
        return {
            agent: np.array([self.episode, self.time, self.possible_agents.index(agent)], np.float32)
            for agent in self.agents
        }

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        self.options.append(options)
        self.episode, self.time = self.episode + 1 if seed is None else 0, 0
        self.agents = list(self.possible_agents)
        return self.observe(), {agent: {"began": self.episode} for agent in self.agents}

    def step(self, actions):
        self.actions.append(actions)
        self.time += 1
        ends = self.ends.get(self.time, {})
        returned = (
            self.observe(),
            {agent: 10 * self.possible_agents.index(agent) + actions[agent] for agent in self.agents},
            {agent: ends.get(agent) in ("terminated", "both") for agent in self.agents},
            {agent: ends.get(agent) in ("truncated", "both") for agent in self.agents},
            {agent: {"time": self.time} for agent in self.agents},
        )
        self.agents = [agent for agent in self.agents if agent not in ends]
        return returned

    def render(self):
        return np.full((4, 4, 3), self.time, np.uint8)

    def close(self):
        self.closed = True

    def greet(self, word):
        self.greeted = [*getattr(self, "greeted", []), word]
        return len(self.greeted)


class Outside:
    """A wrapper as PettingZoo's are."""

    def __init__(self, env):
        self.env = env
        self.height = 1

    def __getattr__(self, name):
        return getattr(self.env, name)


class Scripted:
    """A policy that counts, and writes down what it is asked; its state is how often it was asked."""

    def __init__(self, action=7):
        self.action = action
        self.asked = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.asked.append((observation.tolist(), state, episode_start.tolist(), deterministic))
        return np.asarray(self.action), (state or 0) + 1


# One policy for all agents


def test_agents_of_one_environment_after_the_other_see_act_and_are_rewarded():
    envs = [Diary(), Diary()]
    vec_env = parallel_env_to_vec_env(envs)
    assert vec_env.num_envs == 4
    assert (vec_env.observation_space, vec_env.action_space) == (envs[0].space, envs[0].choices)
    np.testing.assert_array_equal(vec_env.reset(), [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]])
    obs, rewards, dones, infos = vec_env.step(np.array([1, 2, 3, 4]))
    assert [env.actions for env in envs] == [[{"red": 1, "blue": 2}], [{"red": 3, "blue": 4}]]
    np.testing.assert_array_equal(obs, [[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 1, 1]])
    assert (obs.dtype, rewards.dtype) == (np.float32, np.float32)
    assert rewards.tolist() == [1, 12, 3, 14]
    assert dones.tolist() == [False] * 4
    assert infos == [{"time": 1, "agent": name, "TimeLimit.truncated": False} for name in ["red", "blue"] * 2]
    vec_env.close()
    assert all(env.closed for env in envs)


def test_one_environment_needs_no_list():
    env = Diary()
    vec_env = parallel_env_to_vec_env(env)
    assert vec_env.parallel_envs == [env]
    assert vec_env.num_envs == 2


def test_the_end_of_an_episode_resets_that_environment_and_returns_the_last_observation():
    vec_env = parallel_env_to_vec_env([Diary({2: ALL_OVER}), Diary({3: ALL_OVER})])
    vec_env.reset()
    assert [info["began"] for info in vec_env.reset_infos] == [0, 0, 0, 0]
    assert [info["agent"] for info in vec_env.reset_infos] == ["red", "blue"] * 2
    vec_env.step(np.zeros(4, int))
    obs, rewards, dones, infos = vec_env.step(np.full(4, 5))
    assert dones.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(obs, [[1, 0, 0], [1, 0, 1], [0, 2, 0], [0, 2, 1]])
    assert rewards.tolist() == [5, 15, 5, 15]
    assert [info["time"] for info in infos] == [2] * 4
    assert [info["terminal_observation"].tolist() for info in infos[:2]] == [[0, 2, 0], [0, 2, 1]]
    assert not any("terminal_observation" in info for info in infos[2:])
    assert [info["began"] for info in vec_env.reset_infos] == [1, 1, 0, 0]
    assert vec_env.step(np.zeros(4, int))[2].tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("red", "blue"), [("truncated", "truncated"), ("terminated", "terminated"), ("terminated", "truncated")]
)
def test_time_limits_and_terminal_states_are_distinguished_for_each_agent(red, blue):
    vec_env = parallel_env_to_vec_env(Diary({1: {"red": red, "blue": blue}}))
    vec_env.reset()
    _, _, dones, infos = vec_env.step(np.zeros(2, int))
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [red == "truncated", blue == "truncated"]


def test_an_agent_whose_time_ends_in_a_terminal_state_is_not_truncated():
    vec_env = parallel_env_to_vec_env(Diary({1: {"red": "both", "blue": "truncated"}}))
    vec_env.reset()
    assert [info["TimeLimit.truncated"] for info in vec_env.step(np.zeros(2, int))[3]] == [False, True]


def test_what_was_seen_last_survives_environments_that_reuse_their_arrays():
    class Reusing(Diary):
        array = np.zeros(3, np.float32)

        def observe(self):
            self.array[:] = self.episode, self.time, 0
            return dict.fromkeys(self.agents, self.array)

    vec_env = parallel_env_to_vec_env(Reusing({1: ALL_OVER}))
    before = vec_env.reset()
    after, _, _, infos = vec_env.step(np.zeros(2, int))
    assert before.tolist() == [[0, 0, 0]] * 2
    assert after.tolist() == [[1, 0, 0]] * 2
    assert infos[1]["terminal_observation"].tolist() == [0, 1, 0]


def test_infos_survive_environments_that_reuse_their_arrays():
    class Reusing(Diary):
        times = np.zeros(1)

        def step(self, actions):
            *returned, infos = super().step(actions)
            self.times[:] = self.time
            return *returned, {agent: {"times": self.times} for agent in infos}

        def reset(self, **kwargs):
            self.times[:] = 0
            return super().reset(**kwargs)

    vec_env = parallel_env_to_vec_env(Reusing())
    vec_env.reset()
    infos = [vec_env.step(np.zeros(2, int))[3] for _ in range(3)]  # the third ends the episode
    assert [info["times"].tolist() for of_step in infos for info in of_step] == [[1], [1], [2], [2], [3], [3]]


def test_environments_are_seeded_one_after_the_other_at_the_next_reset_alone():
    envs = [Diary({1: ALL_OVER}), Diary({1: ALL_OVER})]
    vec_env = parallel_env_to_vec_env(envs)
    vec_env.reset()
    assert vec_env.seed(5) == [5, 5, 6, 6]
    vec_env.step(np.zeros(4, int))
    vec_env.reset()
    vec_env.reset()
    assert [env.seeds for env in envs] == [[None, None, 5, None], [None, None, 6, None]]


def test_a_random_seed_comes_from_numpy_as_in_stable_baselines3():
    seeds = []
    for make in (
        lambda: parallel_env_to_vec_env([Diary(), Diary()]),
        lambda: DummyVecEnv([lambda: OneAgent(Diary(), "red")] * 2),
    ):
        np.random.seed(0)
        seeds.append(list(dict.fromkeys(make().seed())))
    assert seeds[0] == seeds[1]
    assert len(seeds[0]) == 2


def test_options_reach_the_next_reset_alone():
    envs = [Diary(), Diary()]
    vec_env = parallel_env_to_vec_env(envs)
    vec_env.set_options([{"level": 1}, {}, {"level": 2}, {}])
    vec_env.reset()
    vec_env.reset()
    assert [env.options for env in envs] == [[{"level": 1}, None], [{"level": 2}, None]]


def test_observations_can_be_discrete_or_dicts():
    class Other(Diary):
        def observe(self):
            return {agent: self.convert(seen) for agent, seen in super().observe().items()}

    discrete = Other({2: ALL_OVER})
    discrete.space = spaces.Discrete(9)
    discrete.convert = lambda seen: int(seen[2]) + 3
    assert parallel_env_to_vec_env(discrete).reset().tolist() == [3, 4]

    both = Other({2: ALL_OVER})
    both.space = spaces.Dict(seen=Diary().space, number=spaces.Discrete(9))
    both.convert = lambda seen: {"seen": seen, "number": int(seen[2])}
    vec_env = parallel_env_to_vec_env(both)
    obs = vec_env.reset()
    assert obs["number"].tolist() == [0, 1]
    assert obs["seen"].tolist() == [[0, 0, 0], [0, 0, 1]]
    vec_env.step(np.zeros(2, int))
    assert vec_env.step(np.zeros(2, int))[3][1]["terminal_observation"]["seen"].tolist() == [0, 2, 1]
    ReptileDQN("MultiInputPolicy", vec_env, learning_starts=10, buffer_size=100).learn(40)


def test_attributes_and_methods_are_those_of_the_layer_that_has_them():
    envs = [Diary(), Diary()]
    vec_env = parallel_env_to_vec_env([Outside(env) for env in envs])
    vec_env.set_attr("episode", 8, indices=[2])
    vec_env.set_attr("height", 5, indices=3)
    assert [env.episode for env in envs] == [-1, 8]
    assert vec_env.get_attr("episode") == [-1, -1, 8, 8]
    assert vec_env.get_attr("height") == [1, 1, 5, 5]
    assert vec_env.get_attr("height", indices=-1) == [5]
    assert not vec_env.has_attr("width")
    # Once for each environment
    assert vec_env.env_method("greet", "hello") == [1, 1, 1, 1]
    assert vec_env.env_method("greet", word="again", indices=[1, 0]) == [2, 2]
    assert [env.greeted for env in envs] == [["hello", "again"], ["hello"]]
    assert vec_env.env_is_wrapped(Outside) == [True] * 4
    assert vec_env.env_is_wrapped(gym.Wrapper, indices=[0]) == [False]


def test_there_is_one_image_of_each_environment():
    vec_env = parallel_env_to_vec_env([Diary(render_mode="rgb_array") for _ in range(2)])
    vec_env.reset()
    assert (vec_env.render_mode, vec_env.metadata["name"]) == ("rgb_array", "diary")
    assert [image.shape for image in vec_env.get_images()] == [(4, 4, 3)] * 2
    assert vec_env.render().shape == (8, 4, 3)


class Painter(gym.Env):
    """Draws in the thread that made it only."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 -- as Gymnasium has it
    render_mode = "rgb_array"

    def __init__(self):
        self.thread = threading.get_ident()

    def render(self):
        assert threading.get_ident() == self.thread
        return np.zeros((4, 4, 3), np.uint8)


def test_environments_in_threads_are_drawn_in_theirs():
    vec_env = ThreadedVecEnv([Painter] * 4, n_threads=2)
    assert [image.shape for image in vec_env.get_images()] == [(4, 4, 3)] * 4
    vec_env.close()


class InTurns:
    def agent_iter(self):
        """Distinguishes an AEC environment from a parallel one."""


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (InTurns(), r"got <.*InTurns.*>: .*pettingzoo.utils.conversions.aec_to_parallel"),
        (gym.make("CartPole-v1"), "CartPole.*: it has one agent, give it to the model as it is"),
        (DummyVecEnv([lambda: OneAgent(Diary(), "red")]), "DummyVecEnv.*: it has one agent"),
        (Diary, "got <class '.*Diary'>: if it makes one, call it"),
        (3, "got 3: it must have possible_agents, observation_space, action_space, reset, step"),
    ],
)
def test_what_is_not_a_parallel_environment_is_refused_with_what_to_do(what, message):
    for make in (parallel_env_to_vec_env, lambda env: parallel_env_to_vec_env([env]), lambda env: OneAgent(env, "red")):
        with pytest.raises(ValueError, match=f"parallel_env must be a PettingZoo parallel environment .*{message}"):
            make(what)


def test_environments_must_be_some_and_different_objects_with_the_same_agents():
    with pytest.raises(ValueError, match=r"at least one, got \[\]"):
        parallel_env_to_vec_env([])
    with pytest.raises(ValueError, match=r"must be different objects, got 3 of which some are the same: make each"):
        parallel_env_to_vec_env([Diary()] * 3)
    with pytest.raises(ValueError, match=r"must have the same agents, got \['red', 'blue'\] and \['red'\]"):
        parallel_env_to_vec_env([Diary(), Diary(agents=["red"])])


def test_agents_with_different_spaces_are_refused():
    class Uneven(Diary):
        def observation_space(self, agent):
            return self.space if agent == "red" else spaces.Box(0, 255, (5,), np.float32)

    class Unable(Diary):
        def action_space(self, agent):
            return spaces.Discrete(10 if agent == "red" else 3)

    message = r"the same observation space .*\(3,\), float32\) of red and .*\(5,\).* of blue: .*supersuit.pad_observ"
    with pytest.raises(ValueError, match=message):
        parallel_env_to_vec_env(Uneven())
    with pytest.raises(ValueError, match=r"same action space .*, got Discrete\(10\) of red and Discrete\(3\).*pad_act"):
        parallel_env_to_vec_env(Unable())
    other = Diary()
    other.choices = spaces.Discrete(4)
    with pytest.raises(ValueError, match=r"same action space .*, got Discrete\(10\) of red and Discrete\(4\)"):
        parallel_env_to_vec_env([Diary(), other])


def test_agents_that_leave_before_the_others_or_come_late_are_refused():
    vec_env = parallel_env_to_vec_env(Diary({1: {"blue": "terminated"}}))
    vec_env.reset()
    with pytest.raises(ValueError, match=r"must stay .*, blue left early: supersuit.black_death_v3"):
        vec_env.step(np.zeros(2, int))

    class Late(Diary):
        def observe(self):
            return {"red": super().observe()["red"]}

    with pytest.raises(ValueError, match=r"must be there after a reset to share one policy, got red of red, blue"):
        parallel_env_to_vec_env(Late()).reset()


def spread(n=2):
    simple_spread_v3 = pytest.importorskip("mpe2.simple_spread_v3", reason="needs the extra multi-agent")
    return parallel_env_to_vec_env([simple_spread_v3.parallel_env(max_cycles=10) for _ in range(n)])


def test_attributes_are_found_inside_converted_environments():
    vec_env = spread()
    vec_env.set_attr("max_cycles", 4, indices=0)
    assert vec_env.get_attr("max_cycles") == [4] * 3 + [10] * 3
    vec_env.reset()
    dones = [vec_env.step([0] * 6)[2].tolist() for _ in range(4)]
    assert dones == [[False] * 6] * 3 + [[True] * 3 + [False] * 3]


def test_training_with_a_seed_repeats_bit_for_bit_and_knows_its_time_limits():
    def train(seed):
        model = ReptileDQN("MlpPolicy", VecMonitor(spread()), learning_starts=60, train_freq=1, seed=seed)
        return model.learn(300)

    one, same, other = train(0), train(0), train(1)
    parameters = [[p.tolist() for p in model.policy.parameters()] for model in (one, same, other)]
    assert parameters[0] == parameters[1] != parameters[2]
    assert [episode["r"] for episode in one.ep_info_buffer] == [episode["r"] for episode in same.ep_info_buffer]
    assert {episode["l"] for episode in one.ep_info_buffer} == {10}
    buffer = one.replay_buffer
    np.testing.assert_array_equal(buffer.timeouts[:50], buffer.dones[:50])
    assert buffer.dones[:50].sum() == 5 * 6
    # At the end of an episode what follows is its last observation, not the first of the next one
    assert not np.isclose(buffer.next_observations[9], buffer.observations[10]).all(axis=1).any()
    np.testing.assert_array_equal(buffer.next_observations[8], buffer.observations[9])


def test_normalisation_sees_all_agents():
    vec_env = VecNormalize(VecMonitor(spread(3)))
    ReptileDQN("MlpPolicy", vec_env, learning_starts=20, seed=0).learn(200)
    assert vec_env.obs_rms.mean.shape == (18,)
    assert vec_env.obs_rms.count == pytest.approx(9 * 25, abs=0.01)  # 24 steps of 9 agents, and the reset


# A policy for each agent


def test_one_agent_sees_its_own_side_and_others_act_by_their_policies():
    diary, opponent = Diary(), Scripted()
    env = OneAgent(diary, "blue", {"red": opponent}, deterministic=True)
    obs, info = env.reset(seed=4, options={"level": 2})
    assert (obs.tolist(), info) == ([0, 0, 1], {"began": 0})
    assert (diary.seeds, diary.options) == ([4], [{"level": 2}])
    obs, reward, terminated, truncated, info = env.step(3)
    assert diary.actions == [{"red": 7, "blue": 3}]
    assert (obs.tolist(), reward, terminated, truncated, info) == ([0, 1, 1], 13.0, False, False, {"time": 1})
    assert isinstance(reward, float)
    env.step(3)
    assert env.step(3)[2:4] == (False, True)
    env.reset()
    env.step(3)
    asked = [([0, 0, 0], None, [True]), ([0, 1, 0], 1, [False]), ([0, 2, 0], 2, [False]), ([1, 0, 0], None, [True])]
    assert opponent.asked == [(*question, True) for question in asked]
    assert diary.seeds == [4, None]


def test_others_act_as_a_model_does_by_default():
    opponent = Scripted()
    env = OneAgent(Diary(), "blue", {"red": opponent})
    env.reset()
    env.step(0)
    assert opponent.asked[0][-1] is False


def test_environments_that_write_into_actions_get_numbers():
    class Writing(Diary):
        def step(self, actions):
            returned = super().step(dict(actions))
            for action in actions.values():
                action //= 5
            return returned

    opponent = Scripted(np.array(7))
    env = OneAgent(Writing(), "blue", {"red": opponent})
    env.reset()
    own = np.array(6)
    env.step(own)
    assert (own, opponent.action) == (6, 7)


def test_policies_can_be_replaced_and_do_not_get_the_state_of_another():
    diary, before, after = Diary(), Scripted(1), Scripted(2)
    env = OneAgent(diary, "red", {"blue": before})
    env.reset()
    env.step(0)
    env.policies = {"blue": after, "red": None}
    env.step(0)
    assert [actions["blue"] for actions in diary.actions] == [1, 2]
    assert after.asked == [([0, 1, 1], None, [True], False)]
    assert env.policies["blue"] is after


def test_random_actions_come_from_the_seed_and_not_from_the_learner():
    def rollout(seed, learner_seed=0, policies=None):
        diary = Diary({40: {}}, agents=("red", "blue", "green"))
        env = OneAgent(diary, "red", policies)
        env.reset(seed=seed)
        env.action_space.seed(learner_seed)
        for _ in range(20):
            env.step(env.action_space.sample())
        return [[actions[name] for actions in diary.actions] for name in diary.possible_agents]

    red, blue, green = rollout(0)
    assert red != blue != green != red
    assert rollout(0) == [red, blue, green]
    assert rollout(0, learner_seed=1)[1:] == [blue, green]
    assert rollout(0, policies={"blue": None})[1:] == [blue, green]
    assert rollout(1)[1] != blue
    assert set(blue) <= set(range(10))


@pytest.mark.parametrize("where", ["observation", "info"])
def test_random_actions_are_those_that_the_mask_allows(where):
    class Masked(Diary):
        def masks(self):
            return {agent: {"action_mask": np.arange(10) % 5 == self.time} for agent in self.agents}

        def observe(self):
            return self.masks() if where == "observation" else super().observe()

        def reset(self, **kwargs):
            obs, infos = super().reset(**kwargs)
            return obs, self.masks() if where == "info" else infos

        def step(self, actions):
            *returned, infos = super().step(actions)
            return *returned, self.masks() if where == "info" else infos

    diary = Masked({}, agents=("red", "blue"))
    env = OneAgent(diary, "red")
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(4):
            env.step(0)
    assert [actions["blue"] % 5 for actions in diary.actions] == [0, 1, 2, 3] * 5
    assert {actions["blue"] for actions in diary.actions} == {0, 1, 2, 3, 5, 6, 7, 8}


def test_the_episode_is_over_when_the_agent_leaves_and_others_leave_unasked():
    ends = {1: {"blue": "terminated"}, 3: {"red": "terminated"}, 9: {"green": "truncated"}}
    diary, blue, green = Diary(ends, agents=("red", "blue", "green")), Scripted(), Scripted()
    env = OneAgent(diary, "red", {"blue": blue, "green": green})
    env.reset()
    steps = [env.step(0) for _ in range(3)]
    assert [step[2:4] for step in steps] == [(False, False), (False, False), (True, False)]
    assert (len(blue.asked), len(green.asked)) == (1, 3)
    assert [set(actions) for actions in diary.actions] == [{"red", "blue", "green"}] + [{"red", "green"}] * 2
    assert env.reset()[0].tolist() == [1, 0, 0]


@pytest.mark.filterwarnings("ignore:.*WARN", "ignore:.*symmetric and normalized")
def test_one_agent_passes_both_check_envs():
    simple_tag_v3 = pytest.importorskip("mpe2.simple_tag_v3", reason="needs the extra multi-agent")
    for parallel_env in (
        Diary(),
        simple_tag_v3.parallel_env(render_mode="rgb_array"),
        simple_tag_v3.parallel_env(continuous_actions=True),
    ):
        env = OneAgent(parallel_env, parallel_env.possible_agents[0])
        check_env(env)
        gymnasium_check_env(env, skip_render_check=True, skip_close_check=True)


def test_one_agent_renders_and_closes_the_environment():
    diary = Diary(render_mode="rgb_array")
    env = OneAgent(diary, "red")
    env.reset()
    env.step(0)
    assert (env.render_mode, env.metadata["name"]) == ("rgb_array", "diary")
    assert env.render()[0, 0].tolist() == [1, 1, 1]
    env.close()
    assert diary.closed


def test_names_that_no_agent_has_are_refused():
    with pytest.raises(ValueError, match=r"agent must name agents of the environment \(red, blue\), got 'green'"):
        OneAgent(Diary(), "green")
    with pytest.raises(ValueError, match=r"policies must name agents of the environment \(red, blue\), got 'bleu'"):
        OneAgent(Diary(), "red", {"bleu": Scripted()})
    env = OneAgent(Diary(), "red")
    with pytest.raises(ValueError, match=r"got 'bleu'"):
        env.policies = {"bleu": Scripted()}


def test_a_model_learns_against_another_that_stays_as_it_is():
    simple_tag_v3 = pytest.importorskip("mpe2.simple_tag_v3", reason="needs the extra multi-agent")

    def make(agent, **kwargs):
        parallel_env = simple_tag_v3.parallel_env(num_good=1, num_adversaries=1, num_obstacles=0, max_cycles=10)
        return OneAgent(parallel_env, agent, **kwargs)

    prey = ReptileDQN("MlpPolicy", make("agent_0"), seed=1)
    frozen = [p.tolist() for p in prey.policy.parameters()]

    def train():
        env = make("adversary_0", policies={"agent_0": prey}, deterministic=True)
        model = DQN("MlpPolicy", env, learning_starts=20, train_freq=1, seed=0).learn(100)
        return [p.tolist() for p in model.policy.parameters()], model.replay_buffer.timeouts[:100].sum()

    (parameters, time_limits), again = train(), train()
    assert (parameters, time_limits) == again
    assert time_limits == 10
    assert [p.tolist() for p in prey.policy.parameters()] == frozen


def test_pettingzoo_is_not_imported():
    code = "import sys, sb3_reptile.vec_env; assert not {'pettingzoo', 'mpe2', 'supersuit'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
