"""The published forms of preferences: each becomes the right pairs, and nothing is left out in silence."""

import json
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.form_samples import SAMPLES, Sample, Triple

from realm_lib.data.chats import PairsError, as_messages
from realm_lib.data.forms import FORMS
from realm_lib.data.pairs import chosen_and_rejected
from realm_lib.data.reading import normalised
from realm_lib.report.words.numbers import counted

Row = dict[str, Any]


def as_read(rows: list[Row]) -> pd.DataFrame:
    """Rows as a reader hands them over."""
    columns = dict.fromkeys(column for row in rows for column in row)
    frame = pd.DataFrame({column: [row.get(column) for row in rows] for column in columns}, dtype=object)
    return frame.assign(_file="rows.jsonl", _row=range(1, len(frame) + 1))


def triples(pairs: pd.DataFrame) -> list[Triple]:
    """(prompt, preferred, other) of the pairs that can be used."""
    used = pairs[pairs["_reason"].isna()]
    return list(zip(used["history"], *chosen_and_rejected(used), strict=True))


def reasons(pairs: pd.DataFrame) -> dict[str, int]:
    return dict(Counter(pairs["_reason"].dropna()))


def test_every_form_has_a_sample() -> None:
    assert [form.name for form in FORMS] == list(SAMPLES)


@pytest.mark.parametrize(("name", "sample"), SAMPLES.items(), ids=list(SAMPLES))
def test_a_form_is_read(name: str, sample: Sample) -> None:
    pairs = normalised(as_read(sample.rows), name)
    assert triples(pairs) == sample.pairs
    assert reasons(pairs) == sample.left_out


ODD: list[Any] = [
    None,
    0,
    -7.5,
    True,
    float("nan"),
    float("inf"),
    "",
    "x",
    "[",
    "[1]",
    '["\\ud83d"]',
    [],
    [None],
    [[]],
    {},
]
ODD += [{"a": 1}, [{"role": "user"}], [{"from": "human", "value": None}], [{"role": [], "content": []}], {"replies": 3}]


OWN = ["post_id", "domain", "history", "human_ref_A", "human_ref_B", "labels", "score_A", "rating_A", "_row", "_reason"]


def cells(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the parts of a row stand, at every depth."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, part in inner for place in cells(part, (*path, key))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with ``new`` at a place."""
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_an_odd_cell_costs_its_own_pairs_and_no_others(data: st.DataObject) -> None:
    name, sample = data.draw(st.sampled_from(list(SAMPLES.items())))
    place = data.draw(st.sampled_from(range(len(sample.rows))))
    path = data.draw(st.sampled_from(cells(sample.rows[place])))
    rows = [*sample.rows, changed(sample.rows[place], path, data.draw(st.sampled_from(ODD)))]
    if name.startswith(("Open Assistant", "HelpSteer ratings")):
        normalised(as_read(rows), name, 1.0)  # its rows have to do with each other
        return
    pairs = normalised(as_read(rows), name, 1.0)
    assert triples(pairs)[: len(sample.pairs)] == sample.pairs
    assert pairs["_row"].max() == len(rows), "the odd row is counted"
    pairs[pairs.columns.intersection(OWN)].to_parquet(BytesIO())


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ("history human_ref_A human_ref_B", "missing column labels; needed are history, human_ref_A, human_ref_B, lab"),
        ("prompt chosen", "missing column rejected; needed are chosen, rejected (chosen and rejected)"),
        ("prompt response_0 response_1 is_safe", "missing column better_response_id; needed are prompt, response_0"),
        ("conversation_a conversation_b model_a", "missing column winner"),
        ("prompt response_0 response_1 safer_response_id", "response_1 human_ref_B, safer_response_id labels (1 where"),
        (
            "question answer_a answer_b winner",
            "call question history, answer_a human_ref_A, answer_b human_ref_B, win",
        ),
        ("Query Output_A Output_B", "Output_B human_ref_B, and add labels (1 where the first is preferred"),
        (
            "response_a response_b label",
            "label labels (1 where the first is preferred, 0 where the second is, 0.5",
        ),
        ("question preferred dispreferred", "call question prompt, preferred chosen, dispreferred rejected"),
        ("question good bad", "call question prompt, good chosen, bad rejected"),
        ("prompt chosen reject", "call reject rejected"),
        ("prompt completion label", "its rows hold a label for each single response (KTO), and a pair needs two resp"),
        ("instruction input output", "its rows hold one response to each instruction (Alpaca)"),
        ("conversations system", "its rows hold one dialogue a row (ShareGPT)"),
        ("messages", "its rows hold one dialogue a row"),
        ("prompt response", "its rows hold one response to each prompt"),
        ("a b", "pairs have prompt, chosen and rejected, or SHP's history, human_ref_A, human_ref_B and labels"),
    ],
)
def test_columns_of_no_form_are_named_and_what_to_call_them(columns: str, told: str) -> None:
    row = dict.fromkeys(columns.split(), "x")
    with pytest.raises(PairsError) as raised:
        normalised(as_read([row]), "my.jsonl")
    message = str(raised.value)
    assert message.startswith("my.jsonl: ")
    assert told in message
    assert all(column in message for column in row)
    assert message.endswith("params/README.md has the forms that are read")


def test_headings_in_plain_texts_are_what_was_said() -> None:
    said = "\n\nHuman: Why?\n\nAssistant: So."
    row = {"prompt": said, "response_1": "\n\nAssistant: A", "response_2": "B", "preference_strength": -1}
    ((prompt, better, other),) = triples(normalised(as_read([row]), "x"))
    assert as_messages(prompt) == [{"role": "user", "content": said}]
    assert (better, other) == ("\n\nAssistant: A", "B")


@pytest.mark.parametrize(
    ("names", "values", "kept"),
    [
        (("score_chosen", "score_rejected"), (8.0, 5.5), (8.0, 5.5)),
        (("chosen_score", "rejected_score"), (2, "7"), (2.0, 7.0)),
        (("chosen-rating", "rejected-rating"), (1, 0), (1.0, 0.0)),
        (("chosen_avg_rating", "rejected_avg_rating"), (None, 0), None),
        (("score_chosen", "score_rejected"), ("good", 0), None),
    ],
)
def test_ratings_are_kept_for_their_side_and_are_no_votes(names: Any, values: Any, kept: Any) -> None:
    rows = [{"prompt": f"Why {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(9)]
    pairs = normalised(as_read([row | dict(zip(names, values, strict=True)) for row in rows]), "x", 1.0)
    assert not {"score_A", "score_B", "score_ratio"} & set(pairs.columns)
    if kept is None:
        assert "rating_A" not in pairs
        assert reasons(pairs) == ({"ratings are not numbers": 9} if "good" in values else {})
    else:
        assert set(pairs["labels"]) == {0, 1}
        of_chosen = pairs["rating_A"].where(pairs["labels"] == 1, pairs["rating_B"])
        of_rejected = pairs["rating_B"].where(pairs["labels"] == 1, pairs["rating_A"])
        assert (set(of_chosen), set(of_rejected)) == ({kept[0]}, {kept[1]})


def test_earlier_turns_of_alpacas_history_are_part_of_the_prompt() -> None:
    row = {"instruction": "And?", "history": [["Hi", "Hello"]], "system": "Be kind.", "chosen": "A", "rejected": "B"}
    ((prompt, *_),) = triples(normalised(as_read([row]), "x"))
    assert [turn["content"] for turn in as_messages(prompt)] == ["Be kind.", "Hi", "Hello", "And?"]
    (reason,) = reasons(normalised(as_read([row | {"history": ["Hi"]}]), "x", 1.0))
    assert reason == "history is not a list of questions and answers"


def test_messages_in_a_csv_are_json() -> None:
    yes, no = (
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}] for text in ("Yes.", "No.")
    )
    row = {"prompt": "[Why?]", "chosen": json.dumps(yes), "rejected": json.dumps(no)}
    written = [
        row | {"prompt": None},
        row | {"chosen": str(yes)},
        {"prompt": "[{Why?", "chosen": "[1]", "rejected": "{"},
    ]
    pairs = normalised(as_read(written).assign(_file="rows.csv.gz"), "x")
    assert triples(pairs) == [("Why?", "Yes.", "No."), ("[{Why?", "[1]", "{")]
    assert reasons(pairs) == {"messages that are not JSON": 1}
    ((_, chosen, _),) = triples(normalised(as_read([row]), "x"))
    assert chosen == row["chosen"], "elsewhere a text is a text"


def test_votes_are_votes_where_a_reward_models_scores_stand_beside_them() -> None:
    row = SAMPLES["SHP"].rows[0] | {"votes_A": 8, "votes_B": 2, "score_A": -1.5, "score_B": 0.5}
    pairs = normalised(as_read([row]), "scored.parquet")
    assert list(pairs[["score_A", "score_B"]].iloc[0]) == [8, 2]


def test_what_the_reader_could_not_read_is_left_out_beside_the_rest() -> None:
    row = {"prompt": "Why?", "chosen": "Yes.", "rejected": "No."}
    frame = as_read([row, {}, row | {"prompt": "How?"}]).assign(_reason=[None, "not JSON", None])
    pairs = normalised(frame, "x")
    assert list(pairs["_row"]) == [1, 2, 3]
    assert reasons(pairs) == {"not JSON": 1}
    with pytest.raises(PairsError, match=r"x: 1 of 1 pairs cannot be used.*: not JSON: 1 \(rows\.jsonl row 2\)"):
        normalised(frame[1:2], "x")


def forms_table() -> str:
    """The forms and what became of their samples, as params/README.md shows them."""
    lines = [
        "| form | columns that it needs | what becomes of it | its sample in the tests |",
        "| --- | --- | --- | --- |",
    ]
    for form in FORMS:
        sample = SAMPLES[form.name]
        pairs = normalised(as_read(sample.rows), form.name)
        told = f"{counted(len(sample.rows), 'rows')}: {counted(len(triples(pairs)), 'pairs')}"
        told += "".join(f"; {reason}: {count}" for reason, count in reasons(pairs).items())
        columns = ", ".join(f"`{column}`" for column in form.columns)
        lines.append(f"| {form.name} | {columns} | {form.becomes} | {told} |")
    return "\n".join(lines)


def test_the_documents_table_is_what_is_read() -> None:
    readme = (Path(__file__).parents[2] / "params" / "README.md").read_text(encoding="utf-8")
    assert forms_table() in readme


@pytest.mark.parametrize("name", ["chosen and rejected", "Chatbot Arena at Kaggle", "HelpSteer2 preferences", "SHP"])
def test_half_a_character_is_a_reason_of_its_own(name: str) -> None:
    row = SAMPLES[name].rows[0]
    column = next(column for column in ("chosen", "response_a", "response_1", "human_ref_A") if column in row)
    broken = '["\\ud83d"]' if name.endswith("Kaggle") else "\ud83d"
    assert reasons(normalised(as_read([row | {column: broken}]), name, 1.0)) == {"not Unicode text": 1}
