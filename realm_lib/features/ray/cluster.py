"""The cluster that a run's features are computed on: reached or started, and how many copies of a model it holds."""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from realm_lib.config.run import RunParams
from realm_lib.runs.threads import cores


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


def connect(params: RunParams) -> bool:
    """Reach the cluster at ``run.ray_address``, or start one of this machine; whether it was started here.

    A cluster that this process is connected to already is taken as it is. Raises :class:`EngineError`.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A copy of a model is a process that waits for its weights more than for a core.
    started = {"num_cpus": max(cores(), params.ray_actors or 1), "include_dashboard": False}
    try:
        ray.init(
            address=params.ray_address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if params.ray_address else started),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = params.ray_address or "on this machine"
        raise EngineError(f"run.ray_address: no Ray cluster {where}: {error}") from error
    return params.ray_address is None


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
