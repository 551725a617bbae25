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

    @property
    def folder(self) -> Path:
        """The run's own folder, absolute."""
        return resolve_path(self.output_dir) / self.name
