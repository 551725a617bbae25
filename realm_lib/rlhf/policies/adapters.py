"""LoRA adapters: the base that one belongs to and its commit, merging one, and putting a new one on a model."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm_lib.config.rlhf import PolicyParams
from realm_lib.rlhf.errors import PolicyError
from realm_lib.runs.weights import is_packaged, locate_model

_log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
OWN_BASE = "base"
"""Folder within an adapter's own that holds its base, where no other place has that."""
_WITHIN = "base_model.model."
"""How peft names the base's weights within a model under an adapter."""


def is_adapter(source: Path | str) -> bool:
    """Whether a model's place is a folder with an adapter instead of a whole model."""
    return isinstance(source, Path) and (source / CONFIG).is_file()


def adapter_base(adapter: Path) -> tuple[Path | str, str | None]:
    """The model that the adapter in a folder belongs to, and the revision of it that the adapter was trained on.

    A base that was saved in the adapter's folder is found there wherever the folder now lies. Raises
    :class:`PolicyError` for a configuration that names no base.
    """
    content = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    if (adapter / OWN_BASE).is_dir():
        return adapter / OWN_BASE, None
    base: str | None = content.get("base_model_name_or_path")
    if not base:
        raise PolicyError(f"{adapter / CONFIG}: does not say which model the adapter belongs to")
    place = locate_model(base)
    return (place, None) if isinstance(place, Path) else (base, content.get("revision"))


def under_adapter(model: Any, adapter: Path) -> Any:
    """``model`` under the adapter of a folder, to be asked and not trained."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter), is_trainable=False)


def check_mergeable(params: PolicyParams) -> None:
    """Raises :class:`PolicyError` for an adapter to train from on 4-bit weights, to which nothing can be added."""
    if params.quantization is not None:
        raise PolicyError(
            f"{params.model_name}: is an adapter, which cannot be merged into {params.quantization} weights to train "
            "from it: set quantization null, or merge it into its base, save that as a model and name it instead"
        )


def with_merged(model: Any, adapter: Path, params: PolicyParams) -> Any:
    """``model`` with the adapter of a folder added to its weights: what training starts from and holds on to.

    An adapter that stayed apart would be switched off in the reference, or trained together with its base. Raises
    :class:`PolicyError` for an adapter that is not added to weights at all, as a prefix.
    """
    if params.dtype != "float32":
        _log.warning(
            "%s: the adapter is merged into %s weights, which rounds it: training starts from the merged model",
            params.model_name,
            params.dtype,
        )
    try:
        merged = under_adapter(model, adapter).merge_and_unload(safe_merge=True)
    except (AttributeError, ValueError) as error:
        raise PolicyError(f"{params.model_name}: the adapter cannot be merged into its base: {error}") from error
    if hasattr(merged, "peft_config"):
        del merged.peft_config
    return merged


def with_new_adapter(model: Any, params: PolicyParams, revision: str | None) -> Any:
    """``model`` under a LoRA adapter that changes nothing yet (its second factor is zero).

    ``revision`` is the base's, which the adapter remembers. Raises :class:`PolicyError` for layers that are not there.
    """
    from peft import LoraConfig, get_peft_model

    assert params.lora is not None
    config = LoraConfig(
        r=params.lora.r,
        lora_alpha=params.lora.alpha,
        lora_dropout=params.lora.dropout,
        target_modules=params.lora.target_modules,
        task_type="CAUSAL_LM",
        revision=revision,
    )
    if is_packaged(params.model_name):
        model.name_or_path = params.model_name  # by which the adapter finds its base, wherever the package lies
    try:
        # float32 adapters: updates of 1e-5 are lost in bfloat16 weights.
        return get_peft_model(model, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise PolicyError(f"{params.model_name}: lora.target_modules {params.lora.target_modules}: {error}") from error


def save_base(model: Any, temporary: Path, folder: Path, weights: Mapping[str, Any] | None = None) -> None:
    """Save the base under an adapter within the adapter's folder, and name it in the adapter's configuration.

    The base is one that nothing else holds, as another adapter is merged into it. ``temporary`` is where the folder is
    written, ``folder`` where it will lie. ``weights`` are those of ``model``, adapter and all; None takes its own.
    """
    base = model.get_base_model()
    held = model.state_dict() if weights is None else weights
    own = {
        name.removeprefix(_WITHIN).replace(".base_layer.", "."): value
        for name, value in held.items()
        if ".lora_" not in name
    }
    base.save_pretrained(temporary / OWN_BASE, state_dict=own)
    path = temporary / CONFIG
    content = json.loads(path.read_text(encoding="utf-8"))
    content |= {"base_model_name_or_path": str(folder.resolve() / OWN_BASE), "revision": None}
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
