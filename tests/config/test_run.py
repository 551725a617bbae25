"""The section ``run``: what an engine may be told."""

from typing import Any

import pytest
from pydantic import ValidationError

from realm_lib.config.run import RunParams


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"ray_address": "ray://head:10001"}, "HOST:PORT or auto"),
        ({"ray_gpus_per_actor": 1.5}, "a whole number, or a part of one GPU"),
        ({"engine": "spark"}, "'local' or 'ray'"),
        ({"ray_actors": 0}, "greater than or equal to 1"),
    ],
)
def test_what_ray_cannot_do_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunParams.model_validate({"name": "trial", **told})


def test_the_local_engine_is_the_default() -> None:
    run = RunParams(name="trial")
    assert (run.engine, run.ray_address, run.ray_actors, run.ray_gpus_per_actor) == ("local", None, None, None)
    assert RunParams.model_validate({"name": "trial", "ray_gpus_per_actor": 4}).ray_gpus_per_actor == 4
