"""How many weights the models of a profile have, by their names and the headers of their files: none is read."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from realm_lib.config.base import ParamsError
from realm_lib.config.training import ProbeParams
from realm_lib.models.gguf_header import GGUFError, read_header
from realm_lib.runs.weights import locate_model

_LAYERS = 0.6
"""The share of a model's layers that a probe has at most where it chooses them itself."""


def model_place(model_id: str, run_folder: Path) -> Path | None:
    """The folder or GGUF file of a model that is on this machine and not in the hub's cache.

    None too for a package that is not installed: :func:`realm_lib.features.ahead.look_ahead` says so.
    """
    if model_id.startswith("run:"):  # which notebook 00 may not have made yet
        folder = run_folder / model_id.removeprefix("run:")
        return folder if folder.is_dir() else None
    try:
        place = locate_model(model_id)
    except ParamsError:  # of a package that is not installed: realm_lib.features.checks says so
        return None
    return place if isinstance(place, Path) else None


def weights_of(model_id: str, run_folder: Path) -> float | None:
    """How many weights a model multiplies with, by the headers of its GGUF file or of a folder's safetensors files;
    embeddings are looked up. Else as many as its name says (``8B``).

    None where neither tells, as of a model that notebook 00 is going to train, or of a GGUF file that is not whole.
    """
    place = model_place(model_id, run_folder)
    if place is None:
        return _by_name(model_id)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    packed = [place] if place.is_file() else list(place.glob("*.gguf"))
    if files or len(packed) != 1:
        return sum(map(_held, files)) or _by_name(model_id)
    try:
        return _held_gguf(packed[0])
    except GGUFError:
        return None


def _held(file: Path) -> float:
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    multiplied = [entry["shape"] for name, entry in header.items() if name[0] != "_" and "embed" not in name]
    return float(sum(np.prod(shape, dtype=np.float64) for shape in multiplied))


def _held_gguf(file: Path) -> float:
    tensors = read_header(file).tensors.items()
    held = [tensor.shape for name, tensor in tensors if not name.startswith("token_embd")]
    return float(sum(np.prod(shape, dtype=np.float64) for shape in held))


def _by_name(model_id: str) -> float | None:
    """How many weights a name promises, as ``INF-ORM-Llama3.1-70B`` does."""
    found: Sequence[str] = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", model_id)
    return 1e9 * float(found[-1]) if found else None


def probe_weights(probe: ProbeParams, run_folder: Path) -> float | None:
    """The weights of a probe that is not trained yet, at most: those of its backbone's layers that it may read, or of
    all where ``layers`` are named. None where the backbone's are not known.
    """
    whole = weights_of(probe.backbone, run_folder)
    return None if whole is None else whole * (_LAYERS if probe.layers is None else 1.0)
