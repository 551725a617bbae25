"""Signals beside the first two features, through make: from the profile to the front page, and a reward to use."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from support.project_copy import Project, metrics

from realm_lib.data.lengths import letter_count, word_count

NAMES = ["score", "similarity", "words", "Letters", "thanks"]
SIGNALS = (
    "{words: {kind: length}, Letters: {kind: length, unit: characters}, "
    "thanks: {kind: python, function: my_signals:thanks}}"
)
FUNCTION = """
def thanks(prompts, responses):
    return [sum(word.startswith("th") for word in response.lower().split()) for response in responses]
"""


@pytest.fixture(scope="module")
def run(project: Project, whole: Path) -> Path:
    """With the models that ``whole`` trained: notebooks 01 to 03."""
    (project.folder / "my_signals.py").write_text(FUNCTION, encoding="utf-8")
    done = project.make(
        "signals",
        **{
            "signals": SIGNALS,
            "reward_model.model_id": f"{whole}/models/reward_model",
            "offline_models": "null",
            "rlhf": "null",
            "data.splits.train": "300",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return project.run("signals")


def test_every_signal_is_a_feature_with_its_cost(run: Path) -> None:
    test = pd.read_parquet(run / "features" / "test.parquet")
    for side in "AB":
        responses = test[f"human_ref_{side}"]
        np.testing.assert_allclose(test[f"words_{side}"], np.log1p(responses.map(word_count)), rtol=1e-6)
        np.testing.assert_allclose(test[f"Letters_{side}"], np.log1p(responses.map(letter_count)), rtol=1e-6)
        thanks = responses.map(lambda text: sum(word.startswith("th") for word in text.lower().split()))
        assert test[f"thanks_{side}"].tolist() == thanks.tolist()
    assert list(metrics(run, "features")["costs"]) == NAMES


def test_the_combiner_takes_all_and_the_evaluation_leaves_each_out(run: Path) -> None:
    assert json.loads((run / "models" / "combiner" / "config.json").read_text())["features"] == NAMES
    assert list(metrics(run, "combiner")["linear"]) == NAMES
    evaluation = metrics(run, "evaluation")
    assert {f"realm_without_{name}" for name in NAMES} <= evaluation["rewards"].keys()
    assert "realm_with_length" not in evaluation["rewards"], "it has the length"
    assert list(evaluation["signals"]) == list(evaluation["correlations"]) == NAMES
    table = pd.read_parquet(run / "metrics" / "pairs.parquet")
    of_text = pd.read_parquet(run / "features" / "test.parquet")
    np.testing.assert_allclose(table["words_A"], of_text["words_A"], rtol=1e-6)


def test_the_front_page_says_what_each_adds(run: Path) -> None:
    page = BeautifulSoup((run / "reports" / "index.html").read_text(encoding="utf-8"), "html.parser")
    told = {row.find("dt").get_text(): row.find("dd").get_text() for row in page.select(".answers div")}
    (worth,) = [answer for question, answer in told.items() if "paying" in question]
    assert all(name in worth for name in NAMES)


def test_predict_gives_the_same_numbers_from_text(project: Project, run: Path) -> None:
    pair = pd.read_parquet(run / "features" / "test.parquet").iloc[0]
    done = project.realm(
        "predict", "--run", str(run), "--prompt", pair["history"], "--response", pair["human_ref_A"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told["signals"]) == NAMES[2:]
    assert told["signals"]["thanks"] == pair["thanks_A"]
    expected = pd.read_parquet(run / "metrics" / "pairs.parquet")["realm_A"][0]
    assert told["reward"] == pytest.approx(expected, abs=1e-3)
