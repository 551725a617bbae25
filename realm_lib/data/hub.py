"""Data sets of the hub, loaded with ``datasets``, and what their splits are for."""

import re
from collections.abc import Sequence
from typing import Any

from realm_lib.config.data import DataParams
from realm_lib.data.chats import PairsError

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_PREFERENCES = re.compile(r"[._-](prefs?|preferences?)$")
_ONE_FILE = "Save the one that is meant as a file, and read it with data.source: local"


def load_set(data: DataParams, name: str, folder: str | None) -> Any:
    """All splits of a data set of the hub, or of a folder of its layout; ``folder`` is one in it.

    Raises :class:`PairsError` naming it where it cannot be loaded.
    """
    import datasets

    config, workers = data.dataset_config, data.preprocessing.num_workers
    try:
        if config is not None and config not in datasets.get_dataset_config_names(name):
            config, folder = None, config  # HelpSteer2 keeps its preferences in a folder
        return datasets.load_dataset(name, config, data_dir=folder, num_proc=workers if workers > 1 else None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise PairsError(
            f"data.dataset_name: {name}{f'/{folder}' if folder else ''} could not be loaded "
            f"(data.dataset_config: {data.dataset_config}): {error}"
        ) from error


def split_names(names: Sequence[str], source: str) -> dict[str, str]:
    """Which splits of a published set are train, validation and test: ``train``, else ``train_prefs``, else another.

    A set of one split is all training, whatever its name: its reader makes the others of it.
    Raises :class:`PairsError` where it cannot be told which is meant.
    """
    if len(names) == 1:
        return {"train": names[0]}
    found = {}
    for split, called in SPLIT_NAMES.items():
        alike = [name for name in names if split_named(name) == split]
        exact = [name for name in alike if name in called]
        chosen = exact or [name for name in alike if _PREFERENCES.search(name)] or alike
        if len(chosen) > 1:
            raise PairsError(f"{source}: which split is for {split}: {', '.join(chosen)}? {_ONE_FILE}")
        if chosen:
            found[split] = chosen[0]
    if "train" not in found:
        raise PairsError(f"{source}: none of its splits is for training: {', '.join(names)}. {_ONE_FILE}")
    return found


def split_named(name: str) -> str | None:
    """The split that the name of a file or of a published split begins with; None for another name."""
    stem = re.split(r"[._-]", name.lower())[0]
    return next((split for split, names in SPLIT_NAMES.items() if stem in names), None)
