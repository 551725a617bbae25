"""A profile: what it may say, what is refused and how, and the sections that a notebook has."""

import copy
import math
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from support.profiles import LITERAL, profile, put, refusal, write

from realm_lib.config.base import ParamsError
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.profile import SECTIONS, Params, dump_yaml, load_params


def test_a_profile_is_read_with_its_defaults(tmp_path: Path) -> None:
    params = load_params(write(tmp_path, profile()))
    assert (params.run.name, params.run.seed, params.training.learning_rate) == ("trial", 7, 1e-4)
    assert params.model.hidden_dims == [64, 32]
    assert params.data.splits.validation == 20
    assert params.data.min_score_ratio == 1.0
    assert params.offline_models is None


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("trainning", {}, "trainning: unknown section; there are run, reward_model,"),
        ("training.learning_rte", 0.1, "training.learning_rte: unknown key"),
        ("data.splits.tset", 5, "data.splits.tset: unknown key"),
        ("training.num_epochs", "10", "training.num_epochs: Input should be a valid integer, not '10'"),
        ("training.num_epochs", 2.0, "training.num_epochs: Input should be a valid integer, not 2.0"),
        ("training.num_epochs", True, "training.num_epochs: Input should be a valid integer, not True"),
        ("training.num_epochs", 0, "training.num_epochs: Input should be greater than or equal to 1"),
        ("training.learning_rate", "1e-3", "write 1.0e-3"),
        ("training.learning_rate", math.inf, "training.learning_rate: Input should be a finite number"),
        ("training.weight_decay", math.nan, "training.weight_decay: Input should be a finite number"),
        ("rlhf.ppo.model_nam", "x", "rlhf.ppo.model_nam: unknown key"),
        ("rlhf", {"ppo": {"total_episodes": 64}}, "rlhf.ppo.model_name: missing"),
        ("rlhf", [1], "rlhf: a section is a mapping of keys, not a list"),
        ("training", [1], "training: a section is a mapping of keys, not a list"),
        ("data", None, "data: a section is a mapping of keys, not a NoneType"),
        ("model.dropout", 1.0, "model.dropout: Input should be less than 1"),
        ("model.hidden_dims", [], "model.hidden_dims: List should have at least 1 item"),
        ("model.hidden_dims", [64, "32"], "model.hidden_dims.1: Input should be a valid integer, not '32'"),
        ("model.input_dim", 3, "model.input_dim: 3, but the features are score, similarity"),
        ("model.monotone", ["length"], "model.monotone: 'length' is no feature; there are score, similarity"),
        ("model.prior", "none", "model.prior: Input should be 'weighted_sum'"),
        ("run.name", "../elsewhere", "run.name: String should match pattern"),
        ("data.source", "web", "data.source: Input should be 'hub', 'local' or 'simulator'"),
        ("data", {"source": "hub"}, "data: source hub needs dataset_name"),
        ("data", {"source": "local"}, "data: source local needs path"),
        ("data", {"source": "simulator", "splits": {"train": 9}}, "needs a size for each of splits.train"),
        ("reward_model.backend", "unheard-of", "reward_model.backend: Input should be"),
        (1, {}, "1: unknown section"),
    ],
)
def test_a_fault_names_the_file_and_the_key(tmp_path: Path, key: str | int, value: Any, says: str) -> None:
    path = write(tmp_path, profile() | {key: value} if isinstance(key, int) else put(profile(), key, value))
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert says in message


def test_yaml_text_1e_3_is_refused_with_the_way_to_write_it(tmp_path: Path) -> None:
    text = yaml.safe_dump(profile()).replace("learning_rate: 0.0001", "learning_rate: 1e-3")
    assert "learning_rate: 1e-3" in text
    assert "training.learning_rate: Input should be a valid number, not '1e-3' (YAML reads" in refusal(
        write(tmp_path, text)
    )


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    content = put(put(profile(), "training.typo", 1), "model.dropout", "much")
    del content["run"]
    message = refusal(write(tmp_path, content))
    assert all(part in message for part in ("run: missing", "training.typo: unknown key", "model.dropout:"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a profile is a mapping of sections, found NoneType"),
        ("- run", "a profile is a mapping of sections, found list"),
        ("run: {name: [", "not YAML"),
        ("run: \x00", "not YAML"),
        ("run: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert says in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such parameter file" in refusal(tmp_path / "absent.yaml")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"run: {name: caf\xe9}")
    assert "cannot be read" in refusal(tmp_path / "latin.yaml")


# Secrets


def test_a_secret_stays_a_name_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", LITERAL)
    params = load_params(write(tmp_path, profile()))
    assert params.embedding.api_key == "${GEMINI_API_KEY}"
    shown = [repr(params), str(params), dump_yaml(params), params.embedding.model_dump_json()]
    assert all("${GEMINI_API_KEY}" in text and LITERAL not in text for text in shown)
    assert yaml.safe_load(dump_yaml(params))["embedding"]["api_key"] == "${GEMINI_API_KEY}"


@pytest.mark.parametrize(
    "value",
    [LITERAL, f"${{NAME}}{LITERAL}", f"${LITERAL}", f"${{{LITERAL} }}", [LITERAL], {"key": LITERAL}, f"{LITERAL}\n"],
)
def test_a_literal_key_is_refused_and_never_repeated(tmp_path: Path, value: Any) -> None:
    message = refusal(write(tmp_path, put(profile(), "embedding.api_key", value)))
    assert "embedding.api_key: " in message


def test_a_literal_key_in_a_notebook_is_refused_without_the_key() -> None:
    with pytest.raises(ParamsError) as caught:
        Params.from_sections(embedding=put(profile(), "embedding.api_key", LITERAL)["embedding"])
    assert "the notebook's parameters cell: embedding.api_key" in str(caught.value)
    assert LITERAL not in "".join(traceback.format_exception(caught.value))


def test_pydantics_own_error_does_not_repeat_a_literal_key() -> None:
    with pytest.raises(ValidationError) as caught:
        EmbeddingParams(backend="sentence_transformers", model_id="m", api_key=LITERAL)
    assert "never the key itself" in str(caught.value)
    assert LITERAL not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        f'embedding: {{api_key: "{LITERAL}',
        f"embedding:\n  api_key: {LITERAL}: x: y",
        f"embedding:\n  api_key: @{LITERAL}",
        f"embedding: {LITERAL}",
        f"embedding: [{LITERAL}]",
        f"reward_model: {{api_key: {LITERAL}}}",
        f"run: {{name: [api_key, {LITERAL}]}}",
    ],
)
def test_a_broken_file_with_a_key_in_it_is_refused_without_the_key(tmp_path: Path, text: str) -> None:
    assert str(tmp_path) in refusal(write(tmp_path, text))


# Writing and reading back


def test_what_ran_is_written_out_whole_and_in_order() -> None:
    params = Params.from_sections(**dict(reversed(profile().items())))
    written = yaml.safe_load(dump_yaml(params))
    assert list(written) == list(SECTIONS)
    assert written["training"] == params.training.model_dump(mode="json")
    assert written["training"]["batch_size"] == 4096  # a default
    assert written["offline_models"] is None
    some = yaml.safe_load(dump_yaml(params, ["training", "run"]))
    assert some == {name: written[name] for name in ("training", "run")}
    assert list(some) == ["training", "run"]


# A notebook's own sections


def test_some_sections_only_and_the_missing_one_is_named() -> None:
    content = profile()
    params = Params.from_sections(run=content["run"], training=content["training"])
    assert params.run == Params.from_sections(**content).run
    assert params.training.num_epochs == 3
    assert list(params.sections) == ["run", "training"]
    for name in set(SECTIONS) - {"run", "training"}:
        with pytest.raises(ParamsError, match=f"section '{name}' is not in this notebook's parameters cell"):
            getattr(params, name)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = params.no_such_thing  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(params)) == params == copy.deepcopy(params)


def test_every_section_has_its_attribute(tmp_path: Path) -> None:
    content = put(profile() | {"offline_models": {}}, "data.reward_model_share", 0.5)
    params = load_params(write(tmp_path, content))
    assert list(params.sections) == list(SECTIONS)
    assert all(getattr(params, name) is section for name, section in params.sections.items())


def test_sections_of_a_notebook_are_checked() -> None:
    with pytest.raises(ParamsError, match="parameters cell: trainig: unknown section; there are run, "):
        Params.from_sections(trainig={})
    with pytest.raises(ParamsError, match=r"the notebook's parameters cell: training\.sed: unknown key"):
        Params.from_sections(training={"sed": 1})
    with pytest.raises(ParamsError, match="training: a section is a mapping"):
        Params.from_sections(training=None)
    assert Params.from_sections(offline_models=None).offline_models is None
    trained = Params.from_sections(offline_models={}).offline_models
    assert trained is not None
    assert trained.policy.num_layers == 2


def test_a_profile_without_policies_has_none(tmp_path: Path) -> None:
    content = profile()
    del content["offline_models"], content["rlhf"]
    params = load_params(write(tmp_path, content))
    assert params.offline_models is None
    assert params.rlhf is None


def test_parameters_are_frozen() -> None:
    params = Params.from_sections(**profile())
    with pytest.raises(ValidationError, match="frozen"):
        params.training.seed = 1
    with pytest.raises(AttributeError, match="no setter"):
        params.run = params.run
    assert params == Params.from_sections(**profile())


@pytest.mark.parametrize(
    ("offline", "changes", "says"),
    [
        ({}, {"data.reward_model_share": 0.0}, "data.reward_model_share: 0, but offline_models are trained"),
        (
            {"reward_model": None},
            {},
            "reward_model.model_id: run:models/reward_model, but offline_models.reward_model is",
        ),
        (
            {"policy": None},
            {},
            "rlhf.ppo.model_name: run:models/policy_sft, but offline_models.policy is not asked for",
        ),
        (
            {"probe": {}},
            {"rlhf.judges": {"second": {"backend": "probe", "model_id": "run:models/judge"}}},
            "rlhf.judges.second.model_id: run:models/judge, but offline_models.probe.judge is not asked for",
        ),
    ],
)
def test_a_model_that_nothing_trains_is_refused(
    tmp_path: Path, offline: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    content = profile() | {"offline_models": {}}
    for key, value in {
        "data.reward_model_share": 0.5,
        "reward_model.model_id": "run:models/reward_model",
        "rlhf.ppo.model_name": "run:models/policy_sft",
    }.items():
        put(content, key, value)
    assert load_params(write(tmp_path, content)).offline_models is not None
    content["offline_models"] = offline
    for key, value in changes.items():
        put(content, key, value)
    assert says in refusal(write(tmp_path, content))
