"""Training from a network of another task: which parts start where, are frozen, and learn slowly; also when resumed."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.reptile_dqn.transfer import Transfer
from tests.conftest import INF, assert_same_parameters, cartpole, parameters, small

OTHER_CART = {"observations": [3, None, 1, 0, 2], "actions": [None, 1, 0]}


class OtherCart(gym.Wrapper):
    """CartPole with three actions and five numbers in an observation."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))
        self.action_space = spaces.Discrete(3)
        self.observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)

    def observed(self, obs):
        return np.array([obs[3], 0.5, obs[1], obs[0], obs[2]], np.float32)

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return self.observed(obs), info

    def step(self, action):
        obs, *others = super().step([0, 1, 0][action])
        return self.observed(obs), *others


@pytest.fixture(scope="module")
def teacher():
    return DQN("MlpPolicy", "CartPole-v1", **small(seed=5)).learn(300)


def student_of(teacher, env=None, transfer=OTHER_CART, **kwargs):
    return ReptileDQN("MlpPolicy", env or OtherCart(), **small(pretrained=teacher, transfer=transfer, **kwargs))


# ---- Mapping


@pytest.mark.parametrize("net_arch", [[64, 64], []])
def test_mapped_actions_have_the_values_of_those_that_they_start_from(net_arch):
    kwargs = dict(policy_kwargs=dict(net_arch=net_arch))
    teacher = DQN("MlpPolicy", "CartPole-v1", **small(seed=5, **kwargs)).learn(300)
    student = student_of(teacher, **kwargs)
    scratch = ReptileDQN("MlpPolicy", OtherCart(), **small(**kwargs))
    obs = th.randn(20, 4)
    new_obs = th.stack([obs[:, 3], th.randn(20) * 100, obs[:, 1], obs[:, 0], obs[:, 2]], dim=1)
    for net in ("q_net", "q_net_target"):
        theirs, ours = getattr(teacher, net)(obs), getattr(student, net)(new_obs)
        th.testing.assert_close(ours[:, 1], theirs[:, 1])
        th.testing.assert_close(ours[:, 2], theirs[:, 0])
        # The new action starts as it does from scratch
        last = str(2 * len(net_arch))
        fresh, started = (getattr(model, net).q_net.get_submodule(last) for model in (scratch, student))
        assert th.equal(fresh.bias[0], started.bias[0])
        assert th.equal(fresh.weight[0], started.weight[0])
    before = parameters(student)
    student.learn(200)
    # What starts at 0 learns all the same
    assert not th.equal(student.q_net.q_net[0].weight[:, 1], before["q_net.q_net.0.weight"][:, 1])


def test_a_mapping_of_equal_sizes_permutes(teacher):
    student = student_of(teacher, "CartPole-v1", {"actions": [1, 0]})
    obs = th.randn(20, 4)
    th.testing.assert_close(student.q_net(obs), teacher.q_net(obs).flip(1))


def test_a_mapping_can_be_an_array():
    assert Transfer(actions=np.array([1, 0])) == Transfer(actions=(1, 0))
    with pytest.raises(TypeError, match="whole numbers or None, got"):
        Transfer(actions=np.array([True, False]))


def test_numbers_of_dict_observations_are_counted_key_by_key():
    class Fewer(gym.ObservationWrapper):
        def __init__(self):
            super().__init__(SimpleMultiObsEnv(discrete_actions=True))
            parts = self.env.observation_space.spaces
            self.observation_space = spaces.Dict({"vec": parts["vec"]})

        def observation(self, observation):
            return {"vec": observation["vec"]}

    class Both(gym.ObservationWrapper):
        def __init__(self):
            super().__init__(Fewer())
            vec = self.env.observation_space["vec"]
            self.observation_space = spaces.Dict({"a": spaces.Discrete(3), "vec": vec})

        def observation(self, observation):
            return {"a": 1, **observation}

    n = Fewer().observation_space["vec"].shape[0]
    kwargs = dict(policy_kwargs=dict(net_arch=[8]))
    teacher = DQN("MultiInputPolicy", Fewer(), **small(**kwargs))
    transfer = {"observations": [None] * 3 + list(range(n))}
    student = ReptileDQN("MultiInputPolicy", Both(), **small(pretrained=teacher, transfer=transfer, **kwargs))
    vec = th.randn(10, n)
    given = {"a": th.nn.functional.one_hot(th.arange(10) % 3, 3).float(), "vec": vec}
    theirs = teacher.q_net.q_net(vec)
    th.testing.assert_close(student.q_net.q_net(th.cat([given["a"], vec], dim=1)), theirs)
    student.learn(100)


def image_env(n_actions):
    return FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, action_dim=n_actions)


def test_images_keep_their_layers_and_map_their_actions():
    teacher = DQN("CnnPolicy", image_env(2), **small(buffer_size=100))
    arguments = small(buffer_size=100, pretrained=teacher, transfer={"actions": [1, None, 0]})
    student = ReptileDQN("CnnPolicy", image_env(3), **arguments)
    images = th.rand(5, 1, 40, 40) * 255
    th.testing.assert_close(student.q_net(images)[:, [2, 0]], teacher.q_net(images))
    with pytest.raises(ValueError, match=r"'observations': .* which this policy's features extractor transforms first"):
        ReptileDQN("CnnPolicy", image_env(2), **{**arguments, "transfer": {"observations": [0]}})


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("normalize", [False, True])
def test_it_learns_with_any_number_of_environments(n_envs, normalize, teacher):
    env = make_vec_env(OtherCart, n_envs=n_envs, seed=0)
    transfer = {**OTHER_CART, "freeze_steps": 200, "learning_rate_factor": 0.1}
    student = student_of(teacher, VecNormalize(env) if normalize else env, transfer)
    before = parameters(student)
    student.learn(192)
    assert th.equal(parameters(student)["q_net.q_net.2.weight"], before["q_net.q_net.2.weight"])
    student.learn(192)  # learn() begins to count at 0, freeze_steps does not
    assert not th.equal(parameters(student)["q_net.q_net.2.weight"], before["q_net.q_net.2.weight"])


def test_statistics_of_observations_are_not_mapped_silently():
    kwargs = dict(policy_kwargs=dict(features_extractor_class=Normalized))
    teacher = DQN("MlpPolicy", "CartPole-v1", **small(**kwargs))
    with pytest.raises(ValueError, match="which this policy's features extractor transforms first"):
        student_of(teacher, "CartPole-v1", {"observations": [3, 2, 1, 0]}, **kwargs)


# ---- Freezing


def test_frozen_layers_keep_their_values_until_the_step(teacher):
    transfer = {**OTHER_CART, "freeze_steps": 200, "freeze_layers": 1}
    student = student_of(teacher, transfer=transfer, train_freq=1)
    before = parameters(student)
    seen = []

    def note(scope, _):
        now = parameters(student)
        seen.append([th.equal(now[f"q_net.q_net.{k}.weight"], before[f"q_net.q_net.{k}.weight"]) for k in (0, 2, 4)])

    student.learn(300, callback=lambda *args: note(*args) or True)
    is_first_frozen, is_second_frozen, is_last_frozen = np.array(seen).T
    # Step 200 is the last of the frozen ones: callbacks are called before the update of their step
    assert is_first_frozen[:200].all()
    assert not is_first_frozen[200:].any()
    assert not is_second_frozen[60:].any()
    assert not is_last_frozen[60:].any()


def test_without_freeze_layers_all_but_the_last_are_frozen(teacher):
    student = student_of(teacher, transfer={**OTHER_CART, "freeze_steps": INF})
    before = parameters(student)
    student.learn(300)
    after = parameters(student)
    changed = {name for name in after if name.startswith("q_net.") and not th.equal(after[name], before[name])}
    assert changed == {"q_net.q_net.4.weight", "q_net.q_net.4.bias"}


class Normalized(FlattenExtractor):
    def __init__(self, space):
        super().__init__(space)
        self.norm = th.nn.BatchNorm1d(self.features_dim, affine=False)

    def forward(self, observations):
        return self.norm(super().forward(observations))


def test_frozen_layers_keep_their_statistics():
    kwargs = dict(policy_kwargs=dict(features_extractor_class=Normalized))
    teacher = DQN("MlpPolicy", "CartPole-v1", **small(**kwargs)).learn(100)
    student = student_of(teacher, "CartPole-v1", {"freeze_steps": 200, "freeze_layers": 1}, **kwargs)
    norm = student.q_net.features_extractor.norm
    mean = norm.running_mean.clone()
    student.learn(196)
    assert student._n_updates > 0
    assert th.equal(norm.running_mean, mean)
    student.learn(100)
    assert not th.equal(norm.running_mean, mean)


# ---- Learning rates


def reference_with_groups(teacher, factor, steps):
    """SB3's DQN with the groups of parameters made by a user, and its learning rate set in a callback."""
    model = DQN("MlpPolicy", "CartPole-v1", **small(learning_rate=lambda progress: 1e-3 * progress))
    model.policy.load_state_dict(teacher.policy.state_dict())
    *loaded, weight, bias = model.q_net.parameters()
    with th.no_grad():
        fresh = ReptileDQN("MlpPolicy", "CartPole-v1", **small()).q_net.q_net[4]
        for net in (model.q_net, model.q_net_target):
            net.q_net[4].load_state_dict(fresh.state_dict())
    model.policy.optimizer = th.optim.Adam([{"params": [weight, bias]}, {"params": loaded}], lr=1e-3)
    update = model._update_learning_rate

    def scaled(optimizers):
        update(optimizers)
        model.policy.optimizer.param_groups[1]["lr"] *= factor

    model._update_learning_rate = scaled
    return model.learn(steps)


@pytest.mark.parametrize("learner", ["auto", "eager"])
def test_loaded_parameters_learn_at_the_smaller_rate(learner, teacher):
    student = student_of(
        teacher,
        "CartPole-v1",
        {"actions": [None, None], "learning_rate_factor": 0.1},
        half_life=INF,
        learner=learner,
        learning_rate=lambda progress: 1e-3 * progress,
    ).learn(400)
    new, loaded = student.policy.optimizer.param_groups
    assert len(new["params"]) == 2
    assert loaded["lr"] == pytest.approx(new["lr"] / 10)
    assert_same_parameters(student, reference_with_groups(teacher, 0.1, 400))


@pytest.mark.parametrize(
    ("transfer", "new"),
    [
        ({"observations": [3, None, 1, 0, 2], "actions": [1, 1, 0]}, {"0.weight"}),
        ({"observations": [3, 3, 1, 0, 2], "actions": [None, 1, 0]}, {"4.weight", "4.bias"}),
        (OTHER_CART, {"0.weight", "4.weight", "4.bias"}),
    ],
)
def test_layers_with_new_observations_or_actions_learn_at_the_full_rate(transfer, new, teacher):
    student = student_of(teacher, transfer={**transfer, "learning_rate_factor": 0.1})
    names = {id(parameter): name for name, parameter in student.q_net.q_net.named_parameters()}
    groups = [{names[id(value)] for value in group["params"]} for group in student.policy.optimizer.param_groups]
    assert groups == [new, set(names.values()) - new]


def test_the_optimizer_has_its_arguments_in_all_groups(teacher):
    optimizer = dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.7, momentum=0.5))
    transfer = {"actions": [None, 1], "learning_rate_factor": 0.1}
    student = student_of(teacher, "CartPole-v1", transfer, policy_kwargs=optimizer, learning_rate=1e-3)
    assert isinstance(student.policy.optimizer, th.optim.RMSprop)
    groups = student.policy.optimizer.param_groups
    assert [(group["alpha"], group["momentum"]) for group in groups] == [(0.7, 0.5)] * 2
    # Also before the first update
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 1e-4])


def test_if_all_is_loaded_all_learns_at_the_smaller_rate_in_closed_form(teacher, capsys):
    arguments = dict(half_life=INF, verbose=1)
    student = student_of(teacher, "CartPole-v1", {"learning_rate_factor": 0.25}, learning_rate=4e-3, **arguments)
    student.learn(300)
    other = ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=teacher, learning_rate=1e-3, **arguments))
    assert_same_parameters(student, other.learn(300))
    assert "Updates use autograd" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("transfer", "reasons"),
    [
        ({"freeze_steps": 100}, ["a parameter is frozen", "different numbers of updates"]),
        ({"actions": [None, 1], "learning_rate_factor": 0.1}, ["groups of them"]),
    ],
)
@pytest.mark.parametrize("learner", ["auto", "fast"])
def test_what_the_closed_form_does_not_do_is_done_by_autograd_and_stated(transfer, reasons, learner, teacher, capsys):
    student = student_of(teacher, "CartPole-v1", transfer, verbose=1, learner=learner).learn(200)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("Updates", "The first"))]
    assert [line for line in said if "in closed form" in line] == []
    assert [reason for reason in reasons if not any(reason in line for line in said)] == []
    if "freeze_steps" in transfer:
        assert "The first 2 layers are frozen for 100 steps" in said
        assert "The first 2 layers learn from now on" in said
    assert student._n_updates > 0


# ---- Saving, loading, resuming


ALL = {**OTHER_CART, "freeze_steps": 240, "freeze_layers": 2, "learning_rate_factor": 0.1}


@pytest.mark.parametrize("at", [120, 320], ids=["frozen", "thawed"])
def test_a_loaded_model_goes_on_as_it_was(at, teacher, tmp_path):
    student = student_of(teacher, transfer=ALL)
    student.learn(at)
    student.save(tmp_path / "student")
    saved, _, _ = load_from_zip_file(tmp_path / "student")
    assert {"_frozen", "pretrained"}.isdisjoint(saved)
    loaded = ReptileDQN.load(tmp_path / "student", env=OtherCart())
    assert loaded.transfer == student.transfer
    assert loaded.pretrained is None
    is_frozen = at < 240
    trains = [parameter.requires_grad for parameter in loaded.q_net.parameters()]
    assert trains == [not is_frozen] * 4 + [True] * 2
    assert_same_parameters(loaded, student)
    before = parameters(loaded)
    loaded.learn(100)
    assert th.equal(parameters(loaded)["q_net.q_net.0.weight"], before["q_net.q_net.0.weight"]) == is_frozen
    new, old = loaded.policy.optimizer.param_groups
    assert old["lr"] == pytest.approx(new["lr"] / 10)


@pytest.mark.parametrize("n_envs", [1, 8])
def test_training_resumed_while_layers_are_frozen_ends_as_without_the_interruption(n_envs, teacher, tmp_path):
    def env():
        return make_vec_env(OtherCart, n_envs=n_envs, seed=0)

    whole = student_of(teacher, env(), ALL).learn(400)
    half = student_of(teacher, env(), ALL)

    def stop(scope, _):
        return half.num_timesteps < 160

    half.learn(400, callback=[ResumableCheckpoint(80, tmp_path), ConvertCallback(stop)])
    resumed = resume(tmp_path, env())
    assert any(not parameter.requires_grad for parameter in resumed.q_net.parameters())
    resumed.learn(400 - resumed.num_timesteps, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps
    assert all(parameter.requires_grad for parameter in resumed.q_net.parameters())
    assert_same_parameters(resumed, whole)


@pytest.mark.parametrize("given", [dict(transfer={"freeze_steps": 3}), dict(transfer=None)])
def test_a_transfer_cannot_change_when_training_is_resumed(given, teacher, tmp_path):
    student_of(teacher, transfer=ALL).learn(100, callback=ResumableCheckpoint(100, tmp_path))
    with pytest.raises(ValueError, match=r"transfer=.* cannot change when training is resumed"):
        resume(tmp_path, OtherCart(), **given)


# ---- What is refused


@pytest.mark.parametrize(
    ("transfer", "error", "said"),
    [
        ({}, ValueError, "transfer must have one of actions, observations, freeze_layers"),
        ([1, 0], TypeError, r"transfer must be a dict of actions.*got \[1, 0\]"),
        ({"action": [1, 0]}, ValueError, "no option 'action'; did you mean 'actions'"),
        ({"actions": [0, 1]}, ValueError, r"one entry for each of this environment's 3 actions, got 2: \[0, 1\]"),
        ({"actions": [0, 1, 2]}, ValueError, "numbers from 0 to 1, as pretrained has 2 actions, or None, got 2"),
        ({"actions": [0, 1, -1]}, ValueError, "numbers >= 0 or None, got -1"),
        ({"actions": [0, 1, True]}, TypeError, "whole numbers or None, got True"),
        ({"actions": [0, 1, 1.0]}, TypeError, "whole numbers or None, got 1.0"),
        ({"actions": "0, 1, 1"}, TypeError, "must be a list, got '0, 1, 1'"),
        ({"actions": {0: 1}}, TypeError, "must be a list"),
        ({"actions": 2}, TypeError, "must be a list, got 2"),
        ({"observations": [0, 1, 2, 3]}, ValueError, "each of this environment's 5 numbers in an observation, got 4"),
        ({"observations": [0, 1, 2, 3, 4]}, ValueError, "numbers from 0 to 3, as pretrained has 4"),
        ({"observations": [None] * 5}, ValueError, "has only new ones"),
        ({"observations": OTHER_CART["observations"]}, ValueError, r"it has 2 actions, this environment 3: map them"),
        ({"freeze_steps": 0}, ValueError, "freeze_steps must be a whole number >= 1, or inf, got 0"),
        ({"freeze_steps": 2.5}, ValueError, "freeze_steps must be a whole number"),
        ({"freeze_steps": "1e4"}, TypeError, r"freeze_steps must be a whole number >= 1, or inf, got '1e4' \(str\)"),
        ({"freeze_steps": float("nan")}, ValueError, "freeze_steps must be"),
        ({"freeze_layers": 1}, ValueError, "freeze_layers=1 needs freeze_steps"),
        ({**OTHER_CART, "freeze_steps": 9, "freeze_layers": 3}, ValueError, "from 1 to 2, as the network has 3 layers"),
        ({"freeze_steps": 9, "freeze_layers": 0}, ValueError, "freeze_layers must be a whole number >= 1, got 0"),
        ({"freeze_steps": 9, "freeze_layers": 1.5}, ValueError, "freeze_layers must be a whole number >= 1, got 1.5"),
        ({"learning_rate_factor": 1}, ValueError, r"learning_rate_factor must be in \(0, 1\), got 1"),
        ({"learning_rate_factor": 0.0}, ValueError, r"use freeze_steps for none"),
        ({"learning_rate_factor": "0.1"}, TypeError, "must be a number"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(transfer, error, said, teacher):
    with pytest.raises(error, match=said) as found:
        student_of(teacher, transfer=transfer)
    assert "\n" not in str(found.value)


@pytest.mark.filterwarnings("ignore:the model was saved by DQN")
def test_a_transfer_needs_something_to_transfer(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"transfer=.* needs pretrained: the network to start from"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(transfer={"freeze_steps": 100}))
    teacher.save(tmp_path / "teacher")
    with pytest.raises(ValueError, match="needs pretrained"):
        ReptileDQN.load(tmp_path / "teacher", transfer={"freeze_steps": 100})


def test_a_network_that_cannot_be_frozen_in_part_is_refused():
    kwargs = dict(policy_kwargs=dict(net_arch=[]))
    teacher = DQN("MlpPolicy", "CartPole-v1", **small(**kwargs))
    with pytest.raises(ValueError, match=r"freeze_layers must be from 1 to 0, as the network has 1 layer"):
        student_of(teacher, "CartPole-v1", {"freeze_steps": 100}, **kwargs)


def test_training_without_transfer_counts_steps_and_is_dqn(teacher):
    ours = ReptileDQN("MlpPolicy", cartpole(), **small(pretrained=teacher, half_life=INF)).learn(200)
    theirs = DQN("MlpPolicy", cartpole(), **small())
    theirs.policy.load_state_dict(teacher.policy.state_dict())
    assert_same_parameters(ours, theirs.learn(200))
    assert ours._n_own_steps == 200
