"""The rendered report of a run that is made by hand: everything true is shown, nothing hostile acts."""

import base64
import copy
import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from support.evaluation_made_up import EVALUATION, SEEDS, difference, reward
from support.policies_made_up import PPO, write_policies

from realm_lib.config.profile import dump_yaml, load_params
from realm_lib.report.pages import write_report
from realm_lib.report.pages.pictures import describe
from realm_lib.report.pages.side_by_side import ComparisonOfRunsError, write_side_by_side
from realm_lib.runs.files import write_text
from realm_lib.runs.run import MissingStepError, Run

pytestmark = pytest.mark.slow  # every test writes a whole report
ROOT = Path(__file__).parents[2]

FIGURE = """<svg width="300pt" xmlns="http://www.w3.org/2000/svg">
 <metadata>matplotlib's</metadata><path style="fill: #ffffff"/><path style="fill: #222222; stroke: #ffffff"/></svg>"""
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
    write_text(run.path("figures", "evaluation_differences.svg"), FIGURE)
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
    assert {path.name for path in run.path("reports").iterdir()} == {"index.html", "files"}


def test_without_an_evaluation_there_is_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(MissingStepError, match="trial: no evaluation"):
        write_report(make_run(tmp_path / "trial", evaluation=None))
    assert not (tmp_path / "trial" / "reports").exists()


def test_the_table_holds_every_reward_the_best_first(run: Run) -> None:
    write_report(run)
    rows = read(run).select("table.rewards tbody tr")
    cells = [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in rows]
    assert [row[1] for row in cells] == ["76.0 %", "70.1 %", "69.0 %", "65.0 %", "60.0 %", "55.0 %"]
    assert cells[1][1:3] == ["70.1 %", "68.0 % to 72.0 %"]
    assert cells[1][4:] == ["0.612", "0.023", "3"]
    assert cells[0][4:] == ["", "", ""], "the ceiling is an accuracy only"
    assert "1,234 pairs of 321 posts" in shown(run)


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
        for row in read(run).select("table.differences tbody tr")
    ]
    assert [row[1] for row in rows] == ["+5.1", "+1.1", "-6.0"]
    assert [row[3] for row in rows] == ["below 0.0001", "0.2100", "0.0123"]
    assert [row[4] for row in rows] == ["better", "the data cannot tell", "worse"]


def test_an_interval_that_touches_zero_is_not_a_difference(tmp_path: Path) -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["differences"]["realm - reward_model"] = difference(0.01, 0.0, 0.02)
    run = make_run(tmp_path / "trial", evaluation)
    write_report(run)
    assert "the data cannot tell" in read(run).select("table.differences tbody tr")[0].get_text()
    assert "not to be told from the reward model alone (+1.0 points, +0.0 to +2.0)" in shown(run)


def test_a_reward_that_loses_is_reported_as_losing(tmp_path: Path) -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["rewards"]["realm"] = reward(0.41, 0.35, 0.47)
    evaluation["differences"]["realm - reward_model"] = difference(-0.24, -0.3, -0.18)
    run = make_run(tmp_path / "trial", evaluation)
    write_report(run)
    verdict = read(run).select_one(".verdict").get_text()  # type: ignore[union-attr]
    assert "it is worse than the reward model alone (-24.0 points, -30.0 to -18.0)" in verdict
    assert "it is worse than taking the longer response (-6.0 points, -10.0 to -2.0)" in verdict
    assert "Is it better? No: it is worse than the reward model alone" in shown(run)
    rows = read(run).select("table.rewards tbody tr")
    assert "subject" in rows[-1]["class"], "the last of the table"
    assert float(read(run).select_one("th.plot span").get_text().split()[0]) <= 35  # type: ignore[union-attr]


def test_a_difference_that_correction_takes_back_is_not_called_sure(tmp_path: Path) -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["differences"]["realm - linear"] = difference(-0.024, -0.042, -0.006, p=0.1158)
    run = make_run(tmp_path / "trial", evaluation)
    write_report(run)
    text = shown(run)
    assert "worse, not surely" in text
    assert "-2.4 points, -4.2 to -0.6, but p = 0.116 after correction" in text
    assert "perhaps worse than a plain weighted sum of the two" in text


def test_domains_of_few_pairs_are_counted_and_not_named(tmp_path: Path) -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["by_domain"] = {
        name: {"pairs": pairs, "realm": reward(accuracy, 0.5, 1.0), "reward_model": reward(0.5, 0.4, 0.6)}
        for name, pairs, accuracy in (("tiny", 1, 1.0), ("large", 50, 0.6))
    }
    run = make_run(tmp_path / "trial", evaluation)
    write_report(run)
    assert "Ahead of the reward model in 2 of 2" in shown(run)
    assert "large (+10.0 points" in shown(run)
    assert "tiny (" not in shown(run)


def test_the_index_alone_answers_the_questions_of_a_reader(tmp_path: Path) -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["differences"]["realm - similarity"] = difference(0.1, 0.05, 0.15, p=0.002)
    evaluation["seeds"] = SEEDS
    gaps = {"askbaking": 0.10, "askvet": 0.02, "askhr": -0.03}
    evaluation["by_domain"] = {
        name: {"pairs": 40, "realm": reward(0.6 + gap, 0.5, 0.8), "reward_model": reward(0.6, 0.5, 0.7)}
        for name, gap in gaps.items()
    }
    run = make_run(tmp_path / "trial", evaluation)
    write_report(run)
    answers = {
        entry.find("dt").get_text(): entry.find("dd").get_text()  # type: ignore[union-attr]
        for entry in read(run).select(".answers div")
    }
    better, much, sure, domains, length = answers.values()
    assert better.startswith(
        "Yes: it is better than the reward model alone and similarity alone. The network's bend is not shown"
    )
    assert "+5.1 points, +2.0 to +8.0" in much
    assert "+10.0 points, +5.0 to +15.0" in much
    assert "p < 0.001 against the reward model alone and p = 0.002 against similarity alone" in sure
    assert "a true difference of 4.0 points between the combined reward and the reward model alone" in sure
    assert "0.12 points" in sure
    assert domains.startswith(
        "Ahead of the reward model in 2 of 3, behind in 1. Furthest ahead in askbaking (+10.0 points)"
    )
    assert "furthest behind in askhr (-3.0 points)" in domains
    assert "-6.0 points" in length
    assert list(answers) == [
        *("Is it better?", "By how much?", "How sure is that?", "On which domains?", "Is it only length?")
    ]


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
    assert {"index.html", "03_evaluation.html", "files/params.yaml", "files/manifest.json"} <= links
    assert {"files/evaluation.json", "files/features.json"} <= links
    assert not any(link.startswith("..") for link in links), "the folder can be sent as it is"
    assert all((run.path("reports") / link).exists() for link in links if not link.startswith("#"))
    assert "hidden_dims" in text
    assert "torch==" in text
    (image,) = soup.find_all("img")
    assert image["src"].startswith("data:image/svg+xml;base64,")
    assert "intervals" in image["alt"]


def test_a_failed_notebook_is_no_page(run: Run) -> None:
    add_notebook(run, prose("# Good"))
    add_notebook(run, prose("# Bad"), name="02_combiner_training.failed")
    write_report(run)
    assert {path.stem for path in run.path("reports").glob("*.html")} == {"index", "03_evaluation"}


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "trial")
    write_report(run)
    run.write_metrics("evaluation", EVALUATION | {"verdict": "Another one."})
    write_report(run)
    assert "Another one." in shown(run)
    assert EVALUATION["verdict"] not in shown(run)
    assert "Another one." in run.path("reports", "files", "evaluation.json").read_text(encoding="utf-8")


def test_a_figure_has_its_colours_on_light_and_on_dark_pages(run: Run) -> None:
    write_report(run)
    (drawn,) = read(run).find_all("picture")
    dark, light = (
        base64.b64decode(address.partition(",")[2]).decode()
        for address in (drawn.source["srcset"], drawn.img["src"])  # type: ignore[index]
    )
    assert 'style="fill: #222222; stroke: #ffffff"' in light
    assert 'style="fill: #e6e9ee; stroke: #ffffff"' in dark, "words turn light, white rims stay"
    assert "fill: #ffffff" not in dark
    assert "matplotlib" not in light + dark
    assert drawn.source["media"] == "screen and (prefers-color-scheme: dark)"  # type: ignore[index]
    assert drawn.img["width"] == "400"  # type: ignore[index]


# Policies


def test_a_run_without_policies_has_no_section_on_them(run: Run) -> None:
    write_report(run)
    assert "language model" not in shown(run)
    assert read(run).find("table", class_="policies") is None


def test_a_win_rate_at_equal_length_that_is_not_known_is_called_so(run: Run) -> None:
    found = write_policies(run)
    found["policies"]["ppo"] |= {"length_controlled": None, "length_controlled_ci": None, "longer": 1.0, "shorter": 0.0}
    run.write_metrics("policies", found)
    write_report(run)
    rows = read(run).select("table.policies tbody tr")
    assert [cell.get_text() for cell in rows[2].find_all("td")][1] == "not known"


def test_policies_are_compared_with_their_intervals(run: Run) -> None:
    found = write_policies(run)
    for name in ("policies_win_rates_gold", "policies_reward_kl"):
        write_text(run.path("figures", f"{name}.svg"), FIGURE)
    write_report(run)
    rows = {
        row.find("th").get_text(): [cell.get_text() for cell in row.find_all("td")]  # type: ignore[union-attr]
        for row in read(run).select("table.policies tbody tr")
    }
    assert list(rows) == ["Starting policy", "Best-of-4", "PPO"]
    low, high = found["policies"]["ppo"]["ci"]
    assert rows["PPO"][0] == f"{100 * found['policies']['ppo']['win_rate']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    assert rows["Starting policy"][0] == ""
    assert rows["PPO"][4] == "3.2"
    assert rows["Best-of-4"][4].startswith("at most ")
    assert "judged by the simulated truth" in shown(run)
    described = [image["alt"] for image in read(run).find_all("img")]
    assert [text for text in described if "Win rate" in text]
    assert [text for text in described if "distance from the start" in text]
    samples = read(run).select(".sample")
    assert len(samples) == 3
    assert "Post 0?" in samples[0].get_text()
    assert [term.get_text().split(" reward")[0] for term in samples[0].select("dt")] == list(rows)


def test_a_training_stands_there_before_policies_are_compared(run: Run) -> None:
    run.write_metrics("ppo", PPO)
    write_report(run)
    assert "-0.50 → 0.25 (+0.75, +0.50 to +1.00)" in shown(run)
    assert "20 → 31" in shown(run)
    assert "1,024 episodes" in shown(run)


def test_what_did_not_run_is_said(run: Run) -> None:
    params = load_params(run.path("params.yaml"))
    with pytest.raises(KeyError), run.step("05_dpo", params):
        raise KeyError
    write_report(run)
    assert "Unfinished: 05_dpo" in shown(run)


# Runs side by side


def other_run(folder: Path, **changes: str) -> Run:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["rewards"]["realm"] = reward(0.8, 0.78, 0.82)
    run = make_run(folder, evaluation)
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    params = load_params(ROOT / "params" / "test.yaml", [f"run.output_dir={folder.parent}", *overrides])
    write_text(run.path("params.yaml"), dump_yaml(params))
    return run


def test_runs_stand_side_by_side_with_what_differs(run: Run, tmp_path: Path) -> None:
    write_policies(run)
    other = other_run(tmp_path / "seed7", training__seed="7", run__name="seed7", model__hidden_dims="[8, 4]")
    write_report(other)
    page = write_side_by_side([run, other])
    assert page == run.path("reports", "side_by_side_seed7.html")
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    rows = {
        row.find("th").get_text(): [cell.get_text() for cell in row.find_all("td")]  # type: ignore[union-attr]
        for row in soup.select("tbody tr")
    }
    own = load_params(run.path("params.yaml"))
    assert rows["training.seed"] == [str(own.training.seed), "7"]
    assert rows["model.hidden_dims"] == [str(own.model.hidden_dims), "[8, 4]"]
    assert "run.name" not in rows
    assert "data.seed" not in rows, "what is equal is left out"
    assert rows["REALM (combined)"] == ["70.1 % (68.0 to 72.0)", "80.0 % (78.0 to 82.0)"]
    assert rows["REALM (combined) minus Linear combination"][0].endswith("the data cannot tell")
    assert rows["PPO"][1] == "", "a run without policies has no number there"
    assert rows["PPO"][0].endswith(")")
    summary = soup.select_one(".verdict").get_text()  # type: ignore[union-attr]
    assert "training.seed" in summary
    assert "80.0 %" in summary
    assert "lie apart" in summary
    assert "Simulated data." in soup.get_text()
    assert [link["href"] for link in soup.select("nav a")] == [page.name, "../../seed7/reports/index.html"]
    assert (page.parent / "../../seed7/reports/index.html").exists()


def test_the_page_goes_where_it_is_asked_to(run: Run, tmp_path: Path) -> None:
    write_report(run)
    page = write_side_by_side([run, other_run(tmp_path / "b" / "trial")], tmp_path / "both.html")
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    assert [link["href"] for link in soup.select("nav a")] == ["both.html", "trial/reports/index.html"]
    assert [cell.get_text() for cell in soup.select("thead th")][:2] == [f"{tmp_path.name}-trial", "b-trial"]


def test_equal_runs_are_said_to_be_equal(run: Run, tmp_path: Path) -> None:
    page = write_side_by_side([run, make_run(tmp_path / "again")])
    text = page.read_text(encoding="utf-8")
    assert "The runs have the same parameters." in text
    assert "overlap" in text


def test_what_cannot_be_compared_is_named(run: Run, tmp_path: Path) -> None:
    failed = make_run(tmp_path / "failed", evaluation=None)
    with pytest.raises(KeyError), failed.step("02_combiner_training", load_params(failed.path("params.yaml"))):
        raise KeyError
    for runs, message in (
        ([run], "two runs or more"),
        ([run, run], "trial is named twice"),
        ([run, Run(tmp_path / "nowhere")], "nowhere: no run here"),
        ([run, failed], "failed: no evaluation to compare: 02_combiner_training ended as failed"),
    ):
        with pytest.raises(ComparisonOfRunsError, match=message):
            write_side_by_side(runs)
    assert not run.path("reports").exists()


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


def test_a_functions_name_stands_apart_as_in_tex(run: Run) -> None:
    """``log2`` would be read as another thing than the logarithm of 2."""
    add_notebook(run, prose(r"$\log 2$, $-\log\sigma$, $\beta\log\frac{a}{b}$, $\log(x)$, $xy$"))
    write_report(run)
    parts = [[part.name for part in node.mrow.find_all(recursive=False)] for node in read(run, "03_evaluation")("math")]
    assert parts == [
        ["mi", "mspace", "mn"],
        ["mo", "mi", "mspace", "mi"],
        ["mi", "mspace", "mi", "mspace", "mfrac"],
        ["mi", "mo", "mi", "mo"],
        ["mi", "mi"],
    ]


def test_code_is_there_but_folded(run: Run) -> None:
    add_notebook(run, nbformat.v4.new_code_cell("answer = 6 * 7", execution_count=1))
    write_report(run)
    folded = read(run, "03_evaluation").select_one("details.code")
    assert folded is not None
    assert "answer = 6 * 7" in folded.get_text()
    assert not folded.has_attr("open")


def test_links_to_notebooks_lead_to_their_pages(run: Run) -> None:
    add_notebook(run, prose("[next](04_ppo.ipynb), [later](05_dpo.ipynb), [home](https://example.org/04_ppo.ipynb)"))
    add_notebook(run, prose("# PPO"), name="04_ppo")
    write_report(run)
    links = {link["href"] for link in read(run, "03_evaluation").select("main a")}
    assert links == {"04_ppo.html", "https://example.org/04_ppo.ipynb"}, "05 has not run: no link to nowhere"
    assert "later" in shown(run, "03_evaluation")


def test_a_link_to_a_page_of_the_project_is_plain_text(run: Run) -> None:
    add_notebook(run, prose("[how](../realm_lib/inference/README.md), [hub](https://example.org/README.md)"))
    write_report(run)
    links = {link["href"] for link in read(run, "03_evaluation").select("main a")}
    assert links == {"https://example.org/README.md"}
    assert "how" in shown(run, "03_evaluation")


def test_what_libraries_mutter_is_not_for_readers(run: Run) -> None:
    said = [nbformat.v4.new_output("stream", name=name, text=f"from {name}") for name in ("stdout", "stderr")]
    add_notebook(run, nbformat.v4.new_code_cell("x", outputs=said))
    write_report(run)
    assert "from stdout" in shown(run, "03_evaluation")
    assert "from stderr" not in shown(run, "03_evaluation")


def test_bars_and_widgets_leave_no_debris(run: Run) -> None:
    bar = nbformat.v4.new_output("stream", name="stdout", text="\r  0%|   | 0/3\r100%|###| 3/3\ndone\r\nnext")
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "HBox(children=())"}
    beside = {**widget, "text/html": "<p>beside</p>"}
    outputs = [bar, *(nbformat.v4.new_output("display_data", data=data) for data in (widget, beside))]
    add_notebook(run, nbformat.v4.new_code_cell("x", outputs=outputs))
    write_report(run)
    text = shown(run, "03_evaluation")
    assert "done next" in text
    assert "%|" not in text
    assert "HBox" not in text
    assert "beside" in text


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_a_picture_is_described_and_drawn_sharp_where_it_was_saved(run: Run) -> None:
    shown_picture = [nbformat.v4.new_output("display_data", data={"image/png": PIXEL})]
    saving = 'outputs.save_figure(ax.figure, "evaluation_differences")'
    add_notebook(
        run,
        prose("## How sure?"),
        nbformat.v4.new_code_cell(saving, outputs=shown_picture),
        nbformat.v4.new_code_cell("plot()", outputs=copy.deepcopy(shown_picture)),
    )
    write_report(run)
    sharp, other = read(run, "03_evaluation").find_all("img")
    assert sharp["src"].startswith("data:image/svg+xml")
    assert "Differences in accuracy" in sharp["alt"]
    assert other["src"].startswith("data:image/png")
    assert other["alt"] == "Figure 1 of “How sure?”"


def test_tables_are_set_for_reading(run: Run) -> None:
    frame = pd.DataFrame(
        {
            "answer": ["Yeast.\nAnd <b>time</b>.", "7 days"],
            "reward": [1.5, -2.0],
            "share": ["68.7 % (65.8 to 71.4)", ""],
        }
    )
    named = frame.set_index(pd.MultiIndex.from_product([["Why?"], ["base", "ppo"]], names=["prompt", "policy"]))
    add_notebook(run, *(shows(html=table.to_html()) for table in (frame, frame.rename(index={1: 5}), named)))
    write_report(run)
    counted, kept, levels = read(run, "03_evaluation").find_all("table")
    assert [cell.get_text() for cell in counted.find_all("th")] == ["answer", "reward", "share"], "0, 1 say nothing"
    assert [cell.get_text() for cell in kept.select("tbody th")] == ["0", "5"], "an index that says something stays"
    for table in (counted, kept, levels):
        assert {cell.get_text().split("\n")[0] for cell in table.select("td.text")} == {"Yeast.", "7 days"}
        assert "And <b>time</b>." in table.get_text()
        assert "\\n" not in table.get_text()
        assert table.select("th.text")[0].get_text() == "answer"
    assert [cell.get_text() for cell in levels.select("tbody th")] == ["Why?", "base", "ppo"]


def test_rendering_leaves_the_executed_notebook_alone(run: Run) -> None:
    add_notebook(run, prose("$x$"), shows(markdown="a < b"))
    before = run.path("notebooks", "03_evaluation.ipynb").read_bytes()
    write_report(run)
    assert run.path("notebooks", "03_evaluation.ipynb").read_bytes() == before


# Hostile text: posts and comments are other people's


def judge_one_pair(run: Run, text: str, pair_id: str = "p1") -> None:
    """A test pair that the reward gets wrong, the second of two; its prompt and responses are ``text``."""
    judged = {"pair_id": [pair_id], "post_id": ["p"], "domain": ["askvet"], "labels": [1]}
    judged |= {"realm_p": [0.1], "realm_A": [0.0], "realm_B": [1.0], "realm_correct": [0.0]}
    pd.DataFrame(judged).to_parquet(run.path("metrics", "pairs.parquet"))
    run.path("features").mkdir()
    texts = {name: ["another", text] for name in ("history", "human_ref_A", "human_ref_B")}
    pd.DataFrame({"pair_id": ["p0", "p1"], **texts}).to_parquet(run.path("features", "test.parquet"))


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
    write_policies(run, answer=text)
    judge_one_pair(run, text)
    write_report(run)
    soup = read(run)
    assert_harmless(soup)
    assert text in [node.get_text() for node in soup.select("details p")]
    assert [node.get_text() for node in soup.select(".said dd")].count(text) >= 4
    assert soup.title is not None
    assert folder in soup.title.get_text()


def test_a_wrong_pair_is_found_by_its_name_and_not_by_its_row(run: Run) -> None:
    judge_one_pair(run, "the text of p1")
    write_report(run)
    assert [node.get_text() for node in read(run).select(".sample dd")] == ["the text of p1"] * 2


def test_features_of_other_pairs_say_what_to_run_again(run: Run) -> None:
    judge_one_pair(run, "text", pair_id="p9")
    with pytest.raises(MissingStepError, match=r"pair p9 was judged, but .* run 03_evaluation again"):
        write_report(run)


def test_every_figure_that_a_notebook_saves_is_described() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb"))
    saved = set(re.findall(r'save_figure\([^)]*?, f?\\"(\w+)', sources))
    assert len(saved) > 15
    assert {name for name in saved if describe(name).startswith("Figure ")} == set()
