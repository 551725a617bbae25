"""The engine ``ray``: models that run here in part, to read texts, and compute on the actors of a cluster."""

import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.run import RunParams
from realm_lib.data.chats import Prompt, as_text
from realm_lib.features.filling import Piece
from realm_lib.features.ray.actors import ModelActor
from realm_lib.features.ray.blocks import pack_texts, unpack_answer
from realm_lib.features.ray.cluster import connect
from realm_lib.features.ray.pool import EngineError, Pool, plan_pool
from realm_lib.features.ray.recipe import Recipe, read_files, source_digest
from realm_lib.models.embedders import Embedder, build_embedder
from realm_lib.models.embedders.sentence_transformer import SentenceTransformerEmbedder
from realm_lib.models.reward_models import Scorer, build_scorer
from realm_lib.models.reward_models.encoding import EncodingScorer
from realm_lib.models.reward_models.outline import outlined_encoder, read_outline, weights_version
from realm_lib.runs.weights import is_packaged, locate_model

_LOCAL_BACKENDS = ("inform", "sequence_classification", "nemotron", "probe")
_TRIES = 5
"""How often a piece is given to a copy again whose process or machine was lost; then it may be the piece's fault."""
_AHEAD = 2
"""Pieces that a copy has at once: the one that it computes and the next, so that it does not wait."""


class RayEngine:
    """Copies of each model on the cluster of ``run.ray_address``.

    A hosted model stays in this process: it is asked within one rate limit, by one key that goes nowhere else.
    Raises :class:`EngineError` when the cluster cannot be reached.
    """

    def __init__(self, params: RunParams) -> None:
        self._params = params
        self._connected = not ray.is_initialized()
        """Whether this engine made the connection, and ends it; a program of Ray's own keeps its."""
        if self._connected:
            connect(params)
        self._alone = self._connected and params.ray_address is None
        """Whether all copies are on this machine."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # the driver shows its own
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def scorer(self, params: RewardModelParams, run_folder: Path | None = None) -> Scorer:
        """A reward model whose texts are read here and scored by the cluster.

        Raises what :func:`build_scorer` raises, but for this machine's memory; what the cluster's lacks is raised when
        the model is asked.
        """
        if params.backend not in _LOCAL_BACKENDS:
            return build_scorer(params, run_folder)
        return RayScorer(self, params, run_folder)

    def embedder(self, params: EmbeddingParams, run_folder: Path | None = None) -> Embedder:
        """An embedding model that is loaded here too, to count word pieces, and embeds by the cluster."""
        if params.backend != "sentence_transformers":
            return build_embedder(params, run_folder)
        return RayEmbedder(self, params, run_folder)

    def pool(self, device_map: str | None) -> Pool:
        """How many copies of a model with this ``device_map`` there are; see :func:`plan_pool`."""
        machines = sum(bool(node["Alive"]) for node in ray.nodes())
        return plan_pool(self._params, device_map, ray.cluster_resources(), machines)

    def recipe(
        self,
        section: Literal["reward_model", "embedding"],
        params: RewardModelParams | EmbeddingParams,
        identity: Mapping[str, Any],
        place: Path | str | None,
        pool: Pool,
    ) -> Recipe:
        """What a copy is built from. The files of a model on this machine's disk are sent where there are others.

        Those of a package are not: each machine has its own.
        """
        local = place if isinstance(place, Path) and not is_packaged(params.model_id) else None
        files = None
        if local is not None and not self._alone and (content := read_files(local)) is not None:
            files = ray.put(content)
        return Recipe(
            section,
            params.model_dump(mode="json"),
            identity,
            source_digest(),
            self._params.threads,
            pool.copies_a_machine,
            None if local is None else str(local),
            files,
        )

    def compute(
        self, recipe: Recipe, pool: Pool, pieces: Sequence[Piece]
    ) -> Generator[tuple[int, NDArray[np.float32]]]:
        """See :meth:`realm_lib.features.filling.Pooled.compute_pieces`.

        Raises the first error that a model raised, and :class:`EngineError` for one of Ray's: a piece that was given to
        a copy again and again, or a machine that lacks what it needs.
        """
        if not pieces:
            return
        blocks = ray.data.from_arrow_refs([ray.put(pack_texts(number, piece)) for number, piece in enumerate(pieces)])
        size = min(pool.actors, len(pieces))
        with warnings.catch_warnings():
            # Without a limit of its own, a piece that ends every process that it is given to is tried for ever; Ray
            # Data takes it in this way only, of which it says that it will be another in 2.64.
            warnings.filterwarnings("ignore", category=DeprecationWarning, message="`ray_remote_args")
            answers = blocks.map_batches(
                ModelActor,
                fn_constructor_args=[recipe],
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=_AHEAD),
                num_cpus=1,
                num_gpus=pool.gpus,
                max_restarts=-1,
                max_task_retries=_TRIES,
            )
        try:
            for block in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from unpack_answer(block)
        except ray.exceptions.RayError as error:
            raise EngineError(_explained(error)) from error

    def close(self) -> None:
        """End the cluster that was started here; another one is only left."""
        if self._connected:
            ray.shutdown()


class RayScorer(EncodingScorer):
    """A reward model that reads texts here, by its tokenizer, and scores them on the cluster."""

    def __init__(self, engine: RayEngine, params: RewardModelParams, run_folder: Path | None) -> None:
        outline = read_outline(params, run_folder, here=False)
        super().__init__(params, outlined_encoder(outline, params), weights_version(outline, params))
        self._engine = engine
        self._pool = engine.pool(params.device_map)
        # The commit that was found here, so that a branch that moves meanwhile is not another model there.
        pinned = params if outline.commit is None else params.model_copy(update={"revision": outline.commit})
        self._recipe = engine.recipe("reward_model", pinned, self.identity, outline.source, self._pool)

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        """Scores, float32 [n], of one piece; raises what the reward model raises."""
        piece = [(as_text(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]
        values = [scores for _, scores in self.compute_pieces([piece] if piece else [])]
        return np.concatenate(values)[:, 0] if values else np.empty(0, dtype=np.float32)

    def compute_pieces(self, pieces: Sequence[Piece]) -> Generator[tuple[int, NDArray[np.float32]]]:
        """Scores of pieces of (prompt, response), each [n, 1]."""
        return self._engine.compute(self._recipe, self._pool, pieces)


class RayEmbedder(SentenceTransformerEmbedder):
    """An embedding model that reads texts here, and a few that are asked for singly; the cluster embeds the others."""

    def __init__(self, engine: RayEngine, params: EmbeddingParams, run_folder: Path | None) -> None:
        super().__init__(params, run_folder)
        self._engine = engine
        self._pool = engine.pool("auto")  # sentence-transformers takes the GPU that there is
        place = locate_model(params.model_id, run_folder)
        self._recipe = engine.recipe("embedding", params, self.identity, place, self._pool)

    def compute_pieces(self, pieces: Sequence[Piece]) -> Generator[tuple[int, NDArray[np.float32]]]:
        """Vectors of pieces of (text,), each [n, dimensions]."""
        return self._engine.compute(self._recipe, self._pool, pieces)


def _explained(error: BaseException) -> str:
    """What Ray says, without the workers' tracebacks, and what to do."""
    said = str(error).strip()
    if "No module named 'realm_lib'" in said:
        return "a machine of the Ray cluster has no realm_lib: install this commit on each, as on this one"
    last = said.splitlines()[-1][:600] if said else type(error).__name__
    return (
        f"Ray gave up ({type(error).__name__}): {last}. What was computed before is in the feature store: once the "
        "cause is gone, run again"
    )
