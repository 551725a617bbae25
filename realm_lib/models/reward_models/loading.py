"""A reward model from its checkpoint: whole, of the right class, its head in full precision; or an error that helps."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.gguf import load_gguf
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.forward import SHARING_MODELS, why_not_shared
from realm_lib.models.reward_models.memory import HEADS
from realm_lib.models.reward_models.outline import (
    Checkpoint,
    explain_failure,
    head_name,
    is_encoder,
    log,
    model_class,
    read_outline,
    weights_version,
)
from realm_lib.models.reward_models.probe import Taps
from realm_lib.runs.weights import checkpoint_fault, four_bit

_CPU_BLOCK = 32


@dataclass(frozen=True)
class LoadedModel:
    """A model in parts. ``body`` and ``head`` make a decoder; an encoder has neither and is called whole."""

    tokenizer: Any
    model: Any
    body: Any | None
    head: Callable[[torch.Tensor], torch.Tensor] | None
    """Hidden states [n, hidden] to rewards [n]."""
    weights: str | None
    """See :func:`realm_lib.models.reward_models.outline.weights_version`."""
    not_shared: str | None
    """Why prefixes are not shared; None when they are."""
    taps: Taps | None = None
    """What the head of a probe reads; of other decoders it is the last token's state after all layers."""


def load_model(params: RewardModelParams, run_folder: Path | None = None) -> LoadedModel:
    """The model that ``params`` name, its memory estimated before its weights are read.

    Raises :class:`ScorerError` when it does not fit, when the checkpoint does not fill head and body exactly, and when
    it is not a reward model of the backend's kind.
    """
    outline = read_outline(params, run_folder)
    log.info("%s", outline.memory)
    model, info = read_weights(outline, model_class(params), params)
    if fault := checkpoint_fault(info):
        raise ScorerError(
            f"{params.model_id}: {fault}: backend {params.backend} is not this model's class, "
            "its scores would be random"
        )
    loaded = take_apart(model, outline.tokenizer, params, weights_version(outline, params))
    _check_quantised(model, params)
    return loaded


def read_weights(checkpoint: Checkpoint, kind: Any, params: RewardModelParams) -> tuple[Any, Mapping[str, Any]]:
    """A model of the class ``kind`` with the weights of ``checkpoint``, and transformers' loading info.

    Raises :class:`ScorerError` for weights that cannot be read.
    """
    options = _load_options(params, checkpoint.config)
    try:
        if checkpoint.file is not None:
            return load_gguf(checkpoint.file, kind, checkpoint.config, **options)
        read: tuple[Any, Mapping[str, Any]] = kind.from_pretrained(
            checkpoint.source,
            config=checkpoint.config,
            revision=checkpoint.commit or params.revision,
            output_loading_info=True,
            use_safetensors=True,  # else a folder that has only pytorch_model.bin would be unpickled
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, ImportError) as error:
        raise explain_failure(params, error) from error
    return read


def take_apart(model: Any, tokenizer: Any, params: RewardModelParams, weights: str | None) -> LoadedModel:
    """A ``model`` in memory, its head looked at; ``weights`` as :attr:`LoadedModel.weights`.

    Raises :class:`ScorerError` when it has no head of the backend's kind, or one that is not in ``params.dtype``.
    """
    model.eval()
    body, head = _parts(model, params)
    not_shared = "it is an encoder: every token sees the response" if body is None else why_not_shared(model.config)
    if not_shared:
        log.warning("%s: the prefix of a post is computed for each response: %s", params.model_id, not_shared)
    else:
        log.info("%s: the prefix of a post is computed once for all its responses", params.model_id)
    taps = Taps.read(model.config) if params.backend == "probe" else None
    return LoadedModel(tokenizer, model, body, head, weights, not_shared, taps)


def _load_options(params: RewardModelParams, config: Any) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    dtype = getattr(torch, params.dtype)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False}
    if params.device_map is not None:
        options["device_map"] = params.device_map
    if config.model_type in SHARING_MODELS:  # others may not have it
        options["attn_implementation"] = "sdpa"
    if params.quantization == "4bit":
        options["quantization_config"] = four_bit(dtype, skipped=list(HEADS))
    elif params.quantization == "8bit":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(HEADS))
    return options


def _check_quantised(model: torch.nn.Module, params: RewardModelParams) -> None:
    """What bitsandbytes would say for each layer and pass, or by an assertion in the middle of a run, said once."""
    if params.quantization == "8bit" and params.dtype != "float16":
        log.info("%s: 8bit multiplies in float16, whatever reward_model.dtype is", params.model_id)
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if params.quantization != "4bit":
        return
    for name, layer in model.named_modules():
        packs = getattr(layer, "support_avx512bf16_for_cpu", False) and layer.weight.device.type == "cpu"
        if packs and layer.out_features % _CPU_BLOCK:
            raise ScorerError(
                f"{params.model_id}: {name} has {layer.out_features} outputs; bitsandbytes' 4 bit on this CPU takes "
                f"multiples of {_CPU_BLOCK} only: set reward_model.quantization to 8bit or null"
            )


def _parts(model: Any, params: RewardModelParams) -> tuple[Any | None, Callable[[torch.Tensor], torch.Tensor] | None]:
    """Body and head of a decoder; two None for an encoder."""
    name = head_name(params)
    layer = getattr(model, name, None)
    if is_encoder(model, params):
        _check_head(model.classifier, params)
        return None, None
    if layer is None or model.base_model is model:
        raise ScorerError(
            f"{params.model_id}: a {type(model).__name__} is neither a decoder with a head ({name}) nor an encoder "
            "with a classifier"
        )
    _check_head(layer, params)
    if params.backend != "nemotron":
        return model.base_model, lambda states: layer(states).squeeze(-1)
    # One row of the vocabulary's matrix: the other logits are never looked at.
    weight = layer.weight[:1]
    bias = None if layer.bias is None else layer.bias[:1]
    linear = torch.nn.functional.linear
    return model.base_model, lambda states: linear(states.to(weight.device), weight, bias).squeeze(-1)


def _check_head(head: torch.nn.Module, params: RewardModelParams) -> None:
    """Refuse a head that is quantised or whose weights were left behind by a device_map."""
    dtype = torch.float32 if params.backend == "probe" else getattr(torch, params.dtype)
    for weights in head.parameters():
        if weights.dtype != dtype:
            fault = f"its head is {weights.dtype}, not {dtype}"
            raise ScorerError(f"{params.model_id}: {fault}: a quantised head scores badly")
        if weights.is_meta:
            raise ScorerError(
                f"{params.model_id}: does not fit the GPU memory, and its head was left out of it: choose another "
                "reward_model.quantization, a smaller model, or device_map: cpu"
            )
