"""The places in documents that hold numbers: filled from the reference, found out when they are stale."""

import json
import shutil
from pathlib import Path

import pytest

from realm_lib.report.documents import DocumentError, fill, write_documents
from realm_lib.runs.run import MissingStepError

ROOT = Path(__file__).parents[2]
METRICS = ROOT / "outputs" / "reference" / "demo" / "metrics"
BLOCK = "<!-- realm: demo_rewards -->\n<!-- end -->\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    metrics = tmp_path / "outputs" / "reference" / "demo" / "metrics"
    shutil.copytree(METRICS, metrics)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"# Before\n\n{BLOCK}\nafter\n")
    (tmp_path / "docs" / "measurements.md").write_text(BLOCK.replace("rewards", "policies"))
    return tmp_path


def test_blocks_are_filled_and_the_rest_stays(project: Path) -> None:
    assert write_documents(project) == [project / "README.md", project / "docs" / "measurements.md"]
    text = (project / "README.md").read_text()
    assert text.startswith("# Before\n\n<!-- realm: demo_rewards -->\nEach reward on ")
    assert text.endswith("\n<!-- end -->\n\nafter\n")
    assert "| longer response |" in text
    assert write_documents(project) == []


def test_a_check_finds_a_changed_number_and_writes_nothing(project: Path) -> None:
    write_documents(project)
    path = project / "outputs" / "reference" / "demo" / "metrics" / "evaluation.json"
    content = json.loads(path.read_text())
    content["rewards"]["linear"]["log_loss"] += 0.001
    path.write_text(json.dumps(content))
    before = (project / "README.md").read_text()
    assert write_documents(project, check=True) == [project / "README.md"]
    assert (project / "README.md").read_text() == before


@pytest.mark.parametrize(
    "text", ["no block", "<!-- realm: nothing -->\n<!-- end -->", "<!-- realm: demo_rewards -->\nno end"]
)
def test_a_block_that_cannot_be_filled_is_an_error_that_names_the_document(text: str) -> None:
    metrics = {name: json.loads((METRICS / f"{name}.json").read_text()) for name in ("evaluation", "policies")}
    with pytest.raises(DocumentError, match=r"^README\.md: "):
        fill(text, metrics, "README.md")


def test_without_a_reference_there_is_nothing_to_write(project: Path) -> None:
    (project / "outputs" / "reference" / "demo" / "metrics" / "policies.json").unlink()
    with pytest.raises(MissingStepError, match=r"policies\.json is missing"):
        write_documents(project)
