"""How many copies of a model a cluster holds; what it cannot hold is said, for Ray would wait without end."""

from typing import Any

import pytest

from realm_lib.config.run import RunParams
from realm_lib.features.ray.pool import EngineError, Pool, plan_pool

TWO_MACHINES = {"CPU": 64.0, "GPU": 8.0}
NO_GPU = {"CPU": 6.0}


@pytest.mark.parametrize(
    ("told", "device_map", "resources", "pool"),
    [
        ({}, "auto", TWO_MACHINES, Pool(8, 1.0, 4)),
        ({"ray_gpus_per_actor": 4}, "auto", TWO_MACHINES, Pool(2, 4.0, 1)),
        ({"ray_gpus_per_actor": 0.5, "ray_actors": 3}, "cuda:0", TWO_MACHINES, Pool(3, 0.5, 2)),
        ({}, None, TWO_MACHINES, Pool(2, 0.0, 1)),
        ({}, "cpu", TWO_MACHINES, Pool(2, 0.0, 1)),
        ({}, "auto", NO_GPU, Pool(2, 0.0, 1)),
        ({"ray_actors": 5}, None, NO_GPU, Pool(5, 0.0, 3)),
    ],
)
def test_the_pool(told: dict[str, Any], device_map: str | None, resources: dict[str, float], pool: Pool) -> None:
    run = RunParams.model_validate({"name": "trial", **told})
    assert plan_pool(run, device_map, resources, machines=2) == pool


@pytest.mark.parametrize(
    ("told", "device_map", "resources", "message"),
    [
        ({"ray_actors": 9}, "auto", TWO_MACHINES, r"9 with 1 GPUs each: the cluster has 8 GPUs .* enough for 8"),
        ({"ray_gpus_per_actor": 16}, "auto", TWO_MACHINES, "enough for 0"),
        ({"ray_gpus_per_actor": 1}, "auto", NO_GPU, "0 GPUs and 6 CPUs, enough for 0"),
        ({"ray_actors": 7}, None, NO_GPU, "7 with 1 CPU each"),
        ({"ray_gpus_per_actor": 1}, None, TWO_MACHINES, "device_map is null, the CPU: set it to auto"),
    ],
)
def test_what_a_cluster_lacks_is_said(
    told: dict[str, Any], device_map: str | None, resources: dict[str, float], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        plan_pool(RunParams.model_validate({"name": "trial", **told}), device_map, resources, machines=2)
