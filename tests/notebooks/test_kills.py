"""A run that is killed twice ends as one that is not, and leaves nothing behind."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from support.project_copy import METRICS, STEPS, Project, metrics, times

from realm_lib.runs.verification import verify

_OF_THE_STORE = ("computed", "cache_hits")


def without_seconds(content: Any) -> Any:
    if isinstance(content, Mapping):
        kept = {key: value for key, value in content.items() if "second" not in key and key not in _OF_THE_STORE}
        return {key: without_seconds(value) for key, value in kept.items()}
    return content


def test_a_killed_run_ends_with_the_features_of_an_uninterrupted_one(whole: Path, killed: Path) -> None:
    for split in ("train", "validation", "test"):
        found, wanted = (pd.read_parquet(run / "features" / f"{split}.parquet") for run in (killed, whole))
        pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    hits = metrics(killed, "features")["cache_hits"]
    assert 0 < hits < metrics(killed, "features")["unique_responses"]


def test_the_same_seed_gives_the_same_metrics(whole: Path, killed: Path) -> None:
    """Even with another cache and two kills on the way: only what was found in the cache differs."""
    assert [row for row in verify(killed, whole).outside if row.file != "features.json"] == []
    for name in (name for name in METRICS if name != "features"):
        assert without_seconds(metrics(killed, name)) == without_seconds(metrics(whole, name))
    counts = ("pairs", "unique_responses", "tokens_naive")
    assert all(metrics(killed, "features")[key] == metrics(whole, "features")[key] for key in counts)
    models = [(run / "models" / "combiner" / "model.safetensors").read_bytes() for run in (killed, whole)]
    assert models[0] == models[1], "a training that goes on from its checkpoint ends at the same weights"


def test_a_killed_run_leaves_no_litter(killed: Path) -> None:
    assert [path.name for path in (killed / "notebooks").iterdir() if path.name.count(".") > 1] == []
    manifest = json.loads((killed / "manifest.json").read_text(encoding="utf-8"))
    assert {step["exit"] for step in manifest["steps"].values()} == {"ok"}
    assert list((killed / "models").glob(".combiner_checkpoint*")) == []


def test_another_seed_gives_another_combiner(project: Project, whole: Path, killed: Path) -> None:
    """After everything else: this one really trains again, on the killed run's features, and is stopped there."""
    before = times(killed, "features/*", "notebooks/0[01]*")
    planned = project.make("killed", "--dry-run", **{"training.seed": "7"})
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert sorted(re.findall(r'"running (\w+)', planned.stdout)) == STEPS[2:]
    assert "rendering" in planned.stdout
    weights = "models/combiner/model.safetensors"
    trained = times(killed, weights)
    said = project.make_until("killed", lambda: times(killed, weights) not in ({}, trained), **{"training.seed": "7"})
    assert re.findall(r"running (\w+)", said)[0] == STEPS[2]
    assert times(killed, "features/*", "notebooks/0[01]*") == before
    # A few pairs may bear out nothing of the networks: then the rewards are equal, and the members' weights are not.
    assert (killed / weights).read_bytes() != (whole / weights).read_bytes()
    changed = [row for row in verify(killed, whole).outside if row.file == "params.yaml"]
    assert [(row.key, row.here) for row in changed] == [("training.seed", 7)]
