"""A motorway whose traffic can become denser (extra ``highway``)."""

from typing import Any

from highway_env.envs.highway_env import HighwayEnvFast


class Highway(HighwayEnvFast):
    """
    ``highway-fast-v0`` of highway-env: three lanes and other cars; rewards for speed and for keeping to the right, less
    for a collision, which ends the episode.

    ``density`` (an attribute; 1 is that of ``highway-fast-v0``) is for :class:`DriftingPhysics` to move; it counts from
    the next episode on.

    :param config: What differs from ``highway-fast-v0``, as in highway-env
    :param render_mode: ``"rgb_array"``, ``"human"`` or ``None``
    """

    density = 1.0

    def __init__(self, config: dict[str, Any] | None = None, render_mode: str | None = None) -> None:
        super().__init__(config, render_mode)

    def _create_vehicles(self) -> None:
        self.config["vehicles_density"] = self.density
        super()._create_vehicles()
