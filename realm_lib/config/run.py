"""The section ``run`` of a profile."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from realm_lib.config.base import Section, resolve_path


class RunParams(Section):
    """Where a run's outputs go, and the seed that every other seed is derived from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Folder name of the run under ``output_dir``."""
    output_dir: str = "outputs"
    """Parent of the run's folder, relative to the project root."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of torch in each notebook; null is one for each core. Models of under a million weights take one: more
    gain them nothing, and beside other work each step waits for the thread whose core is taken."""
    jobs: Annotated[int, Field(ge=1)] = 1
    """Notebooks that make runs at once, where they do not need each other; each loads its own models."""

    engine: Literal["local", "ray"] = "local"
    """What the models of notebook 01's features run on: ``local`` is this process; ``ray`` are copies of each model on
    a cluster, by Ray Data, which is an extra of the installation."""
    ray_address: str | None = None
    """A cluster's, as ``HOST:6379``, or ``auto`` for the one that this machine is of; null starts one of this machine
    alone, which ends with the notebook."""
    ray_actors: Annotated[int, Field(ge=1)] | None = None
    """Copies of a model; null: as many as the cluster has GPUs for, or one a machine where a model takes none."""
    ray_gpus_per_actor: Annotated[float, Field(ge=0)] | None = None
    """GPUs that a copy has to itself, of one machine; null: 1 where the cluster has any and the model's ``device_map``
    lets it use them, else 0. A model that takes several wants ``device_map: auto``."""

    @model_validator(mode="after")
    def _ray_can_be_used(self) -> Self:
        if self.ray_address is not None and "://" in self.ray_address:
            raise ValueError(
                "ray_address is HOST:PORT or auto: Ray Data does not work through Ray's client (ray://): run make on a "
                "machine of the cluster"
            )
        gpus = self.ray_gpus_per_actor
        if gpus is not None and gpus > 1 and not gpus.is_integer():
            raise ValueError("ray_gpus_per_actor is a whole number, or a part of one GPU")
        return self

    @property
    def folder(self) -> Path:
        """The run's own folder, absolute."""
        return resolve_path(self.output_dir) / self.name
