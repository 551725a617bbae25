"""The notebooks: how each is written, and one real run of all of them through make, killed twice on the way.

The runs happen in a copy of the project, so that an edit during the tests, or the tests themselves, reach nothing.
"""

import ast
import json
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from bs4 import BeautifulSoup
from support.pages import CHROMIUM, NO_BROWSER, check_page, open_browser

from realm_lib.reward.realm_reward import RealmReward
from realm_lib.runs.verification import compare_runs

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEPS = [
    "00_offline_models",
    "01_feature_extraction",
    "02_combiner_training",
    "03_evaluation",
    "04_ppo",
    "05_dpo",
    "06_policy_comparison",
]
METRICS = ["offline_models", "features", "combiner", "evaluation", "ppo", "dpo", "policies"]
BIN = Path(sys.executable).parent
PATIENCE = 900.0  # seconds; a run takes about one minute on two idle cores
pytestmark = pytest.mark.timeout(2 * PATIENCE)
ANY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

Cell = dict[str, Any]


# How a notebook is written


def cells_of(path: Path) -> list[Cell]:
    cells: list[Cell] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def code_of(path: Path) -> list[Cell]:
    return [cell for cell in cells_of(path) if cell["cell_type"] == "code"]


def tagged(path: Path) -> list[Cell]:
    return [cell for cell in code_of(path) if "parameters" in cell["metadata"].get("tags", [])]


def test_there_are_notebooks_and_they_are_numbered_in_order() -> None:
    assert [path.stem for path in NOTEBOOKS] == STEPS
    assert all(re.fullmatch(r"\d\d_[a-z_]+", path.stem) for path in NOTEBOOKS)


@ANY_NOTEBOOK
def test_the_parameters_cell_holds_sections_of_the_demo_exactly(path: Path) -> None:
    (cell,) = tagged(path)
    demo = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text(encoding="utf-8"))
    found = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source(cell)).body}  # type: ignore[attr-defined]
    assert found
    assert found == {name: demo[name] for name in found}
    # Equal is not enough: 1 == 1.0 == True, and the parameters are strict about types.
    assert repr(found) == repr({name: demo[name] for name in found})


@ANY_NOTEBOOK
def test_a_notebook_uses_every_section_that_it_declares_and_no_other(path: Path) -> None:
    declared = [node.targets[0].id for node in ast.parse(source(tagged(path)[0])).body]  # type: ignore[attr-defined]
    calls = [
        node
        for cell in code_of(path)
        for node in ast.walk(ast.parse(source(cell)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Params.from_sections"
    ]
    assert len(calls) == 1
    assert [keyword.arg for keyword in calls[0].keywords] == declared


@ANY_NOTEBOOK
def test_a_notebook_is_stored_clean(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_of(path))
    command = [BIN / "nbstripout", "--verify", "--keep-id", path]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


@ANY_NOTEBOOK
def test_a_notebook_opens_with_its_question_and_closes_with_what_was_found(path: Path) -> None:
    cells = cells_of(path)
    opening = source(cells[0])
    assert re.match(rf"# {path.stem[:2]} · \S", opening)
    assert all(re.search(rf"\*\*{word}\.\*\* \S", opening) for word in ("Question", "In", "Out"))
    headings = [source(cell) for cell in cells if cell["cell_type"] == "markdown"]
    (place,) = [n for n, cell in enumerate(cells) if source(cell).startswith("## What was found")]
    found = cells[place + 1]
    assert found["cell_type"] == "code"
    assert "found[" in source(found), "numbers are read from the metrics that were just written"
    following = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :]
    if following:
        assert headings[-1].startswith("Next: [")
        assert f"({following[0].name})" in headings[-1]


@ANY_NOTEBOOK
def test_links_between_notebooks_resolve(path: Path) -> None:
    text = "\n".join(source(cell) for cell in cells_of(path) if cell["cell_type"] == "markdown")
    links = [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("https://")]
    assert [target for target in links if not (path.parent / target).exists()] == []


@ANY_NOTEBOOK
def test_a_code_cell_is_one_thought(path: Path) -> None:
    lines = [len(source(cell).splitlines()) for cell in code_of(path) if cell not in tagged(path)]
    assert max(lines) <= 25
    assert statistics.median(lines) <= 10
    assert min(lines) >= 1, "an empty cell"


@ANY_NOTEBOOK
def test_a_notebook_defines_nothing_that_another_could_want(path: Path) -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [node for cell in code_of(path) for node in ast.walk(ast.parse(source(cell)))]
    assert [node.name for node in nodes if isinstance(node, kinds)] == []


# Runs through make


class Project:
    """A copy of the project, with make in the environment that runs these tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("notebooks", "params", "realm_lib"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy2(ROOT / name, folder / name)

    def command(self, run: str, *options: str, **changes: str) -> list[str]:
        """make for the run ``run``. ``-o``: whoever runs the tests has installed the project, nothing is installed."""
        settings = {
            "run.name": run,
            "run.output_dir": f"{self.folder}/outputs",
            "data.preprocessing.cache_dir": f"{self.folder}/cache-{run}",
            "data.preprocessing.batch_size": "32",  # several commits, so that a kill can fall between two
            **changes,
        }
        text = " ".join(f"{key}={value}" for key, value in settings.items())
        return ["make", "run", "-o", f"{BIN}/.installed", f"BIN={BIN}", "PROFILE=test", f"SET={text}", *options]

    @property
    def environment(self) -> dict[str, str]:
        # What an outer `make test` says to its own recipes is not for this make.
        outer = ("MAKE", "MFLAGS", "PROFILE", "SET", "RUN", "BIN", "VENV", "REALM_", "PYTEST")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        # Agg is what many servers set, and what would keep figures out of a notebook.
        return {**kept, "PYTHONPATH": str(self.folder), "MPLBACKEND": "Agg"}

    def make(self, run: str, *options: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        command = self.command(run, *options, **changes)
        return self._call(command)

    def realm(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self._call([str(BIN / "realm"), *arguments])

    def _call(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def make_until(self, run: str, reached: Callable[[], bool]) -> None:
        """Start make, and kill -9 it with everything that it started as soon as ``reached`` is true."""
        log = self.folder / f"{run}.log"
        with log.open("w") as file:
            process = psutil.Popen(
                self.command(run), cwd=self.folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + PATIENCE
        try:
            while not reached():
                assert process.poll() is None, f"make ended before it could be killed:\n{log.read_text()}"
                assert time.monotonic() < deadline, f"make never got there:\n{log.read_text()}"
                time.sleep(0.005)
        finally:
            # Kernels lead sessions of their own: a process group would miss them, and they would finish the work.
            # Parents first: make would end by itself, with a code of its own, once what it waits for is gone.
            family = [process, *process.children(recursive=True)]
            for member in family:
                with_patience(member.send_signal, signal.SIGKILL)
            psutil.wait_procs(family, timeout=30)
        assert process.wait() == -signal.SIGKILL

    def run(self, name: str) -> Path:
        return self.folder / "outputs" / name


def with_patience(act: Callable[[Any], Any], argument: Any) -> None:
    """``act`` on a process that may have ended meanwhile."""
    try:
        act(argument)
    except psutil.NoSuchProcess:
        return


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def whole(project: Project) -> Path:
    """A run from nothing to the report."""
    done = project.make("whole")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whole is up to date" in done.stdout
    return project.run("whole")


@pytest.fixture(scope="session")
def killed(project: Project) -> Path:
    """The same run with a cache of its own, killed while it scores and again while it trains, then completed."""
    run, cache = project.run("killed"), project.folder / "cache-killed"
    project.make_until("killed", lambda: rows_in(cache) > 0)
    stored = rows_in(cache)
    assert stored > 0
    assert not (run / "metrics" / "features.json").exists(), "killed too late to show anything"
    before = times(run, "notebooks/00*.ipynb", "models/reward_model/*")
    assert before

    checkpoint = run / "models" / ".combiner_checkpoint"
    project.make_until("killed", checkpoint.exists)
    assert not (run / "metrics" / "combiner.json").exists(), "killed too late to show anything"
    before |= times(run, "notebooks/01*.ipynb", "features/*")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["steps"]["02_combiner_training"]["exit"] == "running"
    assert metrics(run, "features")["cache_hits"] >= stored

    done = project.make("killed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"running (\w+)", done.stdout) == STEPS[2:]
    assert {name: time_ for name, time_ in times(run, "**/*").items() if name in before} == before
    return run


def rows_in(cache: Path) -> int:
    """Scores that are committed in a feature store."""
    total = 0
    for file in cache.glob("score-*.sqlite"):
        try:
            connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)
            try:
                total += connection.execute("SELECT count(*) FROM entries").fetchone()[0]
            finally:
                connection.close()
        except sqlite3.OperationalError:
            continue  # its table is being made
    return total


def metrics(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def times(run: Path, *patterns: str) -> dict[str, int]:
    files = [path for pattern in patterns for path in run.glob(pattern) if path.is_file()]
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in files}


def without_seconds(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: without_seconds(value) for key, value in content.items() if "second" not in key}
    return content


@contextmanager
def restored(run: Path, extra: Path) -> Iterator[None]:
    """Put back, times included, what a changed parameter or an edited file leaves behind."""
    files = [run / "params.yaml", *(run / ".steps").iterdir(), extra]
    kept = {path: (path.read_bytes(), path.stat()) for path in files}
    try:
        yield
    finally:
        for path, (content, state) in kept.items():
            path.write_bytes(content)
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def would_run(project: Project, **changes: str) -> list[str]:
    """What make would do, told by a dry run (which resolves the parameters all the same)."""
    done = project.make("whole", "--dry-run", **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"realm (?:execute|report) \S*whole ?(\w*)", done.stdout)


# What a run leaves


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
    assert {"seeds", "length_bias", "perturbations", "disagreements", "feature_ceiling"} <= evaluation.keys()
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
    words = [features[f"human_ref_{side}"].str.split().str.len() for side in "AB"]
    assert (pairs["length_A"] - pairs["length_B"] == words[0] - words[1]).all()
    assert (pairs["similarity_A"] == features["similarity_A"].astype("float32")).all()


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
@pytest.mark.parametrize(("device", "scheme"), [("phone", "light"), ("desk", "dark")])
def test_every_page_of_the_report_can_be_read(whole: Path, device: str, scheme: str) -> None:
    with open_browser() as browser:
        for page in sorted((whole / "reports").glob("*.html")):
            check_page(browser, page, device, scheme)


def test_the_manifest_says_what_ran(whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text(encoding="utf-8"))
    assert {name: step["exit"] for name, step in manifest["steps"].items()} == dict.fromkeys(STEPS, "ok")
    assert all(step["seconds"] > 0 for step in manifest["steps"].values())
    assert manifest["seeds"] == {"run": 42, "data": 42, "training": 42, "ppo": 42, "dpo": 42}
    assert {"commit", "params_sha256", "hardware", "python", "packages"} <= manifest.keys()
    assert {"torch", "numpy", "realm-lib"} <= manifest["packages"].keys()
    log = [json.loads(line) for line in (whole / "logs" / "run.jsonl").read_text().splitlines()]
    assert [line["name"] for line in log if line["event"] == "step"] == STEPS


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


# The pages


def page(run: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((run / "reports" / name).read_text(encoding="utf-8"), "html.parser")


PAGES = ["index.html", *(f"{step}.html" for step in STEPS)]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_from_disk_without_a_network(whole: Path, name: str) -> None:
    soup, text = page(whole, name), (whole / "reports" / name).read_text(encoding="utf-8")
    assert soup.find_all(["script", "link", "iframe", "object", "embed", "base"]) == []
    assert all(image["src"].startswith("data:image/") for image in soup.find_all("img"))
    values = [node[key] for node in soup.find_all(True) for key in ("src", "srcset", "poster") if key in node.attrs]
    assert all(value.startswith("data:") for value in values)
    assert not re.search(r"@import|url\((?!['\"]?data:)", text)
    assert soup.find("meta", charset="utf-8") is not None
    assert soup.title is not None
    assert soup.title.text.strip()


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(whole: Path, name: str) -> None:
    soup = page(whole, name)
    links = [link["href"] for link in soup.find_all("a", href=True)]
    anchors = {node["id"] for node in soup.find_all(id=True)}
    outside = [link for link in links if re.match(r"[a-z]+:", link)]
    assert all(re.match(r"https://(arxiv\.org|huggingface\.co)/", link) for link in outside), outside
    inside = [link for link in links if link not in outside]
    assert {f"{step}.html" for step in STEPS} <= set(inside)
    broken = [
        link
        for link in inside
        if not (link[1:] in anchors if link.startswith("#") else (whole / "reports" / link.partition("#")[0]).exists())
    ]
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_results_and_no_debris(whole: Path, name: str) -> None:
    soup = page(whole, name)
    assert soup.find_all("img"), "figures are embedded"
    assert all(image.get("alt") is not None for image in soup.find_all("img"))
    shown = soup.get_text(" ")
    assert not re.search(r"Traceback|Warning:|Failed to load|<Figure size|nan\b", shown)
    notice = soup.find(class_="notice")
    assert notice is not None
    assert "Simulated data" in notice.get_text(), "simulated numbers are called so wherever they stand"


def test_formulas_are_drawn_without_a_script(whole: Path) -> None:
    soup = page(whole, "02_combiner_training.html")
    assert soup.find_all("math")
    assert "$" not in "".join(node.get_text() for node in soup.find_all(["p", "li", "blockquote"]))


def test_the_index_holds_the_headline(whole: Path) -> None:
    evaluation = metrics(whole, "evaluation")
    soup = page(whole, "index.html")
    shown = soup.get_text(" ")
    verdict = soup.find(class_="verdict").get_text()  # type: ignore[union-attr]
    assert f"{evaluation['pairs']:,} simulated pairs of {evaluation['posts']:,} posts" in verdict
    assert f"{100 * evaluation['rewards']['realm']['accuracy']:.1f} % rightly" in verdict
    assert evaluation["verdict"] in shown
    for found in [*evaluation["rewards"].values(), evaluation["ceiling"]]:
        low, high = found["ci"]
        assert f"{100 * found['accuracy']:.1f} %" in shown
        assert f"{100 * low:.1f} % to {100 * high:.1f} %" in shown
    assert soup.select("table.policies tbody th")[0].get_text() == "Starting policy"
    assert len(soup.select(".sample")) >= 4, "answers of policies, and pairs that the reward gets wrong"
    assert len(soup.select("figure img")) >= 7
    links = {link["href"] for link in soup.find_all("a")}
    assert {"files/params.yaml", "files/manifest.json", "files/evaluation.json", "files/policies.json"} <= links


def test_the_explorer_is_a_picture_in_the_report(whole: Path) -> None:
    soup = page(whole, "03_evaluation.html")
    assert soup.find("img", alt=re.compile("Two responses to a prompt")) is not None
    assert "would be preferred" in soup.get_text() or "no better than chance" in soup.get_text()
    assert "Explorer object" not in soup.get_text()


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
    assert list(found.columns) == ["reward", "spread", "score", "similarity", "models"]
    np.testing.assert_allclose(found["score"], pair[["score_A", "score_B"]].astype(float), atol=1e-4)
    np.testing.assert_allclose(found["similarity"], pair[["similarity_A", "similarity_B"]].astype(float), atol=1e-4)
    expected = pd.read_parquet(whole / "metrics" / "pairs.parquet").loc[0, ["realm_A", "realm_B"]]
    np.testing.assert_allclose(found["reward"], expected.astype(float), atol=1e-3)


# What make does again


def test_a_second_make_does_nothing(project: Project, whole: Path) -> None:
    before = times(whole, "**/*")
    again = project.make("whole")
    assert again.returncode == 0, again.stderr
    assert "running" not in again.stdout
    assert "rendering" not in again.stdout
    assert times(whole, "**/*") == before


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ({"training.seed": "7"}, STEPS[2:]),
        ({"model.dropout": "0.2"}, STEPS[2:]),
        ({"embedding.batch_size": "4"}, STEPS[1:]),
        ({"offline_models.reward_model.num_epochs": "2"}, STEPS),
        ({"data.seed": "7"}, STEPS),
        ({"rlhf.ppo.seed": "7"}, STEPS[4:]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_parameter_reruns_what_it_reaches(
    project: Project, whole: Path, change: dict[str, str], rerun: list[str]
) -> None:
    with restored(whole, project.folder / "Makefile"):
        assert would_run(project, **change) == [*rerun, ""]  # "" is the report
    assert would_run(project) == []


@pytest.mark.parametrize(
    ("file", "rerun"),
    [
        ("notebooks/03_evaluation.ipynb", STEPS[3:]),
        ("realm_lib/evaluation/resampling.py", STEPS[3:]),
        ("realm_lib/combiner/network.py", STEPS[2:]),
        ("realm_lib/feature_store.py", STEPS[1:]),
        ("realm_lib/simulator/knowledge/askvet.yaml", STEPS),
        ("realm_lib/ppo/trainer.py", STEPS[4:]),
        ("realm_lib/report/index.py", []),
        ("realm_lib/templates/style.css", []),
    ],
)
def test_an_edited_file_reruns_what_depends_on_it(project: Project, whole: Path, file: str, rerun: list[str]) -> None:
    with restored(whole, project.folder / file):
        (project.folder / file).touch()
        assert would_run(project) == [*rerun, ""]
    assert would_run(project) == []


@pytest.mark.parametrize("file", ["README.md", "realm_lib/cli.py", "params/demo.yaml"])
def test_an_edit_that_no_step_reads_reruns_nothing(project: Project, whole: Path, file: str) -> None:
    (project.folder / file).touch()
    assert would_run(project) == []
    assert whole.exists()


# Killed on the way


def test_a_killed_run_ends_with_the_features_of_an_uninterrupted_one(whole: Path, killed: Path) -> None:
    for split in ("train", "validation", "test"):
        found, wanted = (pd.read_parquet(run / "features" / f"{split}.parquet") for run in (killed, whole))
        pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    hits = metrics(killed, "features")["cache_hits"]
    assert 0 < hits < metrics(killed, "features")["unique_responses"]


def test_the_same_seed_gives_the_same_metrics(whole: Path, killed: Path) -> None:
    """Even with another cache and two kills on the way: only what was found in the cache differs."""
    lines = [line for line in compare_runs(killed, whole) if not line.startswith("metrics/features.json: ")]
    assert lines == []
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
    assert not (killed / "models" / ".combiner_checkpoint").exists()


def test_another_seed_gives_another_combiner(project: Project, whole: Path, killed: Path) -> None:
    """After everything else: this one really runs two notebooks again, on the killed run's features."""
    before = times(killed, "features/*", "notebooks/0[01]*")
    done = project.make("killed", **{"training.seed": "7"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"running (\w+)", done.stdout) == STEPS[2:]
    assert "rendering" in done.stdout
    assert times(killed, "features/*", "notebooks/0[01]*") == before
    assert metrics(killed, "combiner")["train_loss"] != metrics(whole, "combiner")["train_loss"]
    assert any("training.seed is 7" in line for line in compare_runs(killed, whole))
