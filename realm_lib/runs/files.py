"""Files that are written whole or not at all."""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LONGEST_NAME = 200
"""Characters of a file's name: file systems take 255 bytes, and a temporary name is longer."""

NOTE = b"realm"
"""Where a parquet file's metadata hold what :func:`write_table` noted."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends well, and is removed otherwise.

    A reader never sees a half-written file, and a kill leaves the old one in place. Works for a folder that the block
    makes at the temporary path too: an existing folder at ``path`` is moved aside first, so that a kill between the
    two renames leaves none at ``path``, but never half of one.
    """
    path = Path(path)
    with _about(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "a device or a pipe, which the file would replace")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        temporary.unlink()
    try:
        with _about(path, temporary):
            yield temporary
            if temporary.is_dir():
                _replace_folder(temporary, path)
            else:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
    finally:
        _remove(temporary)


@contextmanager
def _about(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """An OSError names ``path``: of a full disk it names no file, and the temporary one means nothing to a reader."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (temporary is None or error.filename in (None, str(temporary))):
            error.filename, error.filename2 = str(path), None
        raise


def _replace_folder(new: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    if path.exists():
        path.rename(old)
    new.rename(path)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as indented JSON, whole or not at all.

    Raises ValueError for NaN and infinity: a failed measurement is not written as a number.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"{path}: a value is NaN or infinite: {_first_bad(content)}") from error
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    """numpy scalars and arrays as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _first_bad(content: Any, key: str = "") -> str:
    children = content.items() if isinstance(content, Mapping) else enumerate(content)
    for name, child in children:
        here = f"{key}.{name}" if key else str(name)
        value = child.tolist() if hasattr(child, "tolist") else child
        if isinstance(value, float) and not math.isfinite(value):
            return here
        if isinstance(value, (Mapping, list, tuple)) and (bad := _first_bad(value, here)):
            return bad
    return ""


def write_table(path: str | Path, table: "pd.DataFrame", note: Mapping[str, Any] | None = None) -> None:
    """Write ``table`` as parquet, whole or not at all; ``note`` is kept in the file,
    for :func:`realm_lib.runs.reading.read_note`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.Table.from_pandas(table, preserve_index=False)
    if note is not None:
        content = content.replace_schema_metadata({**content.schema.metadata, NOTE: json.dumps(note, default=_plain)})
    with atomic_path(path) as temporary:
        pq.write_table(content, temporary)
