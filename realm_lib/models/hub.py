"""What the hub says of a model before anything large of it is downloaded: whether it may be read, how much is missing.

And what a failure to read one means, in words that say what to do.
"""

import errno
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from realm_lib.models.checkpoints import OWN_CODE, causes, needs_own_code

_SECONDS = 10.0
_LONGEST_DETAIL = 600
_READ = re.compile(r"([^/]+/)?(model(-\d+-of-\d+)?\.safetensors|[^/]+\.(json|txt|model|jinja))")
"""What transformers and sentence-transformers read of a repository; others lie beside it, as weights in other forms."""

_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")


class HubError(RuntimeError):
    """A model that can be read neither at the hub nor in its cache; the message says why and what to do."""


@dataclass(frozen=True)
class HubModel:
    """A model of the hub that may be read."""

    name: str
    missing: int
    """Bytes that are not in the hub's cache here, and would be downloaded."""
    licence: str | None = None
    """What its card calls it, as ``apache-2.0``; None where the hub did not answer, or its card names none."""
    weights: int = 0
    """Bytes of its files of weights; 0 where the hub did not answer."""

    def __str__(self) -> str:
        licence = f"licence {self.licence}" if self.licence else "its licence is not known here"
        return f"{self.name} is within reach ({licence})"


def look_up(name: str, revision: str | None = None) -> HubModel:
    """Ask the hub about a model, with HF_TOKEN; two small requests, and no file is downloaded.

    Where the hub is not asked (HF_HUB_OFFLINE) or does not answer, a model that lies whole in its cache may be read.
    Raises :class:`HubError` for any other that cannot be read: gated, not there, not within reach.
    """
    import httpx2
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=_SECONDS)
        missing = {
            file.rfilename: file.size or 0
            for file in info.siblings or []
            if _READ.fullmatch(file.rfilename)
            and not isinstance(try_to_load_from_cache(name, file.rfilename, revision=info.sha), str)
        }
        for file in list(missing)[:1]:  # everybody may read what a gated model is, its files only who was let in
            get_hf_file_metadata(hf_hub_url(name, file, revision=info.sha), timeout=_SECONDS)
    # ValueError: a name that no model can have.
    except (OSError, ValueError, httpx2.HTTPError) as error:
        if _is_cached(name, revision):
            return HubModel(name, 0)
        raise HubError(hub_fault(error) or f"cannot be read at the hub: {_detail(error)}") from error
    weights = sum(file.size or 0 for file in info.siblings or [] if _WEIGHTS.fullmatch(file.rfilename))
    licence = getattr(info.card_data, "license", None)
    return HubModel(name, sum(missing.values()), str(licence) if licence else None, weights)


def look_up_data(name: str) -> None:
    """Ask the hub whether a data set may be read. Raises :class:`HubError` where it does not answer so."""
    import httpx2
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(name, timeout=_SECONDS)
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise HubError(hub_fault(error) or f"cannot be read at the hub: {_detail(error)}") from error


def cache_folder() -> Path:
    """Where the hub's files are kept on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def hub_fault(error: BaseException) -> str | None:  # noqa: PLR0911, a sentence for each fault
    """What a failure to read a model means and what to do, looked for in ``error`` and in what caused it.

    None for one that has nothing to do with the hub or the disk.
    """
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain = list(causes(error))

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if among(GatedRepoError):
        return (
            "a gated model: accept its licence on its page at the hub, and write a token of that account into .env or "
            "the environment (HF_TOKEN)"
        )
    if any(isinstance(link, OSError) and link.errno == errno.ENOSPC for link in chain):
        return (
            "no space left on the disk: free some, or let HF_HOME name a folder on a larger one; what was downloaded "
            "is kept, and the download goes on from there"
        )
    if needs_own_code(error):
        return f"cannot be loaded: {OWN_CODE}"
    if among(RevisionNotFoundError):
        return f"cannot be loaded: the hub's model has no such revision: {_detail(error)}"
    if among(RepositoryNotFoundError, HFValidationError):
        return (
            "cannot be loaded: no such folder here, and no such model at the hub that HF_TOKEN, if it is set, may see: "
            f"{_detail(error)}"
        )
    if among(LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.TransportError):
        why = (
            "HF_HUB_OFFLINE is set: unset it for the first run, which downloads the model"
            if constants.HF_HUB_OFFLINE
            else _detail(error)
        )
        return f"cannot be loaded: it is not on this machine, and the hub cannot be reached: {why}"
    return None


def _detail(error: BaseException) -> str:
    return str(error).strip()[:_LONGEST_DETAIL]


def _is_cached(name: str, revision: str | None) -> bool:
    """Whether the weights of a model lie whole in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return False
    if not isinstance(found, str):
        return False
    folder = Path(found).parent
    shards = list(_shards(folder))
    return bool(shards) and all((folder / shard).exists() for shard in shards)


def _shards(folder: Path) -> Iterator[str]:
    """The names of the files of weights that a folder should hold."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        yield from set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        yield "model.safetensors"
