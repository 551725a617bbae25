"""What a run of the notebooks leaves: its files and metrics, executed notebooks, and a reward to use."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.notebook_cells import cells_of, code_of, source
from support.project_copy import METRICS, STEPS, Project, metrics

from realm_lib.data.lengths import word_count
from realm_lib.reward.realm_reward import RealmReward


def test_a_run_leaves_what_the_readme_says(whole: Path) -> None:
    files = {
        "params.yaml",
        "manifest.json",
        "logs/run.jsonl",
        "reports/index.html",
        "metrics/pairs.parquet",
        *(f"metrics/{name}.json" for name in METRICS),
        *(f"models/policy_{name}/model.safetensors" for name in ("sft", "ppo", "dpo")),
        *(f"models/policy_{name}/tokenizer.json" for name in ("sft", "ppo", "dpo")),
        *(f"features/{split}.parquet" for split in ("train", "validation", "test")),
        *(f"notebooks/{step}.ipynb" for step in STEPS),
        *(f"reports/{step}.html" for step in STEPS),
        *(f"models/combiner/{name}" for name in ("model.safetensors", "config.json", "realm_reward.json")),
        "models/reward_model/model.safetensors",
    }
    figures = ("features_chosen_rejected", "combiner_training", "combiner_surface", "evaluation_accuracy")
    files |= {f"figures/{name}.{suffix}" for name in figures for suffix in ("png", "svg")}
    assert {name for name in files if not (whole / name).is_file() or not (whole / name).stat().st_size} == set()
    hidden = [path for path in whole.rglob("*") if path.name.startswith(".") and path.name != ".steps"]
    assert hidden == [], "temporary files stayed behind"
    assert [path.name for path in (whole / "notebooks").iterdir() if path.name.count(".") > 1] == []
    assert not [path for path in whole.rglob("*") if path.suffix in {".pkl", ".pt", ".bin", ".pickle"}]


def test_the_metrics_have_the_fields_that_others_read(whole: Path) -> None:
    features = metrics(whole, "features")
    wanted = {"pairs", "unique_responses", "scored", "cache_hits", "tokens_scored", "tokens_naive", "seconds"}
    assert wanted <= features.keys()
    assert features["scored"] + features["cache_hits"] == features["unique_responses"]
    assert 0 < features["tokens_scored"] < features["tokens_naive"]

    combiner = metrics(whole, "combiner")
    assert {"best_epoch", "train_loss", "validation_loss", "validation_accuracy", "seconds"} <= combiner.keys()

    evaluation = metrics(whole, "evaluation")
    assert {"pairs", "posts", "rewards", "differences", "by_domain", "ceiling", "verdict"} <= evaluation.keys()
    assert set(evaluation["rewards"]) == {
        *("realm", "reward_model", "similarity", "length", "characters", "linear", "trees"),
        *("realm_with_length", "realm_without_score", "realm_without_similarity"),
    }
    assert {
        "seeds",
        "length_bias",
        "perturbations",
        "disagreements",
        "feature_ceiling",
        "signals",
        "correlations",
        "outside",
        "calibration",
    } <= evaluation.keys()
    for found in evaluation["rewards"].values():
        assert found.keys() >= {"accuracy", "ci", "log_loss", "ece"}
        assert 0 <= found["ci"][0] <= found["accuracy"] <= found["ci"][1] <= 1
    assert evaluation["differences"]["realm - reward_model"].keys() >= {"value", "ci", "p_value"}
    assert set(evaluation["by_domain"]) == {"askbaking", "askphysics", "askvet"}
    assert evaluation["pairs"] == len(pd.read_parquet(whole / "metrics" / "pairs.parquet"))


def test_the_accuracies_are_those_of_the_pairs(whole: Path) -> None:
    pairs = pd.read_parquet(whole / "metrics" / "pairs.parquet")
    features = pd.read_parquet(whole / "features" / "test.parquet")
    sign = np.where(features["labels"] == 1, 1.0, -1.0)
    for name, found in metrics(whole, "evaluation")["rewards"].items():
        margin = sign * (pairs[f"{name}_A"] - pairs[f"{name}_B"])
        assert found["accuracy"] == pytest.approx(np.mean(margin > 0) + np.mean(margin == 0) / 2)
    words = [features[f"human_ref_{side}"].map(word_count) for side in "AB"]
    assert (pairs["length_A"] - pairs["length_B"] == words[0] - words[1]).all()
    assert (pairs["similarity_A"] == features["similarity_A"].astype("float32")).all()


def test_the_manifest_says_what_ran(whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text(encoding="utf-8"))
    assert {name: step["exit"] for name, step in manifest["steps"].items()} == dict.fromkeys(STEPS, "ok")
    assert all(step["seconds"] > 0 for step in manifest["steps"].values())
    assert manifest["seeds"] == {"run": 42, "data": 42, "training": 42, "ppo": 42, "dpo": 42}
    assert {"commit", "params_sha256", "hardware", "python", "packages"} <= manifest.keys()
    assert {"torch", "numpy", "realm-lib"} <= manifest["packages"].keys()
    log = [json.loads(line) for line in (whole / "logs" / "run.jsonl").read_text().splitlines()]
    ended = [line["name"] for line in log if line["event"] == "step"]
    assert sorted(ended) == STEPS
    # Notebooks that do not need each other may end in any order.
    assert ended[:3] == STEPS[:3]
    assert ended.index("06_policy_comparison") > max(ended.index("04_ppo"), ended.index("05_dpo"))


def test_no_post_of_a_split_is_in_another(whole: Path) -> None:
    posts = [set(pd.read_parquet(whole / "features" / f"{name}.parquet")["post_id"]) for name in ("train", "test")]
    assert all(posts)
    assert not posts[0] & posts[1]


@pytest.mark.parametrize("step", STEPS)
def test_an_executed_notebook_is_fit_to_be_read(whole: Path, step: str) -> None:
    cells = code_of(whole / "notebooks" / f"{step}.ipynb")
    assert all(cell["execution_count"] for cell in cells if source(cell).strip())
    injected = [source(cell) for cell in cells if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert len(injected) == 1
    assert '"name": "whole"' in injected[0]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert [output for output in outputs if output["output_type"] == "error"] == []
    streams = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
    assert not re.search(r"\r|\d+%\||it/s|Traceback", streams), streams
    warnings = ["".join(output["text"]) for output in outputs if output.get("name") == "stderr"]
    assert warnings == [], "a warning that a reader would have to understand"
    assert "FloatProgress" not in json.dumps(outputs), "a progress bar as a widget"
    assert any("image/png" in output.get("data", {}) for output in outputs), "a figure"
    words = [
        source(cell) for cell in cells_of(whole / "notebooks" / f"{step}.ipynb") if cell["cell_type"] == "markdown"
    ]
    words += ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
    assert "simulated" in " ".join(words).lower(), "simulated numbers are called so wherever they stand"


# The reward of the run


def test_the_reward_from_the_folder_agrees_with_the_features(whole: Path) -> None:
    features = pd.read_parquet(whole / "features" / "test.parquet")
    pairs = pd.read_parquet(whole / "metrics" / "pairs.parquet")
    reward = RealmReward.from_pretrained(whole)
    some = features.sample(12, random_state=0)
    found = reward.explain(some["history"].tolist(), some["human_ref_B"].tolist())
    np.testing.assert_allclose(found["score"], some["score_B"], atol=1e-4)
    np.testing.assert_allclose(found["similarity"], some["similarity_B"], atol=1e-4)
    np.testing.assert_allclose(found["reward"], pairs.loc[some.index, "realm_B"], atol=1e-3)


def test_predict_prints_the_reward_of_each_response(project: Project, whole: Path) -> None:
    pair = pd.read_parquet(whole / "features" / "test.parquet").iloc[0]
    done = project.realm(
        "predict", "--run", str(whole), "--prompt", pair["history"],
        "--response", pair["human_ref_A"], "--response", pair["human_ref_B"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = pd.DataFrame([json.loads(line) for line in done.stdout.splitlines()])
    assert list(found.columns) == ["reward", "spread", "score", "similarity", "outside", "signals", "models"]
    np.testing.assert_allclose(found["score"], pair[["score_A", "score_B"]].astype(float), atol=1e-4)
    np.testing.assert_allclose(found["similarity"], pair[["similarity_A", "similarity_B"]].astype(float), atol=1e-4)
    expected = pd.read_parquet(whole / "metrics" / "pairs.parquet").loc[0, ["realm_A", "realm_B"]]
    np.testing.assert_allclose(found["reward"], expected.astype(float), atol=1e-3)
