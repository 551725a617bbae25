"""Embedding models behind one protocol: texts in, unit vectors out; and the cosine between them."""

from pathlib import Path

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.models.embedders.sentence_transformer import SentenceTransformerEmbedder
from realm_lib.models.embedders.vectors import (
    Embedder,
    EmbedderError,
    HostedEmbedder,
    Quote,
    Reading,
    ReadingEmbedder,
    by_role,
    cosine,
)

__all__ = [
    "Embedder",
    "EmbedderError",
    "HostedEmbedder",
    "Quote",
    "Reading",
    "ReadingEmbedder",
    "build_embedder",
    "by_role",
    "cosine",
]


def build_embedder(params: EmbeddingParams, run_folder: Path | None = None) -> Embedder:
    """The embedder that ``embedding`` names; ``run_folder`` is where ``run:`` model ids start.

    Raises :class:`EmbedderError` when a local model, or a hosted one's tokenizer, cannot be loaded. A hosted one is
    first asked when it is used.
    """
    if params.backend == "gemini":
        from realm_lib.models.embedders.gemini import GeminiEmbedder

        return GeminiEmbedder(params)
    if params.backend == "openai":
        from realm_lib.models.embedders.openai_compatible import OpenAIEmbedder

        return OpenAIEmbedder(params)
    return SentenceTransformerEmbedder(params, run_folder)
