"""Overrides: merged deeply and in order; what cannot be merged is refused without its value."""

from pathlib import Path

import pytest
from support.profiles import LITERAL, profile, put, refusal, write

from realm_lib.config.base import ParamsError
from realm_lib.config.overrides import split_overrides
from realm_lib.config.profile import load_params


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
    content = put(put(profile(), "data.max_pairs_per_post", 5), "data.reward_model_share", 0.5)
    overrides = ["data.max_pairs_per_post=null", "offline_models.reward_model.vocab_size=300", "rlhf=null"]
    params = load_params(write(tmp_path, content), overrides)
    assert params.data.max_pairs_per_post is None
    assert params.offline_models is not None
    assert params.offline_models.reward_model.vocab_size == 300
    assert params.rlhf is None


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.seed", "override 'training.seed': write section.key=value"),
        ("=3", "override '': write section.key=value"),
        ("training..seed=3", "write section.key=value"),
        ("training.seed=[3", "override 'training.seed': the value is not YAML"),
        ("training.num_epochs.deep=3", "override 'training.num_epochs.deep': num_epochs is a value, not a section"),
        ("training.sed=3", "with overrides: training.sed: unknown key"),
        ("nowhere.seed=3", "with overrides: nowhere: unknown section"),
        ("training.seed 3", "override 'training.seed': write section.key=value"),
        ("run.name=a # b", "override 'run.name': from its # on the value is a comment"),
        ("run.name=#b", "put it in quotes"),
        ("data.path=/a\n/b", "override 'data.path': the value has a line break: write \\n, in double quotes"),
        ("data.path='/a\n/b'", "the value has a line break"),
        ("training.seed=1e3", "(YAML reads 1e-3 as text"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, says: str) -> None:
    assert says in refusal(write(tmp_path, profile()), (override,))


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


@pytest.mark.parametrize(
    ("typed", "overrides"),
    [
        ("", []),
        ("training.seed=7", ["training.seed=7"]),
        ("  run.name=mine \n training.seed=7\n", ["run.name=mine", "training.seed=7"]),
        ("signals={words: {kind: length}} run.name=mine", ["signals={words: {kind: length}}", "run.name=mine"]),
        ("data.domains=[askbaking, askphysics] a-b.c=1", ["data.domains=[askbaking, askphysics]", "a-b.c=1"]),
        ("training.seed run.name=x y", ["training.seed", "run.name=x y"]),
        # What quotes and brackets hold
        ("data.path='/a folder/of pairs' run.name=x", ["data.path='/a folder/of pairs'", "run.name=x"]),
        ('data.path="/a b=c/d" run.name=x', ['data.path="/a b=c/d"', "run.name=x"]),
        ("a.b='it''s b=c' d=1", ["a.b='it''s b=c'", "d=1"]),
        (r'a.b="say \" b=c" d=1', [r'a.b="say \" b=c"', "d=1"]),
        ("a={b: ' c=1 ]', d: [o'brien, \"}\"]} e=1", ["a={b: ' c=1 ]', d: [o'brien, \"}\"]}", "e=1"]),
        ("'data.path=/a b=c' \"run.name=x\"", ["data.path=/a b=c", "run.name=x"]),
        # As a shell's user would type it
        (r"data.path=/a\ b=c\ \ d run.name=x", ["data.path=/a b=c  d", "run.name=x"]),
        # As they were typed
        ("data.path=/o'brien/it\"s run.name=x", ["data.path=/o'brien/it\"s", "run.name=x"]),
        ("a.b=$(id);`id`|$HOME&${KEY} c=1", ["a.b=$(id);`id`|$HOME&${KEY}", "c=1"]),
        (r"data.path=C:\new\  x run.name=x", ["data.path=C:\\new  x", "run.name=x"]),
    ],
)
def test_what_is_typed_for_make_is_split_where_a_key_begins(typed: str, overrides: list[str]) -> None:
    assert split_overrides(typed) == overrides


@pytest.mark.parametrize("typed", ["data.path='/a b run.name=x", 'data.path="/a', "data.domains=[a, {b: c] d=1"])
def test_what_is_not_closed_is_named(typed: str) -> None:
    with pytest.raises(ParamsError, match=r"^override 'data\.\w+': the value's .* is not closed$"):
        split_overrides(typed)


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("data.path='/a  folder/of #pairs: x'", "/a  folder/of #pairs: x"),
        (r'data.path="/a\nb"', "/a\nb"),
        (r"data.path=/a\ \ b", "/a  b"),
        ("data.path=/it's/$HOME;x", "/it's/$HOME;x"),
    ],
)
def test_a_value_with_spaces_arrives_whole(tmp_path: Path, typed: str, path: str) -> None:
    assert load_params(write(tmp_path, profile()), split_overrides(typed)).data.path == path
