"""The rendered report of a run that is made by hand: everything true is shown, nothing hostile acts."""

import copy
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup

from realm_lib.params import dump_yaml, load_params
from realm_lib.report import write_report
from realm_lib.runs import MissingStepError, Run, write_text

ROOT = Path(__file__).parents[1]


def reward(accuracy: float, low: float, high: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "ci": [low, high], "ties": 3, "log_loss": 0.61234, "ece": 0.02345}


EVALUATION: dict[str, Any] = {
    "pairs": 1234,
    "posts": 321,
    "rewards": {
        "realm": reward(0.701, 0.68, 0.72),
        "linear": reward(0.69, 0.67, 0.71),
        "reward_model": reward(0.65, 0.63, 0.67),
        "similarity": reward(0.6, 0.58, 0.62),
        "length": reward(0.55, 0.53, 0.57),
    },
    "differences": {
        "realm - reward_model": {"value": 0.051, "ci": [0.02, 0.08], "p_value": 0.00004},
        "realm - linear": {"value": 0.011, "ci": [-0.005, 0.03], "p_value": 0.21},
        "realm - length": {"value": -0.06, "ci": [-0.1, -0.02], "p_value": 0.0123},
    },
    "by_domain": {},
    "ceiling": {"accuracy": 0.76, "ci": [0.74, 0.78]},
    "verdict": "On these pairs, REALM is fine.",
}
COUNTS = {
    "pairs": 5000,
    "unique_responses": 7000,
    "scored": 6900,
    "cache_hits": 100,
    "tokens_scored": 90000,
    "tokens_naive": 150000,
    "seconds": 12.5,
}
FEATURES = {**COUNTS, "splits": dict.fromkeys(("train", "validation", "test"), COUNTS)}


def make_run(folder: Path, evaluation: dict[str, Any] | None = EVALUATION) -> Run:
    run = Run(folder)
    params = load_params(ROOT / "params" / "test.yaml", [f"run.output_dir={folder.parent}"])
    write_text(run.path("params.yaml"), dump_yaml(params))
    with run.step("03_evaluation", params):
        pass
    run.write_metrics("features", FEATURES)
    if evaluation is not None:
        run.write_metrics("evaluation", evaluation)
    run.path("models", "combiner").mkdir(parents=True)
    run.path("models", ".half").mkdir()
    write_text(run.path("figures", "evaluation_accuracy.svg"), "<svg xmlns='http://www.w3.org/2000/svg'/>")
    return run


def add_notebook(run: Run, *cells: Any, name: str = "03_evaluation") -> None:
    run.path("notebooks").mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), run.path("notebooks", f"{name}.ipynb"))


def prose(text: str) -> Any:
    return nbformat.v4.new_markdown_cell(text)


def shows(**data: str) -> Any:
    """A code cell whose result is ``data`` by kind: markdown, html, plain."""
    output = nbformat.v4.new_output("display_data", data={f"text/{kind}": text for kind, text in data.items()})
    return nbformat.v4.new_code_cell("x", outputs=[output])


def read(run: Run, name: str = "index") -> BeautifulSoup:
    return BeautifulSoup(run.path("reports", f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def shown(run: Run, name: str = "index") -> str:
    return re.sub(r"\s+", " ", read(run, name).get_text(" "))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "trial")


# The index page


def test_the_page_is_written_and_returned(run: Run) -> None:
    assert write_report(run) == run.path("reports", "index.html")
    assert [path.name for path in run.path("reports").iterdir()] == ["index.html"]


def test_without_an_evaluation_there_is_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(MissingStepError, match="trial: no evaluation"):
        write_report(make_run(tmp_path / "trial", evaluation=None))
    assert not (tmp_path / "trial" / "reports").exists()


def test_the_table_holds_every_reward_the_best_first(run: Run) -> None:
    write_report(run)
    rows = read(run).select("table.rewards tbody tr")
    cells = [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in rows]
    assert [row[1] for row in cells] == ["76.0%", "70.1%", "69.0%", "65.0%", "60.0%", "55.0%"]
    assert cells[1][1:3] == ["70.1%", "68.0% to 72.0%"]
    assert cells[1][4:] == ["0.612", "0.023", "3"]
    assert cells[0][4:] == ["", "", ""], "the ceiling is an accuracy only"
    assert "1,234 test pairs (321 posts)" in shown(run)


def test_points_and_intervals_are_drawn_where_they_belong(run: Run) -> None:
    write_report(run)
    soup = read(run)
    axis = [float(end.get_text().split()[0]) for end in soup.select("th.plot span")]
    assert axis[0] <= 53
    assert axis[1] >= 78

    def percent(node: Any, key: str) -> float:
        return float(re.search(rf"{key}:([\d.]+)%", node["style"])[1])  # type: ignore[index]

    realm = soup.select_one("tr.subject")
    assert realm is not None
    point, line = realm.select_one(".point"), realm.select_one(".line")
    scale = (axis[1] - axis[0]) / 100
    assert axis[0] + scale * percent(point, "left") == pytest.approx(70.1, abs=0.01)
    assert axis[0] + scale * percent(line, "left") == pytest.approx(68.0, abs=0.01)
    assert scale * percent(line, "width") == pytest.approx(4.0, abs=0.01)


def test_a_difference_is_said_in_words_whatever_its_sign(run: Run) -> None:
    write_report(run)
    rows = [
        [cell.get_text(strip=True) for cell in row.find_all(["th", "td"])]
        for row in read(run).find_all("table")[1].select("tbody tr")
    ]
    assert [row[1] for row in rows] == ["+5.1", "+1.1", "-6.0"]
    assert [row[3] for row in rows] == ["below 0.0001", "0.2100", "0.0123"]
    assert [row[4] for row in rows] == ["better", "the data cannot tell", "worse"]


def test_an_interval_that_touches_zero_is_not_a_difference(tmp_path: Path) -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["differences"] = {"realm - linear": {"value": 0.01, "ci": [0.0, 0.02], "p_value": 0.05}}
    run = make_run(tmp_path / "trial", evaluation)
    write_report(run)
    assert "the data cannot tell" in shown(run)


def test_a_reward_that_loses_is_reported_as_losing(tmp_path: Path) -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["rewards"]["realm"] = reward(0.41, 0.35, 0.47)
    evaluation["verdict"] = "Simply taking the longer response (55.0 %) is better."
    run = make_run(tmp_path / "trial", evaluation)
    write_report(run)
    assert read(run).select_one(".verdict").get_text() == evaluation["verdict"]  # type: ignore[union-attr]
    rows = read(run).select("table.rewards tbody tr")
    assert "subject" in rows[-1]["class"], "the last of the table"
    assert float(read(run).select_one("th.plot span").get_text().split()[0]) <= 35  # type: ignore[union-attr]


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_is_said_when_it_is_so(tmp_path: Path, simulated: bool) -> None:
    evaluation = {key: value for key, value in EVALUATION.items() if simulated or key != "ceiling"}
    run = make_run(tmp_path / "trial", evaluation)
    add_notebook(run, prose("# Evaluation"))
    write_report(run)
    assert ("Simulated data." in shown(run)) is simulated
    assert ("Simulated data." in shown(run, "03_evaluation")) is simulated
    assert len(read(run).select("table.rewards tbody tr")) == 5 + simulated


def test_what_ran_is_there(run: Run) -> None:
    add_notebook(run, prose("# Evaluation"))
    write_report(run)
    text, soup = shown(run), read(run)
    assert "03 Evaluation" in text
    assert "ok" in [cell.get_text() for cell in soup.find_all("td")]
    links = {link["href"] for link in soup.find_all("a")}
    assert {"index.html", "03_evaluation.html", "../params.yaml", "../manifest.json"} <= links
    assert {"../metrics/evaluation.json", "../metrics/features.json", "../models/combiner"} <= links
    assert not any(".half" in link for link in links), "an unfinished model is no result"
    assert all((run.path("reports") / link).exists() for link in links)
    assert "hidden_dims" in text
    assert "torch==" in text
    (image,) = soup.find_all("img")
    assert image["src"].startswith("data:image/svg+xml;base64,")
    assert image["alt"]


def test_a_failed_notebook_is_no_page(run: Run) -> None:
    add_notebook(run, prose("# Good"))
    add_notebook(run, prose("# Bad"), name="02_combiner_training.failed")
    write_report(run)
    assert {path.stem for path in run.path("reports").iterdir()} == {"index", "03_evaluation"}


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "trial")
    write_report(run)
    run.write_metrics("evaluation", EVALUATION | {"verdict": "Another one."})
    write_report(run)
    assert "Another one." in shown(run)
    assert EVALUATION["verdict"] not in shown(run)


# Pages of notebooks


def test_formulas_become_mathml_and_code_stays_as_it_is(run: Run) -> None:
    add_notebook(
        run,
        prose("Inline $\\sigma(x)$ and\n\n$$\\frac{a}{b}\n+ c$$\n\nbut `$HOME` and `x$y`.\n\n```bash\necho $A $B\n```"),
        prose("It costs 5 $ in all."),
    )
    write_report(run)
    soup = read(run, "03_evaluation")
    assert [node["display"] for node in soup.find_all("math")] == ["inline", "block"]
    assert soup.find("mfrac") is not None
    assert [node.get_text() for node in soup.select("p code")] == ["$HOME", "x$y"]
    assert "echo $A $B" in soup.get_text()
    assert "It costs 5 $ in all." in soup.get_text()


def test_code_is_there_but_folded(run: Run) -> None:
    add_notebook(run, nbformat.v4.new_code_cell("answer = 6 * 7", execution_count=1))
    write_report(run)
    folded = read(run, "03_evaluation").select_one("details.code")
    assert folded is not None
    assert "answer = 6 * 7" in folded.get_text()
    assert not folded.has_attr("open")


def test_links_to_notebooks_lead_to_their_pages(run: Run) -> None:
    add_notebook(run, prose("[next](04_ppo.ipynb) and [home](https://example.org/04_ppo.ipynb)"))
    write_report(run)
    links = {link["href"] for link in read(run, "03_evaluation").select("main a")}
    assert links >= {"04_ppo.html", "https://example.org/04_ppo.ipynb"}


def test_what_libraries_mutter_is_not_for_readers(run: Run) -> None:
    said = [nbformat.v4.new_output("stream", name=name, text=f"from {name}") for name in ("stdout", "stderr")]
    add_notebook(run, nbformat.v4.new_code_cell("x", outputs=said))
    write_report(run)
    assert "from stdout" in shown(run, "03_evaluation")
    assert "from stderr" not in shown(run, "03_evaluation")


def test_rendering_leaves_the_executed_notebook_alone(run: Run) -> None:
    add_notebook(run, prose("$x$"), shows(markdown="a < b"))
    before = run.path("notebooks", "03_evaluation.ipynb").read_bytes()
    write_report(run)
    assert run.path("notebooks", "03_evaluation.ipynb").read_bytes() == before


# Hostile text: posts and comments are other people's

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src='https://example.org/spy.png'>",
    "![spy](https://example.org/spy.png)",
    "</main></body><iframe src='https://example.org'></iframe>",
    "`<script>alert(1)</script>",
    "\\`<script>alert(1)</script>\\`",
    "a | b\n--- | ---\n<script>alert(1)</script> | 2",
    "[click](javascript:alert(1))",
    "[click](JavaScript&colon;alert(1))",
    "[click][1]\n\n[1]: data:text/html;base64,YWxlcnQ=",
    "costs $5 and \\left $6 or \\frac{",
    "$<script>alert(1)</script>$",
]


def assert_harmless(soup: BeautifulSoup) -> None:
    assert soup.find_all(["script", "iframe", "object", "link"]) == []
    assert all(image["src"].startswith("data:") for image in soup.find_all("img"))
    attributes = [key for node in soup.find_all(True) for key in node.attrs]
    assert not [key for key in attributes if key.startswith("on")]
    schemes = [re.match(r"\s*\w+:", link["href"]) for link in soup.find_all("a", href=True)]
    assert {scheme[0].lower() for scheme in schemes if scheme} <= {"https:"}
    assert len(soup.find_all("main")) == 1
    assert soup.find("footer") is not None


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_cell_shows_is_text_and_does_nothing(run: Run, text: str) -> None:
    stream = nbformat.v4.new_output("stream", name="stdout", text=text)
    add_notebook(
        run,
        shows(markdown=f"> **Post.** {text}\n\nand **bold**"),
        shows(plain=text),
        nbformat.v4.new_code_cell(f"# {text}", outputs=[stream]),
    )
    write_report(run)
    soup = read(run, "03_evaluation")
    assert_harmless(soup)
    assert soup.find("strong") is not None, "Markdown of a result is still rendered"
    word = re.search(r"alert\(1\)|spy|iframe|costs \$5 and|click", text)
    assert word is not None
    assert word[0] in soup.find("main").get_text(), "the text is shown"  # type: ignore[union-attr]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_index_escapes_what_it_is_given(tmp_path: Path, text: str) -> None:
    folder = re.sub(r"[/\n]", "", text)
    run = make_run(tmp_path / folder, EVALUATION | {"verdict": text})
    write_report(run)
    soup = read(run)
    assert_harmless(soup)
    assert soup.select_one(".verdict").get_text() == text  # type: ignore[union-attr]
    assert soup.title is not None
    assert folder in soup.title.get_text()
