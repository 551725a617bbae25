"""The section ``run`` of a profile."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

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

    @property
    def folder(self) -> Path:
        """The run's own folder, absolute."""
        return resolve_path(self.output_dir) / self.name
