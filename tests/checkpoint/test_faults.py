"""Each call to the system of a save fails, and the power fails after each: there is always a good checkpoint."""

import shutil
import sys
import warnings

import pytest

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.checkpoint.run_folder import list_candidates
from tests.checkpoint.training import cartpole, small, steps_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="knows the calls of Linux")
if sys.platform.startswith("linux"):
    from tests.storage.faults import Fault, PowerFailure

SAVE_FREQ = 4


def small_model():
    return ReptileDQN("MlpPolicy", cartpole(), **small(train_freq=SAVE_FREQ, priority="td_error", learning_starts=4))


@pytest.mark.parametrize("done", [False, True])
def test_whatever_call_fails_there_is_a_good_checkpoint_and_training_has_gone_on(done, disk):
    model, callback = small_model(), ResumableCheckpoint(SAVE_FREQ, disk / "run")
    model.learn(2 * SAVE_FREQ, callback=callback)
    failed, steps, found = [], [model.num_timesteps], []
    number, n_without = 0, 0
    # The number of calls varies a little from one checkpoint to the next
    while n_without < 3:
        number += 1
        with warnings.catch_warnings(), Fault(disk, number, done) as fault:
            warnings.simplefilter("ignore")
            model.learn(SAVE_FREQ, callback=callback, reset_num_timesteps=False)
        if fault.failed is None:
            n_without += 1
            steps.append(model.num_timesteps)
            continue
        n_without = 0
        failed.append(fault.failed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resumed = resume(disk / "run", cartpole(), device="cpu").num_timesteps
        # The failing one, or the one before
        now = model.num_timesteps
        assert now == steps[-1] + SAVE_FREQ
        assert resumed in (steps[-1], now), fault.failed
        found.append(resumed == now)
        # What is left over makes other calls: begin the next one without
        if resumed != now or len(list((disk / "run").iterdir())) != 2:
            model.learn(SAVE_FREQ, callback=callback, reset_num_timesteps=False)
        steps.append(model.num_timesteps)
    calls = {text.split()[0] for text in failed}
    assert calls >= {"mkdir", "rename", "unlink", "rmdir", "fsync", "save_file", "lockf", "write"}
    assert done or calls >= {"open", "stat", "listdir", "safe_open"}
    assert 0 < sum(found) < len(found)
    # Nothing is left over of the failures
    model.learn(SAVE_FREQ, callback=callback, reset_num_timesteps=False)
    assert steps_of(disk / "run") == [model.num_timesteps - SAVE_FREQ, model.num_timesteps]
    assert len(list((disk / "run").iterdir())) == 2


@pytest.mark.parametrize("leave", ["leave_flushed", "leave_names"])
def test_a_power_failure_at_any_time_leaves_the_latest_checkpoint(leave, disk):
    saved_at, found = [], []

    class Reported(ResumableCheckpoint):
        def save(self):
            super().save()
            saved_at.append(self.num_timesteps)

    def fail(failure):
        shutil.rmtree(disk / "after", ignore_errors=True)
        getattr(failure, leave)(disk / "after")
        folder = disk / "after" / "runs" / "run"
        if not saved_at:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(resume(folder, cartpole(), device="cpu").num_timesteps)
        assert found[-1] in (saved_at[-1], saved_at[-1] + SAVE_FREQ)

    (disk / "disk").mkdir()
    model = small_model()
    with PowerFailure(disk / "disk", fail):
        model.learn(6 * SAVE_FREQ, callback=Reported(SAVE_FREQ, disk / "disk" / "runs" / "run"))
    assert saved_at == [SAVE_FREQ * n for n in range(7)]
    assert set(found) == set(saved_at)
    assert len(found) > 50
    assert list_candidates(disk / "after" / "runs" / "run")
