"""Every pair of options of the buffers, in a buffer that is saved, loaded and goes on; and in training that resumes."""

import copy
import pickle

import numpy as np
import pytest
import torch as th

from sb3_reptile import (
    DecayedDictReplayBuffer,
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    ReptileDQN,
)
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from tests.checkpoint.training import Cut, cartpole, cut_at, small
from tests.conftest import N_ROWS, NO_TIMEOUTS, fill, make_buffer
from tests.pairwise import all_pairs
from tests.replay import hindsight
from tests.replay.saving import DICT, assert_same_batches, draw, prioritize

INF = float("inf")


def older_is_lighter(age):
    return 1 / (1 + age / 7)


def weigh(obs, next_obs, action, reward, done, infos):
    return 0.5 + np.asarray(action, dtype=float).reshape(len(infos), -1).sum(axis=1) % 4


KINDS = {
    "plain": (DecayedReplayBuffer, {}),
    "memory optimised": (DecayedReplayBuffer, dict(optimize_memory_usage=True, **NO_TIMEOUTS)),
    "dict": (DecayedDictReplayBuffer, dict(space=DICT)),
    "n-step": (DecayedNStepReplayBuffer, dict(n_steps=3, gamma=0.9)),
    "hindsight": (DecayedHerReplayBuffer, {}),
}
DECAYS = {
    "default": {},
    "half-life": dict(half_life=9),
    "below a row": dict(half_life=0.02),
    "none": dict(half_life=INF),
    "auto": dict(half_life="auto"),
    "auto, window": dict(half_life="auto", decay={"window": {"size": 30}}),
    "linear": dict(decay={"linear": {"horizon": 70, "floor": 0}}),
    "window": dict(decay={"window": {"size": 25}}),
    "ere": dict(decay={"ere": {"minimum": 9, "cycle": 5}}),
    "power law": dict(decay="power_law"),
    "function": dict(decay=older_is_lighter),
}
FACTORS = dict(
    kind=list(KINDS),
    decay=list(DECAYS),
    uniform_fraction=[0.0, 0.3, 1.0],
    combined=[False, True],
    initial_weights=["uniform", "random", {"random": {"seed": 3}}, "info", weigh],
    prioritized=[False, True],
    beta=[0.0, 0.6],
    weighting=["sampling", "loss"],
    on_bad_transition=["raise", "skip", "allow"],
    n_envs=[1, 3],
    n_steps=[5, N_ROWS, 3 * N_ROWS + 11],
    copied=["folder", "pickle", "deepcopy"],
)


def is_allowed(options):
    is_hindsight = options.get("kind") == "hindsight"
    is_loss = options.get("weighting") == "loss"
    is_optimized = options.get("kind") == "memory optimised"
    return not (
        (is_hindsight and (options.get("combined") or is_loss))
        or (is_loss and options.get("prioritized"))
        or (is_optimized and options.get("on_bad_transition") == "skip")
    )


COMBINATIONS = all_pairs(FACTORS, is_allowed)


def name_of(options):
    return "-".join(getattr(value, "__name__", str(value)) for value in options.values())


def test_every_pair_is_there():
    for one, other in [("decay", "initial_weights"), ("prioritized", "copied"), ("kind", "decay"), ("n_envs", "decay")]:
        pairs = {(str(each[one]), str(each[other])) for each in COMBINATIONS}
        assert len(pairs) == len(FACTORS[one]) * len(FACTORS[other])
    assert len(COMBINATIONS) < 120


def make(kind, decay, n_steps, copied, **options):
    buffer_class, own = KINDS[kind]
    if kind == "hindsight":
        return hindsight.make_buffer(**DECAYS[decay], **{k: v for k, v in options.items() if k != "combined"})
    return make_buffer(buffer_class, **own, **DECAYS[decay], **options)


def copy_of(buffer, how, path):
    if how != "folder":
        other = copy.deepcopy(buffer) if how == "deepcopy" else pickle.loads(pickle.dumps(buffer))
        if isinstance(other, DecayedHerReplayBuffer):
            other.set_env(buffer.env)
        return other
    buffer.save(path)
    given = {} if not isinstance(buffer, DecayedHerReplayBuffer) else dict(env=buffer.env)
    functions = {
        name: function
        for name, function in (("decay", older_is_lighter), ("initial_weights", weigh))
        if buffer._arguments()[name] is function
    }
    return type(buffer).load(path, device="cpu", **given, **functions)


@pytest.mark.parametrize("options", COMBINATIONS, ids=name_of)
def test_a_copy_goes_on_as_the_buffer_does(options, tmp_path):
    np.random.seed(0)
    buffer = make(**options)
    n_steps = options["n_steps"]
    add = hindsight.fill if options["kind"] == "hindsight" else fill
    if options["kind"] == "hindsight":
        n_steps += 10  # one episode has ended
    add(buffer, n_steps)
    prioritize(buffer, draw(buffer, 30))
    add(buffer, 2, start=n_steps)
    other = copy_of(buffer, options["copied"], tmp_path / "buffer")
    before = buffer.sampling_probabilities()
    assert np.isfinite(before).all()
    assert before.sum() == pytest.approx(1)
    assert other.sampling_probabilities() == pytest.approx(before, rel=1e-9, abs=1e-300)
    batches = []
    for which in (buffer, other):
        np.random.seed(1)
        batches.append([])
        for step in range(n_steps + 2, n_steps + 80, 13):
            batches[-1].append(draw(which, 16))
            prioritize(which, batches[-1][-1])
            add(which, 13, start=step)
    for ours, theirs in zip(*batches, strict=True):
        assert_same_batches(ours, theirs)
    assert other.sampling_probabilities() == pytest.approx(buffer.sampling_probabilities(), rel=1e-9, abs=1e-300)


TRAINING = dict(
    decay=["default", "half-life", "auto", "auto, window", "linear", "ere"],
    priority=[None, "td_error"],
    initial_weights=["uniform", "random", "info"],
    n_steps=[1, 3],
    n_envs=[1, 2],
    uniform_fraction=[0.0, 0.3],
)


@pytest.mark.parametrize("options", all_pairs(TRAINING, lambda options: True), ids=name_of)
def test_training_resumes_bit_for_bit(options, tmp_path):
    decay = dict(DECAYS[options["decay"]])
    kwargs = small(
        train_freq=4,
        gradient_steps=2,
        buffer_size=90,
        half_life=decay.pop("half_life", None),
        priority=options["priority"],
        n_steps=options["n_steps"],
        replay_buffer_kwargs=decay | {name: options[name] for name in ("initial_weights", "uniform_fraction")},
    )
    straight = ReptileDQN("MlpPolicy", cartpole(options["n_envs"]), **kwargs)
    straight.learn(160, callback=ResumableCheckpoint(80, tmp_path / "straight"))
    with pytest.raises(Cut):
        ReptileDQN("MlpPolicy", cartpole(options["n_envs"]), **kwargs).learn(
            160, callback=[ResumableCheckpoint(80, tmp_path / "cut"), cut_at(93)]
        )
    resumed = resume(tmp_path / "cut", cartpole(options["n_envs"]), device="cpu")
    assert 60 < resumed.num_timesteps <= 80
    resumed.learn(160 - resumed.num_timesteps, reset_num_timesteps=False)
    for key, value in straight.policy.state_dict().items():
        assert th.equal(resumed.policy.state_dict()[key], value), key
    ours, theirs = resumed.replay_buffer, straight.replay_buffer
    assert ours.sampling_probabilities() == pytest.approx(theirs.sampling_probabilities(), rel=1e-9, abs=1e-300)
