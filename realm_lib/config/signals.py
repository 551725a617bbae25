"""The section ``signals`` of a profile: what a combiner is told of a response beside its score and its similarity."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from realm_lib.config.base import Section
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.judges import RESERVED_SIGNALS
from realm_lib.config.reward_model import RewardModelParams


def _check_function(reference: str) -> str:
    module, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"{reference!r} names no function: write module:name, as my_signals:politeness")
    return reference


class RewardModelSignal(Section):
    """The score of a further reward model."""

    kind: Literal["reward_model"]
    reward_model: RewardModelParams

    def __str__(self) -> str:
        return f"the score of {self.reward_model.model_id}"


class EmbeddingSignal(Section):
    """The cosine of prompt and response under a further embedding model."""

    kind: Literal["embedding"]
    embedding: EmbeddingParams

    def __str__(self) -> str:
        return f"the cosine of prompt and response under {self.embedding.model_id}"


class LengthSignal(Section):
    """log(1 + n) of a response of n words or characters."""

    kind: Literal["length"]
    unit: Literal["words", "characters"] = "words"
    """Of any script: words by Unicode's boundaries, characters as a reader counts them."""

    def __str__(self) -> str:
        return f"log(1 + {self.unit} of the response)"


class PythonSignal(Section):
    """The numbers of a function of your own."""

    kind: Literal["python"]
    function: Annotated[str, AfterValidator(_check_function)]
    """``module:name``, called with a list of prompts and one of responses, texts; it returns a number for each. The
    module is looked for where Python looks, then in the working directory, the project's folder and its ``params/``."""

    def __str__(self) -> str:
        return f"the function {self.function}"


SignalParams = Annotated[RewardModelSignal | EmbeddingSignal | LengthSignal | PythonSignal, Field(discriminator="kind")]


def _check_name(name: str) -> str:
    if not name.isidentifier() or name.startswith("_"):
        raise ValueError(f"{name!r} cannot name a signal: take letters, digits and _, a letter first")
    if name in RESERVED_SIGNALS or re.match("realm(_|$)", name):
        raise ValueError(f"{name} means something else in tables and metrics: give the signal another name")
    return name


SignalsParams = Annotated[
    Mapping[Annotated[str, AfterValidator(_check_name)], SignalParams],
    BeforeValidator(lambda given: {} if given is None else given),  # null is none, as of other sections
]
"""Signals by name; a name is that of a column (``NAME_A``, ``NAME_B``), in the combiner's order."""
