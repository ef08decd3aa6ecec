"""The experiment manager behind ``sb3-reptile train``: our hyperparameter files, logs, and resumed runs."""

import argparse
import contextlib
import copy
import io
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import optuna
    import rl_zoo3
    import yaml
    from rl_zoo3.callbacks import SaveVecNormalizeCallback, TrialEvalCallback
    from rl_zoo3.exp_manager import ExperimentManager
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import get_latest_run_id
    from sqlalchemy.exc import DBAPIError
except ModuleNotFoundError as error:
    raise ImportError(
        f"the RL Zoo commands need the extra `zoo` (no module named {error.name!r} found): "
        "pip install 'sb3-reptile[zoo]'"
    ) from error
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import sb3_reptile.envs  # registers the environments
from sb3_reptile.callbacks import DriftEvalCallback, ReplayLog, WorkerLog
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.checkpoint.run_folder import list_candidates
from sb3_reptile.evaluation.callback import SAVING
from sb3_reptile.replay import DecayedSampling
from sb3_reptile.reptile_dqn import ReptileDQN
from sb3_reptile.storage import StorageError
from sb3_reptile.storage.values import arguments_to_json
from sb3_reptile.vec_env import RayVecEnv
from sb3_reptile.zoo.errors import exit_with_error
from sb3_reptile.zoo.search import BUFFER_SIZE, HINDSIGHT
from sb3_reptile.zoo.training_log import LOG_FILE, LogToFile

ALGO = "reptile_dqn"
# What the names of SBX's algorithms begin with
SBX = "sbx_"


def zoo_configs() -> Path:
    """
    :return: Folder of the RL Zoo hyperparameter files of this package, one per algorithm
    """
    package = Path(sb3_reptile.__file__).parent
    in_wheel = package / "zoo_configs"
    return in_wheel if in_wheel.is_dir() else package.parent / "zoo_configs"


def default_config(algo: str) -> str | None:
    """
    :param algo: Name of an algorithm
    :return: The hyperparameter file that is used unless the user names one, None for that of the RL Zoo
    """
    if algo == ALGO:
        return str(zoo_configs() / f"{ALGO}.yml")
    if not algo.startswith(SBX):
        return None
    # SBX takes the hyperparameters of SB3's algorithm of the same name
    name = f"{algo.removeprefix(SBX)}.yml"
    ours = zoo_configs() / name
    return str(ours if ours.is_file() else Path(rl_zoo3.__file__).parent / "hyperparams" / name)


class DriftTrialEvalCallback(TrialEvalCallback, DriftEvalCallback):
    """
    rl_zoo3's callback for the evaluations of a trial, in the phase in which the trial is. The trial gets the attributes
    ``phases``, the phase of each evaluation, if the environment drifts; and ``alarms``, the number of changes detected
    until then, with ``half_life="auto"``. The value of the trial is the return in the last phase. See
    ``TrialEvalCallback`` for the arguments.
    """

    def _on_step(self) -> bool:
        n_evaluations = self.eval_idx
        go_on = super()._on_step()
        if self.eval_idx > n_evaluations and self._last_world is not None:
            for name, value in zip(("phases", "alarms"), self._last_world, strict=True):
                if value is not None:
                    self.trial.set_user_attr(name, [*self.trial.user_attrs.get(name, []), value])
        return go_on


class SaveWholeVecNormalizeCallback(SaveVecNormalizeCallback):
    """
    rl_zoo3's callback that saves the statistics of ``VecNormalize``, without leaving half a file if it is interrupted.
    See ``SaveVecNormalizeCallback`` for its arguments.
    """

    def _on_step(self) -> bool:
        folder = self.save_path
        try:
            with written_aside(folder) as self.save_path:
                return super()._on_step()
        finally:
            self.save_path = folder


@contextlib.contextmanager
def written_aside(folder: str) -> Iterator[str]:
    """
    :param folder: Folder of the files to be written
    :return: Another folder to write them to, from which they are moved at the end
    """
    aside = Path(folder, SAVING)
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was interrupted
    aside.mkdir()
    yield str(aside)
    for file in sorted(path for path in aside.rglob("*") if path.is_file()):
        os.replace(file, folder / file.relative_to(aside))
    shutil.rmtree(aside, ignore_errors=True)


class ReptileExperimentManager(ExperimentManager):
    """
    rl_zoo3's experiment manager, which also resumes runs. Without ``-conf``, ``reptile_dqn`` reads the hyperparameter
    file of this package. The folder of the run also holds the training log, and checkpoints whose path is relative.
    """

    #: Folder of the run to resume from its last checkpoint
    resumed_run: Path | None = None
    #: Arguments of RayVecEnv if the environments are on a Ray cluster
    ray_arguments: dict[str, Any] | None = None
    #: Whether arguments, hyperparameters and environments were accepted, so that errors are not about them
    training_has_begun = False

    def __init__(self, args: argparse.Namespace, *others: Any, **kwargs: Any) -> None:
        super().__init__(args, *others, **kwargs)
        if args.conf_file is None:
            self.config = default_config(self.algo) or self.config
        if self.ray_arguments is not None:
            self.vec_env_class, self.vec_env_kwargs = RayVecEnv, self.ray_arguments
        if self.resumed_run is not None:
            self._check_is_run(self.resumed_run)
            self.save_path = str(self.resumed_run)
            self.params_path = f"{self.save_path}/{self.env_name}"
            self.continue_training = True

    def _check_is_run(self, path: Path) -> None:
        # Before anything is created in the folder
        if not path.is_dir():
            exit_with_error(f"there is no folder {path}; --resume takes the folder of a run")
        arguments = path / self.env_name / "args.yml"
        if not arguments.is_file():
            exit_with_error(
                f"{path} is not the folder of a run of {self.env_name.gym_id}: it has no "
                f"{arguments.relative_to(path)}; --resume takes the log path that `train` printed"
            )

    def _checkpoints(self) -> ResumableCheckpoint:
        checkpoints = [callback for callback in self.callbacks if isinstance(callback, ResumableCheckpoint)]
        if not checkpoints:
            exit_with_error("--resume needs a ResumableCheckpoint among the callbacks of the hyperparameter file")
        return checkpoints[0]

    def create_log_folder(self) -> None:
        if self.resumed_run is not None:
            path = self.resumed_run / self._checkpoints().path
            if not list_candidates(path):
                exit_with_error(f"there is no checkpoint in {path}; a checkpoint is a folder of ResumableCheckpoint")
        else:
            self._make_folder_of_run()
        super().create_log_folder()

    def _make_folder_of_run(self) -> None:
        """Make the folder of a new run, under the next number if a run that began at the same time has made it."""
        os.makedirs(self.log_path, exist_ok=True)
        while True:
            try:
                os.mkdir(self.save_path)
                return
            except FileExistsError:
                number = get_latest_run_id(self.log_path, self.env_name) + 1
                self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}")
                self.params_path = f"{self.save_path}/{self.env_name}"

    def create_callbacks(self) -> None:
        super().create_callbacks()
        if self.ray_arguments is not None:
            self.callbacks.append(WorkerLog())
        for callback in self.callbacks:
            if isinstance(callback, ResumableCheckpoint):
                callback.path = Path(self.save_path) / callback.path

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        if self.resumed_run is not None:
            self.monitor_kwargs = {**self.monitor_kwargs, "override_existing": False}
        if self.ray_arguments is not None:
            # Only training can be asynchronous
            omitted = {"asynchronous", "max_delay"} if eval_env else set()
            self.vec_env_kwargs = {name: value for name, value in self.ray_arguments.items() if name not in omitted}
        return super().create_envs(n_envs, eval_env, no_log)

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        if self.resumed_run is None:
            return super()._load_pretrained_agent(hyperparams, env)
        settings = {"verbose": self.verbose, "tensorboard_log": self.tensorboard_log}
        # What a checkpoint cannot hold, schedules that are functions for instance, comes from the hyperparameter file
        stored = arguments_to_json(hyperparams).items()
        missing = {name: hyperparams[name] for name, value in stored if isinstance(value, dict) and "$missing" in value}
        # What the command line says overrides the checkpoint, as it overrides the file, or is an error
        given = {name: hyperparams[name] for name in self.custom_hyperparams or () if name in hyperparams}
        # A checkpoint does not say where to write
        storage_dir = (hyperparams.get("replay_buffer_kwargs") or {}).get("storage_dir")
        if storage_dir is not None:
            missing.setdefault("replay_buffer_kwargs", {"storage_dir": storage_dir})
        try:
            model = resume(self._checkpoints().path, env, device=self.device, **settings, **missing | given)
        except (StorageError, FileNotFoundError) as error:
            exit_with_error(str(error))
        print(f"Resumed at step {model.num_timesteps}")
        return model

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.config.endswith((".yml", ".yaml")):
            self._check_hyperparameter_file()
        if self.study_name and self.trial_id == 0 and not self.optimize_hyperparameters:
            exit_with_error("rl_zoo3 cannot load trial 0, which it takes for none: pass its hyperparameters by -params")
        # rl_zoo3 changes what it read, which is that of all experiments if it is a Python package
        hyperparams, saved = copy.deepcopy(super().read_hyperparameters())
        if self.trial_id:
            trial_id, self.trial_id = self.trial_id, None
            with contextlib.redirect_stdout(io.StringIO()):
                of_file, _ = super().read_hyperparameters()
            self.trial_id = trial_id
            # The search replaces some options of the file's replay buffer, a trial has no others
            of_buffer, of_trial = (read.get("replay_buffer_kwargs") or {} for read in (of_file, hyperparams))
            if of_trial and isinstance(of_trial, dict):  # and not text of -params, which replaces them all
                of_buffer = eval(of_buffer) if isinstance(of_buffer, str) else of_buffer  # as rl_zoo3 does
                hyperparams["replay_buffer_kwargs"] = saved["replay_buffer_kwargs"] = {**of_buffer, **of_trial}
        return hyperparams, saved

    def _check_hyperparameter_file(self) -> None:
        try:
            entries = yaml.safe_load(Path(self.config).read_text(encoding="utf-8"))
        except OSError as error:
            exit_with_error(f"cannot read the hyperparameter file {self.config} (-conf): {error.strerror}")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            exit_with_error(f"the hyperparameter file {self.config} is not YAML: {error}")
        names = [self.env_name.gym_id, *(["atari"] if self._is_atari else ["default"])]
        found = [name for name in names if isinstance(entries, dict) and name in entries]
        if not found:
            exit_with_error(
                f"Hyperparameters not found for {self.algo}-{self.env_name.gym_id} in {self.config}; pass a file with "
                "an entry for it, or with an entry `default`, by -conf"
            )
        if not isinstance(entries[found[0]], dict):
            exit_with_error(f"the entry {found[0]} in {self.config} must be a mapping, got {entries[found[0]]!r}")

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        for name in ("learning_rate", "clip_range", "clip_range_vf", "delta_std"):
            value = hyperparams.get(name)
            if isinstance(value, str) and not re.fullmatch(r"[a-z]+_[-+.\de]+", value):
                exit_with_error(f"{name} must be a number, or lin_NUMBER to decrease from it to 0, got {value!r}")
        return ExperimentManager._preprocess_schedules(hyperparams)

    @contextlib.contextmanager
    def _saved_aside(self) -> Iterator[None]:
        """Let rl_zoo3 write files elsewhere; at the end, they are moved into the folder of the run."""
        save_path, params_path = self.save_path, self.params_path
        said = io.StringIO()
        try:
            with written_aside(save_path) as aside:
                self.save_path, self.params_path = aside, f"{aside}/{self.env_name}"
                os.mkdir(self.params_path)
                with contextlib.redirect_stdout(said):
                    yield
        finally:
            print(said.getvalue().replace(aside, save_path), end="")
            self.save_path, self.params_path = save_path, params_path

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        with self._saved_aside():
            super()._save_config(saved_hyperparams)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        with self._saved_aside():
            super().save_trained_model(model)

    def hyperparameters_optimization(self) -> None:
        if self.algo not in HYPERPARAMS_SAMPLER:
            exit_with_error(f"there is no search space for {self.algo}, use one of: {', '.join(HYPERPARAMS_SAMPLER)}")
        buffer_class = self._hyperparams.get("replay_buffer_class")
        if self.algo == ALGO and buffer_class is not None and not issubclass(buffer_class, DecayedSampling):
            exit_with_error(
                "the search varies the decay: replay_buffer_class must be derived from DecayedSampling, such as "
                f"sb3_reptile.DecayedHerReplayBuffer, got {buffer_class.__name__}"
            )
        if self.storage is not None and not self.storage.endswith(".log"):
            make_tables(self.storage)
        type(self).training_has_begun = True
        super().hyperparameters_optimization()

    def objective(self, trial: optuna.Trial) -> float:
        if self.algo == ALGO:
            # rl_zoo3 knows one class of hindsight replay, and stores what the first process of a study was given
            buffer_class = self._hyperparams.get("replay_buffer_class")
            trial.set_user_attr(BUFFER_SIZE, self._hyperparams.get("buffer_size", 1_000_000))
            trial.set_user_attr(HINDSIGHT, buffer_class is not None and issubclass(buffer_class, HerReplayBuffer))
        return super().objective(trial)

    def learn(self, model: BaseAlgorithm) -> None:
        self.callbacks.append(LogToFile(f"{self.save_path}/{LOG_FILE}"))
        is_decayed = isinstance(getattr(model, "replay_buffer", None), DecayedSampling)
        if is_decayed and not isinstance(model, ReptileDQN):  # which logs it without a callback
            self.callbacks.append(ReplayLog())
        if self.resumed_run is None:
            type(self).training_has_begun = True
            super().learn(model)
            return
        for callback in self.callbacks:
            callback.n_calls = model.num_timesteps // model.n_envs
            if isinstance(callback, DriftEvalCallback):
                callback.continue_from(model.num_timesteps)
        self.n_timesteps -= model.num_timesteps
        if self.n_timesteps <= 0:
            exit_with_error(f"{model.num_timesteps} steps are done already; pass a larger number of steps by -n")

        def learn(*args: Any, **kwargs: Any) -> BaseAlgorithm:
            # Models are saved with their attributes, also in the course of training
            del model.learn
            return model.learn(*args, **{**kwargs, "reset_num_timesteps": False})

        # rl_zoo3 passes no such argument. This sets an attribute of one model, no class is patched.
        model.learn = learn  # type: ignore[method-assign]
        type(self).training_has_begun = True
        super().learn(model)


def make_tables(url: str, attempts: int = 10) -> None:
    """
    Create Optuna's tables in a database. Optuna also creates them, but fails if another process creates them at the
    same time.

    :param url: URL of the database
    :param attempts: Number of attempts
    :raises sqlalchemy.exc.DBAPIError: if the last attempt fails too
    """
    for attempt in range(1, attempts + 1):
        try:
            optuna.storages.RDBStorage(url)
            return
        except DBAPIError:
            if attempt == attempts:
                raise
            time.sleep(0.2 * attempt)
