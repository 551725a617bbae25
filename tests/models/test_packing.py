"""Shared prefixes: each text's score is the one it has alone, and each token that can be shared is computed once."""

import copy
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.small_scorers import copied, scorer_of, stock_folder
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, MistralConfig

from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.forward import block_mask, why_not_shared
from realm_lib.models.reward_models.loading import take_apart
from realm_lib.models.reward_models.packing import _ATTENTION_COST, common_prefix, plan_batches
from realm_lib.models.reward_models.transformer import TransformerScorer

Texts = Sequence[tuple[str, str]]
LONG_POST = "Why does my bread not rise, although the yeast is fresh and the room is warm? " * 2


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_config: Any, inform_folder: Path
) -> dict[str, Path]:
    """A checkpoint for each backend that decodes; the causal one in several files, as large ones are."""
    stock = stock_folder(tmp_path_factory.mktemp("qwen2"), tiny_tokenizer, tiny_config, "qwen2", pad_is_eos=True)
    causal = tmp_path_factory.mktemp("causal")
    torch.manual_seed(2)
    LlamaForCausalLM(tiny_config).save_pretrained(causal, max_shard_size="100KB")
    tiny_tokenizer.save_pretrained(causal)
    assert len(list(causal.glob("*.safetensors"))) > 2
    return {"inform": inform_folder, "sequence_classification": stock, "nemotron": causal}


@pytest.fixture(scope="module")
def scorers(folders: dict[str, Path]) -> dict[str, TransformerScorer]:
    return {backend: scorer_of(folder, backend) for backend, folder in folders.items()}


@pytest.fixture(scope="module")
def eager_scorers(scorers: dict[str, TransformerScorer]) -> dict[str, TransformerScorer]:
    """The same weights with eager attention, which would add the block mask as numbers: nothing is shared."""
    found = {}
    for backend, scorer in scorers.items():
        model = copy.deepcopy(scorer.model)
        model.set_attn_implementation("eager")
        loaded = take_apart(model, scorer.encoder.tokenizer, scorer.params, None)
        assert loaded.not_shared == "its attention is eager, not sdpa"
        found[backend] = TransformerScorer(scorer.params, loaded=loaded)
    return found


@pytest.fixture(scope="module")
def alone(scorers: dict[str, TransformerScorer]) -> dict[str, Callable[[str, str], float]]:
    """One text at a time through the whole model in float64, read by hand."""

    def of(scorer: TransformerScorer) -> Callable[[str, str], float]:
        model = copy.deepcopy(scorer.model).double()
        known: dict[tuple[str, str], float] = {}

        @torch.inference_mode()
        def score(prompt: str, response: str) -> float:
            if (prompt, response) not in known:
                ids = torch.tensor([scorer.encoder.encode([prompt], [response])[0].ids])
                if scorer.params.backend == "nemotron":
                    known[prompt, response] = float(model(input_ids=ids).logits[0, -1, 0])
                else:
                    states = model.model(input_ids=ids).last_hidden_state[0, -1]
                    known[prompt, response] = float(model.score(states))
            return known[prompt, response]

        return score

    return {backend: of(scorer) for backend, scorer in scorers.items()}


def score(scorer: TransformerScorer, texts: Texts) -> NDArray[np.float32]:
    return scorer.score([prompt for prompt, _ in texts], [response for _, response in texts])


posts = st.one_of(
    st.text(max_size=30).filter(lambda text: not text.startswith("\n\n")),
    st.sampled_from(["", "?", LONG_POST, "Ends <|eos|> early <|pad|>", "你好 é \U0001f35e " * 6, "why " * 90]),
)
comments = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "y", "yes", "yes <|eos|>", "yes <|eos|><|eos|> no", "<|pad|>", "long " * 40, "\U0001f35e" * 8]
    ),
)
trees = st.lists(st.tuples(posts, st.lists(comments, min_size=1, max_size=6)), max_size=4)


@pytest.mark.slow
@given(
    tree=trees,
    budget=st.sampled_from([1, 90, 400, 10**6]),
    seed=st.integers(0, 5),
    shared=st.booleans(),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("backend", ["inform", "sequence_classification", "nemotron"])
def test_any_tree_of_posts_and_comments_scores_as_one_at_a_time(
    scorers: dict[str, TransformerScorer],
    eager_scorers: dict[str, TransformerScorer],
    alone: dict[str, Callable[[str, str], float]],
    backend: str,
    tree: list[tuple[str, list[str]]],
    budget: int,
    seed: int,
    shared: bool,
) -> None:
    texts = [(post, comment) for post, comments in tree for comment in comments]
    texts = [texts[n] for n in np.random.default_rng(seed).permutation(len(texts))]
    scorer = (scorers if shared else eager_scorers)[backend]
    scorer.budget = budget
    expected = [alone[backend](*text) for text in texts]
    np.testing.assert_allclose(score(scorer, texts), expected, atol=1e-4, rtol=0)


def test_the_fixtures_tell_texts_apart_and_do_share(
    scorers: dict[str, TransformerScorer], alone: dict[str, Callable[[str, str], float]]
) -> None:
    texts = [(LONG_POST, f"answer number {n}") for n in range(6)]
    for backend, scorer in scorers.items():
        assert np.ptp([alone[backend](*text) for text in texts]) > 0.05
        scorer.budget = 4096
        before = scorer.tokens_computed
        score(scorer, [*texts, *texts])
        computed = scorer.tokens_computed - before
        ids = [chat.ids for chat in scorer.encoder.encode(*map(list, zip(*texts, strict=True)))]
        shared = common_prefix(ids)
        assert shared > 30
        assert computed < sum(map(len, ids)) / 2
        assert computed >= shared + sum(len(one) - shared for one in ids)


def test_nemotron_is_the_logit_of_token_0(folders: dict[str, Path], scorers: dict[str, TransformerScorer]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders["nemotron"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders["nemotron"])
    chat = [{"role": "user", "content": "What is 1+1?"}, {"role": "assistant", "content": "1+1=2"}]
    ids = tokenizer.apply_chat_template(chat, tokenize=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        full = model(**ids).logits[0, -1, 0]
    found = scorers["nemotron"].score(["What is 1+1?"], ["1+1=2"])
    assert found[0] == pytest.approx(float(full), abs=1e-5)


def test_a_causal_model_is_no_classifier_and_the_other_way_round(folders: dict[str, Path]) -> None:
    with pytest.raises(ScorerError, match=r"missing keys .*backend sequence_classification is not"):
        scorer_of(folders["nemotron"], "sequence_classification")
    with pytest.raises(ScorerError, match=r"missing keys .*lm_head.*backend nemotron is not this model's class"):
        scorer_of(folders["sequence_classification"], "nemotron")


def test_logits_that_are_rescaled_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied_shards(folders["nemotron"], tmp_path / "soft", final_logit_softcapping=30.0)
    with pytest.raises(ScorerError, match="rescales its logits"):
        scorer_of(folder, "nemotron")


def copied_shards(folder: Path, to: Path, **config: Any) -> Path:
    copied(folder, to)
    (to / "config.json").write_text(json.dumps(json.loads((to / "config.json").read_text()) | config))
    return to


def test_left_padding_in_the_tokenizer_changes_nothing(inform_folder: Path, tmp_path: Path) -> None:
    folder = copied(inform_folder, tmp_path / "left")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", truncation_side="left")
    tokenizer.save_pretrained(folder)
    texts = [(LONG_POST, "a"), (LONG_POST, "b " * 9), ("short", "c")]
    np.testing.assert_array_equal(score(scorer_of(folder), texts), score(scorer_of(inform_folder), texts))


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantised_models_share_too(folders: dict[str, Path], quantization: str) -> None:
    """Within what their kernels' rounding leaves: a few thousandths of a score's spread."""
    pytest.importorskip("bitsandbytes", reason="quantisation needs bitsandbytes")
    scorer = scorer_of(folders["nemotron"], "nemotron", quantization=quantization)
    assert scorer.model.lm_head.weight.dtype == torch.float32
    texts = [(LONG_POST, f"answer {'really ' * n}") for n in range(6)]
    single = np.concatenate([score(scorer, [text]) for text in texts])
    np.testing.assert_allclose(score(scorer, texts), single, atol=0.05 * np.ptp(single))


# Which models share


def test_models_that_cannot_share_are_scored_whole(
    inform_folder: Path, tmp_path: Path, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A window over the last tokens: the mask of packed rows would open it."""
    from transformers import AutoModelForSequenceClassification

    config = MistralConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=16,
        num_labels=1,
        initializer_range=0.3,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    scorer = scorer_of(tmp_path, "sequence_classification")
    assert scorer.not_shared == "some of its layers see a window of the text only"
    assert "computed for each response: some of its layers" in caplog.text
    texts = [(LONG_POST, f"answer {'really ' * n}") for n in range(4)]
    expected = []
    with torch.inference_mode():
        for prompt, response in texts:
            ids = torch.tensor([scorer.encoder.encode([prompt], [response])[0].ids])
            expected.append(float(scorer.model(input_ids=ids).logits[0, 0]))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(score(scorer, texts), expected, atol=1e-4)
    assert scorer_of(inform_folder).not_shared is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"model_type": "gpt2"}, "architecture gpt2"),
        ({"_attn_implementation": "eager"}, "its attention is eager"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "window"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "longest text of a batch"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, None),
    ],
)
def test_what_keeps_a_model_from_sharing(inform_folder: Path, changes: dict[str, Any], reason: str | None) -> None:
    config = AutoConfig.from_pretrained(inform_folder)
    config._attn_implementation = "sdpa"
    for key, value in changes.items():
        object.__setattr__(config, key, value) if key != "_attn_implementation" else setattr(config, key, value)
    found = why_not_shared(config)
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)


# The plan


def test_who_sees_whom() -> None:
    segments = torch.tensor([[0, 0, 1, 1, 2, -1]])
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert block_mask(segments)[0, 0].int().tolist() == expected


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_common_prefix_leaves_each_text_its_last_token(texts: list[list[int]]) -> None:
    expected = 0
    while expected < min(map(len, texts)) - 1 and len({text[expected] for text in texts}) == 1:
        expected += 1
    assert common_prefix(texts) == expected


@given(
    posts=st.lists(st.tuples(st.integers(0, 60), st.lists(st.integers(1, 40), min_size=1, max_size=9)), max_size=5),
    budget=st.integers(1, 300),
    attention=st.sampled_from([None, 50.0, 5000.0]),
)
@settings(max_examples=60, deadline=None)
def test_every_text_is_planned_once_whole_and_within_the_budget(
    posts: list[tuple[int, list[int]]], budget: int, attention: float | None
) -> None:
    texts, groups = [], []
    for post, (shared, owns) in enumerate(posts):
        for number, own in enumerate(owns):
            texts.append([post] * shared + [100 + number] * own)
            groups.append(post)
    batches = plan_batches(texts, groups, budget, attention_length=attention)
    found = {}
    for batch in batches:
        lengths = [row.length for row in batch]
        assert max(lengths) * len(batch) <= budget or (len(batch) == 1 and len(batch[0].own) == 1)
        for row in batch:
            for place, own in zip(row.indices, row.own, strict=True):
                assert place not in found
                found[place] = [*row.shared, *own]
                assert own
    assert found == dict(enumerate(texts))
    computed = sum(row.length for batch in batches for row in batch)
    assert computed <= sum(map(len, texts))
    longest = [batch[0].length for batch in batches]
    assert longest == sorted(longest, reverse=True)


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=9),
    budget=st.integers(1, 2000),
    attention=st.sampled_from([None, 300.0, 5000.0]),
    pass_cost=st.sampled_from([0.0, 64.0, 256.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_other_way_to_cut_batches_costs_less(
    lengths: list[int], budget: int, attention: float | None, pass_cost: float
) -> None:
    """Against every way there is: each set of cuts through the rows in order of length."""

    def cost(batches: Sequence[Sequence[int]]) -> float:
        if any(len(batch) > 1 and len(batch) * batch[0] > budget for batch in batches):
            return np.inf
        each = [(len(batch), batch[0]) for batch in batches]
        slow = _ATTENTION_COST / attention if attention else 0
        return sum(pass_cost + rows * (longest + slow * longest**2) for rows, longest in each)

    lengths.sort(reverse=True)
    least = np.inf
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        ends = [n + 1 for n, cut in enumerate(cuts) if cut]
        least = min(least, cost([lengths[a:b] for a, b in itertools.pairwise([0, *ends, len(lengths)])]))
    texts = [[7] * n for n in lengths]
    batches = plan_batches(texts, range(len(texts)), budget, attention_length=attention, pass_cost=pass_cost)
    assert cost([[row.length for row in batch] for batch in batches]) == pytest.approx(least)


def test_short_rows_are_not_padded_to_the_length_of_long_ones() -> None:
    lengths = [3000, *range(900, 20, -7)]
    batches = plan_batches([[7] * n for n in lengths], range(len(lengths)), 10**6, attention_length=None, pass_cost=256)
    padded = sum(batch[0].length * len(batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)
    assert len(batches) < 20


# Out of memory


class SmallCard:
    """A device with room for so many tokens at once: a hook on the model's body that refuses more, as CUDA does."""

    def __init__(self, scorer: TransformerScorer, room: int) -> None:
        self.room = room
        self.refused = 0
        self.handle = scorer.model.model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        if kwargs["input_ids"].numel() > self.room:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_out_of_memory_halves_the_budget_and_goes_on(inform_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [(post, f"answer {'so ' * n}") for n in range(7) for post in (LONG_POST, "short", "Another post. " * 8)]
    whole = score(scorer_of(inform_folder), texts)
    scorer = scorer_of(inform_folder)
    card = SmallCard(scorer, room=150)
    np.testing.assert_allclose(score(scorer, texts), whole, atol=1e-4)
    assert card.refused > 1
    assert scorer.budget <= 150
    assert "out of memory" in caplog.text
    refused = card.refused
    score(scorer, texts)
    assert card.refused == refused  # it has learned


def test_a_single_text_that_does_not_fit_is_named(inform_folder: Path) -> None:
    scorer = scorer_of(inform_folder)
    SmallCard(scorer, room=60)
    with pytest.raises(ScorerError, match=r"text 1 \(id \w{12}, prompt 'Why does.* tokens alone take more memory"):
        score(scorer, [("short", "a"), (LONG_POST, "b"), ("short", "c")])


def test_other_failures_are_not_taken_for_a_lack_of_memory(inform_folder: Path) -> None:
    scorer = scorer_of(inform_folder)

    def fail(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    scorer.model.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        score(scorer, [("a", "b")])
