"""How many copies of a model a cluster holds, and what each has to itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from realm_lib.config.run import RunParams


class EngineError(RuntimeError):
    """A cluster that cannot be reached or used, or that failed; the message says what to do."""


@dataclass(frozen=True)
class Pool:
    """Copies of a model: how many, and what each has to itself."""

    actors: int
    gpus: float
    """Of one machine."""
    copies_a_machine: int
    """At most, where the machines are alike."""


def plan_pool(params: RunParams, device_map: str | None, resources: Mapping[str, Any], machines: int) -> Pool:
    """The copies of a model on a cluster of ``machines`` that has ``resources`` (ray.cluster_resources()).

    ``device_map`` is the model's: None and ``cpu`` mean that it uses no GPU. Raises :class:`EngineError` where the
    cluster lacks what is asked, which Ray would wait for without end, and where a GPU would be held and not used.
    """
    there, cpus = float(resources.get("GPU", 0)), float(resources.get("CPU", 0))
    uses_gpus = device_map is not None and not device_map.startswith("cpu")
    gpus = params.ray_gpus_per_actor
    if gpus is None:
        gpus = 1.0 if there and uses_gpus else 0.0
    elif gpus and not uses_gpus:
        raise EngineError(
            f"run.ray_gpus_per_actor is {gpus:g}, but the model's device_map is {device_map or 'null'}, the CPU: set "
            "it to auto"
        )
    most = math.floor(there / gpus) if gpus else math.floor(cpus)
    actors = params.ray_actors or (most if gpus else machines)
    if actors > most or not most:
        each = f"{gpus:g} GPUs" if gpus else "1 CPU"
        raise EngineError(
            f"run.ray_actors {actors} with {each} each: the cluster has {there:g} GPUs and {cpus:g} CPUs, enough for "
            f"{most}: lower run.ray_actors or run.ray_gpus_per_actor"
        )
    return Pool(actors, gpus, math.ceil(actors / max(1, machines)))
