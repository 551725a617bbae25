"""The cluster that a run's features are computed on: reached, or started on this machine."""

import logging
import os

import ray

from realm_lib.config.run import RunParams
from realm_lib.features.ray.pool import EngineError
from realm_lib.runs.threads import cores


def connect(params: RunParams) -> None:
    """Reach the cluster at ``run.ray_address``, or start one of this machine. Raises :class:`EngineError`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A core for each copy in Ray's books: on a machine of fewer cores they share them.
    started = {"num_cpus": max(cores(), params.ray_actors or 1), "include_dashboard": False}
    try:
        ray.init(
            address=params.ray_address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if params.ray_address else started),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {params.ray_address}" if params.ray_address else "on this machine"
        raise EngineError(f"run.ray_address: no Ray cluster {where}: {error}") from error
