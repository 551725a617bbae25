"""Where a profile's pairs come from: the simulator, a data set of the hub, files; each part of it read once."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from realm_lib.config.data import DataParams
from realm_lib.data.chats import PairsError
from realm_lib.data.posts import with_post_keys
from realm_lib.data.reading import local_files, normalised, read_table, unit_hash

_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
"""Of the posts of files that are not split: by a hash of the post's text."""
_LATER = {"train": ("validation", "test"), "validation": ("test",), "test": ()}


class Source:
    """The pairs that ``data`` names, in SHP's columns with their file and row in _file and _row."""

    def __init__(self, data: DataParams) -> None:
        self.data = data
        self.name = {"hub": data.dataset_name, "local": data.path, "simulator": "the simulator"}[data.source] or ""
        self._whole: dict[str, pd.DataFrame] = {}
        self._tables: dict[tuple[Path, ...], pd.DataFrame] = {}

    def whole(self, split: str) -> pd.DataFrame:
        """All pairs of train, validation or test. Raises :class:`PairsError` where they cannot be read."""
        if split not in self._whole:
            readers = {"simulator": self._simulated, "hub": self._from_hub, "local": self._from_files}
            self._whole[split] = readers[self.data.source](split)
        return self._whole[split]

    def capped(self, split: str) -> pd.DataFrame:
        """At most ``data.splits`` pairs, whole posts in an order fixed by ``data.seed`` (the last post may be cut)."""
        pairs, size = self.whole(split), getattr(self.data.splits, split)
        if size is None or len(pairs) <= size:
            return pairs
        order = pairs["post_id"].map(lambda post: unit_hash(str(self.data.seed), post))
        return pairs.loc[order.sort_values(kind="stable").index[:size]].sort_index()

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
        # SHP keeps one folder a domain; without domains the whole data set is read.
        folders: Sequence[str | None] = self.data.domains or (None,)
        parts = [normalised(self._hub_folder(split, folder), self.name) for folder in folders]
        return with_post_keys(pd.concat(parts, ignore_index=True))

    def _hub_folder(self, split: str, folder: str | None) -> pd.DataFrame:
        import datasets

        workers = self.data.preprocessing.num_workers
        processes = workers if workers > 1 else None
        try:
            loaded = datasets.load_dataset(self.name, data_dir=folder, split=split, num_proc=processes)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise PairsError(
                f"data.dataset_name: split {split!r} of {self.name}{f'/{folder}' if folder else ''} "
                f"could not be loaded: {error}"
            ) from error
        pairs: pd.DataFrame = loaded.to_pandas()
        return pairs.assign(_file=f"{self.name} {split}", _row=np.arange(1, len(pairs) + 1))

    def _from_files(self, split: str) -> pd.DataFrame:
        files = local_files(self.name)
        named = {name: [file for file in files if _split_of(file) == name] for name in _SPLIT_NAMES}
        if all(named.values()):
            if strays := [file for file in files if _split_of(file) is None]:
                splits = ", ".join(_SPLIT_NAMES)
                raise PairsError(f"{strays[0]}: its name begins with no split ({splits}), as others here do")
            return self._read(named[split])
        if any(named.values()):
            missing = next(name for name, of_split in named.items() if not of_split)
            raise PairsError(f"{self.name}: no file for split {missing!r}; name one {missing}.jsonl, or name none")
        pairs = self._read(files)
        share = pairs["post_id"].map(lambda post: unit_hash("split", post))
        low, high = _SHARES[split]
        return pairs[(share >= low) & (share < high)]

    def _read(self, files: Sequence[Path]) -> pd.DataFrame:
        if (key := tuple(files)) not in self._tables:
            tables = [normalised(read_table(file), str(file)) for file in files]
            self._tables[key] = with_post_keys(pd.concat(tables, ignore_index=True))
        return self._tables[key]


def _split_of(file: Path) -> str | None:
    stem = re.split(r"[._-]", file.name.lower())[0]
    return next((split for split, names in _SPLIT_NAMES.items() if stem in names), None)
