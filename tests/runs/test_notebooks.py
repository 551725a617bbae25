"""What make calls: which parameters and files a notebook depends on, and one execution at a time."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from realm_lib.config.base import ParamsError
from realm_lib.runs.notebooks import NotebookError, declared_sections, execute, imported_modules, prepare
from realm_lib.runs.run import Run

ROOT = Path(__file__).parents[2]
PARAMETERS = 'run = {"name": "x", "output_dir": "outputs", "seed": 1}'


def write_notebook(path: Path, *cells: str, parameters: Sequence[str] = (PARAMETERS,)) -> Path:
    """A notebook of code cells, those of ``parameters`` first and tagged."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(text, metadata={"tags": ["parameters"]}) for text in parameters]
    notebook.cells += [nbformat.v4.new_code_cell(text) for text in cells]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, with the test profile and no notebooks yet, as the working directory."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "test.yaml").write_bytes((ROOT / "params" / "test.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit_profile(project: Path, changes: Mapping[str, Any]) -> None:
    path = project / "params" / "test.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


# The parameters cell


def test_the_sections_are_those_that_the_cell_assigns_in_order(tmp_path: Path) -> None:
    text = '# how it runs\nrun = {"name": "x"}\nmodel = {}\ntraining = {\n    "seed": 1,\n}'
    assert declared_sections(write_notebook(tmp_path / "a.ipynb", parameters=[text])) == ["run", "model", "training"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "0 cells"),
        ([PARAMETERS, PARAMETERS], "2 cells"),
        (["run = {}\nrunn = {}"], "runn"),
        (["run = {}\nimport os"], "other code"),
        (["run = {}\nprint(run)"], "other code"),
        (["run = {}\nrun['name'] = 'x'"], "other code"),
        (["run, data = {}, {}"], "other code"),
        (["run = data = {}"], "other code"),
        (["run = {}\nrun |= {}"], "other code"),
    ],
)
def test_what_papermill_would_let_pass_is_refused(tmp_path: Path, cells: list[str], message: str) -> None:
    path = write_notebook(tmp_path / "a.ipynb", parameters=cells)
    with pytest.raises(NotebookError, match=message) as error:
        declared_sections(path)
    assert str(path) in str(error.value)


# What a notebook imports


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of small modules, with its public names in a stub."""
    files = {
        "__init__.py": "from toy_lib import everything",
        "__init__.pyi": "from .reward.whole import Reward as Reward\nfrom . import top as top",
        "top.py": "from toy_lib.middle import x",
        "middle.py": "def f():\n    from toy_lib.bottom import y",
        "bottom.py": "import toy_lib.round_a",
        "round_a.py": "from toy_lib import round_b",
        "round_b.py": "from toy_lib import round_a",
        "typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy_lib.top import x\n"
        "else:\n    from toy_lib.bottom import y",
        "reward/__init__.py": "",
        "reward/whole.py": "",
        "reward/other.py": "",
        "data/__init__.py": "from toy_lib.bottom import y",
        "data/deep.py": "",
        "data/deep/facts.yaml": "",
        "data/deep/note.txt": "",
        "data/part.py": "import toy_lib.middle",
        "data/inner/__init__.py": "",
        "data/inner/facts.yaml": "",
    }
    package = tmp_path / "library" / "toy_lib"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(package.parent)
    return package


ROUND = ["round_a.py", "round_b.py"]
BOTTOM = ["bottom.py", *ROUND]
REWARD = ["reward/__init__.py", "reward/whole.py"]
DATA = ["data/__init__.py", "data/deep/facts.yaml", *BOTTOM]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("code", "files"),
    [
        ("import json", []),
        ("import toy_lib", []),
        ("from toy_lib.bottom import y", BOTTOM),
        ("from toy_lib.top import x", ["middle.py", "top.py", *BOTTOM]),
        ("from toy_lib import top", ["middle.py", "top.py", *BOTTOM]),
        ("import toy_lib.middle as m", ["middle.py", *BOTTOM]),
        ("def f():\n    from toy_lib.bottom import y", BOTTOM),
        ("if True:\n    from toy_lib import round_a, reward", ["reward/__init__.py", *ROUND]),
        ("from toy_lib import Reward", REWARD),
        ("from toy_lib.reward.whole import Reward", REWARD),
        ("from toy_lib.typed import t", ["typed.py", *BOTTOM]),
        ("from toy_lib.data.part import z", ["data/part.py", "middle.py", *DATA]),
        ("from toy_lib.data.deep import facts", ["data/deep.py", *DATA]),
        ("from toy_lib.data import inner", ["data/inner/__init__.py", "data/inner/facts.yaml", *DATA]),
        ("%matplotlib inline\n!ls\nfrom toy_lib.reward.whole import R\nR?", REWARD),
    ],
)
def test_imports_are_followed(tmp_path: Path, code: str, files: list[str]) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", code)
    assert imported_modules(notebook, "toy_lib") == sorted(Path("toy_lib") / name for name in files)


@pytest.mark.usefixtures("library")
def test_the_imports_of_all_cells_count(tmp_path: Path) -> None:
    notebook = write_notebook(
        tmp_path / "a.ipynb", "import toy_lib.reward.whole", "x = 1", "from toy_lib import round_a"
    )
    files = imported_modules(notebook, "toy_lib")
    assert files == sorted(Path("toy_lib") / name for name in [*REWARD, *ROUND])


@pytest.mark.usefixtures("library")
def test_a_cell_that_is_not_python_is_named(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "x = (")
    with pytest.raises(NotebookError, match=re.escape(str(notebook))):
        imported_modules(notebook, "toy_lib")


@pytest.fixture(scope="module")
def dependencies() -> dict[str, set[str]]:
    """The files of the library that each real notebook depends on."""
    return {path.stem: {str(file) for file in imported_modules(path)} for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_the_real_notebooks_depend_on_the_real_library(dependencies: dict[str, set[str]]) -> None:
    every = set().union(*dependencies.values())
    assert all((ROOT / file).exists() for file in every)
    assert dependencies["01_feature_extraction"] >= {"realm_lib/features/store.py", "realm_lib/features/extraction.py"}
    assert dependencies["02_combiner_training"] >= {"realm_lib/reward/combiner/network.py", "realm_lib/runs/run.py"}
    assert "realm_lib/evaluation/resampling.py" in dependencies["03_evaluation"]
    assert "realm_lib/rlhf/ppo/trainer.py" in dependencies["04_ppo"]
    assert "realm_lib/rlhf/dpo/fitting.py" in dependencies["05_dpo"]
    assert "realm_lib/data/simulator/knowledge/askvet.yaml" in dependencies["00_offline_models"]


@pytest.mark.parametrize(
    ("room", "notebooks"),
    [
        ("rlhf/ppo", {"04_ppo"}),
        ("rlhf/dpo", {"05_dpo"}),
        ("rlhf/comparison", {"06_policy_comparison"}),
        ("rlhf", {"00_offline_models", "04_ppo", "05_dpo", "06_policy_comparison"}),
        ("evaluation/resampling", {"00_offline_models", "03_evaluation", "04_ppo", "05_dpo", "06_policy_comparison"}),
        ("features/extraction", {"01_feature_extraction", "02_combiner_training", "03_evaluation"}),
        ("reward/combiner", {"02_combiner_training", "03_evaluation", "04_ppo", "05_dpo", "06_policy_comparison"}),
        ("report/pages", set()),
        ("inference", {"04_ppo", "05_dpo", "06_policy_comparison"}),  # a reward over HTTP
        ("inference/server", set()),
        ("cli.py", set()),
    ],
)
def test_a_change_in_a_room_reaches_only_the_notebooks_that_use_it(
    dependencies: dict[str, set[str]], room: str, notebooks: set[str]
) -> None:
    reached = {
        name for name, files in dependencies.items() if any(file.startswith(f"realm_lib/{room}") for file in files)
    }
    assert reached <= notebooks


# Preparing a run


def stamps(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def three(project: Path) -> Path:
    write_notebook(project / "notebooks" / "00_offline_models.ipynb", parameters=["offline_models = {}"])
    write_notebook(project / "notebooks" / "01_first.ipynb", parameters=["run = {}\ndata = {}"])
    write_notebook(project / "notebooks" / "02_second.ipynb", parameters=["run = {}\ntraining = {}"])
    write_notebook(project / "notebooks" / "scratch.ipynb", parameters=[])
    return project


def test_a_run_gets_its_parameters_and_its_rules(three: Path) -> None:
    run = prepare("test", ["training.seed=7", "run.name=seven"])
    assert run.folder == three / "outputs" / "seven"
    resolved = yaml.safe_load(run.path("params.yaml").read_text())
    assert resolved["training"]["seed"] == 7
    assert resolved["run"]["name"] == "seven"
    steps = {path.stem: yaml.safe_load(path.read_text()) for path in run.path(".steps").glob("*.yaml")}
    assert steps == {
        "00_offline_models": {"offline_models": resolved["offline_models"]},
        "01_first": {"run": resolved["run"], "data": resolved["data"]},
        "02_second": {"run": resolved["run"], "training": resolved["training"]},
    }
    rules = run.path(".steps", "depends.mk").read_text().splitlines()
    assert rules[0] == "STEPS := 00_offline_models 01_first 02_second"
    assert rules[-1] == "$(RUN)/notebooks/02_second.ipynb: $(RUN)/notebooks/01_first.ipynb"
    assert run.path(".steps", "jobs").read_text() == f"{resolved['run']['jobs']}\n"


def comes_after(notebook: Path, *names: str) -> None:
    content = json.loads(notebook.read_text())
    content["metadata"]["realm"] = {"after": names}
    notebook.write_text(json.dumps(content))


def test_a_notebook_waits_for_those_that_it_names_and_else_for_the_one_before(three: Path) -> None:
    comes_after(three / "notebooks" / "02_second.ipynb", "00_offline_models")
    write_notebook(three / "notebooks" / "03_third.ipynb", parameters=["run = {}"])
    comes_after(three / "notebooks" / "03_third.ipynb", "01_first", "02_second")
    rules = prepare("test", []).path(".steps", "depends.mk").read_text().splitlines()[1:]
    assert [rule.replace("$(RUN)/notebooks/", "").replace(".ipynb", "") for rule in rules] == [
        "00_offline_models: ",
        "01_first: 00_offline_models",
        "02_second: 00_offline_models",
        "03_third: 01_first 02_second",
    ]


@pytest.mark.parametrize("name", ["02_second", "03_third", "nope"])
def test_a_notebook_cannot_wait_for_what_does_not_come_before_it(three: Path, name: str) -> None:
    comes_after(three / "notebooks" / "02_second.ipynb", name)
    with pytest.raises(NotebookError, match=rf"02_second\.ipynb: comes after {name}"):
        prepare("test", [])


@pytest.mark.usefixtures("three")
def test_what_is_unchanged_keeps_its_time() -> None:
    run = prepare("test", [])
    before = stamps(run.folder)
    prepare("test", [])
    assert stamps(run.folder) == before


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("override", "touched"),
    [
        ("training.seed=7", {"params.yaml", ".steps/02_second.yaml"}),
        ("data.min_score_ratio=3", {"params.yaml", ".steps/01_first.yaml"}),
        ("model.dropout=0.2", {"params.yaml"}),
        ("run.seed=7", {"params.yaml", ".steps/01_first.yaml", ".steps/02_second.yaml"}),
    ],
)
def test_a_change_touches_the_steps_whose_sections_it_reaches(override: str, touched: set[str]) -> None:
    run = prepare("test", [])
    before = stamps(run.folder)
    prepare("test", [override])
    assert {name for name, time in stamps(run.folder).items() if time != before.get(name)} == touched


@pytest.mark.usefixtures("three")
def test_a_profile_of_published_models_skips_the_offline_notebook() -> None:
    run = prepare("test", ["offline_models=null"])
    assert run.path(".steps", "depends.mk").read_text().startswith("STEPS := 01_first 02_second\n")
    assert not run.path(".steps", "00_offline_models.yaml").exists()


def test_a_profile_without_rlhf_skips_the_notebooks_that_need_it(three: Path) -> None:
    write_notebook(three / "notebooks" / "03_third.ipynb", parameters=["run = {}\nrlhf = {}"])
    steps = "STEPS := 00_offline_models 01_first 02_second"
    for overrides, expected in (([], f"{steps} 03_third\n"), (["rlhf=null"], f"{steps}\n")):
        assert prepare("test", overrides).path(".steps", "depends.mk").read_text().startswith(expected)


def test_a_profile_may_be_a_file_anywhere(three: Path, tmp_path: Path) -> None:
    mine = (three / "params" / "test.yaml").rename(tmp_path / "mine.yaml")
    assert prepare(str(mine), ["run.name=mine"]).path("params.yaml").exists()


@pytest.mark.parametrize(
    ("profile", "overrides", "message"),
    [
        ("nope", [], r"params/nope\.yaml: no such parameter file"),
        ("test", ["training.seeed=7"], r"test\.yaml with overrides: training\.seeed: unknown key"),
        ("test", ["training.seed=seven"], "training.seed"),
        ("test", ["traning.seed=7"], "traning"),
        ("test", ["training.seed"], "section.key=value"),
        ("test", ["run.output_dir=outputs/a;b%c"], "run.output_dir: make cannot use a folder with '%;' in its name"),
        ("test", ["signals.mine={kind: python, function: 'nope:f'}"], "signals.mine.function: nope:f: nope cannot be"),
    ],
)
def test_a_faulty_profile_is_refused_before_anything_is_written(
    three: Path, profile: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        prepare(profile, overrides)
    assert not (three / "outputs").exists()


def test_signals_reach_the_notebook_that_adds_them_and_an_edited_function_runs_it_again(three: Path) -> None:
    write_notebook(three / "notebooks" / "01_first.ipynb", parameters=["run = {}\nsignals = {}"])
    (three / "number_of.py").write_text("def number(prompts, responses):\n    return [1.0] * len(responses)\n")
    signals = {"mine": {"kind": "python", "function": "number_of:number"}, "words": {"kind": "length", "unit": "words"}}
    run = prepare("test", [f"signals={json.dumps(signals)}"])
    assert yaml.safe_load(run.path(".steps", "01_first.yaml").read_text())["signals"] == signals
    assert yaml.safe_load(run.path("params.yaml").read_text())["signals"] == signals
    rules = run.path(".steps", "depends.mk").read_text().splitlines()
    assert [str(three / "number_of.py") in rule for rule in rules] == [False, False, True, False]


def test_a_faulty_notebook_is_refused_by_name(three: Path) -> None:
    write_notebook(three / "notebooks" / "02_second.ipynb", parameters=["run = {}\ntrainning = {}"])
    with pytest.raises(NotebookError, match=r"02_second\.ipynb.*trainning"):
        prepare("test", [])


# Executing


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.path("notebooks").iterdir())


FRAGILE = """\
from pathlib import Path

if Path("broken").exists():
    raise ValueError("the yeast is dead")"""


@pytest.mark.slow
def test_a_failure_is_kept_to_read_and_never_stands_for_a_result(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REALM_QUIET", raising=False)
    last = "import os\nprint(run['seed'], bool(os.environ['REALM_QUIET']))"
    write_notebook(project / "notebooks" / "01_bread.ipynb", "x = 1", FRAGILE, last)
    run = prepare("test", ["run.seed=5"])

    (project / "broken").touch()
    with pytest.raises(NotebookError) as error:
        execute(run, "01_bread")
    message = str(error.value)
    assert message.startswith("01_bread.ipynb, cell ")
    assert "ValueError: the yeast is dead" in message
    assert '    raise ValueError("the yeast is dead")' in message
    assert str(run.path("notebooks", "01_bread.failed.ipynb")) in message
    assert "\x1b" not in message
    assert names(run) == ["01_bread.failed.ipynb"]
    kept = json.loads(run.path("notebooks", "01_bread.failed.ipynb").read_text())
    assert any(output["output_type"] == "error" for cell in kept["cells"] for output in cell.get("outputs", []))
    assert run.manifest["steps"]["01_bread"]["exit"] == "failed"

    (project / "broken").unlink()
    execute(run, "01_bread")
    assert names(run) == ["01_bread.ipynb"], "the failed copy goes when the notebook succeeds"
    assert run.manifest["steps"]["01_bread"]["exit"] == "ok"
    done = json.loads(run.path("notebooks", "01_bread.ipynb").read_text())
    assert done["cells"][-1]["outputs"][0]["text"] == ["5 True\n"], "the run's parameters, and quiet progress bars"
    assert done["cells"][1]["metadata"]["tags"] == ["injected-parameters"]


@pytest.mark.slow
def test_figures_are_in_the_executed_copy_whatever_the_shell_says(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.delenv("REALM_QUIET", raising=False)
    drawing = "import matplotlib.pyplot as plt\nfigure, ax = plt.subplots(figsize=(1, 1))"
    write_notebook(project / "notebooks" / "01_bread.ipynb", drawing)
    run = prepare("test", [])
    execute(run, "01_bread")
    (*_, cell) = json.loads(run.path("notebooks", "01_bread.ipynb").read_text())["cells"]
    assert any("image/png" in output.get("data", {}) for output in cell["outputs"])
    assert os.environ["MPLBACKEND"] == "Agg"
    assert "REALM_QUIET" not in os.environ


@pytest.mark.slow
def test_the_kernel_is_that_of_this_python_whatever_jupyter_finds_first(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``JUPYTER_PATH``, which stands before all, a kernel of an environment that is gone."""
    kernel = project / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    gone = [str(project / "gone" / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": gone, "display_name": "Gone", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    write_notebook(project / "notebooks" / "01_bread.ipynb", "import sys\nprint(sys.executable)")
    run = prepare("test", [])
    execute(run, "01_bread")
    (*_, cell) = json.loads(run.path("notebooks", "01_bread.ipynb").read_text())["cells"]
    assert cell["outputs"][0]["text"] == [f"{sys.executable}\n"]


@pytest.mark.slow
def test_a_failure_leaves_the_last_good_copy(project: Path) -> None:
    """make reruns it all the same: what it depends on is newer."""
    write_notebook(project / "notebooks" / "01_bread.ipynb", "raise KeyError('flour')")
    run = prepare("test", [])
    good = run.path("notebooks", "01_bread.ipynb")
    write_notebook(good)
    os.utime(good, (1, 1))
    with pytest.raises(NotebookError, match="KeyError"):
        execute(run, "01_bread")
    assert names(run) == ["01_bread.failed.ipynb", "01_bread.ipynb"]
    assert good.stat().st_mtime == 1


@pytest.mark.slow
def test_a_kernel_that_dies_is_one_clear_error(project: Path) -> None:
    """As the kernel does when memory runs out."""
    write_notebook(project / "notebooks" / "01_bread.ipynb", "import os", "os.kill(os.getpid(), 9)")
    run = prepare("test", [])
    with pytest.raises(NotebookError, match=r"01_bread\.ipynb.*kernel died.*memory"):
        execute(run, "01_bread")
    assert names(run) == ["01_bread.failed.ipynb"]
    assert run.manifest["steps"]["01_bread"]["exit"] == "failed"


def test_a_notebook_that_is_not_there_is_named(project: Path) -> None:
    write_notebook(project / "notebooks" / "01_bread.ipynb")
    run = prepare("test", [])
    with pytest.raises(NotebookError, match=r"02_butter.*01_bread"):
        execute(run, "02_butter")


def test_a_run_that_was_not_prepared_is_named(project: Path) -> None:
    with pytest.raises(ParamsError, match=r"nowhere/params\.yaml"):
        execute(Run(project / "nowhere"), "01_bread")
