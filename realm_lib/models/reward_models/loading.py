"""A reward model from its checkpoint: whole, of the right class, its head in full precision; or an error that helps."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.checkpoints import position_limit
from realm_lib.models.gguf import find_gguf, gguf_config, gguf_tokenizer, load_gguf
from realm_lib.models.hub import hub_fault
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.chat import ChatEncoder, Encoder
from realm_lib.models.reward_models.forward import SHARING_MODELS, why_not_shared
from realm_lib.models.reward_models.inform import INFORMForSequenceClassification
from realm_lib.models.reward_models.memory import HEADS, MemoryEstimate, check_memory, estimate_memory, lay_out
from realm_lib.models.reward_models.probe import ProbeError, ProbeModel, Taps
from realm_lib.models.reward_models.text_pair import build_encoder
from realm_lib.models.reward_models.vllm_models import rewards_tokens, why_not_served
from realm_lib.models.special_tokens import cut_special_tokens
from realm_lib.runs.weights import checkpoint_fault, folder_digest, four_bit, hub_commit, locate_model

_CPU_BLOCK = 32
_RESCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")

log = logging.getLogger("realm_lib.models.reward_models")


@dataclass(frozen=True)
class LoadedModel:
    """A model in parts. ``body`` and ``head`` make a decoder; an encoder has neither and is called whole."""

    tokenizer: Any
    model: Any
    body: Any | None
    head: Callable[[torch.Tensor], torch.Tensor] | None
    """Hidden states [n, hidden] to rewards [n]."""
    weights: str | None
    """See :func:`weights_version`."""
    not_shared: str | None
    """Why prefixes are not shared; None when they are."""
    taps: Taps | None = None
    """What the head of a probe reads; of other decoders it is the last token's state after all layers."""


@dataclass(frozen=True)
class Outline:
    """What there is to know of a model before its weights are read."""

    source: Path | str
    """A folder, a GGUF file, or a hub id."""
    commit: str | None
    """The hub's, where it is known."""
    file: Path | None
    """Its GGUF file, where it is one."""
    config: Any
    tokenizer: Any
    memory: MemoryEstimate


def read_outline(params: RewardModelParams, run_folder: Path | None = None, *, here: bool = True) -> Outline:
    """The configuration and the tokenizer of the model that ``params`` name, looked at; a hub's are small downloads.

    ``here`` says whether the model is to run on this machine. Raises :class:`ScorerError` for a model that is not of
    the backend's kind, or that does not fit the machine.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source = locate_model(params.model_id, run_folder)
    # A branch may move between two reads: configuration, tokenizer and weights are of one commit.
    commit = None if isinstance(source, Path) else hub_commit(source, params.revision)
    revision = commit or params.revision
    try:
        file = find_gguf(source)
        if file is not None:
            config, tokenizer = _of_one_label(gguf_config(file), file), gguf_tokenizer(file)
        else:
            config = transformers.AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    # The last two: transformers looks into whatever JSON it finds.
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise explain_failure(params, error) from error
    cut_special_tokens(tokenizer)
    _check_config(config, params)
    if tokenizer.chat_template:
        _check_template(tokenizer, params)
    estimate = estimate_memory(model_class(params), config, params)
    if here:
        check_memory(estimate, params)
    return Outline(source, commit, file, config, tokenizer, estimate)


def load_model(params: RewardModelParams, run_folder: Path | None = None) -> LoadedModel:
    """The model that ``params`` name, its memory estimated before its weights are read.

    Raises :class:`ScorerError` when it does not fit, when the checkpoint does not fill head and body exactly, and when
    it is not a reward model of the backend's kind.
    """
    outline = read_outline(params, run_folder)
    source, file = outline.source, outline.file
    config, tokenizer, revision = outline.config, outline.tokenizer, outline.commit or params.revision
    log.info("%s", outline.memory)
    options = _load_options(params, config)
    try:
        if file is not None:
            model, info = load_gguf(file, model_class(params), config, **options)
        else:
            model, info = model_class(params).from_pretrained(
                source,
                config=config,
                revision=revision,
                output_loading_info=True,
                use_safetensors=True,  # else a folder that has only pytorch_model.bin would be unpickled
                **options,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, ImportError) as error:
        raise explain_failure(params, error) from error
    if fault := checkpoint_fault(info):
        raise ScorerError(
            f"{params.model_id}: {fault}: backend {params.backend} is not this model's class, "
            "its scores would be random"
        )
    weights = weights_version(outline, params)
    loaded = take_apart(model, tokenizer, params, weights)
    _check_quantised(model, params)
    return loaded


def weights_version(outline: Outline, params: RewardModelParams) -> str:
    """What tells this version of the weights from another: a digest of the folder, or the hub's commit.

    Raises :class:`ScorerError` where the hub does not say which commit it is.
    """
    if isinstance(outline.source, Path):
        return folder_digest(outline.source)
    if outline.commit is None:
        raise ScorerError(
            f"{params.model_id}: the hub does not say which commit {params.revision or 'its main branch'} is: set "
            "reward_model.revision to a commit (40 digits), so that its scores are not taken for another's"
        )
    if outline.commit != params.revision:
        log.warning(
            "%s: this is commit %s; write it into reward_model.revision: later runs then score with the same weights",
            params.model_id,
            outline.commit,
        )
    return outline.commit


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


def model_class(params: RewardModelParams) -> Any:
    """The class that ``backend`` loads."""
    import transformers

    own = {
        "inform": INFORMForSequenceClassification,
        "nemotron": transformers.AutoModelForCausalLM,
        "probe": ProbeModel,
    }
    return own.get(params.backend, transformers.AutoModelForSequenceClassification)


def outlined_encoder(outline: Outline, params: RewardModelParams) -> Encoder:
    """The encoder that a scorer of this model will have; its layers are laid out, without weights, to see its kind."""
    is_encoder = _is_encoder(lay_out(model_class(params), outline.config), params)
    return build_encoder(outline.tokenizer, params, pairs=is_encoder)


def _check_config(config: Any, params: RewardModelParams) -> None:
    limit = position_limit(config)
    if limit is not None and params.max_length > limit:
        raise ScorerError(
            f"{params.model_id}: reads {limit} tokens at most; reward_model.max_length is {params.max_length}: lower it"
        )
    if params.backend == "vllm" and (fault := why_not_served(config)):
        raise ScorerError(f"{params.model_id}: {fault}")
    if params.backend == "probe":
        try:
            Taps.read(config)
        except ProbeError as error:
            raise ScorerError(f"{params.model_id}: {error}") from error
    if params.backend == "nemotron":
        if rescaled := [key for key in _RESCALED_LOGITS if getattr(config, key, None) not in (None, 1, 1.0)]:
            raise ScorerError(f"{params.model_id}: rescales its logits ({rescaled[0]}): not a model of Nemotron's kind")
    elif config.num_labels != 1 and not (params.backend == "vllm" and rewards_tokens(config)):
        raise ScorerError(
            f"{params.model_id}: has {config.num_labels} labels; a reward model has one. A classifier of two (good and "
            "bad) has no reward of its own: choose a model with one label"
        )


def _of_one_label(config: Any, file: Path) -> Any:
    """A GGUF file does not say how many labels its model has: whether it has a head is seen by its weights."""
    if not (file.parent / "config.json").is_file():
        config.num_labels = 1
    return config


def _check_template(tokenizer: Any, params: RewardModelParams) -> None:
    if not ChatEncoder(tokenizer, params.max_length).kept.thoughts:
        log.warning(
            "%s: its chat template leaves out what a response says up to </think>: thoughts are not scored, as the "
            "model was trained",
            params.model_id,
        )


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


def _head_name(params: RewardModelParams) -> str:
    return "lm_head" if params.backend == "nemotron" else "score"


def _is_encoder(model: Any, params: RewardModelParams) -> bool:
    """Whether ``model`` is a classifier that is called whole: no head on a body can be told apart."""
    apart = getattr(model, _head_name(params), None) is not None and model.base_model is not model
    return not apart and params.backend in ("sequence_classification", "vllm") and hasattr(model, "classifier")


def _parts(model: Any, params: RewardModelParams) -> tuple[Any | None, Callable[[torch.Tensor], torch.Tensor] | None]:
    """Body and head of a decoder; two None for an encoder."""
    name = _head_name(params)
    layer = getattr(model, name, None)
    if _is_encoder(model, params):
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


def explain_failure(params: RewardModelParams, error: BaseException) -> ScorerError:
    """What a failure to load means and what to do, looked for in ``error`` and in what caused it."""
    where = f"reward_model.model_id {params.model_id}: "
    return ScorerError(f"{where}{hub_fault(error) or f'cannot be loaded: {str(error).strip()[:600]}'}")
