"""``EvalCallback`` for environments that drift; it is imported from :mod:`sb3_reptile.callbacks`."""

import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_reptile.replay import DecayedSampling

BEST_MODEL = "best_model.zip"  # SB3's name for it
SAVING = ".saving"
ATTRIBUTES = ("log_path", "best_model_save_path", "callback_on_new_best")


class DriftEvalCallback(EvalCallback):
    """
    SB3's ``EvalCallback`` for environments that drift. It takes the same arguments. ``EvalCallback`` evaluates in an
    environment whose clock knows nothing of training, so that ``best_model.zip`` is the best for a world that is gone.
    This one

    * sets the clock of the evaluation environment to that of training before each evaluation, and holds it: the whole
      evaluation takes place in the world of the last training step, and training does not notice it;
    * resets ``best_mean_reward`` when the phase has changed since the last evaluation, or when a replay buffer
      with ``half_life="auto"`` has raised an alarm: ``best_model.zip`` is the best model of the present phase, and
      replaces that of the phase before. A gradual drift changes the phase continuously, so that the best model is then
      the last one evaluated;
    * logs ``eval/phase``, and writes ``phases`` and ``alarms`` to ``evaluations.npz``.

    In environments that do not drift, and without ``"auto"``, it does what ``EvalCallback`` does. In all environments,
    ``evaluations.npz`` and ``best_model.zip`` are written under another name and renamed, so that an interruption
    cannot leave half a file.

    The wrappers of :mod:`sb3_reptile.envs` have clocks. An environment of your own, or the outermost of its wrappers
    that drift, needs two methods:

    * ``get_drift_clock()`` returns a dictionary that can be pickled. Its item ``phase`` is a number that changes when
      evaluations are no longer comparable; all others are yours.
    * ``set_drift_clock(clock, held)`` takes such a dictionary from another copy of the environment. While ``held`` is
      true, steps leave the drift where it is.

    Copy ``i`` of the evaluation environment takes the clock of copy ``i`` of the training environment, or ``i`` modulo
    their number.

    :param eval_env: The environment used for evaluation, wrapped like the training environment
    :param args: Further arguments of ``EvalCallback``
    :param kwargs: Further arguments of ``EvalCallback``
    """

    def __init__(self, eval_env: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(eval_env, *args, **kwargs)
        #: Phase and number of alarms at each evaluation, None for an environment or a buffer without
        self.evaluations_worlds: list[tuple[float | None, int | None]] = []
        self._last_world: tuple[float | None, int | None] | None = None
        self._drifts = False
        # While SB3 evaluates: the attributes with its paths and callbacks
        self._attributes: dict[str, Any] | None = None

    def _init_callback(self) -> None:
        super()._init_callback()
        training, evaluation = _has_clock(self.training_env), _has_clock(self.eval_env)
        if training != evaluation:
            which, other = ("training", "evaluation") if training else ("evaluation", "training")
            warnings.warn(
                f"the {which} environment has a drift clock and the {other} environment has none: they are not "
                "synchronized. Wrap both in the same wrappers",
                stacklevel=2,
            )
        self._drifts = training and evaluation

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return super()._on_step()
        clocks = self.training_env.env_method("get_drift_clock") if self._drifts else []
        clocks = [clocks[i % len(clocks)] for i in range(self.eval_env.num_envs)] if clocks else []
        world = (_phase(clocks) if clocks else None, self._n_alarms())
        if self._last_world is not None and world != self._last_world:
            if self.verbose >= 1:
                print(f"The best model is reset: {_difference(self._last_world, world)}")
            self.best_mean_reward = -np.inf
        self._last_world = world
        if clocks:
            self.logger.record("eval/phase", world[0])
        try:
            self._write_aside()
            with self._held(clocks):
                go_on = super()._on_step()
            self._publish()
        finally:
            self._restore_attributes()
        return go_on

    def _on_event(self) -> bool:
        self._publish()
        return super()._on_event()

    def _write_aside(self) -> None:
        self._attributes = {name: getattr(self, name) for name in ATTRIBUTES}
        if self.log_path is not None:
            self.log_path = f"{self.log_path}{SAVING}"
        if self.best_model_save_path is not None:
            aside = Path(self.best_model_save_path, f".best_model{SAVING}")
            aside.mkdir(exist_ok=True)
            (aside / BEST_MODEL).unlink(missing_ok=True)  # of an evaluation that was interrupted
            self.best_model_save_path = str(aside)
        # Callbacks find the files in their places
        self.callback_on_new_best = _Published(self._publish, self.callback_on_new_best)  # type: ignore[assignment]

    def _restore_attributes(self) -> None:
        for name, value in (self._attributes or {}).items():
            setattr(self, name, value)
        self._attributes = None

    def _publish(self) -> None:
        """Move what SB3 has written to its place. It writes nothing more in this evaluation."""
        if self._attributes is None:
            return
        log_path, best_model_path = self.log_path, self.best_model_save_path
        self._restore_attributes()
        if log_path is not None:
            self._add_worlds(f"{log_path}.npz")
            os.replace(f"{log_path}.npz", f"{self.log_path}.npz")
        if best_model_path is not None and self.best_model_save_path is not None:
            aside = Path(best_model_path)
            if (aside / BEST_MODEL).exists():
                os.replace(aside / BEST_MODEL, Path(self.best_model_save_path, BEST_MODEL))
            aside.rmdir()

    def _n_alarms(self) -> int | None:
        buffer = getattr(self.model, "replay_buffer", None)
        consistency = buffer.consistency if isinstance(buffer, DecayedSampling) else None
        return None if consistency is None else len(consistency.changes)

    @contextmanager
    def _held(self, clocks: list[dict[str, Any]]) -> Iterator[None]:
        self._set_clocks(clocks, held=True)
        try:
            yield
        finally:
            # Also of an environment that is both trained in and evaluated in: it continues where it was
            self._set_clocks(clocks, held=False)

    def _set_clocks(self, clocks: list[dict[str, Any]], held: bool) -> None:
        for index, clock in enumerate(clocks):
            self.eval_env.env_method("set_drift_clock", clock, held, indices=[index])

    def _add_worlds(self, path: str) -> None:
        assert self._last_world is not None
        n_missing = len(self.evaluations_timesteps) - len(self.evaluations_worlds)
        self.evaluations_worlds += [self._last_world] * n_missing
        phases, alarms = zip(*self.evaluations_worlds, strict=True)
        if any(value is not None for value in (*phases, *alarms)):
            kwargs: Any = {"successes": self.evaluations_successes} if self.evaluations_successes else {}
            np.savez(
                path,
                timesteps=self.evaluations_timesteps,
                results=self.evaluations_results,
                ep_lengths=self.evaluations_length,
                phases=np.array(phases, dtype=float),
                alarms=[-1 if value is None else value for value in alarms],
                **kwargs,
            )

    def continue_from(self, num_timesteps: int) -> None:
        """
        Continue the evaluations of a run that was interrupted: those up to a step are read from ``evaluations.npz``, to
        which later ones are appended, and the best of those in the last of these worlds is the best until now. A file
        that is damaged, or holds evaluations of another number of episodes, is renamed to ``evaluations.old.npz``, with
        a warning.

        :param num_timesteps: Step at which training continues
        """
        path = Path(f"{self.log_path}.npz")
        if self.log_path is None or not path.is_file():
            return
        try:
            saved = _read_evaluations(path, self.n_eval_episodes)
        except Exception as error:  # what reading a damaged file raises depends on where it is damaged
            kept = set_aside(path)
            reason = " ".join(str(error).split())
            warnings.warn(f"evaluations start from scratch, those in {path} are now in {kept}: {reason}", stacklevel=2)
            return
        known = saved["timesteps"] <= num_timesteps
        self.evaluations_timesteps = saved["timesteps"][known].tolist()
        self.evaluations_results = saved["results"][known].tolist()
        self.evaluations_length = saved["ep_lengths"][known].tolist()
        if "successes" in saved:
            self.evaluations_successes = saved["successes"][known].tolist()
        phases, alarms = saved["phases"][known].tolist(), saved["alarms"][known].tolist()
        self.evaluations_worlds = [
            (None if np.isnan(phase) else phase, None if n_alarms < 0 else n_alarms)
            for phase, n_alarms in zip(phases, alarms, strict=True)
        ]
        self._last_world = self.evaluations_worlds[-1] if self.evaluations_worlds else None
        means = [
            float(np.mean(results))
            for results, world in zip(self.evaluations_results, self.evaluations_worlds, strict=True)
            if world == self._last_world
        ]
        self.best_mean_reward = max(means, default=-np.inf)


class _Published:
    """
    Called by SB3 when there is a new best model.

    :param publish: Moves the files to their places
    :param callback: The user's callback
    """

    def __init__(self, publish: Callable[[], None], callback: BaseCallback | None) -> None:
        self.publish = publish
        self.callback = callback

    def on_step(self) -> bool:
        self.publish()
        return self.callback is None or self.callback.on_step()


def set_aside(path: Path) -> Path:
    """
    Rename a file that cannot be used, so that it is not overwritten.

    :param path: The file
    :return: Its new path, ``.old`` before the ending of its name
    """
    names = (path.with_suffix(f".old{number or ''}{path.suffix}") for number in itertools.count())
    kept = next(name for name in names if not name.exists())
    os.replace(path, kept)
    return kept


def _has_clock(env: VecEnv) -> bool:
    try:
        return env.has_attr("get_drift_clock")
    except NotImplementedError:
        return False


def _phase(clocks: list[dict[str, Any]]) -> float:
    """
    :return: The mean phase of the copies. Phases increase, so it changes when one of them does
    """
    try:
        return float(np.mean([clock["phase"] for clock in clocks]))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"get_drift_clock() must return a dictionary with a number `phase`, got {clocks[0]!r}"
        ) from error


def _difference(before: tuple[float | None, int | None] | None, now: tuple[float | None, int | None]) -> str:
    (old_phase, old_alarms), (phase, alarms) = before or (None, None), now
    if old_phase != phase:
        return f"phase {old_phase} -> {phase}"
    return f"alarms {old_alarms} -> {alarms}"


def _read_evaluations(path: Path, n_episodes: int) -> dict[str, np.ndarray]:
    """
    :param path: A file of ``EvalCallback``, or of ``DriftEvalCallback``
    :param n_episodes: Number of episodes of each evaluation
    :return: Its arrays, each with as many rows as there were evaluations
    :raises ValueError: if one is missing or not as it should be; NumPy raises others if the file is damaged
    """
    # NumPy would leave a damaged file open
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        saved = {name: file[name] for name in file.files}
    n_evaluations = len(saved["timesteps"])
    saved.setdefault("phases", np.full(n_evaluations, np.nan))
    saved.setdefault("alarms", np.full(n_evaluations, -1))
    n_dims = {"timesteps": 1, "results": 2, "ep_lengths": 2, "phases": 1, "alarms": 1}
    for name in [*n_dims, *({"successes"} & saved.keys())]:
        array = saved[name]
        if array.ndim != n_dims.get(name, 2) or len(array) != n_evaluations or array.dtype.kind not in "biuf":
            raise ValueError(f"{name} has shape {array.shape} and type {array.dtype}")
        if array.ndim == 2 and array.shape[1] != n_episodes:
            raise ValueError(f"they were of {array.shape[1]} episodes each, which are {n_episodes} now")
    return saved
