"""How a notebook is written."""

import ast
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.notebook_cells import NOTEBOOKS, ROOT, cells_of, code_of, source, tagged
from support.project_copy import STEPS

ANY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


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


@pytest.mark.slow
@ANY_NOTEBOOK
def test_a_notebook_is_stored_clean(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_of(path))
    command = [Path(sys.executable).parent / "nbstripout", "--verify", "--keep-id", path]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


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
