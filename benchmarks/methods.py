"""The methods that `benchmarks/learning.py` compares, as data: names, labels, and arguments of the algorithm."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sb3_reptile.evaluation.plotting import Style, style_of

# Records identify variants by the names of former classes
RECORDED_AS = {
    "OracleDistribution": "OracleReplayBuffer",
    "ForgettingDistribution": "DetectionReplayBuffer",
    "OrdinaryClockDistribution": "OrdinaryClockReplayBuffer",
}


@dataclass(frozen=True, eq=False)
class Method:
    """
    A method of replay.

    :param name: Its name in records and commands
    :param label: Its name in tables and figures
    :param family: Family of methods; decides its colour
    :param arguments: Arguments of the algorithm, in addition to those of the task
    :param algorithm: Its class
    :param mean_age: Mean age of the transitions replayed from a large buffer, if it depends on the method alone
    :param published: Whether others published it in this form
    :param variant: The class in ``benchmarks/variants.py`` of its replay buffer's distribution
    :param reexplores: Whether it is trained with the callback ``ReExplore``
    :param callbacks: Classes of ``rivals.py`` and ``variants.py`` that it is trained with, and their arguments
    :param styled_as: Method whose colour and line it has in figures; by default those of its family
    """

    name: str
    label: str
    family: str
    arguments: dict[str, Any] = field(default_factory=dict)
    algorithm: Literal["DQN", "ReptileDQN"] = "ReptileDQN"
    mean_age: float | None = None
    published: bool = False
    variant: str | None = None
    reexplores: bool = False
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    styled_as: str | None = None

    @property
    def style(self) -> Style:
        return style_of(self.styled_as or self.family)

    @property
    def set_up(self) -> list[Any]:
        """The method in the hash of a record. If it changes, records are ignored."""
        variant = {} if self.variant is None else {"replay_buffer_class": RECORDED_AS.get(self.variant, self.variant)}
        return [self.algorithm, {**self.arguments, **variant}, *([self.callbacks] if self.callbacks else [])]

    def arguments_for_training(self, regimes: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
        """
        The arguments with the class of the distribution. Nothing else imports ``variants``.

        :param regimes: The regimes of the task's successive phases, which an oracle knows
        """
        if self.variant is None:
            return self.arguments
        import variants

        is_oracle = self.variant == "OracleDistribution"
        distribution = variants.oracle_of(regimes) if is_oracle else getattr(variants, self.variant)
        kwargs = {**self.arguments.get("replay_buffer_kwargs", {}), "distribution_class": distribution}
        return {**self.arguments, "replay_buffer_kwargs": kwargs}


# ---- Families


def fifo(size: int) -> Method:
    """SB3's DQN with a smaller buffer."""
    style, age = "small fifo" if size == 1_000 else None, (size - 1) / 2
    arguments = {"buffer_size": size}
    return Method(f"fifo-{size}", f"FIFO {size:,}", "fifo", arguments, "DQN", mean_age=age, styled_as=style)


def exponential(half_life: int) -> Method:
    """Exponential decay (arXiv 2605.10236)."""
    name, label, age = f"exp-{half_life}", f"half-life {half_life:,}", half_life / math.log(2)
    return Method(name, label, "exponential", {"half_life": half_life}, mean_age=age, published=True)


def mixed(half_life: int, share: float) -> Method:
    """Exponential decay with a share of uniform draws."""
    label = f"half-life {half_life:,}, {100 * share:.0f} % uniform"
    arguments = {"half_life": half_life, "replay_buffer_kwargs": {"uniform_fraction": share}}
    return Method(f"exp-{half_life}-uniform-{share}", label, "exponential", arguments)


def prioritized(half_life: int) -> Method:
    """Priority by TD error times exponential decay."""
    name, label = f"prioritized-exp-{half_life}", f"prioritized, half-life {half_life:,}"
    return Method(name, label, "prioritized", {"half_life": half_life, "priority": "td_error"})


def in_loss(half_life: int) -> Method:
    """Uniform replay with exponential decay in the loss."""
    name, label = f"loss-exp-{half_life}", f"half-life {half_life:,} in the loss"
    return Method(name, label, "loss", {"half_life": half_life, "weighting": "loss"})


def other_decay(name: str, label: str, family: str, decay: dict[str, Any], **others: Any) -> Method:
    return Method(name, label, family, {"replay_buffer_kwargs": {"decay": decay}}, **others)


def linear(horizon: int) -> Method:
    """Sample weight decay with a horizon (arXiv 2604.01913)."""
    decay = {"linear": {"horizon": horizon}}
    return other_decay(f"linear-{horizon}", f"linear to {horizon:,}", "linear", decay, published=True)


def power(scale: int, exponent: float) -> Method:
    """``(scale / (scale + age)) ** exponent``."""
    decay = {"power_law": {"scale": scale, "exponent": exponent}}
    return other_decay(f"power-{scale}-{exponent:g}", f"1/(age + {scale:,})^{exponent:g}", "power", decay)


def without_decay(name: str, **options: Any) -> Method:
    """A published method without decay."""
    return Method(name, name, name, {"half_life": math.inf, **options}, published=True)


def auto(inner: Method) -> Method:
    """``half_life="auto"`` with the decay of another method within a regime."""
    if "half_life" in inner.arguments:
        decay = {"exponential": {"half_life": inner.arguments["half_life"]}}
    else:
        decay = inner.arguments["replay_buffer_kwargs"]["decay"]
    arguments = {"half_life": "auto", "replay_buffer_kwargs": {"decay": decay}}
    return Method(f"auto-{inner.name}", f"auto, {inner.label}", "auto", arguments)


def oracle(inner: Method) -> Method:
    """A method that knows each change."""
    name, label = f"oracle-{inner.name}", f"oracle, {inner.label}"
    return Method(name, label, "oracle", inner.arguments, variant="OracleDistribution")


def changed(method: Method, name: str, label: str | None = None, **changes: Any) -> Method:
    """A method that differs in one respect from another, whose name and label it continues."""
    label = name.replace("-", " ") if label is None else label
    return replace(method, name=f"{method.name}-{name}", label=f"{method.label}, {label}", **changes)


def smaller(method: Method, size: int) -> Method:
    """A method with a smaller buffer."""
    arguments = {**method.arguments, "buffer_size": size}
    return changed(method, f"in-{size}", f"buffer of {size:,}", arguments=arguments, styled_as=None)


# ---- Methods

UNIFORM = Method("uniform", "uniform", "uniform", algorithm="DQN")
# The package's default, also within a regime of half_life="auto"
DEFAULT = replace(power(100, 1.5), label="default", styled_as="default")
# arXiv 2110.02421
PER_AGE = other_decay("power-1", "1/age", "power", {"power_law": {"scale": 1}}, published=True)
POWER_100 = other_decay("power-100", "1/(age + 100)", "power", {"power_law": {"scale": 100}})
AUTO = replace(auto(DEFAULT), label="auto")
ORACLE = replace(oracle(DEFAULT), label="oracle")

# FIFO buffers
WINDOWS = tuple(fifo(size) for size in (1_000, 3_000, 5_000, 6_000, 10_000, 30_000))
# The default in buffers that hold less than a run
SMALLER = {size: smaller(DEFAULT, size) for size in (3_000, 10_000)}
# "auto" with one part changed: it forgets everything before an alarm permanently; time spent in another regime counts
# as age; it explores again at every alarm
ABLATIONS = (
    changed(AUTO, "forgets", variant="ForgettingDistribution"),
    changed(AUTO, "ordinary-clock", variant="OrdinaryClockDistribution"),
    changed(AUTO, "reexplores", reexplores=True),
)
# "auto" with an alarm every 10,000 steps that nothing in the environment gives a reason for
FALSE_ALARMS = changed(AUTO, "false-alarms", callbacks={"FalseAlarms": {"every": 10_000}})
# "auto" that replays what is contradicted, too, which a change that leaves the policy right makes useful
KEEPING = changed(AUTO, "keeps-a-tenth", variant="KeepingDistribution")
AUTO_OTHERS = tuple(auto(inner) for inner in (*map(exponential, (300, 1_000, 3_000)), PER_AGE, POWER_100))

PLANNED = (
    UNIFORM,
    *WINDOWS,
    *map(exponential, (100, 300, 1_000, 3_000, 10_000, 30_000)),
    *(PER_AGE, POWER_100, DEFAULT, power(300, 2.0)),
    *(linear(10_000), linear(80_000)),
    # Emphasizing recent experience (arXiv 1906.04009) and combined experience replay (arXiv 1712.01275), both with the
    # values of the papers
    other_decay("ere", "ERE", "ere", {"ere": {}}, published=True),
    without_decay("combined", replay_buffer_kwargs={"combined": True}),
    # By TD error (arXiv 1511.05952)
    without_decay("prioritized", priority="td_error"),
    *(prioritized(300), in_loss(300), mixed(300, 0.1)),
    *SMALLER.values(),
    *AUTO_OTHERS,
    AUTO,
    *ABLATIONS,
    ORACLE,
)
# Consistency with almost no decay
LONG_AUTOS = tuple(auto(exponential(half_life)) for half_life in (10_000, 100_000, 1_000_000))
# Methods with records that are no longer planned, or only with other learners
FORMER = (
    *LONG_AUTOS,
    oracle(exponential(1_000_000)),
    mixed(1_000, 0.1),
    mixed(300, 0.3),
    in_loss(1_000),
    oracle(POWER_100),
    prioritized(1_000),
)
# Published methods that change the learner, of rivals.py. Sample weight decay with the horizon of its authors' code and
# with shrink and perturb (arXiv 1910.08475), the combination that scored highest in arXiv 2604.01913; its factors are
# assumed. SB3's replay with space-sampled value decay (arXiv 2606.11797), with its authors' values for CartPole and
# LunarLander
PERTURBED = {"ShrinkAndPerturb": {"every": 10_000, "shrink": 0.8, "perturb": 0.2}}
VALUE_DECAY = {"SpaceSampledValueDecay": {"rate": 0.015, "share": 0.05, "baseline": 0.0}}
RIVALS = (
    changed(linear(80_000), "perturbed", "shrink and perturb", callbacks=PERTURBED, styled_as="shrink and perturb"),
    Method(
        "value-decay-0.015",
        "space-sampled value decay",
        "value decay",
        algorithm="DQN",
        published=True,
        callbacks=VALUE_DECAY,
    ),
)
METHODS = {method.name: method for method in (*PLANNED, *FORMER, *RIVALS, FALSE_ALARMS, KEEPING)}

# ---- Learners


@dataclass(frozen=True)
class Learner:
    """
    A learner with multi-step returns.

    :param n_steps: Number of steps of a return
    :param q_lambda: λ of Peng's Q(λ); 1 for uncorrected returns
    :param cut: Whether returns end before an action that is not greedy, as in Watkins's Q(λ)
    :param rollout: Steps of a rollout instead of those of the task, with as many updates per step. SB3 updates the
        target network between rollouts, so that this is the shortest interval between two of its updates
    """

    n_steps: int
    q_lambda: float = 1.0
    cut: bool = False
    rollout: int | None = None

    @property
    def name(self) -> str:
        mixed = "" if self.q_lambda == 1 else f"-lambda-{self.q_lambda:g}"
        shorter = "" if self.rollout is None else f"-rollout-{self.rollout}"
        return f"{self.n_steps}-step{mixed}{'-cut' if self.cut else ''}{shorter}"

    @property
    def label(self) -> str:
        """In tables."""
        parts = [f"{self.n_steps} steps", f"λ = {self.q_lambda:g}"]
        parts += ["cut at actions that are not greedy"] if self.cut else []
        parts += [] if self.rollout is None else [f"target network updated every {self.rollout} steps"]
        return ", ".join(parts)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the algorithm."""
        mixed = {} if self.q_lambda == 1 else {"q_lambda": self.q_lambda}
        return {"n_steps": self.n_steps, **mixed}

    @property
    def set_up(self) -> dict[str, Any]:
        """The learner in the hash of a record."""
        cut = {"cut": True} if self.cut else {}
        return {**self.arguments, **cut, **({} if self.rollout is None else {"rollout": self.rollout})}

    def settings(self, of_task: dict[str, Any]) -> dict[str, Any]:
        """
        :param of_task: Settings of a task
        :return: Those with this learner's rollouts
        :raises ValueError: if so short a rollout has no whole number of updates
        """
        if self.rollout is None:
            return of_task
        updates, remainder = divmod(of_task["gradient_steps"] * self.rollout, of_task["train_freq"])
        if remainder:
            volume = f"{of_task['gradient_steps']} updates every {of_task['train_freq']} steps"
            raise ValueError(f"rollouts of {self.rollout} steps cannot have as many updates as {volume}")
        return {**of_task, "train_freq": self.rollout, "gradient_steps": updates}


LEARNERS = {
    learner.name: learner
    for n_steps in (3, 5, 10, 20)
    for learner in (
        *(Learner(n_steps, q_lambda) for q_lambda in ((0.5, 0.7, 0.8, 0.9, 1.0) if n_steps == 10 else (0.7, 0.9, 1.0))),
        *(Learner(n_steps, q_lambda, cut=True) for q_lambda in (0.9, 0.999) if n_steps == 10),
        *(Learner(n_steps, 0.7, rollout=rollout) for rollout in (16, 64) if n_steps == 10),
    )
}

# ---- Choices of names


def choice(*names: str) -> tuple[str, ...]:
    """Planned methods by name, in their order; the default is always among them."""
    assert set(names) <= {method.name for method in PLANNED}, names
    return tuple(method.name for method in PLANNED if method.name in names or method is DEFAULT)


ALL = choice(*(method.name for method in PLANNED))
# For tasks whose runs take long
FEWER = choice("uniform", "fifo-1000", "fifo-3000", "exp-300", "power-1", "prioritized", AUTO.name, ORACLE.name)
# Candidates for the default
CANDIDATES = choice(
    *("uniform", "fifo-1000", "fifo-3000", "exp-100", "exp-300", "exp-1000", "exp-3000"),
    *("power-1", "power-100", "power-300-2", "exp-300-uniform-0.1"),
)
# For the tasks that nothing was tried on before, and without what SB3's SAC and TD3 do not have
BLIND = (*FEWER, *(method.name for method in RIVALS))
BLIND_CONTINUOUS = tuple(method for method in BLIND if method != "prioritized")
# Where a run takes longest
FEWEST = choice("uniform", "fifo-1000", AUTO.name)
# Methods with runs at other replay volumes
VOLUME_METHODS = choice("uniform", "fifo-1000", "exp-300", "exp-1000", "exp-3000")
# Tried in search of a default, with no more than TRIED_SEEDS seeds
TRIED = (
    *("fifo-5000", "fifo-30000", "linear-80000", "power-300-2", "exp-300-uniform-0.1"),
    *(method.name for method in (*SMALLER.values(), *AUTO_OTHERS)),
)
TRIED_SEEDS = 5
