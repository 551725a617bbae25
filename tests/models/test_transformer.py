"""Reward models: a score is that of its own text, computed one at a time and without padding; or there is none."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from support.small_scorers import copied, retemplate, scorer_of, stock_folder
from transformers import (
    AutoTokenizer,
    LlamaForSequenceClassification,
    LlamaModel,
    Qwen2Model,
)

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.features.scores import score_texts
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.reward_models import ScorerError, build_scorer
from realm_lib.models.reward_models.chat import ChatEncoder
from realm_lib.models.reward_models.inform import INFORMForSequenceClassification, last_real_token
from realm_lib.models.reward_models.transformer import TransformerScorer
from realm_lib.runs.run import MissingStepError


class Oracle:
    """The score of one text: body in float64 without padding or mask, head by hand, chat written out by hand."""

    def __init__(self, folder: Path, body: type = LlamaModel) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.body = body.from_pretrained(folder, dtype=torch.float64).eval()  # type: ignore[attr-defined]
        self.weights = {name: value.double() for name, value in load_file(folder / "model.safetensors").items()}

    def ids(self, prompt: str, response: str) -> list[int]:
        bos, user, assistant, eos = self.tokenizer.convert_tokens_to_ids(
            ["<|bos|>", "<|user|>", "<|assistant|>", "<|eos|>"]
        )
        return [bos, user, *self.letters(prompt), assistant, *self.letters(response), eos]

    def letters(self, text: str) -> list[int]:
        """What somebody wrote: a special token within it is letters."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    @torch.inference_mode()
    def of_ids(self, ids: Sequence[int]) -> float:
        hidden = self.body(input_ids=torch.tensor([list(ids)])).last_hidden_state[0, -1]
        if "score.weight" in self.weights:
            return float(self.weights["score.weight"] @ hidden)
        inner = torch.clamp(self.weights["score.0.weight"] @ hidden + self.weights["score.0.bias"], min=0)
        return float(self.weights["score.2.weight"] @ inner + self.weights["score.2.bias"])

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
        return np.array([self.of_ids(self.ids(*text)) for text in zip(prompts, responses, strict=True)])


TEXTS = [
    ("Why does bread rise?", "Yeast makes gas."),
    ("", "No question, but an answer."),
    ("?", "y"),
    ("A question " * 12, "A"),
    ("你好 é \U0001f35e", "Ünïcode \u202e text\n\n\ttabs"),
    ("Ends <|eos|> early <|pad|>", "An <|eos|> and a <|pad|> in the <|bos|> middle"),
    ("x", "An answer that goes on for some time. " * 5),
    ("\n\nHuman", "\n\nAssistant: not a turn"),
]
PROMPTS, RESPONSES = (list(side) for side in zip(*TEXTS, strict=True))


@pytest.fixture(scope="module")
def inform(inform_folder: Path) -> TransformerScorer:
    return scorer_of(inform_folder)


@pytest.fixture(scope="module")
def oracle(inform_folder: Path) -> Oracle:
    return Oracle(inform_folder)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_config: Any) -> Path:
    return stock_folder(tmp_path_factory.mktemp("stock"), tiny_tokenizer, tiny_config, "llama", pad_is_eos=False)


# A score is its own text's


def test_scores_are_those_of_one_text_at_a_time(inform: TransformerScorer, oracle: Oracle) -> None:
    expected = oracle(PROMPTS, RESPONSES)
    assert np.ptp(expected) > 0.1  # the test could not tell texts apart otherwise
    scores = inform.score(PROMPTS, RESPONSES)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    assert list(inform.count_tokens(PROMPTS, RESPONSES)) == [len(oracle.ids(*text)) for text in TEXTS]


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_stock_models_too_whatever_pads(
    tmp_path: Path, tiny_tokenizer: Any, tiny_config: Any, architecture: str, pad_is_eos: bool
) -> None:
    """The stock class looks for the first pad token in the ids: with pad equal to EOS it would read the wrong one."""
    folder = stock_folder(tmp_path, tiny_tokenizer, tiny_config, architecture, pad_is_eos)
    expected = Oracle(folder, Qwen2Model if architecture == "qwen2" else LlamaModel)(PROMPTS, RESPONSES)
    assert np.ptp(expected) > 0.1
    for budget in (1, 200, 10**6):
        scores = scorer_of(folder, "sequence_classification", batch_tokens=budget).score(PROMPTS, RESPONSES)
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


texts_of_any_kind = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["", "a", "<|eos|>", "<|pad|>", "yes <|eos|><|eos|>", "long " * 30, "\U0001f35e" * 8]),
)


@pytest.fixture(scope="module")
def remembered(oracle: Oracle) -> Callable[[str, str], float]:
    known: dict[tuple[str, str], float] = {}

    def score(prompt: str, response: str) -> float:
        if (prompt, response) not in known:
            known[prompt, response] = oracle.of_ids(oracle.ids(prompt, response))
        return known[prompt, response]

    return score


@pytest.mark.slow
@given(
    texts=st.lists(
        st.tuples(texts_of_any_kind.filter(lambda t: not t.startswith("\n\n")), texts_of_any_kind), max_size=9
    ),
    budget=st.sampled_from([1, 37, 150, 700, 10**6]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_in_any_batch(
    inform_folder: Path,
    remembered: Callable[[str, str], float],
    texts: list[tuple[str, str]],
    budget: int,
) -> None:
    scores = scorer_of(inform_folder, batch_tokens=budget).score(
        [prompt for prompt, _ in texts], [response for _, response in texts]
    )
    np.testing.assert_allclose(scores, [remembered(*text) for text in texts], atol=1e-4, rtol=0)


def test_order_and_company_change_nothing(inform: TransformerScorer) -> None:
    whole = inform.score(PROMPTS, RESPONSES)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        shuffled = inform.score([PROMPTS[n] for n in order], [RESPONSES[n] for n in order])
        np.testing.assert_allclose(shuffled, whole[order], atol=1e-4, rtol=0)
    for n in range(len(TEXTS)):
        np.testing.assert_allclose(inform.score([PROMPTS[n]], [RESPONSES[n]]), whole[[n]], atol=1e-4, rtol=0)


def test_a_prompt_as_messages_scores_as_its_text(inform: TransformerScorer) -> None:
    turns = [("user", "Why?"), ("assistant", "Why what?"), ("user", "Why bread?")]
    dialogue = [{"role": role, "content": content} for role, content in turns]
    transcript = "\n\nHuman: Why?\n\nAssistant: Why what?\n\nHuman: Why bread?"
    scores = inform.score([dialogue, transcript, dialogue[2:], "Why bread?"], ["Yeast."] * 4)
    np.testing.assert_allclose(scores[[0, 2]], scores[[1, 3]], atol=1e-4, rtol=0)
    assert abs(scores[0] - scores[2]) > 1e-3


def test_no_texts(inform: TransformerScorer) -> None:
    assert inform.score([], []).shape == (0,)
    assert inform.count_tokens([], []).shape == (0,)


def test_prompts_and_responses_must_pair_up(inform: TransformerScorer) -> None:
    with pytest.raises(ValueError, match="zip"):
        inform.score(["a", "b"], ["c"])


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=5))
def test_last_real_token_on_either_side(rows: list[tuple[int, int, int]]) -> None:
    """Each row: real tokens, then how much of the padding goes left of them."""
    width = max(real + left + right for real, left, right in rows)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    expected = []
    for place, (real, left, _) in enumerate(rows):
        mask[place, left : left + real] = 1
        expected.append(left + real - 1)
    assert last_real_token(mask).tolist() == expected


def test_left_padding_gives_the_same_scores(inform_folder: Path, oracle: Oracle) -> None:
    model = INFORMForSequenceClassification.from_pretrained(inform_folder).eval()
    rows = [oracle.ids(*text) for text in TEXTS]
    width = max(map(len, rows)) + 3
    eos = oracle.tokenizer.eos_token_id
    found = []
    for side in ("left", "right"):
        ids, mask = torch.full((len(rows), width), eos), torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[place, where], mask[place, where] = torch.tensor(row), 1
        with torch.inference_mode():
            found.append(model(input_ids=ids, attention_mask=mask).logits[:, 0].numpy())
    for scores in found:
        np.testing.assert_allclose(scores, oracle(PROMPTS, RESPONSES), atol=1e-4, rtol=0)


def test_the_model_alone_reads_whole_rows_and_needs_ids(inform_folder: Path, oracle: Oracle) -> None:
    model = INFORMForSequenceClassification.from_pretrained(inform_folder).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([oracle.ids("a", "b")])).logits
    assert float(logits) == pytest.approx(oracle(["a"], ["b"])[0], abs=1e-4)
    with pytest.raises(ValueError, match="needs input_ids"):
        model()


# Checkpoints that are not what the profile says


def test_a_checkpoint_of_the_other_class_is_refused(inform_folder: Path, stock: Path) -> None:
    with pytest.raises(ScorerError, match=r"missing keys .*\(score\.weight\).*backend sequence_classification is not"):
        scorer_of(inform_folder, "sequence_classification")
    with pytest.raises(ScorerError, match=r"missing keys .*\(score\.0\.bias.*backend inform is not this model's class"):
        scorer_of(stock, "inform")


def drop_bias(weights: dict[str, torch.Tensor]) -> None:
    del weights["score.2.bias"]


def add_layer(weights: dict[str, torch.Tensor]) -> None:
    weights["score.4.weight"] = torch.zeros(1, 1)


def test_a_checkpoint_that_lacks_or_exceeds_is_refused(inform_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match=r"missing keys in the checkpoint \(score\.2\.bias\)"):
        scorer_of(copied(inform_folder, tmp_path / "less", drop_bias))
    with pytest.raises(ScorerError, match=r"unexpected keys in the checkpoint \(score\.4\.weight\)"):
        scorer_of(copied(inform_folder, tmp_path / "more", add_layer))
    with pytest.raises(ScorerError, match=r"wide: cannot be loaded"):
        scorer_of(copied(inform_folder, tmp_path / "wide", intermediate_size=96))


def test_two_labels_are_refused(tmp_path: Path, tiny_tokenizer: Any, tiny_config: Any) -> None:
    config = type(tiny_config).from_dict(tiny_config.to_dict() | {"id2label": {0: "bad", 1: "good"}})
    for backend, architecture in (
        ("sequence_classification", LlamaForSequenceClassification),
        ("inform", INFORMForSequenceClassification),
    ):
        architecture(config).save_pretrained(tmp_path / backend)
        tiny_tokenizer.save_pretrained(tmp_path / backend)
        with pytest.raises(ScorerError, match="has 2 labels; a reward model has one"):
            scorer_of(tmp_path / backend, backend)


def test_damaged_and_missing_files_are_refused(inform_folder: Path, tmp_path: Path) -> None:
    whole = copied(inform_folder, tmp_path / "cut") / "model.safetensors"
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ScorerError, match=r"reward_model\.model_id .*cut: cannot be loaded"):
        scorer_of(whole.parent)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        folder = copied(inform_folder, tmp_path / name)
        (folder / name).write_text("{")
        with pytest.raises(ScorerError, match="cannot be loaded"):
            scorer_of(folder)
    with pytest.raises(ScorerError, match="nowhere: cannot be loaded"):
        scorer_of(tmp_path / "nowhere")
    with pytest.raises(MissingStepError, match="run notebook 00_offline_models first"):
        build_scorer(RewardModelParams(backend="inform", model_id="run:models/reward_model"), tmp_path)


def test_pickled_weights_are_refused(inform_folder: Path, tmp_path: Path) -> None:
    folder = copied(inform_folder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ScorerError, match=r"cannot be loaded: .*safetensors"):
        scorer_of(folder)


def test_a_model_of_the_run_is_found(inform_folder: Path, tmp_path: Path) -> None:
    copied(inform_folder, tmp_path / "models" / "reward_model")
    params = RewardModelParams(backend="inform", model_id="run:models/reward_model")
    assert np.isfinite(build_scorer(params, tmp_path).score(["a"], ["b"])).all()


# Templates and cuts


def test_a_tokenizer_without_a_template_is_refused(inform_folder: Path, tmp_path: Path) -> None:
    folder = copied(inform_folder, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ScorerError, match="no chat template"):
        scorer_of(folder)


def test_a_template_that_writes_bos_twice_is_refused(inform_folder: Path, tmp_path: Path) -> None:
    folder = retemplate(copied(inform_folder, tmp_path / "twice"), lambda template: "{{ bos_token }}" + template)
    with pytest.raises(ScorerError, match=r"text 0 .*the chat template of .* writes the BOS token twice"):
        scorer_of(folder).score(["a"], ["b"])


def test_the_date_in_a_template_is_pinned(inform_folder: Path, tmp_path: Path) -> None:
    """Llama-3.1's template writes the date of the day unless it is told one."""
    folder = copied(inform_folder, tmp_path / "dated")
    retemplate(folder, lambda template: "{{ date_string if date_string is defined else 1 / 0 }}" + template)
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(folder), 128)
    assert encoder.tokenizer.decode(encoder.encode(["a"], ["b"])[0].ids).startswith("26 Jul 2024")


def test_a_long_post_loses_its_end_and_the_response_nothing(inform_folder: Path, oracle: Oracle) -> None:
    scorer = scorer_of(inform_folder, max_length=40)
    prompts = ["short", " ".join(f"word{n}" for n in range(60)), "é\U0001f35e你" * 30]
    responses = ["fine", "The whole answer, <|eos|> kept.", "Ünïcode \U0001f35e answer."]
    assert list(scorer.count_tokens(prompts, responses)) == [len(oracle.ids("short", "fine")), 40, 40]
    assert scorer.cut_prompts == 0
    scores = scorer.score(prompts, responses)
    assert scorer.cut_prompts == 2
    tail = oracle.ids("", "")[2:]  # assistant and EOS
    for place, chat in enumerate(scorer.encoder.encode(prompts, responses)):
        full = oracle.ids(prompts[place], responses[place])
        assert chat.cut == max(0, len(full) - 40)
        answer = oracle.letters(responses[place])
        end = len(full) - len(answer) - 2
        assert chat.ids == full[: end - chat.cut] + full[end:]
        assert chat.ids[-len(answer) - 2 :] == [tail[0], *answer, tail[1]]
        assert oracle.tokenizer.decode(chat.ids).endswith(f"<|assistant|>{responses[place]}<|eos|>")
        assert scores[place] == pytest.approx(oracle.of_ids(chat.ids), abs=1e-4)


def test_a_long_dialogue_loses_its_oldest_turns_then_its_last_ones_end(tiny_tokenizer: Any) -> None:
    turns = {"system": "be kind", "user": "abcdefgh", "assistant": "ijklmn", "last": "opqrstuv"}
    prompt = [{"role": "user" if role == "last" else role, "content": text} for role, text in turns.items()]
    [whole] = ChatEncoder(tiny_tokenizer, 10**6).encode([prompt], ["wxyz"])
    letters = {role: len(tiny_tokenizer(text, add_special_tokens=False)["input_ids"]) for role, text in turns.items()}

    def kept(cut: int, mode: Literal["refuse", "cut"] = "refuse") -> str:
        [chat] = ChatEncoder(tiny_tokenizer, len(whole.ids) - cut, mode).encode([prompt], ["wxyz"])
        assert (chat.cut + chat.response_cut, len(chat.ids)) == (cut, len(whole.ids) - cut)
        return str(tiny_tokenizer.decode(chat.ids)).removeprefix("<|bos|><|system|>be kind").removesuffix("<|eos|>")

    assert kept(2) == "<|user|>cdefgh<|assistant|>ijklmn<|eos|><|user|>opqrstuv<|assistant|>wxyz"
    gone = letters["user"] + letters["assistant"]
    assert kept(gone) == "<|user|><|assistant|><|eos|><|user|>opqrstuv<|assistant|>wxyz"
    assert kept(gone + 3) == "<|user|><|assistant|><|eos|><|user|>opqrs<|assistant|>wxyz"
    gone += letters["last"]
    assert kept(gone) == "<|user|><|assistant|><|eos|><|user|><|assistant|>wxyz"
    with pytest.raises(ScorerError, match="its response and the chat template take"):
        kept(gone + 1)
    assert kept(gone + 1, "cut") == "<|user|><|assistant|><|eos|><|user|><|assistant|>wxy"


@given(
    turns=st.lists(
        st.sampled_from(["user", "assistant", "x", "why why why", "long " * 20, "\U0001f35e你", "  padded  ", ""]),
        min_size=1,
        max_size=5,
    ),
    response=st.sampled_from(["y", "user", "An answer to that.", "long answer " * 3, "你"]),
    max_length=st.integers(30, 60),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_contents_of_the_prompt_are_ever_cut(
    tiny_tokenizer: Any, turns: list[str], response: str, max_length: int
) -> None:
    """Also when a turn says what the template says, as "user" in <|user|>."""
    roles = (["user", "assistant"] * 3)[1 - len(turns) % 2 :]  # the last one is the user's
    prompt = [{"role": role, "content": content} for role, content in zip(roles, turns, strict=False)]
    [whole] = ChatEncoder(tiny_tokenizer, 10**6).encode([prompt], [response])
    try:
        [chat] = ChatEncoder(tiny_tokenizer, max_length).encode([prompt], [response])
    except ScorerError:
        # Refused only when it had to be: the tokens that could be cut were not enough.
        plain = [turn for turn in turns if turn not in roles and turn == turn.strip()]
        cuttable = sum(len(tiny_tokenizer(turn, add_special_tokens=False)["input_ids"]) for turn in plain)
        assert cuttable < len(whole.ids) - max_length
        return
    assert len(chat.ids) == min(len(whole.ids), max_length)
    assert chat.cut == len(whole.ids) - len(chat.ids)
    special = set(tiny_tokenizer.all_special_ids)
    assert [i for i in chat.ids if i in special] == [i for i in whole.ids if i in special]
    assert tiny_tokenizer.decode(chat.ids).endswith(f"<|assistant|>{response}<|eos|>")


def test_a_response_too_long_by_itself_is_an_error_that_names_it(inform_folder: Path) -> None:
    scorer = scorer_of(inform_folder, max_length=16)
    with pytest.raises(ScorerError, match=r"text 1 \(id .*take \d+ tokens; .*max_length is 16"):
        scorer.score(["a", "b" * 50], ["fine", "0123456789 0123456789"])


# Failures


def test_a_score_that_is_no_number_names_its_text_and_is_never_cached(
    inform_folder: Path, tmp_path: Path, oracle: Oracle
) -> None:
    [spoiled] = oracle.tokenizer("~", add_special_tokens=False)["input_ids"]

    def edit(weights: dict[str, torch.Tensor]) -> None:
        weights["model.embed_tokens.weight"][spoiled] = torch.nan

    scorer = scorer_of(copied(inform_folder, tmp_path / "nan", edit))
    with pytest.raises(ScorerError, match=r"score of text 2 \(id \w{12}, prompt 'spoiled ~'.* is nan \(2 of 4"):
        scorer.score(["a", "b", "spoiled ~", "c"], ["x", "y", "z", "~"])
    np.testing.assert_allclose(scorer.score(["a", "b"], ["x", "y"]), oracle(["a", "b"], ["x", "y"]), atol=1e-4, rtol=0)
    store = FeatureStore(tmp_path / "store")
    with pytest.raises(ScorerError, match=r"response '~'\) is nan") as caught:
        score_texts(scorer, ["a", "c"], ["x", "~"], store, batch_size=1, label=None)
    assert text_key("c", "~").hex()[:12] in str(caught.value)  # the id is the start of its key
    assert text_key("c", "~") not in store.table("score", scorer.identity, 1)


# Precision and identity


@pytest.mark.parametrize(("quantization", "tolerance"), [("8bit", 0.1), ("4bit", 0.5)])
def test_quantised_models_keep_the_head_in_float(
    inform_folder: Path, inform: TransformerScorer, quantization: str, tolerance: float
) -> None:
    pytest.importorskip("bitsandbytes", reason="quantisation needs bitsandbytes")
    scorer = scorer_of(inform_folder, quantization=quantization)
    assert {parameter.dtype for parameter in scorer.model.score.parameters()} == {torch.float32}
    assert {type(module).__name__ for module in scorer.model.score} == {"Linear", "ReLU"}
    body = {type(module).__name__ for module in scorer.model.model.modules()}
    assert body & {"Linear4bit", "Linear8bitLt"}
    assert "Linear" not in body
    exact, scores = inform.score(PROMPTS, RESPONSES), scorer.score(PROMPTS, RESPONSES)
    assert np.abs(scores - exact).mean() < tolerance * exact.std()
    assert not np.array_equal(scores, exact)


def test_identity_names_everything_that_changes_a_score(inform_folder: Path, tmp_path: Path) -> None:
    def identity(folder: Path, **options: Any) -> str:
        return json.dumps(dict(scorer_of(folder, **options).identity) | {"model": ""}, sort_keys=True)

    def nudge(weights: dict[str, torch.Tensor]) -> None:
        weights["score.2.bias"] += 1

    base = identity(inform_folder)
    assert base == identity(inform_folder, batch_tokens=7)  # which changes no score
    assert base == identity(copied(inform_folder, tmp_path / "same"))
    others = [
        identity(inform_folder, max_length=64),
        identity(inform_folder, dtype="bfloat16"),
        identity(copied(inform_folder, tmp_path / "nudged", nudge)),
        identity(retemplate(copied(inform_folder, tmp_path / "template"), lambda template: template + " ")),
    ]
    assert len({base, *others}) == 5
    weights = scorer_of(inform_folder).identity["weights"]
    assert weights != scorer_of(tmp_path / "nudged").identity["weights"]
    templates = [scorer_of(place).identity["template"] for place in (inform_folder, tmp_path / "template")]
    assert templates[0] != templates[1]


@pytest.mark.parametrize("positions", ["default", "dynamic"])
def test_batches_side_by_side_have_the_same_scores_where_a_pass_leaves_the_model_as_it_is(
    inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: str
) -> None:
    told = {"rope_parameters": {"rope_type": positions, "rope_theta": 10000.0, "factor": 2.0}}
    folder = copied(inform_folder, tmp_path / "model", **told)
    scorer = scorer_of(folder, max_length=200, batch_tokens=96)
    threads: set[str] = set()
    scorer.model.model.register_forward_hook(lambda *_: threads.add(threading.current_thread().name))
    prompts = [f"Why does bread rise? {'And why? ' * (number % 5)}" for number in range(24)]
    responses = [f"Yeast makes gas {number}." for number in range(24)]
    found = {}
    for number in (1, 3):
        monkeypatch.setattr("realm_lib.models.reward_models.transformer.workers", lambda _, number=number: number)
        threads.clear()
        found[number] = scorer.score(prompts, responses).tobytes()
        assert (threads == {threading.current_thread().name}) == (number == 1 or positions == "dynamic")
    assert found[1] == found[3]
