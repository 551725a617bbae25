"""The report of a run: its pages open from disk, can be read, and show what the run found."""

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from support.pages import CHROMIUM, NO_BROWSER, check_page, open_browser
from support.project_copy import STEPS, metrics


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
    assert not re.search(r"Traceback|Warning:|Failed to load|<Figure size|\bnan\b", shown)
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


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
@pytest.mark.parametrize(("device", "scheme"), [("phone", "light"), ("desk", "dark")])
def test_every_page_of_the_report_can_be_read(whole: Path, device: str, scheme: str) -> None:
    with open_browser() as browser:
        for page in sorted((whole / "reports").glob("*.html")):
            check_page(browser, page, device, scheme)
