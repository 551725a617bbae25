"""The kernels that JupyterLab offers under ``make lab``: python3 is this Python's, the user's others stay."""

import json
import sys
from pathlib import Path

import pytest

from realm_lib.runs.kernel import OwnKernelManager, OwnKernelSpecs


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python's kernels where Jupyter looks first, one of them called python3."""
    for name in ("python3", "theirs"):
        folder = tmp_path / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"argv": ["/another/python", "-f", "{connection_file}"], "display_name": name, "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))


@pytest.mark.usefixtures("foreign")
def test_python3_is_this_python_and_the_others_are_found_as_ever() -> None:
    specs = OwnKernelSpecs().get_all_specs()
    found = {name: spec["spec"]["argv"][0] for name, spec in specs.items()}
    assert (found["python3"], found["theirs"]) == (sys.executable, "/another/python")


@pytest.mark.usefixtures("foreign")
def test_a_kernel_manager_starts_it() -> None:
    spec = OwnKernelManager(kernel_name="python3").kernel_spec
    assert spec is not None
    assert spec.argv[0] == sys.executable


def test_the_makefile_names_the_class_to_jupyterlab() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    name = f"{OwnKernelSpecs.__module__}.{OwnKernelSpecs.__qualname__}"
    assert f"--ServerApp.kernel_spec_manager_class={name} " in makefile
