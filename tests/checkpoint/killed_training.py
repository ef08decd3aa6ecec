"""
Trains in processes that are killed, for test_resuming.py.

``python -m tests.checkpoint.killed_training kills|exact FOLDER``. The processes are forked from this one, which has
loaded all that training needs and has only one thread. This makes them start fast.
"""

import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
import xxhash
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.checkpoint.resuming import list_checkpoints

SAVE_FREQ = 24
KILLS, AIMED = 50, 15
# What the processes report, in shared memory
STEPS, RESUMED_AT, SAVING = range(3)
shared = np.frombuffer(mmap.mmap(-1, 24), np.int64)


class ReportSaving(ResumableCheckpoint):
    def _write(self, path):
        shared[SAVING] = 1
        super()._write(path)
        shared[SAVING] = 0


class ReportSteps(BaseCallback):
    def __init__(self, kill_at=None):
        super().__init__()
        self.kill_at = kill_at

    def _on_step(self):
        shared[STEPS] = self.num_timesteps
        if self.kill_at is not None and self.num_timesteps >= self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return True


def in_a_process(function, *arguments, **options):
    process = os.fork()
    if process == 0:
        status = 1
        try:
            function(*arguments, **options)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    return process


def ended_well(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def make_env(n_envs):
    return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * n_envs)


def make_model(n_envs=1, **options):
    settings = dict(buffer_size=300, learning_starts=20, train_freq=4, batch_size=8, seed=0, device="cpu")
    policy_kwargs = dict(net_arch=[8])
    return ReptileDQN("MlpPolicy", make_env(n_envs), policy_kwargs=policy_kwargs, **settings | options)


def train(folder, total, callback, kill_at=None, n_envs=1, **options):
    existing = list_checkpoints(Path(folder))
    model = resume(folder, make_env(n_envs), device="cpu") if existing else make_model(n_envs, **options)
    shared[RESUMED_AT] = model.num_timesteps
    steps = total - model.num_timesteps
    model.learn(steps, callback=[callback, ReportSteps(kill_at)], reset_num_timesteps=not existing)
    if kill_at is None:
        state = model.policy.state_dict()
        shared[STEPS] = int(xxhash.xxh3_64_intdigest(b"".join(v.numpy().tobytes() for v in state.values())) >> 1)


def kills(folder):
    choose = random.Random(0)
    seen = inside = 0
    for number in range(KILLS):
        shared[RESUMED_AT], shared[SAVING] = -1, 0
        process = in_a_process(train, folder, 10**9, ReportSaving(SAVE_FREQ, folder))
        while shared[RESUMED_AT] < 0 or shared[STEPS] <= max(shared[RESUMED_AT], 0):
            if os.waitpid(process, os.WNOHANG)[0]:
                raise SystemExit(f"process {number} ended before it was killed")
            time.sleep(0.001)
        assert shared[RESUMED_AT] >= seen - SAVE_FREQ, f"{number}: {seen} steps, resumed at {shared[RESUMED_AT]}"
        if number % (KILLS // AIMED) == 0:
            while shared[SAVING] == 0:
                time.sleep(0.0005)
            time.sleep(choose.uniform(0, 0.01))
        else:
            until = shared[STEPS] + choose.randrange(60)
            while shared[STEPS] < until:
                time.sleep(0.0005)
            time.sleep(choose.uniform(0, 0.005))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        seen, inside = int(shared[STEPS]), inside + int(shared[SAVING])
    assert ended_well(in_a_process(train, folder, seen + 50, ReportSaving(SAVE_FREQ, folder)))
    print(f"{KILLS} kills, {inside} of them inside a save, {seen} steps")


def exact(folder):
    settings = dict(n_envs=4, train_freq=20, buffer_size=5_000, priority="td_error", exploration_fraction=0.5)
    total = 20_000
    results = []
    for name, kill_at in (("straight", None), ("broken", total // 2 + 7)):
        path = os.path.join(folder, name)
        process = in_a_process(train, path, total, ResumableCheckpoint(total // 2, path), kill_at, **settings)
        ended_well(process)
        if kill_at is not None:
            assert ended_well(in_a_process(train, path, total, ResumableCheckpoint(total // 2, path), n_envs=4))
            assert shared[RESUMED_AT] == total // 2
        results.append(int(shared[STEPS]))
    print("the same" if results[0] == results[1] else f"different: {results}")


if __name__ == "__main__":
    th.set_num_threads(1)
    make_model().learn(40)  # imports what is imported lazily
    {"kills": kills, "exact": exact}[sys.argv[1]](sys.argv[2])
