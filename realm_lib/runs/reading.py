"""Files of a run, read back: one that is missing or damaged is named, with the notebook that writes it."""

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_lib.config.base import ParamsError
from realm_lib.runs.files import NOTE

if TYPE_CHECKING:
    import pandas as pd

_WRITERS = {
    "metrics/offline_models.json": "00_offline_models",
    "metrics/features.json": "01_feature_extraction",
    "metrics/combiner.json": "02_combiner_training",
    "metrics/evaluation.json": "03_evaluation",
    "metrics/pairs.parquet": "03_evaluation",
    "metrics/ppo.json": "04_ppo",
    "metrics/dpo.json": "05_dpo",
    "metrics/policies.json": "06_policy_comparison",
    "metrics/policy_answers.parquet": "06_policy_comparison",
    "models/combiner/*": "02_combiner_training",
    "models/policy_ppo/*": "04_ppo",
    "models/policy_dpo/*": "05_dpo",
    "models/*/*": "00_offline_models",
    "features/*": "01_feature_extraction",
    "pairs/*": "01_feature_extraction",
}
"""The notebook that writes a file, by the end of its path; the first that fits counts."""


class MissingStepError(FileNotFoundError):
    """An input of this notebook is missing because an earlier notebook has not run; the message names it."""


class DamagedFileError(ParamsError):
    """A file of a run that cannot be read or lacks what it should hold; the message says how it is written again."""

    def __init__(self, path: Path, fault: str) -> None:
        self.fault = f"{path}: {fault}"
        """The message without what is to be done."""
        super().__init__(f"{self.fault}: remove it, and {_again(path, 'again')}")


def read_text(path: Path) -> str:
    """The text of a file of a run. Raises :class:`MissingStepError` and :class:`DamagedFileError`, as all here do."""
    _need_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DamagedFileError(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, f"cannot be read: not UTF-8 at byte {error.start}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run; looking up a key that it lacks raises :class:`DamagedFileError` too."""
    try:
        content = json.loads(read_text(path), object_hook=partial(_Object, path))
    except json.JSONDecodeError as error:
        raise DamagedFileError(path, f"not JSON: {error.msg} in line {error.lineno}") from error
    except RecursionError:
        raise DamagedFileError(path, "not JSON that can be read: nested too deep") from None
    except DamagedFileError:
        raise
    except ValueError as error:
        raise DamagedFileError(path, "holds a number with too many digits") from error
    if not isinstance(content, dict):
        raise DamagedFileError(path, f"holds a {type(content).__name__}, where a JSON object is meant")
    return content


def read_table(path: Path, needs: Collection[str] = (), without: Collection[str] = ()) -> "pd.DataFrame":
    """The rows of a parquet file of a run, which has at least the columns ``needs``; ``without`` are not read."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    _need_file(path)
    try:
        columns = [name for name in pq.read_schema(path).names if name not in without] if without else None
        table = pd.read_parquet(path, columns=columns)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedFileError(path, f"not a parquet file that can be read: {_first_line(error)}") from error
    if missing := [name for name in needs if name not in table]:
        raise DamagedFileError(path, f"has no column {missing[0]}")
    return table


def read_note(path: Path) -> dict[str, Any] | None:
    """What :func:`realm_lib.runs.files.write_table` noted in a parquet file; None for one without a note."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        note = (pq.read_schema(path).metadata or {}).get(NOTE)
        content: dict[str, Any] | None = None if note is None else json.loads(note)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedFileError(path, f"not a parquet file that can be read: {_first_line(error)}") from error
    return content


class _Object(dict[str, Any]):
    """A JSON object of a run's file, which another version may have written: a key that it lacks is the file's."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise DamagedFileError(self._path, f"holds no {key!r}, as of another version")


def _need_file(path: Path) -> None:
    if not path.exists():
        raise MissingStepError(f"{path} is missing: {_again(path, 'first')}")
    if not path.is_file():
        raise DamagedFileError(path, "is not a file")


def _again(path: Path, when: str) -> str:
    writer = next((notebook for end, notebook in _WRITERS.items() if path.match(end)), None)
    return f"run notebook {writer} {when}" if writer else f"run the notebook that writes it {when}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
