"""What a copy of a model is built from on another machine, in plain values, and the files that travel with it."""

import hashlib
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import realm_lib
from realm_lib.runs.weights import GGUF

_MOST_SENT = 4 * 2**30
"""Bytes of a model's folder that are sent to other machines; a larger one is copied there by hand, once."""

Files = Mapping[str, bytes]
"""A model's files by their names within its folder."""


@dataclass(frozen=True)
class Recipe:
    """A model: its section of the profile, what it must turn out to be, and where its files lie."""

    section: Literal["reward_model", "embedding"]
    params: Mapping[str, Any]
    """The section's keys. A secret is a ``${NAME}`` here as everywhere."""
    identity: Mapping[str, Any]
    """The driver's, which the copy's must equal."""
    source: str
    """The driver's :func:`source_digest`."""
    threads: int | None
    """Of torch in each copy; None shares the cores of a machine among its copies."""
    copies_a_machine: int
    place: str | None = None
    """The model's folder or GGUF file on the driver; None for a model of the hub or of a package."""
    files: Any = None
    """A reference to its :data:`Files` in Ray's object store; None where they are not sent."""


@cache
def source_digest() -> str:
    """SHA-256 over the modules of ``realm_lib``: two machines with the same one compute by the same code."""
    package = Path(realm_lib.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()


def read_files(place: Path) -> Files | None:
    """The files of a model, to be sent; None where they are too large. Of a GGUF file, its folder's others stay."""
    folder = place.parent if place.is_file() else place
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (place.is_file() and path.suffix == GGUF and path != place)
    ]
    if sum(path.stat().st_size for path in paths) > _MOST_SENT:
        return None
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@contextmanager
def placed(place: str | None, files: Files | None) -> Iterator[Path | None]:
    """The model's place on this machine while it is loaded: the driver's, where that is here, or ``files`` written.

    Raises FileNotFoundError where it is neither; the message says what to do.
    """
    if place is None or Path(place).exists():
        yield None if place is None else Path(place)
        return
    if files is None:
        raise FileNotFoundError(
            f"{place} is not on {socket.gethostname()}, and too large to be sent ({_MOST_SENT / 2**30:.0f} GiB at "
            "most): copy it to the same place on each machine of the cluster, or name a model of the hub"
        )
    with tempfile.TemporaryDirectory(prefix="realm-model-") as written:
        for name, content in files.items():
            path = Path(written, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        gguf = Path(written, Path(place).name)
        yield gguf if gguf.suffix == GGUF and gguf.is_file() else Path(written)
