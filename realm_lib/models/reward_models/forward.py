"""A batch of rows through a decoder: hidden states of each text, as if it were alone: its last token's, or its
response's after some layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from realm_lib.models.reward_models.packing import Row

SHARING_MODELS = frozenset({"llama", "qwen2", "qwen3", "mistral"})
_STATIC_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
_SHARED, _PADDING = 0, -1


def why_not_shared(config: Any) -> str | None:
    """Why a decoder's prefixes cannot be shared, None when they can.

    Decided by the configuration, not by a trial: a trial on short texts cannot see what a sliding window or a rotation
    that grows with the sequence would do to long ones. Shared are decoders whose code was read for these versions and
    whose tests hold shared against single scoring: they take a mask [n, 1, tokens, tokens] as it is for every layer,
    and positions apart from columns. Only "sdpa" reads such a boolean mask rightly; "eager" would add it as numbers.
    """
    if config.model_type not in SHARING_MODELS:
        return f"the architecture {config.model_type} is not among {', '.join(sorted(SHARING_MODELS))}"
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}, not sdpa"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    if kinds != {"full_attention"} or sliding:
        return "some of its layers see a window of the text only"
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotation not in _STATIC_ROTATIONS:
        return f"its positions ({rotation}) depend on the longest text of a batch"
    return None


def last_states(body: Any, batch: Sequence[Row], device: torch.device, *, positions: bool) -> torch.Tensor:
    """Hidden states [texts, hidden] of each text's last token, in the order of the batch's rows and their texts.

    ``positions`` says whether to hand position ids to the model, which rows of several texts need; rows are padded on
    the right, whatever the tokenizer's habit.
    """
    inputs, places = _laid_out(batch, device, positions)
    hidden = body(**inputs).last_hidden_state
    rows, columns = torch.tensor([(place.row, place.end - 1) for place in places], device=hidden.device).T
    states: torch.Tensor = hidden[rows, columns]
    return states


def pooled_states(
    body: Any,
    batch: Sequence[Row],
    starts: Sequence[int],
    device: torch.device,
    layers: Sequence[int],
    *,
    positions: bool,
) -> torch.Tensor:
    """Hidden states after some of a body's layers: their mean over each text's response, and its last token's.

    float32 [texts, layers, 2, hidden], in the order of the batch's rows and their texts. ``starts`` says at which of a
    text's tokens its response begins; the mean is from there to the text's end, over what closes the turn too. ``body``
    has no final norm, which is for the last layer alone
    (:func:`realm_lib.models.reward_models.probe.without_norm`).
    """
    inputs, places = _laid_out(batch, device, positions)
    tapped = body(**inputs, output_hidden_states=list(layers)).hidden_states
    pooled = []
    for place, start in zip(places, starts, strict=True):
        columns = place.columns(start)
        of_text = [tapped[layer][place.row, columns].float().to(device) for layer in layers]
        pooled.append(torch.stack([torch.stack([states.mean(dim=0), states[-1]]) for states in of_text]))
    return torch.stack(pooled)


@dataclass(frozen=True)
class _Place:
    """Where a text lies in a batch: its first ``shared`` tokens at the row's beginning, its own from ``begin`` on."""

    row: int
    shared: int
    begin: int
    end: int

    def columns(self, start: int) -> list[int]:
        """Of the text's tokens from ``start`` to its end."""
        own = self.begin + max(0, start - self.shared)
        return [*range(min(start, self.shared), self.shared), *range(own, self.end)]


def _laid_out(batch: Sequence[Row], device: torch.device, positions: bool) -> tuple[dict[str, Any], list[_Place]]:
    """A batch as a decoder takes it, and where its texts lie."""
    width = max(row.length for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)  # the padding's id is never read: the mask hides it
    position_ids = torch.zeros(len(batch), width, dtype=torch.long)
    segments = torch.full((len(batch), width), _PADDING)
    places: list[_Place] = []
    for number, row in enumerate(batch):
        end = len(row.shared)
        ids[number, :end] = torch.tensor(row.shared, dtype=torch.long)
        position_ids[number, :end] = torch.arange(end)
        segments[number, :end] = _SHARED
        for segment, own in enumerate(row.own, start=1):
            start, end = end, end + len(own)
            ids[number, start:end] = torch.tensor(own, dtype=torch.long)
            position_ids[number, start:end] = torch.arange(len(row.shared), len(row.shared) + len(own))
            segments[number, start:end] = segment
            places.append(_Place(number, len(row.shared), start, end))
    segments = segments.to(device)
    several = any(len(row.own) > 1 for row in batch)
    mask = block_mask(segments) if several else (segments != _PADDING).long()
    inputs = {"input_ids": ids.to(device), "attention_mask": mask, "use_cache": False}
    return inputs | ({"position_ids": position_ids.to(device)} if positions else {}), places


def block_mask(segments: torch.Tensor) -> torch.Tensor:
    """Who sees whom, bool [n, 1, tokens, tokens], from ``segments`` [n, tokens]: 0 shared, 1.. a text's, -1 padding.

    A token sees the shared tokens and those of its own text, up to itself. Padding sees itself (a token that sees
    nothing becomes NaN, and NaN times a weight of zero is NaN in the rows that count) and is seen by padding only.
    """
    tokens = segments.shape[1]
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=segments.device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    return ((same | (segments == _SHARED)[:, None, :]) & earlier)[:, None]
