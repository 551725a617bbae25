"""What a checkpoint's configuration says before its weights are read."""

from collections.abc import Iterator
from typing import Any

_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert"})
"""Encoders that number positions from one behind their padding's id: that many fewer tokens can be read."""


def position_limit(config: Any) -> int | None:
    """Most tokens for which a model has positions; None where its configuration states no limit.

    Positions that are rescaled reach ``factor`` times as far as those that the model was first trained on, where the
    configuration has not counted that in already (Llama-3.1's has, Qwen2.5's with YaRN has not). A sliding window is
    no limit: what is behind it reaches later tokens through the layers.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    if config.model_type in _OFFSET_POSITIONS:
        return int(positions) - int(config.pad_token_id) - 1
    scaling = getattr(config, "rope_parameters", None) or {}
    factor = scaling.get("factor")
    first = scaling.get("original_max_position_embeddings") or positions
    return max(int(positions), int(first * factor)) if isinstance(factor, int | float) else int(positions)


def needs_own_code(error: BaseException) -> bool:
    """Whether a checkpoint could not be loaded since its class lies in its repository, as Python code.

    transformers says so by the option that would run it, and asks on the terminal unless that is given.
    """
    return any("trust_remote_code" in str(link) for link in causes(error))


OWN_CODE = (
    "its class is Python code in the model's own repository, and REALM runs no code from there: take a model of a "
    "class that transformers has, or one that was converted to such a class"
)
"""What to say of :func:`needs_own_code`."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error``, and what it was raised from or while handling, each once."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        yield link
        link = link.__cause__ or link.__context__
