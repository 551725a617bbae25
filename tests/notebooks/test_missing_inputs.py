"""A notebook that is opened before the ones that it needs says which of them to run."""

import json
import re
from pathlib import Path

import pytest
import yaml

from realm_lib.config.profile import dump_yaml, load_params
from realm_lib.runs.run import MissingStepError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if not path.name.startswith("00")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_names_an_earlier_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REALM_QUIET", "1")
    params = load_params(ROOT / "params" / "test.yaml", [f"run.output_dir={tmp_path}", "run.name=empty"])
    values = yaml.safe_load(dump_yaml(params))
    names = {"__name__": "__main__", "display": print}
    with pytest.raises(MissingStepError) as caught:  # noqa: PT012, the cells run until one of them fails
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] != "code":
                continue
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= {name: values[name] for name in names.keys() & values.keys()}
    named = re.search(r"run notebook (\d\d_\w+)", str(caught.value))
    assert named, caught.value
    assert (ROOT / "notebooks" / f"{named[1]}.ipynb").exists()
    assert named[1] < path.stem
