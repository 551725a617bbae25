"""The project as a whole: versions agree, profiles are valid, and no file knows the machine that it was written on."""

import ast
import importlib.metadata
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from realm_lib.config.base import ParamsError
from realm_lib.config.profile import SECTIONS, Params, load_params
from realm_lib.runs.notebooks import declared_sections

ROOT = Path(__file__).parents[1]
PROFILES = sorted((ROOT / "params").glob("*.yaml"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def pins() -> dict[str, str]:
    """constraints.txt: version by name."""
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def required() -> list[Requirement]:
    project = PYPROJECT["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    return [Requirement(text) for text in [*project["dependencies"], *extras]]


def own_files() -> list[Path]:
    """Every text file of the project: not what runs, tools and installations leave."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    skipped = {name.strip("/").removesuffix("/*") for name in ignored if not name.startswith("!")} | {".git"}
    files = [
        path
        for path in ROOT.rglob("*")
        if path.is_file()
        and not skipped.intersection(path.relative_to(ROOT).parts)
        and not any(part.endswith(".egg-info") for part in path.parts)
    ]
    return [path for path in files if b"\0" not in path.read_bytes()[:4096]]


# Versions


def test_conda_installs_the_python_that_the_package_wants() -> None:
    (python,) = [entry for entry in ENVIRONMENT["dependencies"] if str(entry).startswith("python=")]
    version = python.partition("=")[2]
    assert PYPROJECT["project"]["requires-python"] == f">={version},<3.{int(version.split('.')[1]) + 1}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == version
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{version.replace('.', '')}"


def test_every_pinned_version_runs_on_every_python_that_is_allowed() -> None:
    """Debian 12 has Python 3.11.2, where a pin that wants 3.11.5 leaves pip without a solution."""
    wants = {
        canonicalize_name(one.metadata["Name"]): one.metadata.get("Requires-Python") or ""
        for one in importlib.metadata.distributions()
        if pins().get(canonicalize_name(one.metadata["Name"])) == one.version
    }
    assert len(wants) > 100
    assert [name for name, wanted in wants.items() if not SpecifierSet(wanted).contains("3.11.0")] == []


def test_conda_installs_this_project_under_the_constraints() -> None:
    (pip,) = [entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert "pip" in ENVIRONMENT["dependencies"]


def test_every_constraint_is_an_exact_pin_named_once() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in names)
    assert len(pins()) == len(names)


@pytest.mark.parametrize("requirement", required(), ids=lambda requirement: requirement.name)
def test_a_requirement_agrees_with_its_constraint(requirement: Requirement) -> None:
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, "constraints.txt does not pin it"
    assert requirement.specifier.contains(version)
    exact = [clause.version for clause in requirement.specifier if clause.operator == "=="]
    assert exact in ([], [version])


def test_everything_that_is_installed_is_pinned() -> None:
    # What venv and conda bring themselves; CUDA's wheels come with torch, and differ by platform.
    own = {"realm-lib", "pip", "setuptools", "wheel"}
    platforms = re.compile(r"nvidia-|cuda-|triton$")
    pinned = pins()
    installed = {
        canonicalize_name(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()
    }
    different = {
        name: version
        for name, version in installed.items()
        if name not in own and not platforms.match(name) and pinned.get(name) != version.partition("+")[0]
    }
    assert different == {}


@pytest.mark.slow
def test_every_package_that_the_library_imports_is_required() -> None:
    modules = importlib.metadata.packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in required()}
    imported = set()
    for path in (ROOT / "realm_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: imports are absolute; make follows only those"
                imported.add(node.module.partition(".")[0])
    homes = {name: {canonicalize_name(home) for home in modules[name]} for name in imported if name in modules}
    # Parts of a required package's own interface, which it brings along.
    brought = {
        "starlette",
        "IPython",
        "cycler",
        "nbclient",
        "nbformat",
        "pygments",
        "markupsafe",
        "tokenizers",
        "huggingface_hub",
        "ipykernel",
        "jupyter_client",
        "traitlets",
    }
    assert {name for name, home in homes.items() if not home & names} - {"realm_lib"} <= brought


# Profiles


ANY_PROFILE = pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)


def keys_of(content: Any) -> Iterator[tuple[str, ...]]:
    """The path of every key in nested mappings."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (key,)
            yield from ((key, *rest) for rest in keys_of(value))


def without(content: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    key, *rest = path
    if rest:
        return content | {key: without(content[key], tuple(rest))}
    return {name: value for name, value in content.items() if name != key}


@ANY_PROFILE
def test_a_profile_is_valid_and_names_every_section(path: Path) -> None:
    """A section that it left out would be the demo's, where papermill is given the profile itself."""
    assert load_params(path).run.name == path.stem
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))) == list(SECTIONS)


@ANY_PROFILE
def test_a_profile_says_only_what_differs_from_the_defaults(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    params = Params.from_sections(**content)

    def is_default(key: tuple[str, ...]) -> bool:
        try:
            return Params.from_sections(**without(content, key)) == params
        except ParamsError:  # a key that has no default
            return False

    inside = [key for key in keys_of(content) if len(key) > 1]
    assert inside
    assert [".".join(key) for key in inside if is_default(key)] == []


@ANY_PROFILE
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_papermill_with_a_profile_leaves_nothing_of_the_demo(path: Path, notebook: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    cells = parameterize_notebook(load_notebook_node(str(notebook)), content).cells
    given: dict[str, Any] = {}
    for tag in ("parameters", "injected-parameters"):
        (source,) = [cell.source for cell in cells if tag in cell.metadata.tags]
        exec(source, given)
    params = Params.from_sections(**{name: given[name] for name in declared_sections(notebook)})
    whole = load_params(path).sections
    assert params.sections == {name: whole[name] for name in params.sections}


def test_the_profiles_of_the_design_are_there() -> None:
    assert {path.stem for path in PROFILES} >= {"demo", "local", "smol", "small", "full", "test"}


def test_the_full_profile_is_the_original_documents() -> None:
    full = load_params(ROOT / "params" / "full.yaml")
    assert full.reward_model.model_id == "infly/INF-ORM-Llama3.1-70B"
    assert full.reward_model.quantization == "4bit"
    assert full.data.dataset_name == "stanfordnlp/SHP"
    assert (full.model.input_dim or 2, full.model.hidden_dims, full.model.output_dim) == (2, [64, 32], 1)
    assert (full.model.dropout, full.training.learning_rate, full.training.weight_decay) == (0.1, 1e-4, 1e-5)
    assert (full.training.seed, full.training.num_epochs) == (42, 10)


# make, continuous integration, secrets


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):.*##", text, flags=re.MULTILINE))


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^make (\w+) +\S", shown, flags=re.MULTILINE))
    assert listed == targets()
    assert listed >= {"run", "test", "check", "lint", "format", "lab", "report", "verify", "clean", "help"}


def test_make_alone_runs_the_demo() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^PROFILE \?= demo$", text, flags=re.MULTILINE)
    first = re.search(r"^([a-z]\w*):(?!=)", text, flags=re.MULTILINE)
    assert first is not None
    assert first[1] == "run"


def test_continuous_integration_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert re.findall(r"^make (\w+)$", script.read_text(encoding="utf-8"), flags=re.MULTILINE) == ["lint", "test"]
    assert script.stat().st_mode & 0o111
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert [step["run"] for step in workflow["jobs"]["run"]["steps"] if "run" in step] == [".ci/run"]


def test_the_hooks_of_a_commit_are_the_tools_of_make_format() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    commands = [hook["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for hook in hooks]
    recipe = re.search(r"^format:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    assert all(f"$(BIN)/{command}" in recipe[1] for command in commands)


def test_the_example_of_secrets_holds_none() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"#.*|[A-Z_]+=", line) for line in lines if line)


# No trace of a machine


@pytest.mark.slow
def test_no_file_knows_the_machine_that_it_was_written_on() -> None:
    # Put together here, so that this file is not found itself.
    words = ["/wor" + "k/", "../sha" + "red", "/ro" + "ot/", "/ho" + "me/", "/Use" + "rs/", "/tm" + "p/"]
    hosts = ["pypi" + r"\.org", "files\\." + "pythonhosted", "index" + "-url", r"\b(?:10|192\.168)(?:\.\d+){2,3}\b"]
    pattern = re.compile("|".join([*map(re.escape, words), *hosts]))
    found = {
        f"{path.relative_to(ROOT)}: {line.strip()[:100]}"
        for path in own_files()
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    }
    assert found == set()


def test_no_key_is_in_a_file() -> None:
    keys = re.compile(r"AIza[\w-]{30,}|hf_[A-Za-z]{30,}|sk-[\w-]{20,}|nvapi-[\w-]{20,}|-----BEGIN [A-Z ]*PRIVATE")
    assert [str(path) for path in own_files() if keys.search(path.read_text(encoding="utf-8"))] == []


# The house


LONGEST = 300


def test_a_file_of_the_library_is_not_too_long_and_says_what_it_is() -> None:
    files = sorted((ROOT / "realm_lib").rglob("*.py"))
    assert files
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    assert {name: lines for name, text in texts.items() if (lines := len(text.splitlines())) > LONGEST} == {}
    assert [name for name, text in texts.items() if not ast.get_docstring(ast.parse(text))] == []


ROOMS = ("config", "runs", "data", "models", "features", "reward", "evaluation", "inference", "rlhf", "report")
TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))


def names_of(room: str) -> set[str]:
    """The modules and packages of a room, a deeper one also under the names of the packages around it."""
    folder = ROOT / "realm_lib" / room
    places = [path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py")]
    parts = {place[:-1] if place[-1] == "__init__" else place for place in places}
    return {"_".join(names[start:]) for names in parts for start in range(len(names))}


def test_the_rooms_of_the_contract_are_the_folders_of_the_library() -> None:
    (contract,) = PYPROJECT["tool"]["importlinter"]["contracts"]
    folders = {path.parent.name for path in (ROOT / "realm_lib").glob("*/__init__.py")}
    assert set(ROOMS) == folders == set(contract["layers"]) - {"cli"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_test_file_is_named_after_what_it_tests(room: str) -> None:
    files = [path for path in TEST_FILES if path.parent == ROOT / "tests" / room]
    assert files
    assert [path.name for path in files if path.stem.removeprefix("test_") not in names_of(room)] == []


def test_no_test_file_lies_outside_the_rooms_and_none_imports_another() -> None:
    tests = ROOT / "tests"
    folders = (*ROOMS, "attacks", "notebooks", "browser")
    assert {path.parent for path in TEST_FILES} <= {tests, *(tests / name for name in folders)}
    imports = re.compile(r"^\s*(?:from|import)\s+(?:\S+\.)?(test_\w+)", flags=re.MULTILINE)
    files = sorted(tests.rglob("*.py"))
    wrong = {path.name: names for path in files if (names := imports.findall(path.read_text(encoding="utf-8")))}
    assert wrong == {}


def test_every_marker_is_used() -> None:
    declared = {marker.partition(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    texts = [path.read_text(encoding="utf-8") for path in TEST_FILES]
    assert {name for name in declared if not any(f"pytest.mark.{name}" in text for text in texts)} == set()
