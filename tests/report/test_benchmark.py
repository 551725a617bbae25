"""realm evaluate: a run's reward on other files of pairs, with subsets, what is written, and what is refused."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from support.identified import identified

from realm_lib import cli
from realm_lib.config.feature_models import FeatureModels
from realm_lib.config.profile import Params, load_params
from realm_lib.data.chats import PairsError
from realm_lib.data.pairs import chosen_and_rejected, load_pairs, read_pairs
from realm_lib.features.extraction import extract
from realm_lib.features.kept import feature_models, keep_features, read_features
from realm_lib.features.store import FeatureStore
from realm_lib.models.embedders import build_embedder
from realm_lib.models.offline import train_policy, train_reward_model
from realm_lib.models.reward_models import build_scorer
from realm_lib.report.pages.benchmark import evaluate_file
from realm_lib.reward.combiner import Combiner
from realm_lib.reward.realm_reward import RealmReward
from realm_lib.runs.notebooks import prepare
from realm_lib.runs.run import MissingStepError, Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def params(inform_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Params:
    folder = tmp_path_factory.mktemp("outputs")
    changes = [
        f"run.output_dir={folder}",
        f"data.preprocessing.cache_dir={folder / 'cache'}",
        f"reward_model.model_id={inform_folder}",
        "data.splits.train=40",
        "data.splits.validation=20",
        "data.reward_model_share=0.0",
        "offline_models=null",
        "training.num_epochs=5",
    ]
    return load_params(ROOT / "params" / "test.yaml", changes)


@pytest.fixture(scope="module")
def run(params: Params) -> Run:
    """A trained run: an untrained reward model serves, for nothing here asks whether it is good."""
    run = Run(params.run.folder)
    run.folder.mkdir(parents=True)
    from realm_lib.config.profile import dump_yaml
    from realm_lib.runs.files import write_text

    write_text(run.path("params.yaml"), dump_yaml(params))
    scorer, embedder = build_scorer(params.reward_model, run.folder), build_embedder(params.embedding, run.folder)
    store = FeatureStore(params.data.preprocessing.cache_dir)
    features = {
        split: extract(load_pairs(params.data, split), scorer, embedder, store, progress=False)
        for split in ("train", "validation")
    }
    models = FeatureModels(params.reward_model, params.embedding, params.data.preprocessing.max_length)
    keep_features(run, features, models)
    combiner = Combiner(params.model)
    combiner.fit(features["train"].table, features["validation"].table, params.training)
    RealmReward.save_pretrained(run.path("models", "combiner"), combiner, feature_models(run))
    return run


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def plain_rows(pairs: int = 24) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(pairs):
        answers = [f"Answer {number} {side} " + "and so on " * int(rng.integers(1, 9)) for side in "ab"]
        rows.append(
            {
                "prompt": f"What is thing {number // 2}?",
                "chosen": answers[0],
                "rejected": answers[1],
                "subset": ("chat", "reasoning <hard>")[number % 2],
                "level": number % 3,
            }
        )
    return rows


def test_a_file_is_judged_by_the_runs_own_reward(run: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "my set.jsonl", plain_rows())
    verdict, page = evaluate_file(run, path, resamples=100)
    found = run.read_metrics("evaluation_my_set")
    assert found["verdict"] == verdict
    assert found["pairs"] == 24
    assert set(found["by_domain"]) == {"chat", "reasoning <hard>"}
    assert len(found["rewards"]) == 10
    assert "ceiling" not in found

    pairs = pd.read_parquet(run.path("metrics", "pairs_my_set.parquet"))
    rows = read_pairs(path).table
    reward = RealmReward.from_pretrained(run.folder)
    expected = reward(rows["history"].tolist(), rows["human_ref_A"].tolist())
    np.testing.assert_allclose(pairs["realm_A"], expected, atol=1e-4)
    right = (pairs["realm_A"] > pairs["realm_B"]) == (pairs["labels"] == 1)
    assert found["rewards"]["realm"]["accuracy"] == pytest.approx(right.mean())

    html = page.read_text(encoding="utf-8")
    soup = BeautifulSoup(html, "html.parser")
    assert soup.select_one(".verdict").get_text() == verdict  # type: ignore[union-attr]
    assert "Trained on simulated pairs." in soup.get_text()
    assert "reasoning <hard>" in soup.get_text(), "names from the file are text"
    sources = [image["src"] for image in soup.find_all("img")]
    assert len(sources) == 4
    assert all(str(source).startswith("data:image/svg+xml;base64,") for source in sources)
    assert not soup.find_all("script")


def test_subsets_of_any_name_are_drawn_and_metrics_have_their_page(run: Run, tmp_path: Path) -> None:
    names = ["$x_{$", "<script>alert(1)</script>", "y" * 2000, "two\nlines"]
    rows = [row | {"subset": names[number % 4]} for number, row in enumerate(plain_rows())]
    _, page = evaluate_file(run, write_rows(tmp_path / "dollars.jsonl", rows), resamples=20)
    assert set(run.read_metrics("evaluation_dollars")["by_domain"]) == set(names)
    assert "$x_{$" in page.read_text(encoding="utf-8")
    assert "<script>alert" not in page.read_text(encoding="utf-8")


def test_a_name_that_is_too_long_for_a_file_is_refused_before_the_work(run: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "long.jsonl", plain_rows())
    with pytest.raises(PairsError, match=r"long\.jsonl: too long a name for the outputs: give a shorter --name"):
        evaluate_file(run, path, name="n" * 300)


def test_the_page_tells_of_annotators_and_ids(run: Run, tmp_path: Path) -> None:
    rows = [row | {"post_id": number} for number, row in enumerate(plain_rows())]
    other = {"prompt": rows[0]["prompt"].upper(), "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    again = rows[0] | {"chosen": f"{rows[0]['chosen']}\n"}
    for name, order in (("forth", [*rows, other, again]), ("back", [again, other, *rows[::-1]])):
        _, page = evaluate_file(run, write_rows(tmp_path / f"{name}.jsonl", order), resamples=50)
        found = run.read_metrics(f"evaluation_{name}")
        assert (found["pairs"], found["posts"]) == (24, 12)
        dropped = {reason: entry["pairs"] for reason, entry in found["source"]["dropped"].items()}
        assert dropped == {"repeated pair": 1, "outvoted by other annotators": 1}
        assert found["source"]["ids"]["several_ids"]["posts"] == 12
        assert found["source"]["annotators"]["judgements"] == 3
        text = " ".join(BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text().split())
        assert "12 posts have several ids" in text
        assert "1 pair was judged more than once: 66.7 % of these 3 judgements are the majority's" in text
    forth, back = (pd.read_parquet(run.path("metrics", f"pairs_{name}.parquet")) for name in ("forth", "back"))
    pd.testing.assert_frame_equal(*(t.sort_values("pair_id").reset_index(drop=True) for t in (forth, back)), atol=1e-5)


def test_posts_that_the_run_has_trained_on_are_left_out(run: Run, tmp_path: Path) -> None:
    known = pd.read_parquet(run.path("features", "train.parquet")).head(5)
    rows = plain_rows() + [
        {"prompt": post, "chosen": "Some answer.", "rejected": f"Another {n}."}
        for n, post in enumerate(known["history"])
    ]
    verdict, _ = evaluate_file(run, write_rows(tmp_path / "mixed.jsonl", rows), name="mixed up", resamples=50)
    found = run.read_metrics("evaluation_mixed_up")
    assert found["source"]["seen_in_training"] == 5
    assert found["source"]["seen_by"] == {"combiner": 5}
    assert found["pairs"] == 24
    assert "24 pairs" in verdict
    only = write_rows(tmp_path / "seen.jsonl", rows[24:])
    with pytest.raises(PairsError, match=r"seen\.jsonl: the run has trained on every post \(combiner 5\)"):
        evaluate_file(run, only)


def test_rows_that_cannot_be_used_are_left_out_up_to_the_runs_share(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heading = "\n\nHuman: Is tea healthy?\n\nAssistant: "
    odd = [{"prompt": None, "chosen": f"{heading}Yes.\n\nAssistant: So.", "rejected": f"{heading}No."}] * 2
    evaluate_file(run, write_rows(tmp_path / "odd.jsonl", [*plain_rows(8), *odd]), resamples=50)
    source = run.read_metrics("evaluation_odd")["source"]
    assert "a response is not one assistant turn: 2 (odd.jsonl row 9, odd.jsonl row 10)" in caplog.text
    assert (source["read"], source["dropped"]) == (
        10,
        {"a response is not one assistant turn": {"pairs": 2, "first": ["odd.jsonl row 9", "odd.jsonl row 10"]}},
    )
    profile = run.path("params.yaml").read_text(encoding="utf-8")
    run.path("params.yaml").write_text(profile.replace("max_unusable_share: 0.7", "max_unusable_share: 0.1"))
    with pytest.raises(PairsError, match=r"2 of 10 pairs cannot be used, more than data\.max_unusable_share \(0\.1\)"):
        evaluate_file(run, tmp_path / "odd.jsonl", resamples=50)
    run.path("params.yaml").write_text(profile)


def test_of_a_reward_model_of_others_nothing_is_known_and_the_page_says_so(run: Run, tmp_path: Path) -> None:
    _, page = evaluate_file(run, write_rows(tmp_path / "rows.jsonl", plain_rows()), name="others", resamples=50)
    model = RealmReward.from_pretrained(run.folder).scorer.identity["model"]
    assert run.read_metrics("evaluation_others")["source"]["not_known"] == model
    assert f"Nothing is known of the posts that {model} was trained on" in page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trained_here(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, pd.DataFrame]:
    """The run with a reward model and a policy that were trained for it, and the pairs of the reward model."""
    own = Run(tmp_path_factory.mktemp("trained") / "here")
    shutil.copytree(run.folder, own.folder)
    offline = load_params(ROOT / "params" / "test.yaml", [f"run.output_dir={own.folder}"]).offline_models
    assert offline is not None
    data = load_params(ROOT / "params" / "test.yaml", ["data.seed=7"]).data  # other posts than the combiner.s
    pairs = load_pairs(data, "reward_model").head(80)
    small = offline.reward_model.model_copy(update={"num_epochs": 12, "batch_size": 8})
    train_reward_model(pairs, small, own.path("models", "reward_model"), seed=7, progress=False)
    train_policy(pairs.tail(8), offline.policy, own.path("models", "policy_sft"), seed=7, progress=False)
    name_reward_model(own, "run:models/reward_model")
    return own, pairs


def name_reward_model(run: Run, model_id: str) -> None:
    """Features and reward say that they are of this reward model: what is asked here is whose posts count."""
    models = feature_models(run)
    named = models.reward_model.model_copy(update={"model_id": model_id})
    models = identified(replace(models, reward_model=named), run.folder)
    for split, table in read_features(run, ("train", "validation")).items():
        run.write_table(table, "features", f"{split}.parquet", note=models.to_dict())
    folder = run.path("models", "combiner")
    RealmReward.save_pretrained(folder, Combiner.from_pretrained(folder), models)


def as_rows(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    chosen, rejected = chosen_and_rejected(pairs)
    texts = {"prompt": pairs["history"], "chosen": chosen, "rejected": rejected}
    return pd.DataFrame(texts).to_dict("records")


def test_pairs_that_trained_the_reward_model_do_not_flatter_it(
    trained_here: tuple[Run, pd.DataFrame], tmp_path: Path
) -> None:
    run, pairs = trained_here
    scorer = RealmReward.from_pretrained(run.folder).scorer
    chosen, rejected = chosen_and_rejected(pairs)
    posts = pairs["history"].tolist()
    by_heart = float((scorer.score(posts, chosen.tolist()) > scorer.score(posts, rejected.tolist())).mean())
    assert by_heart > 0.8, "the test could not tell otherwise"
    rows = as_rows(pairs.assign(history=pairs["history"].str.upper().str.replace(" ", "  "))) + plain_rows()
    _, page = evaluate_file(run, write_rows(tmp_path / "both.jsonl", rows), resamples=50)
    found = run.read_metrics("evaluation_both")
    assert found["pairs"] == 24
    assert found["source"]["seen_by"]["reward_model"] == len(pairs) == found["source"]["seen_in_training"]
    assert found["source"]["seen_by"]["policy_sft"] == int(pairs["history"].isin(pairs["history"].tail(8)).sum())
    assert "not_known" not in found["source"]
    assert "post seen in training: 80 (reward model 80, policy sft" in page.read_text(encoding="utf-8")


def test_a_reward_model_takes_what_it_was_trained_on_with_it(
    run: Run, trained_here: tuple[Run, pd.DataFrame], tmp_path: Path
) -> None:
    """Copied out of its run, and named by its folder in another run's profile."""
    trained, pairs = trained_here
    other = Run(tmp_path / "other")
    shutil.copytree(run.folder, other.folder)
    shutil.copytree(trained.path("models", "reward_model"), tmp_path / "copied")
    name_reward_model(other, str(tmp_path / "copied"))
    evaluate_file(other, write_rows(tmp_path / "rows.jsonl", as_rows(pairs.head(6)) + plain_rows()), resamples=50)
    assert other.read_metrics("evaluation_rows")["source"]["seen_by"] == {"reward_model": 6, "combiner": 0}


def test_a_run_of_an_earlier_version_is_not_judged(trained_here: tuple[Run, pd.DataFrame], tmp_path: Path) -> None:
    old = Run(tmp_path / "old")
    shutil.copytree(trained_here[0].folder, old.folder)
    path = write_rows(tmp_path / "rows.jsonl", plain_rows())
    for metrics, models, notebook in (
        ("combiner", ("combiner",), "02_combiner_training"),
        ("offline_models", ("reward_model", "policy_sft"), "00_offline_models"),
    ):
        old.write_metrics(metrics, {})
        for model in models:
            file = old.path("models", model, "trained_on.json")
            content = file.read_bytes()
            file.unlink()
            with pytest.raises(MissingStepError, match=rf"{model}: .*run notebook {notebook} again"):
                evaluate_file(old, path)
            file.write_bytes(content)
    evaluate_file(old, path, resamples=50)


def test_the_command_prints_the_verdict_and_the_page(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", plain_rows())
    command = ["realm", "evaluate", "--run", str(run.folder), "--pairs", str(path), "--subset-column", "level"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = run.read_metrics("evaluation_rows")
    assert set(found["by_domain"]) == {"0", "1", "2"}
    shown = capsys.readouterr().out
    assert found["verdict"] in shown
    assert "evaluation_rows.html" in shown
    monkeypatch.setattr(sys, "argv", [*command[:-1], "nothing"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert "no column 'nothing'; it has: prompt, chosen, rejected, subset, level" in str(ended.value.code)


def test_a_run_that_is_not_there_or_not_trained_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "rows.jsonl", plain_rows(2))
    with pytest.raises(MissingStepError, match="no run here"):
        evaluate_file(Run(tmp_path / "none"), path)
    monkeypatch.chdir(ROOT)
    prepared = prepare("test", [f"run.output_dir={tmp_path}", "run.name=fresh"])
    with pytest.raises(MissingStepError, match="01_feature_extraction"):
        evaluate_file(prepared, path)


def test_pairs_are_read_whole_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = plain_rows(6)
    rows += [rows[0], {**rows[1], "chosen": " "}, {**rows[2], "rejected": rows[2]["chosen"]}]
    rows.append({**rows[3], "prompt": "word " * 50, "post_id": "long"})
    pairs = read_pairs(write_rows(tmp_path / "test.jsonl", rows), words=10)
    assert len(pairs.table) == 7
    report = pairs.report
    assert {reason: entry["pairs"] for reason, entry in report.dropped.items()} == {
        "empty text": 1,
        "equal responses": 1,
        "repeated pair": 1,
    }
    assert report.dropped["empty text"]["first"] == ["test.jsonl row 8"]
    assert (report.read, report.kept, report.posts_cut) == (10, 7, 1)
    assert list(pairs.table["domain"].unique()) == ["chat", "reasoning <hard>"]
    dialogues = [
        {"chosen": f"\n\nHuman: Hi {n}\n\nAssistant: Yes", "rejected": f"\n\nHuman: Hi {n}\n\nAssistant: No"}
        for n in range(3)
    ]
    harmless = read_pairs(write_rows(tmp_path / "hh.jsonl", dialogues)).table
    assert harmless["history"].tolist() == ["Hi 0", "Hi 1", "Hi 2"]
    with pytest.raises(PairsError, match=r"no usable pair \(empty text: 1\)"):
        read_pairs(write_rows(tmp_path / "bad.jsonl", [{**rows[0], "chosen": ""}]))
    with pytest.raises(PairsError, match="does not exist"):
        read_pairs(tmp_path / "missing.jsonl")
