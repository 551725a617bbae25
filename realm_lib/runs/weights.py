"""Which weights a model id means, and what tells one version of them from another."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realm_lib.config.base import ParamsError, resolve_path
from realm_lib.runs.run import Run

GGUF = ".gguf"
_READ = frozenset({".safetensors", GGUF, ".json", ".jinja", ".txt", ".model"})
TRAINED_ON = "trained_on.json"
"""A file in a model's folder, see :mod:`realm_lib.runs.trained_on`: no answer depends on it."""


def locate_model(model_id: str, run_folder: Path | None = None) -> Path | str:
    """Where a ``model_id`` of a profile lies: ``run:models/NAME`` in ``run_folder``, a folder, a GGUF file, or else a
    hub id.

    Raises :class:`ParamsError` for ``run:`` without a run, :class:`MissingStepError` when the run lacks the folder.
    """
    if model_id.startswith("run:"):
        if run_folder is None:
            raise ParamsError(f"model_id {model_id}: which run? Give the folder of a run")
        return Run(run_folder).require(model_id.removeprefix("run:"), made_by="00_offline_models")
    path = resolve_path(model_id)
    return path if path.is_dir() or (path.suffix == GGUF and path.is_file()) else model_id


def folder_digest(source: Path) -> str:
    """SHA-256 over a model folder's weights, configuration and tokenizer: what its answers depend on.

    ``source`` may be a GGUF file, whose folder's other GGUF files are then left out.
    """
    folder = source.parent if source.is_file() else source
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        other = path.suffix == GGUF and source.is_file() and path != source
        if path.suffix in _READ and path.name != TRAINED_ON and not other:
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hub_commit(model_id: str, revision: str | None) -> str | None:
    """The commit that ``revision`` (None: the main branch) of a hub's model is now; offline, in the hub's cache.

    None when there is no telling: no such model, a gated one, no network. Loading says which.
    """
    from transformers.utils import resolve_revision

    resolved = resolve_revision(model_id, revision)
    commit: str | None = getattr(resolved, "resolved", resolved)
    return commit if re.fullmatch("[0-9a-f]{40}", commit or "") else None


def checkpoint_fault(info: Mapping[str, Any]) -> str | None:
    """How a checkpoint does not fill its model exactly, by transformers' loading ``info``; None when it does."""
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, info.get(fault) or ())):
            return f"{fault.replace('_', ' ')} in the checkpoint ({', '.join(keys[:4])})"
    return None


def four_bit(dtype: Any, skipped: Sequence[str] | None = None) -> Any:
    """bitsandbytes' configuration for nf4 with double quantisation, computing in ``dtype``; ``skipped`` stay whole."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )
