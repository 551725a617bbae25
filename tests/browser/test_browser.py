"""What people see, in a real browser: the report's pages, and notebook 03 in JupyterLab with its explorer.

The run is a small one: simulated pairs, a reward model of random weights, made-up policies; its numbers mean nothing.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from playwright.sync_api import Browser
from support.pages import CHROMIUM, NO_BROWSER, Watched, check_page, open_browser
from support.policies_made_up import PPO, write_policies

from realm_lib import figures
from realm_lib.config.feature_models import FeatureModels
from realm_lib.config.profile import load_params
from realm_lib.data.kept import keep_pairs
from realm_lib.features.extraction import extract, total_costs
from realm_lib.features.kept import feature_models, keep_features
from realm_lib.features.store import FeatureStore
from realm_lib.models.reward_models import build_scorer
from realm_lib.report.figures.preference_tuning import reward_against_kl, win_rate_bars
from realm_lib.report.pages import write_report
from realm_lib.report.pages.side_by_side import write_side_by_side
from realm_lib.reward.combiner import Combiner
from realm_lib.reward.realm_reward import RealmReward
from realm_lib.runs.run import Run

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ANNOUNCEMENTS = "@jupyterlab/apputils-extension:announcements"  # as `make lab` does
SIZES = {"train": 600, "validation": 40, "test": 80}
PATIENCE = 900.0  # seconds for what takes a minute at most on two idle cores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER),
    pytest.mark.timeout(3 * PATIENCE),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with notebooks and parameters, as JupyterLab opens it, with as few pairs as the run has."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("notebooks", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".*"))
    opened = nbformat.read(folder / "notebooks" / "03_evaluation.ipynb", as_version=4)
    cell = next(cell for cell in opened.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source, changed = re.subn(r'(?<="splits": ){[^}]*}', str(SIZES), cell.source)
    assert changed == 1
    nbformat.write(opened, folder / "notebooks" / "03_evaluation.ipynb")
    return folder


def environment(project: Path) -> dict[str, str]:
    """Without what an outer make or test says, and with JupyterLab's own files inside the project."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("REALM_", "PYTEST", "MPLBACKEND"))
    }
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    return {**kept, "PYTHONPATH": str(ROOT), **{name: str(project / ".jupyter" / name) for name in own}}


def realm(project: Path, *arguments: str) -> None:
    command = [str(BIN / "realm"), *arguments]
    done = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(project: Path, inform_folder: Path, minilm: Any) -> Run:
    """outputs/demo of the project: features and combiner by the library, notebook 03 run by papermill, a report."""
    splits = ", ".join(f"{split}: {size}" for split, size in SIZES.items())
    changes = ("run.name=demo", f"data.splits={{{splits}}}", "reward_model.long_responses=cut")
    realm(project, "prepare", "test", *(word for change in changes for word in ("--set", change)))
    run = Run(project / "outputs" / "demo")
    params = load_params(run.path("params.yaml"))
    shutil.copytree(inform_folder, run.path("models", "reward_model"))
    scorer, store = build_scorer(params.reward_model, run.folder), FeatureStore(project / "cache")
    features = {}
    for split, pairs in keep_pairs(run, params.data, ("train", "validation", "test")).items():
        extraction = extract(pairs.table, scorer, minilm, store, progress=False)
        table = extraction.table
        # A reward model of random weights knows nothing: here people prefer what is near the post, four times of five.
        nearer = table["similarity_A"] > table["similarity_B"]
        table["labels"] = nearer.where(table.index % 5 > 0, ~nearer).astype(int)
        features[split] = extraction
    models = FeatureModels(params.reward_model, params.embedding, params.data.preprocessing.max_length)
    keep_features(run, features, models)
    counts = {split: extraction.counts.to_dict() for split, extraction in features.items()}
    costs = total_costs(features.values())
    run.write_metrics("features", {**counts["train"], "splits": counts, "costs": costs})
    tables = {split: extraction.table for split, extraction in features.items()}
    combiner = Combiner(params.model)
    history = combiner.fit(tables["train"], tables["validation"], params.training)
    run.write_metrics("combiner", history.metrics())
    RealmReward.save_pretrained(run.path("models", "combiner"), combiner, feature_models(run))
    figures.set_theme()
    run.save_figure(figures.response_surface(combiner.reward, tables["validation"]).figure, "combiner_surface")

    realm(project, "execute", "outputs/demo", "03_evaluation")
    policies = write_policies(run)
    run.write_metrics("ppo", PPO)
    run.save_figure(win_rate_bars(policies).figure, "policies_win_rates_gold")
    run.save_figure(reward_against_kl(policies)[0].figure, "policies_reward_kl")
    write_report(run)
    other = project / "outputs" / "other"
    shutil.copytree(run.folder, other)
    write_side_by_side([run, Run(other)])
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


# The report

PAGES = ("index", "03_evaluation", "side_by_side_other")


VIEWS = [("phone", "light"), ("desk", "dark"), ("phone", "dark"), ("desk", "light")]


@pytest.mark.parametrize(
    ("name", "device", "scheme"),
    [(name, *view) for name in PAGES for view in (VIEWS if name == "index" else VIEWS[:2])],
)
def test_a_page_is_whole_quiet_and_accessible(browser: Browser, run: Run, name: str, device: str, scheme: Any) -> None:
    pictures = check_page(browser, run.path("reports", f"{name}.html"), device, scheme)
    assert name == "side_by_side_other" or pictures >= 5


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_opens(browser: Browser, run: Run, name: str) -> None:
    page = browser.new_page()
    page.goto(run.path("reports", f"{name}.html").as_uri())
    links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    assert len(links) >= 3
    ids = set(page.eval_on_selector_all("[id]", "nodes => nodes.map(node => node.id)"))
    for link in links:
        address = urlsplit(link)
        if address.scheme != "file":
            assert address.scheme == "https", link
        elif address.fragment:
            assert {address.fragment, unquote(address.fragment)} & ids, link
        else:
            assert Path(unquote(address.path)).exists(), link
    page.close()


def test_the_dark_page_has_the_dark_figures(browser: Browser, run: Run) -> None:
    shown = {}
    for scheme in ("light", "dark"):
        page = browser.new_context(color_scheme=scheme).new_page()
        page.goto(run.path("reports", "index.html").as_uri())
        shown[scheme] = page.locator("picture img").first.evaluate("image => image.currentSrc")
        page.context.close()
    assert shown["light"] != shown["dark"]


def test_it_prints_without_its_controls(browser: Browser, run: Run) -> None:
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(run.path("reports", "index.html").as_uri())
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(format="A4")) > 10_000
    page.context.close()


# JupyterLab


@pytest.fixture(scope="module")
def lab(project: Path, run: Run) -> Iterator[str]:
    """JupyterLab on the project; its address."""
    assert run.path("features").is_dir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run(
        [str(BIN / "jupyter"), "labextension", "disable", "--level=user", ANNOUNCEMENTS],
        env=environment(project), check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    log = (project / "lab.log").open("w")
    command = [
        *(str(BIN / "jupyter"), "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", "--IdentityProvider.token=open", "--ServerApp.root_dir=."),
    ]
    server = subprocess.Popen(command, cwd=project, env=environment(project), stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, server, project / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{{}}?token=open"
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait_for(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_notebook_03_runs_in_jupyterlab_and_its_explorer_answers(
    browser: Browser, lab: str, run: Run, run_lines: list[str]
) -> None:
    evaluation = run.path("metrics", "evaluation.json")
    evaluation.unlink()
    watched = Watched(browser, viewport={"width": 1440, "height": 1000})
    page = watched.page
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(lab.format("03_evaluation.ipynb"))
    page.locator(".jp-Notebook").wait_for()
    page.locator(".jp-KernelName", has_text="Python 3").wait_for()  # nobody has to choose one
    # While JupyterLab connects to the kernel, "Run All Cells" can be lost: nothing runs, and nothing says so.
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(state="attached")
    page.locator('.lm-MenuBar-itemLabel:text-is("Run")').click()
    page.locator('.lm-Menu-itemLabel:text-is("Run All Cells")').click()
    button = page.get_by_role("button", name="Compare")
    button.wait_for()
    assert evaluation.exists(), "it writes what a run by make writes"

    prompt, first, second = page.locator(".jp-OutputArea textarea").all()[:3]
    for field, text in zip((prompt, first, second), run_lines, strict=True):
        field.fill(text)
        field.blur()
    before = page.locator(".jp-OutputArea img.widget-image").get_attribute("src")
    button.click()
    answer = page.locator(".widget-html-content", has_text="would be preferred with")
    reward = RealmReward.from_pretrained(run.folder)
    values = reward([run_lines[0]] * 2, run_lines[1:])
    for value in values:
        answer.locator("td", has_text=f"{value:+.2f}").first.wait_for()
    page.wait_for_function(
        "before => document.querySelector('.jp-OutputArea img.widget-image').src !== before", arg=before
    )
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".jp-Dialog, .Toastify__toast").count() == 0, "nothing has to be answered first"
    assert watched.outside == []
    # The lab itself asks for files that need not exist, such as a workspace or settings.
    assert [error for error in watched.errors if "404" not in error] == []
    page.context.close()


@pytest.fixture
def run_lines() -> list[str]:
    """A prompt and two responses to type."""
    return ["Why does bread rise?", "Yeast turns sugar into gas, which the dough holds.", "No idea."]
