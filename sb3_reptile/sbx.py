"""SBX's algorithms (Stable-Baselines3 in JAX) with decayed replay: its DQN, SAC, TD3, TQC and CrossQ."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

try:
    import sbx
    from sbx.common.off_policy_algorithm import OffPolicyAlgorithmJax
except ImportError as error:
    raise ImportError(
        f"SBX's algorithms need the extra `sbx` and Python >= 3.11 ({error}): pip install 'sb3-reptile[sbx]'"
    ) from error

from sb3_reptile.replay import DecayedDictReplayBuffer, DecayedReplayBuffer, DecayedSampling
from sb3_reptile.reptile_dqn.buffer_options import return_options


class DecayedReplay(OffPolicyAlgorithmJax):
    """
    Mixin for SBX's off-policy algorithms. Without ``replay_buffer_class``, the decayed buffer for the observation space
    is used; ``replay_buffer_kwargs`` are its options. ``n_steps`` and ``gamma`` of the algorithm reach the buffer, for
    Dict observations too. The callback ``ReplayLog`` logs what replay is doing.

    :raises ValueError: if an option of the replay buffer acts through weights or priorities, which SBX ignores; or if
        ``n_steps`` or ``gamma`` contradicts ``replay_buffer_kwargs``
    """

    replay_buffer_class: type[ReplayBuffer] | None
    replay_buffer_kwargs: dict[str, Any]
    n_steps: int

    def _setup_model(self) -> None:
        given = dict(self.replay_buffer_kwargs)
        if self.replay_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.replay_buffer_class = DecayedDictReplayBuffer if is_dict else DecayedReplayBuffer
        # SBX gives n_steps to SB3's own class only
        n_steps = self.n_steps if self.n_steps > 1 else None
        options = return_options(self, self.replay_buffer_class, n_steps)
        self.replay_buffer_kwargs = {**options, **given}
        super()._setup_model()
        self.replay_buffer_kwargs = given
        self.n_steps = getattr(self.replay_buffer, "n_steps", 1)
        if isinstance(self.replay_buffer, DecayedSampling):
            _refuse_what_sbx_ignores(self.replay_buffer)


class DQN(DecayedReplay, sbx.DQN):
    """
    SBX's DQN with decayed replay, see :class:`DecayedReplay`.

    :raises ValueError: if the policy is ``MultiInputPolicy``, which SBX's DQN does not have
    """

    target_update_interval: int
    #: ``target_update_interval`` as it was given
    _interval: int | None = None

    def _get_policy_from_name(self, policy_name: str) -> type[Any]:
        if policy_name == "MultiInputPolicy":
            raise ValueError(
                "SBX's DQN has no MultiInputPolicy: wrap an environment with Dict observations in "
                "gymnasium.wrappers.FlattenObservation, or use ReptileDQN"
            )
        return super()._get_policy_from_name(policy_name)

    def _setup_model(self) -> None:
        # SBX divides it by the number of environments, and does so again when a saved model is loaded
        if self._interval is None:
            self._interval = self.target_update_interval
        self.target_update_interval = self._interval
        super()._setup_model()


class SAC(DecayedReplay, sbx.SAC):
    """SBX's SAC with decayed replay, see :class:`DecayedReplay`."""


class TD3(DecayedReplay, sbx.TD3):
    """SBX's TD3 with decayed replay, see :class:`DecayedReplay`."""


class TQC(DecayedReplay, sbx.TQC):
    """SBX's TQC with decayed replay, see :class:`DecayedReplay`."""


class CrossQ(DecayedReplay, sbx.CrossQ):
    """SBX's CrossQ with decayed replay, see :class:`DecayedReplay`."""


def _refuse_what_sbx_ignores(buffer: DecayedSampling) -> None:
    ignored = {
        "weighting='loss'": (buffer.weighting == "loss", "weighting='sampling'"),
        f"beta={buffer.beta}": (buffer.beta > 0, "beta=0"),
        "prioritized=True": (buffer.prioritized, "prioritized=False"),
    }
    for option, (is_ignored, instead) in ignored.items():
        if is_ignored:
            raise ValueError(
                f"{option} has no effect with SBX's algorithms, which neither use the weights of a batch nor update "
                f"priorities: use {instead}, or ReptileDQN"
            )


#: The algorithms by their names in the RL Zoo
ALGORITHMS: dict[str, type[Any]] = {
    "sbx_dqn": DQN,
    "sbx_sac": SAC,
    "sbx_td3": TD3,
    "sbx_tqc": TQC,
    "sbx_crossq": CrossQ,
}
