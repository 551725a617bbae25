"""How a notebook begins and ends, and the arithmetic that it does by hand: seconds, without a run."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.notebook_cells import NOTEBOOKS, ROOT, cells_of, code_of, source

from realm_lib.config.profile import load_params
from realm_lib.reward.combiner import Combiner

ANY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

BY_HAND = {
    "02_combiner_training": [
        "6620bccf",
        "network-table",
        "forward-tiny",
        "forward-by-hand",
        "forward-full",
        "step-gradient",
        "step-taken",
    ],
    "04_ppo": ["lines-of-ppo", "b4000005"],
    "05_dpo": ["lines-of-dpo", "1368fa9b"],
    "06_policy_comparison": ["best-of-n-weights", "best-of-n-value"],
}
"""The cells, by their ids, that work a formula out and check the library against it."""


@ANY_NOTEBOOK
def test_it_opens_with_a_question_and_what_goes_in_comes_out_and_how_long_it_takes(path: Path) -> None:
    opening = source(cells_of(path)[0])
    assert re.match(rf"# {path.stem[:2]} · \S", opening)
    assert re.findall(r"^(?:- )?\*\*(\w+)\.\*\* \S", opening, re.MULTILINE) == ["Question", "In", "Out", "Time"]


@ANY_NOTEBOOK
def test_its_time_is_that_of_the_reference(path: Path) -> None:
    """Within a factor of two: it is read by people on other machines. Of every profile it says something."""
    (line,) = re.findall(r"\*\*Time\.\*\* (.*)", source(cells_of(path)[0]))
    manifest = json.loads((ROOT / "outputs" / "reference" / "demo" / "manifest.json").read_text(encoding="utf-8"))
    (said,) = re.findall(r"demo: about (\d+) s on two cores", line)
    assert 0.5 < int(said) / manifest["steps"][path.stem]["seconds"] < 2
    profiles = {file.stem for file in (ROOT / "params").glob("*.yaml")} - {"test"}
    assert all(re.search(rf"\b{profile}\b", line) for profile in profiles), profiles


@ANY_NOTEBOOK
def test_it_prints_its_versions_where_it_opens_the_run(path: Path) -> None:
    code = [source(cell) for cell in code_of(path)]
    (opened,) = [row for row, text in enumerate(code) if "open_run(params)" in text]
    (call,) = [node for node in ast.walk(ast.parse(code[opened + 1])) if isinstance(node, ast.Call)]
    assert ast.unparse(call.func) == "show_versions"
    assert "torch" in [ast.literal_eval(argument) for argument in call.args]


@ANY_NOTEBOOK
def test_it_closes_with_what_was_found_and_where_to_go_on(path: Path) -> None:
    cells = cells_of(path)
    heading, found, onward = cells[-3:]
    assert source(heading) == "## What was found"
    assert [cell["cell_type"] for cell in (heading, found, onward)] == ["markdown", "code", "markdown"]
    assert re.match(r"Markdown\(findings\.\w+\(found\b", ast.unparse(ast.parse(source(found)).body[-1])), (
        "the library makes the sentence, from the metrics that were just written"
    )
    following = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :]
    if following:
        assert re.match(rf"Next: \[[^\]]+\]\({re.escape(following[0].name)}\)", source(onward))
    assert sum("What was found" in source(cell) for cell in cells) == 1


@pytest.mark.parametrize("stem", BY_HAND)
def test_what_is_worked_out_by_hand_is_what_the_library_gives(stem: str) -> None:
    """The cells assert it themselves; they need nothing that an earlier notebook made."""
    cells = {cell["id"]: source(cell) for cell in cells_of(ROOT / "notebooks" / f"{stem}.ipynb")}
    params = load_params(ROOT / "params" / "demo.yaml")
    names: dict[str, Any] = {"params": params, "pd": pd, "Combiner": Combiner, "combiner": Combiner(params.model)}
    checks = 0
    for cell in BY_HAND[stem]:
        exec(cells[cell], names)
        checks += sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cells[cell])))
    assert checks, "a cell that works something out checks it"
