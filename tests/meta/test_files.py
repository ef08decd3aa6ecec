"""Saved meta-learners and checkpoints: what loads them, and what an interruption leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import ConvertCallback

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint
from sb3_reptile.meta import MetaCheckpoint, Navigation, ReptileMetaLearner, SineWaves, resume
from sb3_reptile.meta.learned_parameters import learned_parameters
from sb3_reptile.storage import DamagedError, ForeignError, InUseError, MissingArgumentError, NotStorableError
from tests.meta.learners import DQN_ARGUMENTS, Pulls, assert_equal, dqn_learner, goal, left, right, sine_learner

# Uses all state that there is: replay buffers of tasks, optimizers, a schedule, counters
FULL = dict(replay_buffer="task", optimizer_state="carried", meta_step_size=0.5)


def test_reptile_dqn_starts_from_a_saved_meta_learner(tmp_path):
    learner = dqn_learner()
    learner.learn(2)
    learner.save(tmp_path / "meta.zip")
    model = ReptileDQN("MlpPolicy", goal(), pretrained=tmp_path / "meta.zip", device="cpu", **DQN_ARGUMENTS)
    assert_equal(learned_parameters(model), learner.parameters)
    assert_equal(model.q_net_target.state_dict(), model.q_net.state_dict())
    model.learn(30)


@pytest.mark.parametrize(("algorithm", "tasks"), [(DQN, Navigation()), (SAC, [Pulls, Pulls])])
def test_the_file_is_a_saved_model_of_the_algorithm(algorithm, tasks, tmp_path):
    arguments = dict(buffer_size=100, learning_starts=5, policy_kwargs=dict(net_arch=[4]))
    learner = ReptileMetaLearner(
        algorithm, tasks, inner_timesteps=20, meta_batch_size=2, algorithm_kwargs=arguments, seed=0, device="cpu"
    )
    learner.learn(1)
    learner.save(tmp_path / "meta")
    model = algorithm.load(tmp_path / "meta.zip", env=goal() if algorithm is DQN else Pulls(), device="cpu")
    assert_equal(learned_parameters(model), learner.parameters)
    model.learn(20)


@pytest.mark.parametrize("options", [{}, dict(optimizer_state="carried")])
def test_a_loaded_meta_learner_continues_as_the_saved_one(options, tmp_path):
    learner = dqn_learner(**options)
    learner.learn(1)
    learner.save(tmp_path / "meta.zip")
    loaded = ReptileMetaLearner.load(tmp_path / "meta", Navigation(), device="cpu")
    assert_equal(loaded.parameters, learner.parameters)
    for one in (learner, loaded):
        one.learn(1, reset_num_timesteps=False)
    assert_equal(loaded.parameters, learner.parameters)
    assert loaded.num_timesteps == learner.num_timesteps == 128
    assert (loaded.optimizers is None) == (not options)


def test_arguments_override_those_saved_and_functions_must_be_given(tmp_path):
    learner = dqn_learner(meta_step_size=lambda progress: progress)
    learner.save(tmp_path / "meta.zip")
    with pytest.raises(MissingArgumentError, match="meta_step_size must be given again"):
        ReptileMetaLearner.load(tmp_path / "meta.zip", Navigation())
    loaded = ReptileMetaLearner.load(tmp_path / "meta.zip", Navigation(), meta_step_size=0.1, inner_timesteps=7)
    assert (loaded.inner_timesteps, loaded.meta_step_size, loaded.meta_batch_size) == (7, 0.1, 2)
    other = dict(DQN_ARGUMENTS, policy_kwargs=dict(net_arch=[9]))
    with pytest.raises(ValueError, match="the parameters differ"):
        ReptileMetaLearner.load(tmp_path / "meta.zip", Navigation(), meta_step_size=0.1, algorithm_kwargs=other)


def continued(learner, path, how, **options):
    """A meta-learner that was saved, loaded with other options, and trained on."""
    if how == "load":
        learner.save(path / "meta.zip")
        loaded = ReptileMetaLearner.load(path / "meta.zip", [left, right], device="cpu", **options)
    else:
        learner.learn(0, callback=MetaCheckpoint(1, path), reset_num_timesteps=False)
        loaded = resume(path, [left, right], device="cpu", **options)
    return loaded.learn(1, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("how", "saved", "options"),
    [
        ("load", dict(optimizer_state="carried"), dict(optimizer_state="fresh")),
        ("resume", dict(optimizer_state="carried"), dict(optimizer_state="fresh")),
        ("resume", dict(replay_buffer="task"), dict(replay_buffer="fresh")),
    ],
)
def test_what_was_kept_is_used_only_if_the_options_ask_for_it(how, saved, options, tmp_path):
    learner = dqn_learner([left, right], **saved).learn(1)
    loaded = continued(learner, tmp_path, how, **options)
    assert loaded.optimizers is None
    assert not loaded.replay_buffers
    fresh = dqn_learner([left, right])
    fresh.set_parameters(learner.parameters)
    fresh.n_meta_iterations_ever, fresh.n_inner_runs_ever = 1, 2
    assert_equal(loaded.parameters, fresh.learn(1).parameters)


@pytest.mark.parametrize("how", ["load", "resume"])
@pytest.mark.parametrize("optimizer", [th.optim.SGD, th.optim.RMSprop, th.optim.AdamW])
def test_the_carried_state_of_another_optimizer_is_an_error_that_says_what_to_do(how, optimizer, tmp_path):
    learner = dqn_learner([left, right], optimizer_state="carried").learn(1)
    other = {**DQN_ARGUMENTS, "policy_kwargs": dict(net_arch=[8], optimizer_class=optimizer)}
    with pytest.raises(ValueError, match=rf"'Adam'.*'{optimizer.__name__}'.*the same, or optimizer_state='fresh'"):
        continued(learner, tmp_path, how, algorithm_kwargs=other)
    continued(learner, tmp_path / "fresh", how, algorithm_kwargs=other, optimizer_state="fresh")


def test_files_of_earlier_versions_say_neither_classes_of_optimizers_nor_the_number_of_runs(tmp_path):
    learner = dqn_learner(optimizer_state="carried").learn(1)
    learner.save(tmp_path / "meta.zip")
    counters = {"num_meta_iterations": 1, "n_meta_iterations_ever": 1, "num_timesteps": learner.num_timesteps}
    changed(tmp_path / "meta.zip", tmp_path / "earlier.zip", without=("optimizer_classes",), counters=counters)
    loaded = ReptileMetaLearner.load(tmp_path / "earlier.zip", Navigation(), device="cpu")
    for one in (learner, loaded):
        one.learn(1, reset_num_timesteps=False)
    assert_equal(loaded.parameters, learner.parameters)


@pytest.mark.parametrize("n_after", [1, 2, 5])
def test_seeds_of_runs_do_not_repeat_with_another_meta_batch_size(n_after, tmp_path):
    learner = sine_learner(meta_batch_size=3)
    seeds = []
    for _ in range(2):
        seeds += [run.seed for run in learner._inner_runs()]
        learner.learn(1)
    learner.save(tmp_path / "meta.zip")
    loaded = ReptileMetaLearner.load(tmp_path / "meta.zip", SineWaves(10), meta_batch_size=n_after)
    for _ in range(5):
        seeds += [run.seed for run in loaded._inner_runs()]
        loaded.learn(1)
    assert len(set(seeds)) == len(seeds) == 2 * 3 + 5 * n_after


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.zip"):
        ReptileMetaLearner.load(tmp_path / "nothing", Navigation())
    DQN("MlpPolicy", goal(), buffer_size=10).save(tmp_path / "dqn.zip")
    with pytest.raises(ForeignError, match="was not saved by a meta-learner"):
        ReptileMetaLearner.load(tmp_path / "dqn.zip", Navigation())
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(DamagedError, match=r"text\.zip is damaged"):
        ReptileMetaLearner.load(tmp_path / "text.zip", Navigation())
    dqn_learner().save(tmp_path / "meta.zip")
    content = (tmp_path / "meta.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedError, match=r"short\.zip is damaged"):
        ReptileMetaLearner.load(tmp_path / "short.zip", Navigation())
    changed(tmp_path / "meta.zip", tmp_path / "forged.zip", counters={"num_meta_iterations": -1})
    with pytest.raises(ForeignError, match="num_meta_iterations must be a whole number >= 0, the file has -1"):
        ReptileMetaLearner.load(tmp_path / "forged.zip", Navigation())
    changed(tmp_path / "meta.zip", tmp_path / "later.zip", format_version=99)
    with pytest.raises(ForeignError, match="this version of sb3-reptile reads"):
        ReptileMetaLearner.load(tmp_path / "later.zip", Navigation())


def changed(path, to, without=(), **values):
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(to, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "meta.json":
                about = {key: value for key, value in json.loads(content).items() if key not in without}
                content = json.dumps({**about, **values}).encode()
            copy.writestr(name, content)


def test_an_interrupted_save_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    learner = sine_learner()
    learner.save(tmp_path / "meta.zip")
    before = (tmp_path / "meta.zip").read_bytes()
    learner.learn(1)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        learner.save(tmp_path / "meta.zip")
    assert (tmp_path / "meta.zip").read_bytes() == before
    assert os.listdir(tmp_path) == ["meta.zip"]


def stop_after_two(local, _):
    return local["self"].num_meta_iterations < 2


def test_resumed_training_gives_the_same_result(tmp_path):
    uninterrupted = dqn_learner([left, right], **FULL)
    uninterrupted.learn(4)
    stopped = dqn_learner([left, right], **FULL)
    stopped.learn(4, callback=[MetaCheckpoint(1, tmp_path), ConvertCallback(stop_after_two)])
    resumed = resume(tmp_path, [left, right], device="cpu")
    assert resumed.num_meta_iterations == 2
    resumed.learn(4 - 2, callback=MetaCheckpoint(1, tmp_path), reset_num_timesteps=False)
    assert_equal(resumed.parameters, uninterrupted.parameters)
    for task, buffer in uninterrupted.replay_buffers.items():
        assert np.array_equal(resumed.replay_buffers[task].observations, buffer.observations)
    again = resume(tmp_path, [left, right], device="cpu")
    assert_equal(again.parameters, uninterrupted.parameters)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


KILLED = """
import os, signal, sys
from stable_baselines3.common.callbacks import ConvertCallback
from sb3_reptile.meta import MetaCheckpoint
from tests.meta.learners import dqn_learner, left, right
from tests.meta.test_files import FULL

def kill(local, _):
    if local["self"].num_meta_iterations == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return True

dqn_learner([left, right], **FULL).learn(4, callback=[MetaCheckpoint(2, sys.argv[1]), ConvertCallback(kill)])
"""


def test_killed_training_resumes_with_the_same_result(tmp_path):
    root = Path(__file__).parent.parent.parent
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=root)
    assert killed.returncode == -signal.SIGKILL
    learner = resume(tmp_path, [left, right], device="cpu")
    assert learner.num_meta_iterations == 2
    learner.learn(2, reset_num_timesteps=False)
    uninterrupted = dqn_learner([left, right], **FULL)
    uninterrupted.learn(4)
    assert_equal(learner.parameters, uninterrupted.parameters)


def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path):
    learner = sine_learner()
    learner.learn(2, callback=MetaCheckpoint(1, tmp_path))
    newest = max(path for path in tmp_path.iterdir() if path.is_dir())
    (newest / "parameters.safetensors").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="resuming from the previous checkpoint"):
        resumed = resume(tmp_path, SineWaves(10))
    assert resumed.num_meta_iterations == 1


def test_folders_of_others_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="MetaCheckpoint saves them"):
        resume(tmp_path, SineWaves())
    with pytest.raises(ValueError, match="save_freq must be a whole number >= 1, got 0"):
        MetaCheckpoint(0, tmp_path)
    sine_learner().learn(1, callback=MetaCheckpoint(1, tmp_path / "meta"))
    with pytest.raises(ValueError, match="contains checkpoints of another run"):
        sine_learner().learn(1, callback=MetaCheckpoint(1, tmp_path / "meta"))
    model = ReptileDQN("MlpPolicy", goal(), buffer_size=100)
    with pytest.raises(ValueError, match="MetaCheckpoint is for ReptileMetaLearner"):
        model.learn(10, callback=MetaCheckpoint(1, tmp_path / "dqn"))
    model.learn(10, callback=ResumableCheckpoint(10, tmp_path / "dqn", keep=1))
    with pytest.raises(ForeignError, match="not a checkpoint of meta-training"):
        resume(tmp_path / "dqn", SineWaves())


def test_a_folder_in_use_is_refused_and_given_back(tmp_path):
    locking = "import sys; from pathlib import Path; from sb3_reptile.checkpoint.run_folder import RunFolder; "
    locking += "folder = RunFolder(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", locking, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(InUseError):
            sine_learner().learn(1, callback=MetaCheckpoint(1, tmp_path))
        process.stdin.close()
    sine_learner().learn(1, callback=MetaCheckpoint(1, tmp_path))
    assert not (tmp_path / ".sb3-reptile.lock").exists()


def test_training_continues_if_a_later_checkpoint_cannot_be_saved(tmp_path, monkeypatch):
    checkpoint, learner = MetaCheckpoint(1, tmp_path), sine_learner()

    def fail(*_):
        raise OSError("no space left")

    def after_the_first(local, _):
        monkeypatch.setattr(checkpoint, "_write_checkpoint", fail)
        return True

    with pytest.warns(UserWarning, match="no checkpoint was saved at meta-iteration 1, .* no space left; the latest"):
        learner.learn(3, callback=[ConvertCallback(after_the_first), checkpoint])
    assert learner.num_meta_iterations == 3
    assert resume(tmp_path, SineWaves(10)).num_meta_iterations == 0


def test_what_cannot_be_saved_is_an_error_at_the_beginning(tmp_path):
    learner = dqn_learner([left, right], **FULL)
    learner.learn(1)
    buffer = learner.replay_buffers[0]
    buffer.words = np.full((buffer.buffer_size, 1), None)
    with pytest.raises(NotStorableError, match="holds Python objects"):
        learner.learn(1, callback=MetaCheckpoint(1, tmp_path))


def test_statistics_of_batch_norm_are_in_the_file(tmp_path):
    from tests.meta.learners import Normalized

    kwargs = dict(policy_kwargs=dict(net_arch=[4], features_extractor_class=Normalized))
    learner = dqn_learner(algorithm=DQN, algorithm_kwargs=kwargs)
    learner.learn(1)
    mean = learner.parameters["policy.q_net.features_extractor.norm.running_mean"]
    assert not th.equal(mean, th.zeros(2))
    learner.save(tmp_path / "meta.zip")
    with pytest.raises(MissingArgumentError, match="algorithm_kwargs must be given again"):
        ReptileMetaLearner.load(tmp_path / "meta.zip", Navigation())
    loaded = ReptileMetaLearner.load(
        tmp_path / "meta.zip", Navigation(), algorithm_kwargs={**DQN_ARGUMENTS, **kwargs}, device="cpu"
    )
    assert_equal(loaded.parameters, learner.parameters)


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path):
    def remove(local, _):
        if local["self"].num_meta_iterations == 2:
            shutil.rmtree(tmp_path / "checkpoints")
        return True

    learner = sine_learner()
    learner.learn(3, callback=[ConvertCallback(remove), MetaCheckpoint(1, tmp_path / "checkpoints")])
    assert resume(tmp_path / "checkpoints", SineWaves(10)).num_meta_iterations == 3


def test_a_run_that_another_process_has_continued_is_not_overwritten(tmp_path):
    sine_learner().learn(1, callback=MetaCheckpoint(1, tmp_path, keep=9))
    first, second = (resume(tmp_path, SineWaves(10)) for _ in range(2))
    first.learn(1, callback=MetaCheckpoint(1, tmp_path, keep=9), reset_num_timesteps=False)
    with pytest.raises(ValueError, match="another process has continued the run"):
        second.learn(1, callback=MetaCheckpoint(1, tmp_path, keep=9), reset_num_timesteps=False)
    assert resume(tmp_path, SineWaves(10)).num_meta_iterations == 2


def test_a_run_continues_in_its_folder_after_an_error(tmp_path):
    def fail(local, _):
        if local["self"].num_meta_iterations == 2:
            raise KeyboardInterrupt
        return True

    learner = sine_learner()
    with pytest.raises(KeyboardInterrupt):
        learner.learn(4, callback=[MetaCheckpoint(1, tmp_path), ConvertCallback(fail)])
    resumed = resume(tmp_path, SineWaves(10))
    assert resumed.num_meta_iterations == 2
    resumed.learn(2, callback=MetaCheckpoint(1, tmp_path), reset_num_timesteps=False)
    assert_equal(resumed.parameters, sine_learner().learn(4).parameters)


def test_the_last_meta_iteration_is_saved_also_if_a_callback_stops(tmp_path):
    sine_learner().learn(5, callback=[MetaCheckpoint(10, tmp_path), ConvertCallback(stop_after_two)])
    assert resume(tmp_path, SineWaves(10)).num_meta_iterations == 2


def test_the_tasks_of_a_checkpoint_are_those_that_it_is_resumed_with(tmp_path):
    dqn_learner([left, right, left], **FULL).learn(1, callback=MetaCheckpoint(1, tmp_path / "sequence"))
    with pytest.raises(ValueError, match="meta-training on 3 tasks, got 2 tasks: resume"):
        resume(tmp_path / "sequence", [left, right])
    dqn_learner().learn(1, callback=MetaCheckpoint(1, tmp_path / "function"))
    with pytest.raises(ValueError, match="meta-training on tasks that a function draws, got 3 tasks"):
        resume(tmp_path / "function", [left, right, left])
    with pytest.warns(UserWarning, match=r"Navigation\(radius=0\.8.*got Navigation\(radius=0\.5"):
        resume(tmp_path / "function", Navigation(radius=0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume(tmp_path / "function", Navigation())
        resume(tmp_path / "function", lambda rng: goal())
    dqn_learner(["CartPole-v1"], meta_batch_size=1).learn(1, callback=MetaCheckpoint(1, tmp_path / "ids"))
    with pytest.warns(UserWarning, match="meta-training on CartPole-v1, got CartPole-v0"):
        resume(tmp_path / "ids", ["CartPole-v0"])


def test_a_file_beside_a_folder_of_its_name_is_loaded(tmp_path):
    (tmp_path / "meta").mkdir()
    learner = sine_learner()
    learner.save(tmp_path / "meta")
    assert_equal(ReptileMetaLearner.load(tmp_path / "meta", SineWaves(10)).parameters, learner.parameters)


def test_checkpoints_are_saved_at_the_beginning_at_their_frequency_and_at_the_end(tmp_path, capsys):
    sine_learner().learn(5, callback=MetaCheckpoint(2, tmp_path, verbose=1))
    saved = [line.rpartition("-")[2] for line in capsys.readouterr().out.splitlines() if "Checkpoint: " in line]
    assert saved == ["0", "2", "4", "5"]
