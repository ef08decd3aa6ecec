"""Saved meta-learners: zip-files that SB3 can read too, and checkpoints from which meta-training resumes."""

import io
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
import sb3_contrib  # noqa: F401 -- a file can name only imported algorithms
import stable_baselines3  # noqa: F401
import torch as th
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_reptile.checkpoint.resuming import newest_good, origin_at, origin_of
from sb3_reptile.checkpoint.saving import SavesCheckpoints
from sb3_reptile.meta.inner_runs import empty_replay_buffer
from sb3_reptile.meta.learned_parameters import OptimizerStates, Parameters, optimizer_classes
from sb3_reptile.meta.normalization import PREFIX
from sb3_reptile.replay.persistence import files_of, fill, state_of
from sb3_reptile.storage import DamagedError, ForeignError, StorageError
from sb3_reptile.storage.errors import warn
from sb3_reptile.storage.files import flush, flush_folder, make_folders
from sb3_reptile.storage.folder import Folder, write_folder
from sb3_reptile.storage.values import arguments_from_json, arguments_to_json

if TYPE_CHECKING:
    from sb3_reptile.meta.meta_learner import ReptileMetaLearner

#: The kind of a folder that holds a checkpoint of meta-training
KIND = "checkpoint of meta-training"
# In a zip-file: the arguments and counters, and the state of the optimizers and the statistics of VecNormalize
VALUES, ARRAYS = "meta.json", "meta.safetensors"
STATISTICS = "statistics/"
FORMAT, FORMAT_VERSION = "sb3-reptile meta-learner", 1
PARAMETERS = "parameters.safetensors"

# Arguments of the meta-learner that are saved
ARGUMENTS = (
    "algorithm",
    "policy",
    "inner_timesteps",
    "meta_batch_size",
    "meta_step_size",
    "optimizer_state",
    "replay_buffer",
    "normalize",
    "n_envs",
    "n_processes",
    "algorithm_kwargs",
    "verbose",
    "seed",
)
COUNTERS = ("num_meta_iterations", "n_meta_iterations_ever", "n_inner_runs_ever", "num_timesteps")


def _values_of(learner: "ReptileMetaLearner") -> dict[str, Any]:
    arguments = {name: getattr(learner, "policy_class" if name == "policy" else name) for name in ARGUMENTS}
    return {
        "arguments": arguments_to_json(arguments),
        "counters": {name: int(getattr(learner, name)) for name in COUNTERS},
        "has_optimizers": learner.optimizers is not None,
        "optimizer_classes": optimizer_classes(learner.model),
        "tasks": {"n": learner.task_sampler.n_tasks, "names": learner.task_sampler.names},
    }


def _arrays_of(states: OptimizerStates | None) -> dict[str, np.ndarray]:
    return {
        f"{name}/{index}/{key}": np.asarray(value.numpy(), order="C")
        for name, of_optimizer in (states or {}).items()
        for index, state in of_optimizer.items()
        for key, value in state.items()
    }


def _states_of(arrays: Mapping[str, np.ndarray]) -> OptimizerStates:
    states: OptimizerStates = {}
    for path, array in arrays.items():
        name, index, key = path.split("/")
        states.setdefault(name, {}).setdefault(int(index), {})[key] = th.from_numpy(array.copy())
    return states


def _set_optimizers(learner: "ReptileMetaLearner", values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Set the saved state of the optimizers, if there is one and the meta-learner carries it."""
    if not values["has_optimizers"] or learner.optimizer_state != "carried":
        return
    own = optimizer_classes(learner.model)
    # Files of earlier versions do not say the classes
    saved = values.get("optimizer_classes", own)
    if saved != own:
        raise ValueError(
            f"the saved state is that of the optimizers {saved}, the algorithm has {own}: use the same, or "
            "optimizer_state='fresh'"
        )
    learner.optimizers = _states_of(arrays)


def _make(cls: Any, values: Mapping[str, Any], tasks: Any, device: Any, given: dict[str, Any], call: str) -> Any:
    """A meta-learner with saved arguments and counters."""
    arguments = arguments_from_json(values["arguments"], given, call)
    algorithm = arguments.pop("algorithm")
    learner = cls(algorithm, tasks, device=device, **arguments)
    counters = dict(values["counters"])
    if "n_inner_runs_ever" not in counters:
        # Files of earlier versions, in which all meta-iterations had as many
        batch = arguments_from_json({"n": values["arguments"]["meta_batch_size"]}, {}, call)["n"]
        counters["n_inner_runs_ever"] = counters.get("n_meta_iterations_ever", 0) * batch
    for name in COUNTERS:
        value = counters[name]
        if type(value) is not int or value < 0:
            raise ForeignError(f"{name} must be a whole number >= 0, the file has {value!r:.100}")
        setattr(learner, name, value)
    return learner


def _check_tasks(learner: "ReptileMetaLearner", saved_n: int | None, saved_names: list[str | None]) -> None:
    """Which tasks are drawn depends on their number."""
    sampler = learner.task_sampler
    if saved_n != sampler.n_tasks:
        of = [f"{n} tasks" if n is not None else "tasks that a function draws" for n in (saved_n, sampler.n_tasks)]
        raise ValueError(
            f"the checkpoint is of meta-training on {of[0]}, got {of[1]}: resume() needs the same tasks; to go on with "
            "other ones, resume with the same, save(), and load() with the others"
        )
    changed = [
        (theirs, ours)
        for theirs, ours in zip(saved_names, sampler.names, strict=True)
        if None not in (theirs, ours) and theirs != ours
    ]
    if changed:
        warn(
            f"the checkpoint is of meta-training on {changed[0][0]:.200}, got {changed[0][1]:.200}: training "
            "continues, but not as without the interruption"
        )


def save_zip(learner: "ReptileMetaLearner", path: str | os.PathLike[str]) -> None:
    """
    :param learner: The meta-learner
    :param path: Path of the file; ``.zip`` is appended if it has no suffix
    :raises OSError: if it cannot be written; what was there before stays
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_name(f"{path.name}.zip")
    content = io.BytesIO()
    learner.model.save(content)
    with zipfile.ZipFile(content, "a") as archive:
        about = {"format": FORMAT, "format_version": FORMAT_VERSION, **_values_of(learner)}
        archive.writestr(VALUES, json.dumps(about, allow_nan=False))
        # SB3's part has the networks
        statistics = {
            f"{STATISTICS}{name}": np.asarray(value.numpy(), order="C")
            for name, value in learner.parameters.items()
            if name.startswith(PREFIX)
        }
        archive.writestr(ARRAYS, safetensors.numpy.save(_arrays_of(learner.optimizers) | statistics))
    make_folders(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.saving")
    try:
        temporary.write_bytes(content.getvalue())
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def load_zip(cls: Any, path: str | os.PathLike[str], tasks: Any, device: Any, given: dict[str, Any]) -> Any:
    """
    :param cls: Class of the meta-learner
    :param path: Path of the file
    :param tasks: The tasks
    :param device: PyTorch device
    :param given: Arguments that override those saved
    :return: The meta-learner
    :raises FileNotFoundError: if there is no such file
    :raises ForeignError: if it was not saved by a meta-learner
    :raises ValueError: if the parameters or the carried state of the optimizers do not fit
    """
    path = Path(path)
    if not path.suffix and not path.is_file():
        path = path.with_name(f"{path.name}.zip")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            if VALUES not in archive.namelist():
                raise ForeignError(
                    f"{path} was not saved by a meta-learner: load a saved model with load() of its algorithm"
                )
            values = json.loads(archive.read(VALUES))
            arrays = safetensors.numpy.load(archive.read(ARRAYS))
    except (zipfile.BadZipFile, KeyError, ValueError, safetensors.SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        raise DamagedError(f"{path} is damaged, or is not a zip-file: {error}") from error
    if values.get("format") != FORMAT or values.get("format_version") != FORMAT_VERSION:
        raise ForeignError(
            f"{path} has the format {values.get('format')!r} {values.get('format_version')!r}, this version of "
            f"sb3-reptile reads {FORMAT!r} {FORMAT_VERSION}"
        )
    learner = _make(cls, values, tasks, device, given, f"{cls.__name__}.load")
    _, modules, variables = load_from_zip_file(path, device="cpu", load_data=False)
    statistics = {name.removeprefix(STATISTICS): a for name, a in arrays.items() if name.startswith(STATISTICS)}
    optimizers = {name: a for name, a in arrays.items() if not name.startswith(STATISTICS)}
    learner.set_parameters(_parameters_of(learner, modules, variables or {}, statistics))
    _set_optimizers(learner, values, optimizers)
    return learner


def _parameters_of(learner: Any, modules: Any, variables: Any, statistics: Mapping[str, np.ndarray]) -> Parameters:
    """The learned parameters in SB3's file, which also holds target networks, and statistics of VecNormalize."""
    found: Parameters = {f"{part}.{name}": value for part, state in modules.items() for name, value in state.items()}
    found |= {name: value.detach() for name, value in variables.items()}
    found |= {name: th.from_numpy(array.copy()) for name, array in statistics.items()}
    missing = [name for name in learner.parameters if name not in found]
    if missing:
        raise ValueError(f"the file has no {missing[0]}, which the algorithm has")
    # Statistics that the algorithm does not have are an error, too
    return {name: found[name] for name in [*learner.parameters, *sorted(set(statistics) - set(learner.parameters))]}


class FolderPart:
    """
    The files of a folder whose names begin alike, for one of several replay buffers.

    :param folder: The folder
    :param prefix: What the names begin with
    """

    def __init__(self, folder: Folder, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self.path = folder.path
        self.files = {
            name.removeprefix(prefix): about for name, about in folder.files.items() if name.startswith(prefix)
        }

    def read(self, name: str) -> dict[str, np.ndarray]:
        """
        :param name: Name of a file, without the prefix
        :return: Its arrays
        """
        return self._folder.read(self._prefix + name)


def write_checkpoint(learner: "ReptileMetaLearner", path: Path, previous: Folder | None) -> None:
    """
    :param learner: The meta-learner, between two meta-iterations
    :param path: Folder of the checkpoint
    :param previous: The previous checkpoint. Files that have not changed since are linked instead of written.
    :raises NotStorableError: if something cannot be saved without pickle
    :raises OSError: if the checkpoint cannot be written
    """
    arrays = {f"parameters/{name}": np.asarray(value.numpy(), order="C") for name, value in learner.parameters.items()}
    arrays |= {f"optimizers/{name}": array for name, array in _arrays_of(learner.optimizers).items()}
    buffers = {task: (buffer, state_of(buffer)) for task, buffer in learner.replay_buffers.items()}
    state = {**_values_of(learner), "replay_buffers": {str(task): s.values for task, (_, s) in buffers.items()}}

    def files() -> Iterator[Any]:
        yield PARAMETERS, lambda: arrays
        for task, (buffer, of_buffer) in buffers.items():
            yield from ((f"task{task}-{name}", content) for name, content in files_of(buffer, of_buffer))

    write_folder(path, KIND, state, files(), previous)


def resume(path: str | os.PathLike[str], tasks: Any, device: th.device | str = "auto", **kwargs: Any) -> Any:
    """
    Load a checkpoint of meta-training and return a meta-learner that continues it, with the same result as without the
    interruption::

        learner = resume("checkpoints", tasks)
        learner.learn(100 - learner.num_meta_iterations, reset_num_timesteps=False)

    Nothing in a checkpoint is executed.

    :param path: One checkpoint, or a folder of checkpoints: the newest that is not damaged
    :param tasks: The tasks, as they were
    :param device: Device of the inner runs
    :param kwargs: Arguments of :class:`~sb3_reptile.meta.ReptileMetaLearner` that override those saved. Those that
        could not be saved must be given.
    :return: The meta-learner
    :raises FileNotFoundError: if there is no checkpoint
    :raises ForeignError: if the files are not a checkpoint of meta-training
    :raises DamagedError: if no checkpoint is as it was saved
    :raises MissingArgumentError: if an argument could not be saved and is not given
    :raises ValueError: if the tasks, or the carried state of the optimizers, do not fit
    """
    from sb3_reptile.meta.meta_learner import ReptileMetaLearner

    folder = newest_good(Path(path), KIND, "MetaCheckpoint")
    values = folder.state
    learner = _make(ReptileMetaLearner, values, tasks, device, kwargs, "resume")
    # Files of earlier versions do not say the tasks
    if "tasks" in values:
        with folder.understood():
            n, names = values["tasks"]["n"], [None if name is None else str(name) for name in values["tasks"]["names"]]
            if len(names) != (n or 1):
                raise ForeignError(f"there are {len(names)} names of {n} tasks")
        _check_tasks(learner, n, names)
    arrays = folder.read(PARAMETERS)
    learner.set_parameters(
        {n.removeprefix("parameters/"): th.from_numpy(a) for n, a in arrays.items() if n.startswith("parameters/")}
    )
    optimizers = {n.removeprefix("optimizers/"): a for n, a in arrays.items() if n.startswith("optimizers/")}
    _set_optimizers(learner, values, optimizers)
    with folder.understood():
        kept = values["replay_buffers"] if learner.replay_buffer == "task" else {}
        for task, of_buffer in kept.items():
            buffer = empty_replay_buffer(learner.inner_learner, learner.task_sampler.numbered(int(task)))
            fill(buffer, FolderPart(folder, f"task{task}-"), of_buffer)  # type: ignore[arg-type]
            learner.replay_buffers[int(task)] = buffer
    origin_of[learner] = origin_at(folder)
    return learner


class MetaCheckpoint(SavesCheckpoints):
    """
    Saves the complete state of meta-training, so that :func:`~sb3_reptile.meta.resume` continues it: parameters,
    optimizers, replay buffers of tasks and counters, from which tasks and seeds follow.

    It saves at the beginning, every ``save_freq`` meta-iterations and at the end. A checkpoint is a folder that is
    written under a temporary name, flushed to disk and renamed. During training the folder is locked against other
    processes. If saving fails, for instance because the disk is full, it warns and training continues; but if there is
    no checkpoint yet, the second failure is an error.

    :param save_freq: Meta-iterations between two checkpoints
    :param path: The folder of the checkpoints
    :param keep: Number of checkpoints to keep
    :param verbose: Verbosity level: 0 for no output, 1 for info messages
    :raises ValueError: if ``save_freq`` or ``keep`` is not a whole number >= 1; when training starts, if the folder
        holds checkpoints of another run
    """

    kind = KIND
    resumed_with = "tasks"
    unit = "meta-iteration"

    def _step(self) -> int:
        learner: Any = self.model
        return int(learner.num_meta_iterations)

    def _total(self) -> int:
        # A callback stops meta-training between two meta-iterations
        return self._step()

    def _on_training_start(self) -> None:
        if not hasattr(self.model, "num_meta_iterations"):
            raise ValueError(f"MetaCheckpoint is for ReptileMetaLearner, got {type(self.model).__name__}")
        self._start()
        # The counters may have been reset since the last checkpoint
        self.save()

    def _on_step(self) -> bool:
        if self._step() % self.save_freq == 0:
            self.save()
        return True

    def _on_training_end(self) -> None:
        self._end()

    def _write_checkpoint(self, path: Path, previous: Folder | None) -> None:
        write_checkpoint(self.model, path, previous)  # type: ignore[arg-type]
