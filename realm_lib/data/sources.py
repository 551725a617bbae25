"""Where a profile's pairs come from: the simulator, a data set of the hub, files; each part of it read once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.config.base import resolve_path
from realm_lib.config.data import DataParams
from realm_lib.data.chats import PairsError
from realm_lib.data.hashing import unit_hash
from realm_lib.data.hub import SPLIT_NAMES, load_set, split_named, split_names
from realm_lib.data.posts import with_post_keys
from realm_lib.data.reading import normalised
from realm_lib.data.tables import frame_of, is_table, local_files, read_table

_SHARES = {"validation": (0.8, 0.9), "test": (0.9, 1.0)}
"""Of the posts of files that are not split: by a hash of the post's text; the rest is training."""
_WITH_FOLDERS = "SHP"
"""The data set of the hub that keeps one folder a domain."""
_AT_ONCE = 4096
"""Rows of a data set that are dictionaries at a time."""
_LATER = {"train": ("validation", "test"), "validation": ("test",), "test": ()}


class Source:
    """The pairs that ``data`` names, in SHP's columns with their file and row in _file and _row."""

    def __init__(self, data: DataParams) -> None:
        self.data = data
        self.name = {"hub": data.dataset_name, "local": data.path, "simulator": "the simulator"}[data.source] or ""
        self._whole: dict[str, pd.DataFrame] = {}
        self._tables: dict[tuple[Path, ...], pd.DataFrame] = {}
        self._sets: dict[str | None, Any] = {}
        self._parts: dict[tuple[str | None, str], pd.DataFrame] = {}

    def whole(self, split: str) -> pd.DataFrame:
        """All pairs of train, validation or test. Raises :class:`PairsError` where they cannot be read."""
        if split not in self._whole:
            readers = {"simulator": self._simulated, "hub": self._from_hub, "local": self._from_files}
            self._whole[split] = readers[self.data.source](split)
        return self._whole[split]

    def capped(self, split: str) -> pd.DataFrame:
        """At most ``data.splits`` pairs, whole posts in an order fixed by ``data.seed`` (the last post may be cut).

        Rows that cannot be used are not among them, and come beside them all the same, to be counted.
        """
        pairs, size = self.whole(split), getattr(self.data.splits, split)
        used = pairs["_reason"].isna() if "_reason" in pairs else pd.Series(True, index=pairs.index)
        if size is None or used.sum() <= size:
            return pairs
        order = pairs.loc[used, "post_id"].map(lambda post: unit_hash(str(self.data.seed), post))
        taken = order.sort_values(kind="stable").index[:size]
        return pairs.loc[taken.union(pairs.index[~used])].sort_index()

    def posts_after(self, split: str) -> set[str]:
        """The posts of the splits that are judged after ``split``: none of them may be in it."""
        if self.data.source == "simulator":  # every split has posts of its own
            return set()
        return {post for later in _LATER[split] for post in self.whole(later)["post_id"]}

    def _simulated(self, split: str) -> pd.DataFrame:
        from realm_lib.data.simulator import simulate_pairs

        size = getattr(self.data.splits, split)
        pairs = pd.DataFrame(simulate_pairs(size, seed=self.data.seed, split=split, domains=self.data.domains))
        return pairs.assign(_file=f"simulator {split}", _row=np.arange(1, len(pairs) + 1))

    def _from_hub(self, split: str) -> pd.DataFrame:
        place = resolve_path(self.name)
        if is_table(place) or _is_saved(place):  # the hub's own layout is another
            return self._from_files(split)
        by_folder = self.name.rstrip("/").rpartition("/")[2] == _WITH_FOLDERS and self.data.domains
        folders: Sequence[str | None] = by_folder or (None,)
        return pd.concat([self._hub_split(folder, split) for folder in folders], ignore_index=True)

    def _hub_split(self, folder: str | None, split: str) -> pd.DataFrame:
        if folder not in self._sets:
            self._sets[folder] = load_set(self.data, self.name, folder)
        loaded = self._sets[folder]

        def read(name: str) -> pd.DataFrame:
            if (folder, name) not in self._parts:
                place = f"{self.name} {name}"
                pairs = frame_of(_rows(loaded[name]))
                pairs = pairs.assign(_file=place, _row=np.arange(1, len(pairs) + 1))
                self._parts[folder, name] = with_post_keys(normalised(pairs, place, self.data.max_unusable_share))
            return self._parts[folder, name]

        return _published(list(loaded), split, self.name, read)

    def _from_files(self, split: str) -> pd.DataFrame:
        files = local_files(self.name)
        if _is_saved(resolve_path(self.name)):
            by_name = {file.name: file for file in files}
            return _published(list(by_name), split, self.name, lambda name: self._read([by_name[name]]))
        named = {name: [file for file in files if split_named(file.name) == name] for name in SPLIT_NAMES}
        if all(named.values()):
            if strays := [file for file in files if split_named(file.name) is None]:
                splits = ", ".join(SPLIT_NAMES)
                raise PairsError(f"{strays[0]}: its name begins with no split ({splits}), as others here do")
            return self._read(named[split])
        if any(named.values()):
            missing = next(name for name, of_split in named.items() if not of_split)
            raise PairsError(f"{self.name}: no file for split {missing!r}; name one {missing}.jsonl, or name none")
        return _share(self._read(files), split, {"train": self.name})

    def _read(self, files: Sequence[Path]) -> pd.DataFrame:
        if (key := tuple(files)) not in self._tables:
            most = self.data.max_unusable_share
            tables = [normalised(read_table(file), str(file), most) for file in files]
            self._tables[key] = with_post_keys(pd.concat(tables, ignore_index=True))
        return self._tables[key]


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a ``datasets.Dataset`` as Python's values, some at a time."""
    for start in range(0, len(dataset), _AT_ONCE):
        yield from dataset.select(range(start, min(start + _AT_ONCE, len(dataset)))).to_list()  # mixed types are JSON


def _is_saved(path: Path) -> bool:
    """Whether ``datasets`` saved several splits here."""
    return (path / "dataset_dict.json").is_file()


def _published(published: Sequence[str], split: str, source: str, read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """The pairs of ``split``, of a set whose ``published`` splits ``read`` reads by their names.

    Training posts take the place of a split that it lacks. Raises as :func:`split_names` does.
    """
    names = split_names(published, source)
    name = names.get(split, names["train"])
    pairs = read(name)
    return _share(pairs, split, names) if name == names["train"] else pairs


def _share(pairs: pd.DataFrame, split: str, names: Mapping[str, str]) -> pd.DataFrame:
    """The part of training pairs that is ``split``, where a set lacks splits (``names`` has those that it has).

    A hash of the post decides: 0.8 to 0.9 is a validation that is missing, 0.9 to 1 a test.
    """
    share = pairs["post_id"].map(lambda post: unit_hash("split", post)).astype(float)
    parts = {name: (share >= low) & (share < high) for name, (low, high) in _SHARES.items() if name not in names}
    return pairs[parts[split] if split in parts else ~pd.DataFrame(parts, index=pairs.index).any(axis=1)]
