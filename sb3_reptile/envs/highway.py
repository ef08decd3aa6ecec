"""A motorway whose traffic can become denser (extra ``highway``)."""

from typing import Any

from highway_env.envs.highway_env import HighwayEnvFast


class Highway(HighwayEnvFast):
    """
    ``highway-fast-v0`` of highway-env: three lanes and other cars. Speed and keeping to the right are rewarded; a
    collision is penalized and ends the episode.

    :class:`DriftingPhysics` can change the attribute ``density``, the density of traffic relative to
    ``highway-fast-v0``. A change takes effect in the next episode.

    :param config: Settings that differ from those of ``highway-fast-v0``, as in highway-env
    :param render_mode: ``"rgb_array"``, ``"human"`` or ``None``
    """

    density = 1.0

    def __init__(self, config: dict[str, Any] | None = None, render_mode: str | None = None) -> None:
        super().__init__(config, render_mode)

    def _create_vehicles(self) -> None:
        self.config["vehicles_density"] = self.density
        super()._create_vehicles()
