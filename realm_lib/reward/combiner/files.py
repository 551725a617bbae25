"""A combiner's files: where they are, what they must hold, and what is said where they do not."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from realm_lib.reward.combiner.pairs import CombinerError

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MODEL_TYPE = "realm_combiner"


def locate(location: str | Path, revision: str | None, token: str | None) -> tuple[Path, Path]:
    """The configuration and the weights of a model, downloaded where ``location`` is not a folder."""
    folder = Path(location)
    if folder.is_dir():
        missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
        if missing:
            raise CombinerError(f"{folder}: no combiner here: {' and '.join(missing)} missing")
        return folder / CONFIG_FILE, folder / WEIGHTS_FILE
    # A Path, or a string with any but the one slash of OWNER/NAME, can only have meant a folder.
    if isinstance(location, Path) or location.count("/") != 1:
        raise CombinerError(f"{location}: no such folder, and not a hub id (OWNER/NAME)")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(location, CONFIG_FILE, revision=revision, token=token)
        return Path(config), Path(hf_hub_download(location, WEIGHTS_FILE, revision=revision, token=token))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise CombinerError(f"{location}: neither a folder nor a model that the hub gives: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a combiner that this version can load; raises :class:`CombinerError` for any other."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CombinerError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise CombinerError(f"{path}: not the configuration of a REALM combiner")
    missing = [key for key in ("features", "model", "weights_sha256") if key not in config]
    if missing:
        raise CombinerError(f"{path}: the configuration lacks {', '.join(missing)}")
    if config["features"] == ["reward", "similarity"]:
        raise CombinerError(
            f"{path}: saved by an earlier version, which called the score a reward: run notebooks "
            "01_feature_extraction and 02_combiner_training again"
        )
    if missing := [key for key in ("bend", "scale") if key not in config]:
        raise CombinerError(
            f"{path}: saved by an earlier version, without {' and '.join(missing)}: run notebook "
            "02_combiner_training again"
        )
    features = config["features"]
    if not (isinstance(features, list) and features and all(isinstance(name, str) for name in features)):
        raise CombinerError(f"{path}: features must be a list of names, not {features!r}")
    for key in ("bend", "scale"):
        if not isinstance(config[key], float) or not 0 <= config[key] < math.inf:
            raise CombinerError(f"{path}: {key} must be a number that is not negative, not {config[key]!r}")
    return config


def read_weights(path: Path, expected_sha256: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``path``: the names, shapes and types of ``own``, with the digest that the configuration says."""
    try:
        content = path.read_bytes()
        tensors = load(content)
    except (OSError, SafetensorError) as error:
        raise CombinerError(f"{path}: the weights cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected_sha256:
        raise CombinerError(f"{path}: not the weights that {CONFIG_FILE} was saved with: save the model again")
    faults = [f"{name} is missing" for name in own if name not in tensors]
    faults += [f"{name} is unexpected" for name in tensors if name not in own]
    for name in own.keys() & tensors.keys():
        read, wanted = tensors[name], own[name]
        if read.shape != wanted.shape or read.dtype != wanted.dtype:
            faults.append(f"{name} is {read.dtype} {list(read.shape)}, not {wanted.dtype} {list(wanted.shape)}")
        elif read.isnan().any():
            faults.append(f"{name} holds NaN")
    if faults:
        raise CombinerError(f"{path}: does not fit its configuration: {'; '.join(sorted(faults))}")
    return tensors
