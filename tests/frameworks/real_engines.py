"""An engine that serves an embedding model, beside the same model here: do vectors agree, and what are its errors?

Not a part of ``make test``: an engine is an environment of its own. Start one on a model's folder, as::

    infinity_emb v2 --model-id FOLDER --served-model-name minilm --device cpu --dtype float32 --port 7997
    python tests/frameworks/real_engines.py http://127.0.0.1:7997 minilm FOLDER

Compares 200 texts of the simulator in both formats, an over-long text that is cut here, then prints what is said of an
over-long text that is not, of an unknown model and of dimensions that the model does not have. An assertion fails where
a cosine is under 0.9999.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

LONG = "The yeast makes gas, which the dough holds. " * 200
Vectors = NDArray[np.float32]


def compared(served: Vectors, here: Vectors) -> str:
    """The largest difference and the lowest cosine of unit vectors. Fails where they are another model's."""
    lowest = float((served.astype(np.float64) * here).sum(axis=1).min())
    assert lowest > 0.9999, f"the lowest cosine is {lowest}: another model, or another pooling"
    return f"largest difference {np.abs(served - here).max():.1e}, lowest cosine {lowest:.9f}"


def main(endpoint: str, model: str, folder: str) -> None:
    from realm_lib.config.embedding import EmbeddingParams
    from realm_lib.config.profile import load_params
    from realm_lib.data.pairs import load_pairs
    from realm_lib.models.embedders import build_embedder
    from realm_lib.models.embedders.vectors import EmbedderError
    from realm_lib.models.hosted import RemoteError

    pairs = load_pairs(load_params(TESTS.parent / "params" / "demo.yaml").data, "test")
    texts = [*dict.fromkeys([*pairs["history"], *pairs["human_ref_A"]])]
    texts = texts[:100] + texts[-100:]
    local = build_embedder(EmbeddingParams(backend="sentence_transformers", model_id=folder, long_texts="cut"))
    here = local.embed(texts)

    def served(texts: Sequence[str], **changes: Any) -> Vectors:
        section = {"model_id": model, "api_endpoint": endpoint, "dimensions": here.shape[1], "max_attempts": 2}
        return build_embedder(EmbeddingParams.model_validate({"backend": "openai", **section, **changes})).embed(texts)

    for encoding in ("float", "base64"):
        print(f"{encoding}: {len(texts)} texts: {compared(served(texts, encoding_format=encoding), here)}")
    cut = served([LONG], tokenizer=folder, max_tokens=256)
    print(f"cut here: {compared(cut, local.embed([LONG]))}")
    for name, text, changes in (
        ("over-long, limit not known", LONG, {}),
        ("over-long, refused here", LONG, {"tokenizer": folder, "max_tokens": 256, "long_texts": "refuse"}),
        ("far over-long", LONG * 20, {}),
        ("empty", "", {}),
        ("unknown model", texts[0], {"model_id": "no-such-model"}),
        ("fewer dimensions", texts[0], {"dimensions": 64}),
        ("more dimensions", texts[0], {"dimensions": 1000}),
        ("wrong path", texts[0], {"api_endpoint": f"{endpoint}/nowhere"}),
    ):
        try:
            print(f"{name}: a vector of {served([text], **changes).shape[1]}")
        except (EmbedderError, RemoteError) as error:
            print(f"{name}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
