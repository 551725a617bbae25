"""A function of the user's: found beside the work, known by its file, and missing with words."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from realm_lib.config.base import ParamsError
from realm_lib.config.profile import Params
from realm_lib.runs.functions import load_function
from realm_lib.runs.run import open_run

TWO = "def number(prompts, responses):\n    return [2.0 for _ in responses]\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's folder that is the working directory; what is imported from it is forgotten afterwards."""
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.mark.parametrize("place", [".", "params"])
def test_a_file_of_the_project_is_found_also_from_the_notebooks_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (project / place / f"mine_{len(place)}.py").write_text(TWO, encoding="utf-8")
    monkeypatch.chdir(project / "notebooks")
    assert load_function(f"mine_{len(place)}:number").call(["a"], ["b"]) == [2.0]


def test_an_edited_function_is_another_function(project: Path) -> None:
    file = project / "edited.py"
    file.write_text(TWO, encoding="utf-8")
    first = load_function("edited:number")
    assert load_function("edited:number").digest == first.digest
    file.write_text(TWO.replace("2.0", "33.0"), encoding="utf-8")
    second = load_function("edited:number")
    assert second.digest != first.digest
    assert (first.call(["a"], ["b"]), second.call(["a"], ["b"])) == ([2.0], [33.0])


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("not_there:f", "not_there cannot be imported: ModuleNotFoundError"),
        ("broken:f", "broken cannot be imported: SyntaxError"),
        ("failing:f", "failing cannot be imported: ZeroDivisionError"),
        ("other:absent", r"no function absent is written in .*other\.py"),
        ("other:constant", r"no function constant is written in .*other\.py"),
        ("other:sqrt", r"no function sqrt is written in .*other\.py"),
    ],
)
def test_what_is_no_function_is_said_before_anything_runs(project: Path, reference: str, says: str) -> None:
    (project / "broken.py").write_text("def f(:", encoding="utf-8")
    (project / "failing.py").write_text("1 / 0", encoding="utf-8")
    (project / "other.py").write_text("from math import sqrt\nconstant = 3", encoding="utf-8")
    with pytest.raises(ParamsError, match=says):
        load_function(reference)
    signals = {"polite": {"kind": "python", "function": reference}}
    params = Params.from_sections(run={"name": "r", "output_dir": str(project)}, signals=signals)
    with pytest.raises(ParamsError, match=rf"signals\.polite\.function: {reference}: {says}"):
        open_run(params)
    assert not (project / "r").exists()
