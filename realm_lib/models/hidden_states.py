"""What a language model's first layers make of responses: hidden states, pooled, computed once and kept."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn
from tqdm import tqdm

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.training import ProbeParams
from realm_lib.data.chats import Prompt, as_text
from realm_lib.models.gguf import find_gguf, gguf_config, gguf_tokenizer, load_gguf
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.forward import SHARING_MODELS, why_not_shared
from realm_lib.models.reward_models.loading import LoadedModel, explain_failure
from realm_lib.models.reward_models.memory import check_memory, estimate_memory
from realm_lib.models.reward_models.probe import POOLINGS, ProbeError, Taps, shorten, without_norm
from realm_lib.models.reward_models.transformer import TransformerScorer
from realm_lib.models.special_tokens import cut_special_tokens
from realm_lib.runs.files import atomic_path
from realm_lib.runs.weights import checkpoint_fault, folder_digest, hub_commit, locate_model

_AT_ONCE = 256
"""Texts whose states are kept in one file: what a kill can cost."""
_KEPT = "states"


def load_backbone(params: ProbeParams, run_folder: Path | None = None) -> TransformerScorer:
    """The first layers of the model that ``params`` name, as a scorer whose values are hidden states.

    Their memory is estimated before weights are read. Raises :class:`ScorerError` for a model that cannot be loaded
    whole, does not fit, or is not a decoder of Llama's build with so many layers.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    reading = as_read(params)
    source = locate_model(params.backbone, run_folder)
    file = find_gguf(source)
    commit = None if isinstance(source, Path) else hub_commit(source, params.revision)
    options: dict[str, Any] = {"revision": commit or params.revision, "trust_remote_code": False}
    try:
        if file is not None:
            config, tokenizer = gguf_config(file), gguf_tokenizer(file)
        else:
            config = transformers.AutoConfig.from_pretrained(source, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        layers = tuple(sorted(set(params.layers or middle_layers(config.num_hidden_layers))))
        shorten(config, max(layers))
        check_memory(estimate_memory(transformers.AutoModel, config, reading), reading)
        if config.model_type in SHARING_MODELS:
            options["attn_implementation"] = "sdpa"
        if params.device_map is not None:
            options["device_map"] = params.device_map
        model, info = _read(source, file, config, dtype=getattr(torch, params.dtype), **options)
        without_norm(model)
    except ProbeError as error:
        raise ScorerError(f"offline_models.probe.backbone {params.backbone}: {error}") from error
    except (OSError, ValueError, SafetensorError, ImportError, AttributeError) as error:
        raise explain_failure(reading, error) from error
    # What a checkpoint has beside them are the head and the layers above.
    if fault := checkpoint_fault({name: keys for name, keys in info.items() if name != "unexpected_keys"}):
        raise ScorerError(f"{params.backbone}: {fault}: these weights are not those of a {type(model).__name__}")
    weights = folder_digest(source) if isinstance(source, Path) else commit
    if weights is None:
        raise ScorerError(
            f"{params.backbone}: the hub does not say which commit it is: set revision to one (40 digits)"
        )
    cut_special_tokens(tokenizer)
    taps = Taps(layers, POOLINGS)
    loaded = LoadedModel(tokenizer, model.eval(), model, nn.Identity(), weights, why_not_shared(model.config), taps)
    return TransformerScorer(reading, loaded=loaded)


def _read(source: Path | str, file: Path | None, config: Any, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """The body of a language model, as long as ``config`` says, and transformers' loading info."""
    import transformers

    with _quiet_about_the_rest():
        if file is None:
            loaded: tuple[Any, Mapping[str, Any]] = transformers.AutoModel.from_pretrained(
                source, config=config, use_safetensors=True, output_loading_info=True, **options
            )
            return loaded
        del options["revision"]
        model, info = load_gguf(file, transformers.AutoModelForCausalLM, config, **options)
        return model.base_model, info


@contextmanager
def _quiet_about_the_rest() -> Iterator[None]:
    """transformers lists what a checkpoint holds beside the layers that are read: all above them."""
    told = logging.getLogger("transformers.modeling_utils")
    before = told.level
    told.setLevel(logging.ERROR)
    try:
        yield
    finally:
        told.setLevel(before)


def as_read(params: ProbeParams) -> RewardModelParams:
    """How a probe's backbone reads texts, as the section of a reward model."""
    return RewardModelParams(
        backend="probe",
        model_id=params.backbone,
        revision=params.revision,
        device_map=params.device_map,
        max_length=params.max_length,
        dtype=params.dtype,
        batch_tokens=params.batch_tokens,
        long_responses="cut",
    )


def middle_layers(number: int) -> list[int]:
    """The layers of a model of ``number`` that are looked at where none are named."""
    return sorted({max(1, round(number * share)) for share in (1 / 3, 0.4, 0.5, 0.6)})


def read_states(
    backbone: TransformerScorer,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    kept: Path | None = None,
    *,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Hidden states of texts, float32 [n, layers, poolings, hidden], read by what :func:`load_backbone` gave.

    Those that lie in the folder ``kept`` are taken from there, the others are written into it, some hundred texts at a
    time. Raises :class:`ScorerError` for texts that cannot be read.
    """
    taps = backbone.taps
    assert taps is not None
    found = np.empty(
        (len(prompts), len(taps.layers), len(taps.poolings), backbone.model.config.hidden_size), dtype=np.float32
    )
    order = sorted(range(len(prompts)), key=lambda index: as_text(prompts[index]))  # responses to a prompt together
    with tqdm(total=len(prompts), desc="hidden states", unit="text", disable=not progress) as bar:
        for start in range(0, len(order), _AT_ONCE):
            some = order[start : start + _AT_ONCE]
            texts = [prompts[index] for index in some], [responses[index] for index in some]
            file = None if kept is None else kept / f"{_key(backbone, *texts)}.safetensors"
            if file is not None and file.exists():
                states = load_file(file)[_KEPT]
            else:
                states = backbone.values(*texts)
                if file is not None:
                    with atomic_path(file) as temporary:
                        save_file({_KEPT: states}, temporary)
            found[some] = states.reshape(len(some), *found.shape[1:])
            bar.update(len(some))
    return found


def _key(backbone: TransformerScorer, prompts: Sequence[Prompt], responses: Sequence[str]) -> str:
    """Of all that decides the states of some texts."""
    taps = backbone.taps
    assert taps is not None
    said = [dict(backbone.identity), taps.layers, taps.poolings, list(map(as_text, prompts)), list(responses)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
