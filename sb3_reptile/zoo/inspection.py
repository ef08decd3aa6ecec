"""`sb3-reptile inspect`: one figure of a replay buffer and the replay log, for the forms in which buffers are saved."""

import argparse
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common import off_policy_algorithm
from stable_baselines3.common.save_util import load_from_pkl
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile.checkpoint.arguments import resolve_arguments
from sb3_reptile.checkpoint.buffers import make_buffer
from sb3_reptile.checkpoint.resuming import KIND as CHECKPOINT
from sb3_reptile.checkpoint.resuming import list_checkpoints
from sb3_reptile.figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    draw_probability_by_age,
    draw_stored_and_replayed,
    label_axes,
)
from sb3_reptile.replay import DecayedSampling
from sb3_reptile.replay.persistence import KIND as BUFFER
from sb3_reptile.replay.persistence import fill
from sb3_reptile.storage import ForeignError, StorageError
from sb3_reptile.storage.folder import MANIFEST, Folder
from sb3_reptile.storage.values import from_json
from sb3_reptile.zoo.errors import exit_with_error
from sb3_reptile.zoo.training_log import LOG_FILE, STEPS, number, read_log

BUFFER_FILE = "replay_buffer.pkl"  # rl_zoo3's name for it
QUARTERS = ["newest quarter of a batch", "second", "third", "oldest quarter"]


def inspect() -> None:
    """
    Run the command. Its arguments are those of the command line; it exits with code 2 if there is nothing to draw.
    """
    parser = argparse.ArgumentParser(
        description="Draw what replay is doing into one figure: the probability of a draw by age and the ages in the "
        "replay buffer, effective sample size and TD error by age (where they were logged). The buffer is one saved by "
        "buffer.save(), that of a checkpoint of ResumableCheckpoint, or a pickle (a run trained with "
        "--save-replay-buffer). Loading a pickle executes code: inspect only pickles that you trust."
    )
    parser.add_argument(
        "path",
        type=Path,
        help="folder of a run, of checkpoints, of one checkpoint or of a saved replay buffer, or a pickled one (.pkl)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="image file to write (default: replay.png in, or next to, PATH)"
    )
    args = parser.parse_args()

    if not args.path.is_dir() and not args.path.is_file():
        exit_with_error(f"there is no {args.path}")
    if args.output is not None and (args.output.is_dir() or not args.output.parent.is_dir()):
        exit_with_error(f"-o must be a file in a folder that exists, got {args.output}")
    if args.output is not None:
        _check_ending(args.output)
    saved = _find_buffer(args.path)
    logged = _read(args.path / LOG_FILE)
    if saved is None and "replay/effective_sample_size" not in logged:
        exit_with_error(
            f"{args.path} holds neither {BUFFER_FILE} (train with --save-replay-buffer), nor a checkpoint, nor "
            f"a {LOG_FILE} in which ReptileDQN logged what it replayed (train with sb3-reptile)"
        )
    buffer = None if saved is None else _load(saved)
    # Saved folders stay as they are: a figure of one goes beside it
    is_ours = (args.path / MANIFEST).exists()
    output = args.output or (args.path if args.path.is_dir() and not is_ours else args.path.parent) / "replay.png"
    try:
        figure = _draw(buffer, logged, str(args.path))
    except RuntimeError as error:  # hindsight replay cannot draw before an episode has ended
        exit_with_error(str(error))
    # As a whole or not at all, without a change of its ending, which names the format
    aside = output.with_name(f".saving-{output.name}")
    figure.savefig(aside, dpi=100)
    os.replace(aside, output)
    print(f"Drawn to {output}")


def _check_ending(path: Path) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        exit_with_error(f"-o must end with one of {', '.join(f'.{name}' for name in formats)}, got {path}")


def _find_buffer(path: Path) -> Path | None:
    """
    :param path: What the user named
    :return: The pickle or folder that holds its replay buffer, None if there is none
    """
    if not path.is_dir() or (path / MANIFEST).exists():
        return path
    if (path / BUFFER_FILE).is_file():
        return path / BUFFER_FILE
    folders = [path, *sorted(entry for entry in path.iterdir() if entry.is_dir())]
    newest = [checkpoints[-1] for checkpoints in map(list_checkpoints, folders) if checkpoints]
    return max(newest, key=lambda checkpoint: (checkpoint / MANIFEST).stat().st_mtime_ns, default=None)


def _load(path: Path) -> DecayedSampling:
    """
    :param path: A pickle, or a folder saved by this package
    :return: The replay buffer in it; the process ends with a message if there is none that can be inspected
    """
    if path.is_dir():
        try:
            buffer = load_saved_buffer(path)
        except (StorageError, OSError) as error:
            exit_with_error(str(error))
    else:
        try:
            buffer = load_from_pkl(path)
        except Exception as error:  # loading a pickle can raise any exception
            exit_with_error(f"{path} is not a saved replay buffer: {error}")
    if not isinstance(buffer, DecayedSampling):
        exit_with_error(f"{path} holds a {type(buffer).__name__}; only decayed replay buffers can be inspected")
    if buffer.size() == 0:
        exit_with_error(f"the replay buffer in {path} is empty")
    return buffer


def load_saved_buffer(path: Path) -> Any:
    """
    Load a replay buffer to look at, without its environment. Nothing in the folder is executed.

    :param path: Folder written by ``buffer.save()``, or a checkpoint of ``ResumableCheckpoint``
    :return: The buffer, on the CPU
    :raises StorageError: if the folder is damaged or holds something else, or if the buffer needs a class or an
        argument that the folder cannot hold
    """
    try:
        folder = Folder(path, BUFFER)
    except ForeignError:
        return _buffer_of_checkpoint(Folder(path, CHECKPOINT))
    with folder.understood():
        name = folder.state["class"]
        known = {cls.__name__: cls for cls in _subclasses(DecayedSampling)}
        if name not in known:
            raise ForeignError(
                f"{path} holds a {name}, a class that is not imported: draw it from Python with {name}.load() and "
                "sb3_reptile.figures"
            )
        return known[name].load(path, device="cpu")


def _subclasses(cls: type[DecayedSampling]) -> Iterator[type[DecayedSampling]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


class _Spaces(gym.Env):
    """
    Stands in for the environment of a checkpoint, of which a replay buffer needs the spaces.

    :param observation_space: Observation space
    :param action_space: Action space
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


def _buffer_of_checkpoint(folder: Folder) -> Any:
    # The model makes its buffer: which class and arguments it takes depends on the algorithm. Its networks are not
    # used, so those of the checkpoint, and the arguments that it could not hold, are replaced by defaults.
    with folder.understood():
        arguments = folder.state["hyperparameters"]
        known = ("algorithm", "replay_buffer_class", "replay_buffer_kwargs")
        kept = {name: value for name, value in arguments.items() if name in known or not _is_missing(value)}
        kept["replay_buffer_kwargs"]["$arguments"].pop("storage_dir", None)  # to look at it, memory will do
        saved = folder.state["spaces"]
        observation_space, action_space = from_json(saved["observation_space"]), from_json(saved["action_space"])
        env = DummyVecEnv([lambda: _Spaces(observation_space, action_space)] * saved["n_envs"])
        kept |= {
            "policy": "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy",
            "policy_kwargs": {"$arguments": {}},
            "tensorboard_log": None,
            "verbose": 0,
        }
        with warnings.catch_warnings():
            # SB3 warns about its own choices when they are passed back to it, such as n_steps with NStepReplayBuffer
            warnings.filterwarnings("ignore", module=re.escape(off_policy_algorithm.__name__))
            found = resolve_arguments(kept, {})
            model = found.algorithm(env=env, device="cpu", **found.arguments)
            # It may have been loaded, or assigned
            saved_arguments = folder.state.get("buffer_arguments")
            buffer = make_buffer(model, found, saved_arguments, folder.state["replay_buffer"])
        fill(buffer, folder, folder.state["replay_buffer"])
    return buffer


def _is_missing(value: Any) -> bool:
    return isinstance(value, dict) and "$missing" in value


def _read(path: Path) -> dict[str, np.ndarray]:
    """
    :param path: Path of the training log
    :return: Its columns on replay, by name, NaN where nothing was logged; empty if there is no log
    """
    if not path.is_file():
        return {}
    rows, n_left_out = read_log(path)
    if n_left_out > 0:
        warnings.warn(f"{n_left_out} damaged lines of {path} are left out", stacklevel=2)
    keys = [key for key in (rows[0] if rows else ()) if key.startswith("replay/") or key == STEPS]
    return {key: np.array([number(row[key]) for row in rows]) for key in keys}


def _draw(buffer: DecayedSampling | None, logged: dict[str, np.ndarray], title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    (by_age, stored), (concentration, td_error) = figure.subplots(2, 2)
    if buffer is None:
        _leave_empty(by_age, "no replay buffer was saved\n(--save-replay-buffer)")
        _leave_empty(stored, "")
    else:
        draw_probability_by_age(by_age, buffer)
        draw_stored_and_replayed(stored, buffer)
    spread = {"replay/effective_sample_size": ("effective sample size", BLUE), "replay/mean_age": ("mean age", ORANGE)}
    _draw_lines(concentration, logged, spread, "transitions")
    colours = (ORANGE, PURPLE, GREEN, BLUE)
    quarters = {f"replay/td_error_age_q{k + 1}": (QUARTERS[k], colours[k]) for k in range(4)}
    _draw_lines(td_error, logged, quarters, "absolute TD error")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)  # names of folders
    return figure


def _draw_lines(axes: Any, logged: dict[str, np.ndarray], lines: dict[str, tuple[str, str]], ylabel: str) -> None:
    present = [key for key in lines if key in logged and np.isfinite(logged[key]).any()]
    if not present:
        _leave_empty(axes, f"not logged: {', '.join(label for label, _ in lines.values())}")
        return
    steps = logged[STEPS]
    for key in present:
        label, colour = lines[key]
        known = np.isfinite(logged[key])
        axes.plot(steps[known], logged[key][known], color=colour, linewidth=1.2, label=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    label_axes(axes, "environment steps", ylabel)


def _leave_empty(axes: Any, why: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color="#666666")
