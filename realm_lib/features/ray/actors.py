"""A copy of a model in a process of Ray's: what Ray Data calls with one block after the other."""

import socket
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from realm_lib.config.base import ParamsError
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.features.identities import changed
from realm_lib.features.ray.blocks import pack_fault, pack_values, unpack_texts
from realm_lib.features.ray.recipe import Recipe, placed, source_digest
from realm_lib.models.embedders import EmbedderError, build_embedder
from realm_lib.models.reward_models import ScorerError, build_scorer
from realm_lib.runs.threads import cores, take_threads

Compute = Callable[..., NDArray[np.float32]]


class ModelActor:
    """Builds its model once and answers blocks (:mod:`realm_lib.features.ray.blocks`).

    What a model says when it cannot be loaded or refuses a text is an answer too, so that it arrives as it was said.
    """

    def __init__(self, recipe: Recipe) -> None:
        take_threads(recipe.threads or max(1, cores() // recipe.copies_a_machine))
        self._fault: ScorerError | EmbedderError | None = None
        try:
            self._compute = _build(recipe)
        except (ScorerError, EmbedderError) as error:
            self._fault = error

    def __call__(self, block: pa.Table) -> pa.Table:
        """The answers to a block."""
        rows = block.to_pylist()
        return pa.concat_tables([self._answer(row["piece"], unpack_texts(row["texts"])) for row in rows])

    def _answer(self, number: int, texts: Sequence[Sequence[str]]) -> pa.Table:
        if self._fault is not None:
            return pack_fault(number, self._fault)
        try:
            return pack_values(number, self._compute(*texts))
        except (ScorerError, EmbedderError) as error:
            return pack_fault(number, error)


def _build(recipe: Recipe) -> Compute:
    """The model's ``score`` or ``embed``.

    Raises :class:`ScorerError` or :class:`EmbedderError` when it cannot be loaded, or is not the driver's.
    """
    kind = ScorerError if recipe.section == "reward_model" else EmbedderError
    where = f"{recipe.section}.model_id {recipe.params['model_id']}, on {socket.gethostname()}"
    if recipe.source != source_digest():
        raise kind(f"{where}: realm_lib is another there than here: install the same commit on each machine")
    try:
        with placed(recipe.place, None if recipe.files is None else ray.get(recipe.files)) as place:
            content = {**recipe.params, **({} if place is None else {"model_id": str(place)})}
            if recipe.section == "reward_model":
                model: Any = build_scorer(RewardModelParams.model_validate(content))
            else:
                model = build_embedder(EmbeddingParams.model_validate(content))
    except (FileNotFoundError, ParamsError) as error:  # the second: a package that is not installed there
        raise kind(f"{where}: {error}") from error
    if fault := changed({recipe.section: recipe.identity}, {recipe.section: model.identity}):
        raise kind(f"{where}: its model is another there than here: {fault}")
    compute: Compute = model.score if recipe.section == "reward_model" else model.embed
    return compute
