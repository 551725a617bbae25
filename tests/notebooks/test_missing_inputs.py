"""A notebook that is opened before the ones that it needs says which of them to run."""

import re
from pathlib import Path

import pytest
import yaml
from support.notebook_cells import NOTEBOOKS, ROOT, run_here

from realm_lib.config.profile import dump_yaml, load_params
from realm_lib.runs.run import MissingStepError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_it_names_an_earlier_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REALM_QUIET", "1")
    params = load_params(ROOT / "params" / "test.yaml", [f"run.output_dir={tmp_path}", "run.name=empty"])
    values = yaml.safe_load(dump_yaml(params))
    with pytest.raises(MissingStepError) as caught:
        run_here(path, values)
    named = re.search(r"run notebook (\d\d_\w+)", str(caught.value))
    assert named, caught.value
    assert (ROOT / "notebooks" / f"{named[1]}.ipynb").exists()
    assert named[1] < path.stem
