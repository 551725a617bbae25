"""Models that are not what they should be, and what a user is told; encoder classifiers; precision in the identity."""

import copy
import errno
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from support.small_scorers import copied, retemplate, scorer_of
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BitsAndBytesConfig,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaForCausalLM,
)

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.embedders import build_embedder
from realm_lib.models.reward_models import LongResponseError, ScorerError
from realm_lib.models.reward_models.inform import INFORMForSequenceClassification
from realm_lib.models.reward_models.outline import explain_failure
from realm_lib.models.reward_models.text_pair import TextPairEncoder

PARAMS = RewardModelParams(backend="inform", model_id="some/model")


# What a user is told


def test_no_space_on_the_disk() -> None:
    """As transformers passes it on: an OSError of its own that was raised from the disk's."""
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as cause:
            raise OSError("Can't load the model for 'some/model'.") from cause
    except OSError as error:
        message = str(explain_failure(PARAMS, error))
    assert "no space left on the disk" in message
    assert "HF_HOME" in message


class GatedHub(http.server.BaseHTTPRequestHandler):
    """The hub, as it answers who has no token for a gated model, and for one that is not there."""

    def do_HEAD(self) -> None:
        gated = "gated" in self.path
        self.send_response(401 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("X-Error-Message", "Access to this model is restricted." if gated else "Not found")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


ASK = """
import sys
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.reward_models import ScorerError, build_scorer
for name in sys.argv[1:]:
    try:
        build_scorer(RewardModelParams(backend="inform", model_id=name))
    except ScorerError as error:
        print(str(error).replace(chr(10), " "))
"""


@pytest.mark.slow
def test_a_gated_model_without_a_token_and_one_that_is_not_there(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), GatedHub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(tmp_path)}
        asked = [sys.executable, "-c", ASK, "some/gated", "some/nothing"]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True, timeout=300)
        server.shutdown()
        thread.join()
    gated, missing = done.stdout.splitlines()
    assert "some/gated: a gated model: accept its licence" in gated
    assert "HF_TOKEN" in gated
    assert "some/nothing: cannot be loaded: no such folder here, and no such model at the hub" in missing


def test_a_model_that_is_not_on_this_machine_while_offline() -> None:
    with pytest.raises(ScorerError, match=r"some/model: cannot be loaded: .*the hub cannot be reached"):
        scorer_of(Path("some/model"))


def test_weights_and_tokenizer_are_those_of_the_commit(
    inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a hub's cache of two commits: the pinned one, or the branch's and a warning that says which that is."""

    def nudge(weights: dict[str, torch.Tensor]) -> None:
        weights["score.2.bias"] += 1

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--some--model"
    old, new = "a" * 40, "b" * 40
    (home / "snapshots").mkdir(parents=True)
    copied(inform_folder, home / "snapshots" / old)
    copied(inform_folder, home / "snapshots" / new, nudge)
    retemplate(home / "snapshots" / new, lambda text: text + " ")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(new)
    pinned = scorer_of(Path("some/model"), revision=old)
    assert "reward_model.revision" not in caplog.text
    moving = scorer_of(Path("some/model"))
    assert f"this is commit {new}; write it into reward_model.revision" in caplog.text
    assert [scorer.identity["weights"] for scorer in (pinned, moving)] == [old, new]
    assert pinned.identity["template"] != moving.identity["template"]
    for commit, scorer in ((old, pinned), (new, moving)):
        np.testing.assert_array_equal(
            scorer.score(["Why?"], ["So."]), scorer_of(home / "snapshots" / commit).score(["Why?"], ["So."])
        )
    assert pinned.score(["Why?"], ["So."]) != moving.score(["Why?"], ["So."])


def test_a_template_that_fails_names_the_text(inform_folder: Path, tmp_path: Path) -> None:
    """Many templates refuse a system turn, or two turns of one role."""
    folder = retemplate(
        copied(inform_folder, tmp_path / "strict"),
        lambda text: (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + text
        ),
    )
    scorer = scorer_of(folder)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    with pytest.raises(
        ScorerError, match=r"text 1 \(id \w{12}, .*template of .*strict fails: .*no system turn \(roles .*system, user"
    ):
        scorer.score(["Why?", chat], ["a", "b"])
    folder = retemplate(copied(inform_folder, tmp_path / "broken"), lambda text: "{{ messages[9].content }}" + text)
    with pytest.raises(ScorerError, match=r"the chat template of .*broken fails: UndefinedError"):
        scorer_of(folder)


def test_a_template_that_rewrites_what_is_said_cannot_be_cut(inform_folder: Path, tmp_path: Path) -> None:
    def shout(text: str) -> str:
        return text.replace("message['content']", "message['content'] | upper")

    scorer = scorer_of(retemplate(copied(inform_folder, tmp_path / "loud"), shout), max_length=20)
    assert np.isfinite(scorer.score(["Hi"], ["a"])).all()
    with pytest.raises(ScorerError, match="rewrites what a turn says"):
        scorer.score(["word " * 30], ["a"])


# Responses that are too long


def test_long_responses_are_cut_when_asked_and_only_then(inform_folder: Path) -> None:
    prompts, responses = ["Why?" * 9, "Why?", "Why?"], ["0123456789 " * 9, "fine", "9876543210 " * 9]
    refusing = scorer_of(inform_folder, max_length=20)
    with pytest.raises(ScorerError, match=r"text 0 \(id .*text 2 \(id .*long_responses: cut") as caught:
        refusing.score(prompts, responses)
    assert caught.value.places == [0, 2]  # type: ignore[attr-defined]
    cutting = scorer_of(inform_folder, max_length=20, long_responses="cut")
    chats = cutting.encoder.encode(prompts, responses)
    assert [len(chat.ids) <= 20 for chat in chats] == [True] * 3
    assert [chat.response_cut > 0 for chat in chats] == [True, False, True]
    text = cutting.encoder.tokenizer.decode(chats[0].ids)
    assert text.startswith("<|bos|><|user|><|assistant|>0123")
    assert text.endswith("<|eos|>")
    assert np.isfinite(cutting.score(prompts, responses)).all()
    assert cutting.cut_responses == 2
    assert refusing.score(["Why?"], ["fine"]) == pytest.approx(cutting.score(["Why?"], ["fine"]), abs=1e-5)
    with pytest.raises(ScorerError, match="max_length is 8: raise it"):
        scorer_of(inform_folder, max_length=8, long_responses="cut").score(
            [[{"role": "system", "content": "s " * 20}]], ["a"]
        )


# Encoder classifiers


def encoder_folder(folder: Path, kind: str) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz?.", *"0123456789"]
    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    torch.manual_seed(3)
    sizes = {"vocab_size": len(words), "max_position_embeddings": 128, "num_labels": 1, "pad_token_id": 0}
    if kind == "bert":
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        model: Any = BertForSequenceClassification(BertConfig(**sizes, **small, initializer_range=0.3))
    else:
        small = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
        model = DistilBertForSequenceClassification(DistilBertConfig(**sizes, **small, initializer_range=0.3))
    model.save_pretrained(folder)
    names = ["input_ids", "token_type_ids", "attention_mask"] if kind == "bert" else ["input_ids", "attention_mask"]
    tokens = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=raw, model_input_names=names, **tokens).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_an_encoder_reads_prompt_and_response_as_a_pair(tmp_path: Path, kind: str) -> None:
    folder = encoder_folder(tmp_path, kind)
    scorer = scorer_of(folder, "sequence_classification", max_length=60, batch_tokens=150)
    assert isinstance(scorer.encoder, TextPairEncoder)
    assert "encoder" in str(scorer.not_shared)
    texts = [("why?", f"answer {n} " * (n % 4)) for n in range(1, 8)] + [
        ("why " * 12 + "?", "short"),
        ("x" * 40 + "y" * 50, "end"),
    ]
    prompts, responses = (list(side) for side in zip(*texts, strict=True))
    expected = []
    with torch.inference_mode():
        for prompt, response in texts:
            tokens = scorer.encoder.tokenizer(
                [prompt], [response], truncation="only_first", max_length=60, return_tensors="pt"
            )
            if prompt.startswith("x"):
                assert tokens["input_ids"].shape[1] == 60
            expected.append(float(scorer.model.double()(**tokens).logits[0, 0]))
    scorer.model.float()
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(scorer.score(prompts, responses), expected, atol=1e-4, rtol=0)
    assert scorer.cut_prompts == 1
    with pytest.raises(ScorerError, match="text 0"):
        scorer.score(["why?"], ["a" * 80])
    with pytest.raises(ScorerError, match=r"reads 128 tokens at most; reward_model\.max_length is 512: lower it"):
        scorer_of(folder, "sequence_classification", max_length=512)


def test_a_pair_too_long_loses_its_oldest_turns_then_its_last_ones_end(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder(tmp_path, "bert"))
    contents = {"system": "be", "user": "abcd", "assistant": "efg", "last": "hijk"}
    prompt = [{"role": "user" if role == "last" else role, "content": text} for role, text in contents.items()]
    [whole] = TextPairEncoder(tokenizer, 10**6).encode([prompt], ["xyz"])

    def kept(cut: int, mode: Literal["refuse", "cut"] = "refuse") -> str:
        [pair] = TextPairEncoder(tokenizer, len(whole.ids) - cut, mode).encode([prompt], ["xyz"])
        assert pair.types is not None
        assert len(pair.types) == len(pair.ids) == len(whole.ids) - cut
        assert (pair.cut + pair.response_cut) == cut
        text = "".join(tokenizer.convert_ids_to_tokens(pair.ids)).removeprefix("[CLS]").removesuffix("[SEP]")
        return re.sub(
            r"(\[UNK\])+", " ", text
        ).strip()  # signs, spaces and capitals, which this tokenizer does not know

    assert kept(0) == "ystem be uman abcd ssistant efg uman hijk[SEP]xyz"
    assert kept(2) == "ystem be uman cd ssistant efg uman hijk[SEP]xyz"
    assert kept(7) == "ystem be uman ssistant uman hijk[SEP]xyz"
    assert kept(9) == "ystem be uman ssistant uman hi[SEP]xyz"
    with pytest.raises(LongResponseError):
        kept(12)
    assert kept(12, "cut") == "ystem be uman ssistant uman [SEP]xy"


# Precision


@pytest.mark.parametrize("quantization", [None, "4bit"])
def test_a_checkpoint_whose_head_was_quantised_is_refused(
    inform_folder: Path, tmp_path: Path, quantization: str | None
) -> None:
    """As someone publishes a model in 4 bit with bitsandbytes' defaults, which take the head too."""
    pytest.importorskip("bitsandbytes", reason="quantisation needs bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = INFORMForSequenceClassification.from_pretrained(inform_folder, quantization_config=config)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(inform_folder).save_pretrained(tmp_path)
    with pytest.raises(ScorerError, match="a quantised head scores badly"):
        scorer_of(tmp_path, quantization=quantization)


def test_what_bitsandbytes_would_say_in_the_middle_of_a_run(
    tmp_path: Path, tiny_config: Any, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="quantisation needs bitsandbytes")
    config = type(tiny_config).from_dict(tiny_config.to_dict() | {"intermediate_size": 72})
    INFORMForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    scorer = scorer_of(tmp_path, quantization="8bit")
    assert np.isfinite(scorer.score(["Why?"], ["So."])).all()
    assert "will be cast" not in caplog.text  # once a layer and a pass
    if bnb.nn.Linear4bit(32, 32).support_avx512bf16_for_cpu:
        with pytest.raises(ScorerError, match=r"mlp\.gate_proj has 72 outputs; .*set reward_model\.quantization"):
            scorer_of(tmp_path, quantization="4bit")


def test_what_dtype_a_checkpoint_is_loaded_in_is_in_the_identity(inform_folder: Path, tmp_path: Path) -> None:
    """Also when the checkpoint's own is bf16, whose values float32 holds exactly and computes differently."""

    def to_bf16(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: values.to(torch.bfloat16) for name, values in weights.items()})

    folder = copied(inform_folder, tmp_path / "bf16", to_bf16, dtype="bfloat16")
    texts = [["Why? " * n for n in range(1, 9)], [f"answer {n}" for n in range(1, 9)]]
    scores, identities = [], set()
    for dtype in ("float32", "bfloat16", "float16"):
        scorer = scorer_of(folder, dtype=dtype)
        assert {str(weights.dtype) for weights in scorer.model.parameters()} == {f"torch.{dtype}"}
        identities.add(json.dumps(dict(scorer.identity), sort_keys=True))
        scores.append(scorer.score(*texts))
    assert len(identities) == 3
    assert not np.array_equal(scores[0], scores[1])
    assert np.abs(scores[1] - scores[0]).max() < 0.05 * np.ptp(scores[0]) + 0.05


@pytest.mark.slow
def test_an_embedder_has_one_dtype_whatever_its_checkpoint(
    tmp_path: Path, minilm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 always, so that its identity (a digest of the weights) need not name it."""
    minilm.model.save(str(tmp_path / "full"))
    copy.deepcopy(minilm.model).bfloat16().save(str(tmp_path / "half"))  # the fixture's own weights stay exact
    full, half = (
        build_embedder(EmbeddingParams(backend="sentence_transformers", model_id=str(tmp_path / name)))
        for name in ("full", "half")
    )
    assert {str(weights.dtype) for weights in half.model.parameters()} == {"torch.float32"}  # type: ignore[attr-defined]
    assert full.identity["weights"] != half.identity["weights"]
    # From a hub's cache, the commit is the weights' name.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    home = tmp_path / "hub" / "models--some--encoder"
    commits = ["a" * 40, "b" * 40]
    for commit in commits:
        (home / "snapshots").mkdir(parents=True, exist_ok=True)
        shutil.copytree(tmp_path / "half", home / "snapshots" / commit, copy_function=os.link)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commits[1])
    for revision, commit in ((commits[0], commits[0]), (None, commits[1])):
        params = EmbeddingParams(backend="sentence_transformers", model_id="some/encoder", revision=revision)
        assert build_embedder(params).identity["weights"] == commit


def test_a_causal_model_of_another_dtype_keeps_its_row(tmp_path: Path, tiny_config: Any, tiny_tokenizer: Any) -> None:
    LlamaForCausalLM(tiny_config).to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    scorer = scorer_of(tmp_path, "nemotron", dtype="bfloat16")
    ids = scorer.encoder.encode(["a"], ["b"])[0].ids
    with torch.inference_mode():
        full = float(scorer.model(input_ids=torch.tensor([ids])).logits[0, -1, 0])
    assert scorer.score(["a"], ["b"])[0] == pytest.approx(full, abs=0.02)
