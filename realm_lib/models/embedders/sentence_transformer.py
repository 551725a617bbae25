"""Embedding models that run here, through sentence-transformers."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from realm_lib.config.embedding import EmbeddingParams, LongTexts
from realm_lib.data.chats import readable
from realm_lib.models.checkpoints import OWN_CODE, needs_own_code
from realm_lib.models.embedders.vectors import EmbedderError, PieceCounts, unit_vectors
from realm_lib.models.embedders.windows import SHAPE, PieceReader, fitting
from realm_lib.models.special_tokens import cut_special_tokens
from realm_lib.runs.threads import one_thread_each, workers
from realm_lib.runs.weights import folder_digest, hub_commit, is_packaged, locate_model, packaged_digest

_ENOUGH_TO_MEASURE = 64
_LARGEST_COPIED = 50_000_000  # weights: 200 MB a copy
_UNMEASURED_BATCH_SIZE = 8


class SentenceTransformerEmbedder:
    """Any model that sentence-transformers loads: a hub id, a folder, or the packaged all-MiniLM-L6-v2."""

    def __init__(self, params: EmbeddingParams, run_folder: Path | None = None) -> None:
        import transformers
        from sentence_transformers import SentenceTransformer

        transformers.utils.logging.disable_progress_bar()
        self.params = params
        packaged = is_packaged(params.model_id)
        source = locate_model(params.model_id, run_folder)
        commit = None if Path(source).is_dir() else hub_commit(str(source), params.revision)
        try:
            self.model = SentenceTransformer(
                str(source),
                revision=commit or params.revision,
                truncate_dim=params.dimensions,
                local_files_only=packaged,
                trust_remote_code=False,
                # Without use_safetensors pytorch_model.bin would be unpickled; half precision makes a vector depend
                # on the batch that it was in.
                model_kwargs={"use_safetensors": True, "dtype": "float32"},
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = OWN_CODE if needs_own_code(error) else error
            raise EmbedderError(f"embedding.model_id {params.model_id}: cannot be loaded: {reason}") from error
        _refuse_quantised(self.model, params.model_id)
        _read_special_tokens_as_letters(self.model, params.model_id)
        dimensions = self.model.get_embedding_dimension()
        if not dimensions:
            raise EmbedderError(f"{params.model_id}: does not say how long its vectors are")
        self.dimensions = int(dimensions)
        """Length of a vector."""
        self._batch_size = params.batch_size
        self.long_texts: LongTexts = params.long_texts or "windows"
        """What becomes of a text over the model's limit."""
        self._reader = PieceReader(self.model, params.model_id)
        if packaged:
            weights: str | None = packaged_digest(params.model_id)
        elif Path(source).is_dir():
            weights = folder_digest(Path(source))
        else:
            weights = commit
        if weights is None:
            raise EmbedderError(
                f"embedding.model_id {params.model_id}: the hub does not say which commit it is: set "
                "embedding.revision to one (40 digits), so that its vectors are not taken for another's"
            )
        self.identity: dict[str, Any] = {
            "backend": params.backend,
            "model": params.model_id,
            "weights": weights,
            "dimensions": params.dimensions,
            "max_length": self.model.max_seq_length,
            "special_tokens": "letters",
        }
        if self.most_pieces is not None:
            # Refused texts have no vectors, and those of the others are the same as with windows.
            self.identity |= {"long_texts": "cut" if self.long_texts == "cut" else SHAPE}

    @property
    def most_pieces(self) -> int | None:
        """The word pieces of a text that the model reads at once; None where it has no limit."""
        return self._reader.most

    def count_pieces(self, texts: Sequence[str]) -> PieceCounts | None:
        """The word pieces of texts, read or not; None of a model that has none."""
        return self._reader.count(texts) if self._reader.counts else None

    def as_read(self, prompts: Sequence[str]) -> list[str]:
        """Prompts as they are embedded: as people read them, cut where ``embedding.long_texts`` says so."""
        return fitting(prompts, self._reader) if self.long_texts == "cut" else list(map(readable, prompts))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit-length vectors, float32 [n, dimensions]; the library orders the texts by length itself.

        A text over the model's limit is embedded in windows and has the mean of their unit vectors, each weighted by
        the pieces that it stands for (the length-weighted mean of OpenAI's Cookbook, "Embedding texts that are longer
        than the model's maximum context length"); with ``long_texts: cut`` it loses its end.
        Raises :class:`EmbedderError` naming the first text whose vector is not finite or is zero, or that is too long
        with ``long_texts: refuse``.
        """
        if not texts:
            return np.empty((0, self.dimensions), dtype=np.float32)
        if self.long_texts == "cut":
            return unit_vectors(self._encode(list(texts), self._batch_size or self._measured_batch_size(texts)), texts)
        divided = self._reader.windows(texts)
        parts = [part for windows in divided for part in windows.texts]
        if self.long_texts == "refuse" and len(parts) > len(texts):
            long = [index for index, windows in enumerate(divided) if len(windows.texts) > 1]
            raise EmbedderError(
                f"text {long[0]} is too long ({len(long)} of {len(texts)}): {texts[long[0]][:60]!r}", long
            )
        vectors = self._encode(parts, self._batch_size or self._measured_batch_size(parts))
        if len(parts) == len(texts):
            return unit_vectors(vectors, texts)
        pooled = np.empty((len(texts), self.dimensions))
        first = 0
        for index, windows in enumerate(divided):
            own = vectors[first : first + len(windows.texts)].astype(np.float64)
            first += len(own)
            with np.errstate(invalid="ignore"):  # a window without direction leaves its text none, which is an error
                pooled[index] = own[0] if len(own) == 1 else windows.weights @ (own / _lengths(own))
        return unit_vectors(pooled, texts)

    def _encode(self, texts: list[str], batch_size: int) -> NDArray[np.float32]:
        def encode(model: Any, part: list[str]) -> NDArray[np.float32]:
            vectors: NDArray[np.float32] = model.encode(
                part, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
            )
            return vectors

        if len(texts) < 2 * workers(self.model, _LARGEST_COPIED) or len(self._workers) < 2:
            return encode(self.model, texts)
        number = len(self._workers)
        # Each takes every k-th text by length, so that all have as much to do.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        parts = [order[start::number] for start in range(number)]
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        with one_thread_each(number) as pool:
            found = pool.map(encode, self._workers, [[texts[index] for index in part] for part in parts])
            for part, values in zip(parts, found, strict=True):
                vectors[part] = values
        return vectors

    @cached_property
    def _workers(self) -> list[Any]:
        """The model and copies of it, one for each worker, since a tokenizer may not be used twice at once.

        Made when there are texts to divide: who embeds a few of them pays for no copies.
        """
        copies = [copy.deepcopy(self.model) for _ in range(workers(self.model, _LARGEST_COPIED) - 1)]
        for copied in copies:  # a copy forgets what its tokenizer was told
            _read_special_tokens_as_letters(copied, self.params.model_id)
        return [self.model, *copies]

    def _measured_batch_size(self, texts: Sequence[str]) -> int:
        """The fastest size for texts like these; kept from the first call that has enough of them to tell."""
        if len(texts) < _ENOUGH_TO_MEASURE:
            return _UNMEASURED_BATCH_SIZE
        self._batch_size = measured_batch_size(self._encode, texts[:_ENOUGH_TO_MEASURE])
        return self._batch_size


def _lengths(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the rows, [n, 1]."""
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return lengths


def measured_batch_size(
    encode: Callable[[list[str], int], object], texts: Sequence[str], sizes: Sequence[int] = (4, 8, 16, 32)
) -> int:
    """The one of ``sizes`` at which ``encode(texts, size)`` is fastest here; the vectors are the same at each.

    Each size has two turns, apart in time, and its better one counts: a machine's other work slows one of them.
    """
    encode(list(texts[: min(sizes)]), min(sizes))  # the first call pays for what is loaded lazily
    seconds = dict.fromkeys(sizes, math.inf)
    for size in [*sizes, *sizes]:
        start = time.perf_counter()
        encode(list(texts), size)
        seconds[size] = min(seconds[size], time.perf_counter() - start)
    return min(sizes, key=seconds.__getitem__)


def _refuse_quantised(model: Any, name: str) -> None:
    """Raise :class:`EmbedderError` unless every weight is float32: int8 was seen to move a cosine by 0.17."""
    kinds = {str(weights.dtype) for weights in model.parameters()} - {"torch.float32"}
    configs = [getattr(getattr(part, "auto_model", None), "config", None) for part in model]
    if kinds or any(getattr(config, "quantization_config", None) for config in configs):
        raise EmbedderError(
            f"embedding.model_id {name}: its weights are quantised or not float32 ({', '.join(sorted(kinds))}), which "
            "changes cosines: take the model's original weights"
        )


def _read_special_tokens_as_letters(model: Any, name: str) -> None:
    """Make ``model`` read a ``[SEP]`` or ``</s>`` in a text as letters; its vectors of other texts stay the same.

    Raises :class:`EmbedderError` for a model whose own prompt, which stands before every text, holds a special token.
    """
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    prompt = model.prompts.get(model.default_prompt_name) or ""
    for module in model.modules():
        if not isinstance(module, Transformer | StaticEmbedding) or (tokenizer := module.tokenizer) is None:
            continue  # a list of words knows no special tokens
        static = isinstance(module, StaticEmbedding)
        added = tokenizer.get_added_tokens_decoder() if static else tokenizer.added_tokens_decoder
        if held := [token.content for token in added.values() if token.special and token.content in prompt]:
            raise EmbedderError(f"embedding.model_id {name}: its prompt {prompt!r} holds the special token {held[0]!r}")
        cut_special_tokens(tokenizer)
        if static:
            tokenizer.encode_special_tokens = True
        elif "message" in module.modality_config:  # a template writes special tokens around the text
            template = module.processing_kwargs.get("chat_template", {}) | {"sanitize_control_tokens": True}
            module.processing_kwargs = module.processing_kwargs | {"chat_template": template}
        else:
            tokenizer.split_special_tokens = True
