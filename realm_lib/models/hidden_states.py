"""What a language model's first layers make of responses: hidden states, pooled, computed once and kept."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn
from tqdm import tqdm

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.training import ProbeParams
from realm_lib.data.chats import Prompt, as_text
from realm_lib.models.checkpoints import position_limit
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.chat import name_text
from realm_lib.models.reward_models.forward import why_not_shared
from realm_lib.models.reward_models.loading import LoadedModel, read_weights
from realm_lib.models.reward_models.memory import check_memory, estimate_memory
from realm_lib.models.reward_models.outline import Outline, open_checkpoint, weights_version
from realm_lib.models.reward_models.probe import POOLINGS, ProbeError, Taps, shorten, without_norm
from realm_lib.models.reward_models.transformer import TransformerScorer
from realm_lib.runs.files import atomic_path
from realm_lib.runs.weights import checkpoint_fault

_AT_ONCE = 256
"""Texts whose states are kept in one file: what a kill can cost."""
_KEPT = "states"


def outline_backbone(params: ProbeParams) -> tuple[Outline, tuple[int, ...]]:
    """The first layers of the model that ``params`` name, before their weights are read, and which of them are tapped.

    Raises :class:`ScorerError` for a model that does not fit, or has not so many layers or positions.
    """
    import transformers

    reading = as_read(params)
    with _of_the_backbone(params):
        checkpoint = open_checkpoint(reading)
        number = getattr(checkpoint.config, "num_hidden_layers", None)
        if number is None:
            raise ProbeError("its configuration does not say how many layers it has: take a language model of text")
        limit = position_limit(checkpoint.config)
        if limit is not None and params.max_length > limit:
            raise ProbeError(
                f"reads {limit} tokens at most; offline_models.probe.max_length is {params.max_length}: lower it"
            )
        layers = tuple(sorted(set(params.layers or middle_layers(number))))
        shorten(checkpoint.config, max(layers))
        estimate = estimate_memory(transformers.AutoModel, checkpoint.config, reading)
        check_memory(estimate, reading)
        return Outline(**vars(checkpoint), memory=estimate), layers


def load_backbone(params: ProbeParams) -> TransformerScorer:
    """The first layers of the model that ``params`` name, as a scorer whose values are hidden states.

    Their memory is estimated before weights are read. Raises :class:`ScorerError` as :func:`outline_backbone`, and for
    a model that cannot be loaded whole or is not a decoder of Llama's build.
    """
    import transformers

    reading = as_read(params)
    outline, layers = outline_backbone(params)
    kind = transformers.AutoModel if outline.file is None else transformers.AutoModelForCausalLM
    with _of_the_backbone(params):
        with _quiet_about_the_rest():
            model, info = read_weights(outline, kind, reading)
        model = without_norm(model.base_model)
        # What a checkpoint has beside them are the head and the layers above.
        if fault := checkpoint_fault({name: keys for name, keys in info.items() if name != "unexpected_keys"}):
            raise ProbeError(f"{fault}: these weights are not those of a {type(model).__name__}")
        weights = weights_version(outline, reading)
        not_shared = why_not_shared(model.config)
        taps = Taps(layers, POOLINGS)
        loaded = LoadedModel(outline.tokenizer, model.eval(), model, nn.Identity(), weights, not_shared, taps)
        return TransformerScorer(reading, loaded=loaded)


@contextmanager
def _of_the_backbone(params: ProbeParams) -> Iterator[None]:
    """What is raised inside says of which model: messages of loading name the keys of a reward model's section."""
    try:
        yield
    except (ProbeError, ScorerError) as error:
        raise ScorerError(f"offline_models.probe.backbone {params.backbone}: {error}") from error


@contextmanager
def _quiet_about_the_rest() -> Iterator[None]:
    """transformers lists what a checkpoint holds beside the layers that are read: all above them."""
    told = logging.getLogger("transformers.modeling_utils")
    before, told.disabled = told.disabled, True  # by its level it would speak of layers that were not sharded
    try:
        yield
    finally:
        told.disabled = before


def as_read(params: ProbeParams, trained: str | None = None) -> RewardModelParams:
    """How a probe reads texts, as the section of a reward model: of the one ``trained`` that has this model id, else of
    its backbone.
    """
    return RewardModelParams(
        backend="probe",
        model_id=trained or params.backbone,
        revision=None if trained else params.revision,
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
                if len(bad := np.flatnonzero(~np.isfinite(states).all(axis=1))):
                    named = name_text(bad[0], texts[0][bad[0]], texts[1][bad[0]])
                    raise ScorerError(
                        f"{backbone.params.model_id}: hidden states of {named} are not finite: set "
                        "offline_models.probe.dtype to float32"
                    )
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
