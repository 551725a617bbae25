"""How long texts are in a reward model's tokens: counted once, before the first run, and kept beside the scores.

Checking a run ahead, planning what it takes, ordering what is scored and saying what was cut all want these numbers;
to count those of SHP takes minutes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.chat import Encoder

_AT_ONCE = 8192
"""Texts that are counted between two commits."""


def text_lengths(
    encoder: Encoder, prompts: Sequence[str], responses: Sequence[str], store: FeatureStore
) -> tuple[NDArray[np.int64], dict[int, ScorerError]]:
    """What :meth:`Encoder.look` says of each text, from ``store`` or counted and committed to it.

    A text that is refused is not kept: it is looked at, and refused, each time.
    """
    keys = [text_key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    table = store.table("tokens", encoder.identity, 3)
    missing = [index for index, key in enumerate(keys) if key not in table]
    refused: dict[int, ScorerError] = {}
    for start in range(0, len(missing), _AT_ONCE):
        some = missing[start : start + _AT_ONCE]
        lengths, errors = encoder.look([prompts[index] for index in some], [responses[index] for index in some])
        refused |= {some[place]: error for place, error in errors.items()}
        counted = [place for place in range(len(some)) if place not in errors]
        table.put([keys[some[place]] for place in counted], lengths[counted].astype(np.float32))
    told = np.zeros((len(keys), 3), dtype=np.int64)
    known = [index for index in range(len(keys)) if index not in refused]
    told[known] = table.get([keys[index] for index in known])
    table.close()
    return told, refused
