"""
Trains in processes that are killed, for test_resuming.py.

``python -m tests.checkpoint.killed_training kills|exact|twice|configurations FOLDER``. The processes are forked from
this one, which has loaded all that training needs and has only one thread. This makes them start fast.
"""

import contextlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
import xxhash
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import EpisodeRecorder, ResumableCheckpoint, resume
from sb3_reptile.checkpoint.run_folder import list_checkpoints
from tests.checkpoint.training import CASES, cartpole, small

SAVE_FREQ = 24
KILLS, AIMED = 50, 15
# What the processes report, in shared memory
STEPS, RESUMED_AT, SAVING, DIGEST = range(4)
shared = np.frombuffer(mmap.mmap(-1, 32), np.int64)


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


def in_a_process(function, *arguments, errors=None, **options):
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)  # so that processes of environments, which it leaves behind when it is killed, can be found
        status = 1
        try:
            function(*arguments, **options)
            status = 0
        except BaseException as error:
            with open(errors, "w", encoding="utf-8") if errors else contextlib.nullcontext(sys.stderr) as file:
                print(f"{type(error).__name__}: {error}", file=file)
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


def twice(folder):
    """Two processes resume a run: the second gets an error until the first has been killed."""
    assert ended_well(in_a_process(train, folder, 60, ResumableCheckpoint(SAVE_FREQ, folder)))
    shared[STEPS] = 0
    first = in_a_process(train, folder, 10**9, ResumableCheckpoint(10**8, folder))
    try:
        while shared[STEPS] == 0:
            time.sleep(0.001)
        before = sorted(os.listdir(folder))
        error = os.path.join(os.path.dirname(folder), "error")
        assert not ended_well(in_a_process(train, folder, 100, ResumableCheckpoint(SAVE_FREQ, folder), errors=error))
        assert sorted(os.listdir(folder)) == before
        with open(error, encoding="utf-8") as file:
            print(file.read().replace(str(first), "PID"))
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    assert ended_well(in_a_process(train, folder, 100, ResumableCheckpoint(SAVE_FREQ, folder)))


def parallel():
    return SubprocVecEnv([lambda: EpisodeRecorder(gym.make("CartPole-v1"))] * 2, start_method="fork")


PRIORITIES = dict(priority="td_error", train_freq=4)
MEMORY_OPTIMIZED = dict(
    optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False), train_freq=4
)
# Of the others, "dqn, frames" draws its first observation from its space before anything records it
LEFT_OUT = {"dqn, frames", "ddpg", "td3", "tqc", "reptile_dqn, RMSprop"}
CONFIGURATIONS = {name: case for name, case in CASES.items() if name not in LEFT_OUT} | {
    "reptile_dqn, auto, priorities": (ReptileDQN, cartpole, dict(half_life="auto", **PRIORITIES)),
    "reptile_dqn, priorities, half-life": (ReptileDQN, cartpole, dict(half_life=50, **PRIORITIES)),
    "reptile_dqn, random weights": (
        ReptileDQN,
        cartpole,
        dict(replay_buffer_kwargs=dict(initial_weights={"random": dict(seed=3)}), **PRIORITIES),
    ),
    "reptile_dqn, memory optimised": (ReptileDQN, cartpole, MEMORY_OPTIMIZED),
    "reptile_dqn, subprocesses": (ReptileDQN, parallel, PRIORITIES),
    "reptile_dqn, normalised": (ReptileDQN, lambda: VecNormalize(cartpole(2)), PRIORITIES),
    # Products of matrices whose last bits depend on the number of rows
    "reptile_dqn, λ-returns": (
        ReptileDQN,
        cartpole,
        dict(train_freq=1, n_steps=10, q_lambda=0.7, policy_kwargs=dict(net_arch=[64, 64])),
    ),
    "reptile_dqn, on disk": (ReptileDQN, cartpole, dict(replay_buffer_kwargs=dict(storage_dir=tempfile.gettempdir()))),
}


def train_configuration(name, folder, total, callback):
    _, make_env, options = CONFIGURATIONS[name]
    existing = list_checkpoints(Path(folder))
    # Files do not say where to write
    given = dict(replay_buffer_kwargs=options["replay_buffer_kwargs"]) if "on disk" in name else {}
    env = make_env()
    model = resume(folder, env, device="cpu", **given) if existing else made(name, env)
    shared[RESUMED_AT] = model.num_timesteps
    if model.num_timesteps < total:
        steps = total - model.num_timesteps
        model.learn(steps, callback=[callback, ReportSteps()], reset_num_timesteps=not existing)
    shared[DIGEST] = digest(model)
    env.close()


def made(name, env):
    algorithm, _, options = CONFIGURATIONS[name]
    return algorithm(env=env, **small(**dict(policy="MlpPolicy") | options))


def digest(model):
    buffer = model.replay_buffer
    arrays = [value.numpy() for value in model.policy.state_dict().values()]
    arrays += [buffer.rewards, buffer.actions, buffer.dones, buffer.timeouts]
    if hasattr(buffer, "distribution") and model.replay_buffer.can_be_sampled():
        arrays.append(buffer.sampling_probabilities())
    for generator in (np.random, model.action_space.np_random):
        arrays.append(generator.random(3))
    return xxhash.xxh3_64_intdigest(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)) >> 1


def configurations(folder):
    choose = random.Random(0)
    for number, name in enumerate(CONFIGURATIONS):
        total, save_freq, results, processes = 160, 40, [], []
        for kills in (0, 2):
            path = os.path.join(folder, f"{number}-{kills}")
            inside = 0
            for kill in range(kills):
                shared[RESUMED_AT], shared[SAVING], shared[STEPS] = -1, 0, 0
                process = in_a_process(train_configuration, name, path, total, ReportSaving(save_freq, path))
                processes.append(process)
                aimed, until = kill % 2 == 0, choose.randrange(total)
                while not (shared[SAVING] if aimed and shared[STEPS] else shared[STEPS] >= until):
                    if os.waitpid(process, os.WNOHANG)[0]:
                        process = None
                        break
                    time.sleep(0.0002)
                time.sleep(choose.uniform(0, 0.003))
                if process is not None:
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
                    inside += int(shared[SAVING])
            last = in_a_process(train_configuration, name, path, total, ReportSaving(save_freq, path))
            assert ended_well(last), f"{name}: not resumed after {kills} kills"
            results.append(int(shared[DIGEST]))
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        print(f"{name}: {'the same' if results[0] == results[1] else 'different'}, {inside} kills inside a save")


if __name__ == "__main__":
    th.set_num_threads(1)
    make_model().learn(40)  # imports what is imported lazily
    {"kills": kills, "exact": exact, "twice": twice, "configurations": configurations}[sys.argv[1]](sys.argv[2])
