"""The pairs of a run, made or loaded once and kept in its folder, where the later notebooks read them.

A file of kept pairs notes what it was made from: the parameters, the code of this room, and the files that were read.
Where any of it has changed the pairs are made again.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from realm_lib.config.data import DataParams, Split
from realm_lib.data.columns import storable
from realm_lib.data.pairs import PairSplit, PairsReport, load_splits
from realm_lib.data.tables import local_files
from realm_lib.runs.reading import read_note, read_table
from realm_lib.runs.run import Run

_WORKING = {"batch_size", "num_workers", "cache_dir"}
"""Keys of ``data.preprocessing`` that change how the work is done and not what comes out."""
_LONGEST_NAME = 80  # of a folder


def keep_pairs(run: Run, data: DataParams, splits: Sequence[Split] | None = None) -> dict[Split, PairSplit]:
    """The splits of a run's pairs, from its folder pairs/ where they are kept, else loaded and kept there.

    ``splits`` None means all that the profile has: train, validation and test, and reward_model where a share of the
    posts is kept for it. Pairs of some domains only (a policy's) lie in a folder of these domains' names.
    Raises :class:`PairsError` as :func:`realm_lib.data.pairs.load_splits` does.
    """
    if splits is None:
        kept_back: tuple[Split, ...] = ("reward_model",) if data.reward_model_share else ()
        splits = (*kept_back, "train", "validation", "test")
    origin = _origin(data)
    folder = _place(data)
    paths = {split: run.path(*folder, f"{split}.parquet") for split in splits}
    missing = [split for split, path in paths.items() if not _is_kept(path, origin)]
    for split, pairs in load_splits(data, missing).items():
        note = {"origin": origin, "report": pairs.report.to_dict()}
        run.write_table(storable(pairs.table), *folder, f"{split}.parquet", note=note)
    # Read back even what was written just now, so that a notebook sees the same whether or not it was the first.
    return {split: _read(path) for split, path in paths.items()}


def are_kept(run: Run, data: DataParams, splits: Sequence[Split]) -> bool:
    """Whether :func:`keep_pairs` would find these splits in the run's folder, and load none."""
    places = [run.path(*_place(data), f"{split}.parquet") for split in splits]
    if not all(place.exists() for place in places):
        return False
    origin = _origin(data)
    return all(_is_kept(place, origin) for place in places)


def _place(data: DataParams) -> tuple[str, ...]:
    """The folders in a run's folder that hold its pairs."""
    return ("pairs", *([_folder_of(data.domains)] if data.domains else []))


def _is_kept(path: Path, origin: str) -> bool:
    """Whether pairs of this origin lie at ``path``; the pairs themselves are not read."""
    return path.exists() and (read_note(path) or {}).get("origin") == origin


def _read(path: Path) -> PairSplit:
    return PairSplit(read_table(path), PairsReport(**(read_note(path) or {})["report"]))


def _origin(data: DataParams) -> str:
    """A hash of all that decides what the pairs are, as far as it can be told here: the hub's data may change."""
    digest = hashlib.sha256(data.model_dump_json(exclude={"preprocessing": _WORKING}).encode())
    room = Path(__file__).parent
    for file in sorted(room.rglob("*")):
        if file.suffix in {".py", ".yaml"}:
            digest.update(file.read_bytes())
    if data.path is not None:
        places = local_files(data.path)
        files = [file for place in places for file in ([place] if place.is_file() else sorted(place.iterdir()))]
        stats = [(file.parent.name, file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest.update(json.dumps(stats).encode())
    return digest.hexdigest()


def _folder_of(domains: Sequence[str]) -> str:
    name = "+".join(domains)
    return name if len(name) <= _LONGEST_NAME else hashlib.sha256(name.encode()).hexdigest()[:16]
