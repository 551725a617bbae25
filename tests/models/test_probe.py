"""A probe: what it reads of a text is what the model makes of that text alone, and what it says is its head's sum."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.probe_backbones import save_backbone
from support.small_scorers import copied, scorer_of
from transformers import AutoModelForCausalLM

from realm_lib.config.training import ProbeParams
from realm_lib.models.hidden_states import load_backbone, read_states
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.probe import ProbeError, ProbeModel, Taps

PROMPTS = ["Why does bread rise?", "Why does bread rise?", "And salt? " * 12, "Hi"]
RESPONSES = ["Yeast.", "Yeast makes gas, and the dough holds it.", "It slows the yeast down.", ""]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_config: Any) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tiny_tokenizer, tiny_config)


@pytest.fixture(scope="module")
def probe(backbone: Path, tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A head of random weights over two layers of the backbone."""
    whole = AutoModelForCausalLM.from_pretrained(backbone)
    Taps((2, 3), ("mean", "last")).write(whole.config)
    torch.manual_seed(4)
    model = ProbeModel(whole.config)
    model.model.load_state_dict(whole.model.state_dict(), strict=False)
    folder = tmp_path_factory.mktemp("probe")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def oracle(backbone: Path, tokenizer: Any, prompt: str, response: str, layers: tuple[int, ...]) -> Any:
    """A text's states, read alone by the whole model in float64 and found by the text's letters."""
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float64)
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    told = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begin = text.rindex(response) if response else text.index(prompt) + len(prompt)
    start = next(n for n, (a, b) in enumerate(told["offset_mapping"]) if a >= begin and b > a)
    with torch.no_grad():
        states = model(torch.tensor([told["input_ids"]]), output_hidden_states=True).hidden_states
    return torch.stack(
        [torch.stack([(own := states[layer][0, start:]).mean(0), own[-1], own.amax(0)]) for layer in layers]
    ).numpy()


def test_hidden_states_are_those_of_each_text_alone(backbone: Path, tiny_tokenizer: Any) -> None:
    reader = load_backbone(ProbeParams(backbone=str(backbone), layers=[4, 2], max_length=256))
    found = reader.values(PROMPTS, RESPONSES).reshape(len(PROMPTS), 2, 3, -1)
    for own, prompt, response in zip(found, PROMPTS, RESPONSES, strict=True):
        assert np.allclose(own, oracle(backbone, tiny_tokenizer, prompt, response, (2, 4)), atol=1e-4)


def test_the_prefix_of_a_post_is_read_once(backbone: Path) -> None:
    reader = load_backbone(ProbeParams(backbone=str(backbone), layers=[2], max_length=256))
    post = "Why does my bread not rise, although the yeast is fresh? " * 2
    responses = ["Yeast.", "Water, and then salt.", "Time."]
    together = reader.values([post] * 3, responses)
    computed = reader.tokens_computed
    alone = np.concatenate([reader.values([post], [response]) for response in responses])
    assert np.allclose(together, alone, atol=1e-5)
    assert computed < (reader.tokens_computed - computed) / 2


def test_the_score_is_the_heads_sum_over_the_states(probe: Path, backbone: Path, tiny_tokenizer: Any) -> None:
    scorer = scorer_of(probe, "probe", max_length=256)
    assert scorer.not_shared is None
    head = scorer.model.score
    weights, bias = head.weight.detach().double().numpy()[0], head.bias.item()
    expected = [
        oracle(backbone, tiny_tokenizer, prompt, response, (2, 3))[:, :2].ravel() @ weights + bias
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    assert np.allclose(scorer.score(PROMPTS, RESPONSES), expected, atol=1e-4)


def test_a_text_that_is_cut_keeps_where_its_response_begins(backbone: Path) -> None:
    reader = load_backbone(ProbeParams(backbone=str(backbone), layers=[1], max_length=60))
    cut, short = reader.encoder.encode(["word " * 80, "word"], ["The answer.", "The answer."])
    assert cut.cut > 0
    assert cut.ids[cut.start :] == short.ids[short.start :]
    long = reader.encoder.encode(["word " * 80], ["The answer. " * 40])[0]
    assert long.response_cut > 0
    assert reader.encoder.tokenizer.decode(long.ids[long.start :]).lstrip().startswith("The answer.")


def test_the_head_stays_in_float32_under_layers_in_bfloat16(probe: Path) -> None:
    half, whole = (scorer_of(probe, "probe", max_length=256, dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert half.model.score.weight.dtype == torch.float32
    assert half.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert np.allclose(half.score(PROMPTS, RESPONSES), whole.score(PROMPTS, RESPONSES), atol=0.5)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"probe": None}, "does not say that it is a probe"),
        ({"probe": {"layers": [9], "poolings": ["mean"]}}, "names layers"),
        ({"probe": {"layers": [3], "poolings": ["sum"]}}, "there are mean, last, max"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(probe: Path, tmp_path: Path, said: Any, fault: str) -> None:
    folder = copied(probe, tmp_path / "other", **said)
    with pytest.raises(ScorerError, match=fault):
        scorer_of(folder, "probe", max_length=256)


def test_a_probe_without_its_head_is_refused(probe: Path, tmp_path: Path) -> None:
    folder = copied(probe, tmp_path / "headless", lambda weights: weights.__delitem__("score.weight"))
    with pytest.raises(ScorerError, match=r"missing keys in the checkpoint \(score.weight\)"):
        scorer_of(folder, "probe", max_length=256)


def test_a_backbone_is_loaded_without_a_word(
    backbone: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    load_backbone(ProbeParams(backbone=str(backbone), layers=[1], max_length=64))
    assert (caplog.messages, *capfd.readouterr()) == ([], "", "")


def test_layers_that_are_not_there_are_named(backbone: Path) -> None:
    with pytest.raises(ScorerError, match="has 5 layers, not 6"):
        load_backbone(ProbeParams(backbone=str(backbone), layers=[6], max_length=64))


def test_taps_are_read_as_they_were_written(backbone: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(backbone).config
    taps = Taps((1, 3), ("last",))
    taps.write(config)
    assert (Taps.read(config), config.num_hidden_layers, config.num_labels) == (taps, 3, 1)
    assert json.loads(json.dumps(config.to_dict()))["probe"] == {"layers": [1, 3], "poolings": ["last"]}
    with pytest.raises(ProbeError, match="has 3 layers, not 4"):
        Taps((4,), ("mean",)).write(config)


def test_features_are_taken_in_the_heads_order() -> None:
    states = torch.arange(2 * 3 * 3 * 2).reshape(2, 3, 3, 2)
    assert Taps((4, 8), ("last",)).of(states, (2, 4, 8)).tolist() == [[8, 9, 14, 15], [26, 27, 32, 33]]


def test_more_tokens_than_the_backbone_has_positions_are_refused_before_its_weights_are_read(backbone: Path) -> None:
    limit = json.loads((backbone / "config.json").read_text())["max_position_embeddings"]
    with pytest.raises(ScorerError, match=rf"reads {limit} tokens at most; offline_models.probe.max_length"):
        load_backbone(ProbeParams(backbone=str(backbone), max_length=limit + 1))


def test_states_that_are_not_finite_are_told_by_their_text_and_not_kept(backbone: Path, tmp_path: Path) -> None:
    broken = copied(backbone, tmp_path / "broken", lambda weights: weights["model.embed_tokens.weight"].fill_(np.inf))
    reader = load_backbone(ProbeParams(backbone=str(broken), layers=[1], max_length=64))
    with pytest.raises(ScorerError, match=r"of text 0 \(id .*, response 'Yeast\.'\) are not finite"):
        read_states(reader, ["Why?"], ["Yeast."], tmp_path / "kept", progress=False)
    assert not (tmp_path / "kept").exists()
