"""Running notebooks for make: which parameters and files each depends on, and one execution at a time.

make decides what is out of date. This module resolves a profile into a run's folder, writes for every notebook the
sections that its ``parameters`` cell declares and the library files that it imports, and executes a notebook with
papermill so that a failure is kept for reading and never stands where a result would.
"""

import ast
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from realm_lib.params import Params, dump_yaml, load_params, project_root
from realm_lib.runs import Run, open_run, write_text

__all__ = ["NotebookError", "declared_sections", "execute", "imported_modules", "prepare"]


class NotebookError(RuntimeError):
    """A notebook that cannot be run or that failed; the message shows the cell and its error."""


def prepare(profile: str, overrides: list[str]) -> Run:
    """Resolve ``params/PROFILE.yaml`` with overrides into the run's folder, and return the run.

    Writes params.yaml, .steps/NOTEBOOK.yaml (the sections that the notebook declares: what papermill injects) and
    .steps/depends.mk (what each executed notebook depends on). A file whose content is unchanged keeps its time, so
    that make reruns only what a changed parameter reaches.
    """
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else project_root() / "params" / f"{profile}.yaml"
    params = load_params(path, overrides)
    run = open_run(params)
    _write_if_changed(run.path("params.yaml"), dump_yaml(params))
    notebooks = [path for path in _notebooks() if params.offline_models or "offline" not in path.stem]
    rules = [f"STEPS := {' '.join(path.stem for path in notebooks)}"]
    before = ""
    for notebook in notebooks:
        sections = declared_sections(notebook)
        _write_if_changed(run.path(".steps", f"{notebook.stem}.yaml"), dump_yaml(params, sections))
        files = " ".join(str(file) for file in imported_modules(notebook))
        rules.append(f"$(RUN)/notebooks/{notebook.stem}.ipynb: {files}{before}")
        before = f" $(RUN)/notebooks/{notebook.stem}.ipynb"
    _write_if_changed(run.path(".steps", "depends.mk"), "\n".join(rules) + "\n")
    return run


def execute(run: Run, name: str) -> None:
    """Execute notebooks/NAME.ipynb into the run with papermill and record the step in the manifest.

    The executed copy appears under its own name only when every cell ran; a failed one is kept as NAME.failed.ipynb.
    Raises :class:`NotebookError` with the cell's error, for a kernel that died, and for a notebook that the run lacks.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    source = project_root() / "notebooks" / f"{name}.ipynb"
    params = load_params(run.path("params.yaml"))
    prepared = run.path(".steps", f"{name}.yaml")
    if not (source.exists() and prepared.exists()):
        steps = ", ".join(path.stem for path in sorted(prepared.parent.glob("*.yaml")))
        raise NotebookError(f"{run.folder} has no notebook {name}; it has: {steps or 'none, run `make` for it first'}")
    values = yaml.safe_load(prepared.read_text(encoding="utf-8"))
    target = run.path("notebooks", f"{name}.ipynb")
    failed = target.with_suffix(".failed.ipynb")
    working = target.with_suffix(".running.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with run.step(name, params), _kernel_environment():
            papermill.execute_notebook(
                str(source),
                str(working),
                parameters=values,
                kernel_name="python3",
                cwd=str(project_root()),
                progress_bar=False,
                # The kernel warns on every start that it listens on TCP; cells' own warnings are not affected.
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        failed.unlink(missing_ok=True)
        working.replace(target)
    except PapermillExecutionError as error:
        working.replace(failed)
        raise NotebookError(
            f"{source.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The cell:\n{_indented(error.source)}\nThe notebook as far as it ran: {failed}"
        ) from None
    except DeadKernelError:
        working.replace(failed)
        raise NotebookError(
            f"{source.name}: its kernel died, as it does when memory runs out or somebody kills it. What was finished "
            f"is kept; run it again, with less memory in use. The notebook as far as it ran: {failed}"
        ) from None
    finally:
        working.unlink(missing_ok=True)


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """What a kernel inherits: nobody watches, so no progress bars; figures go into the executed copy.

    A shell's own MPLBACKEND (Agg, on many servers) would keep them out of it.
    """
    wanted = {"REALM_QUIET": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def declared_sections(notebook: Path) -> list[str]:
    """The sections that the cell tagged ``parameters`` assigns, in order.

    papermill only warns of a missing cell or an unknown name and then runs with the notebook's own defaults; here both
    raise :class:`NotebookError`.
    """
    cells = [cell for cell in _code_cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise NotebookError(f"{notebook}: {len(cells)} cells are tagged parameters; there must be one")
    statements = ast.parse(_python(cells[0], notebook)).body
    targets = [node.targets[0] for node in statements if isinstance(node, ast.Assign) and len(node.targets) == 1]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    unknown = [name for name in names if name not in Params.model_fields]
    if unknown or len(names) != len(statements):
        raise NotebookError(
            f"{notebook}: the parameters cell may only assign sections, found {unknown or 'other code'}"
        )
    return names


def imported_modules(notebook: Path) -> list[Path]:
    """The files of realm_lib that a notebook imports, and those that they import, relative to the project's root.

    A package stands for all its files: their data files change results as their code does.
    """
    package = Path(__file__).parent
    found: set[Path] = set()
    queue = [module for cell in _code_cells(notebook) for module in _imports(_python(cell, notebook))]
    while queue:
        module = queue.pop()
        place = package.joinpath(*module.split(".")[1:])
        files = [place.with_suffix(".py")] if place.with_suffix(".py").exists() else sorted(place.rglob("*"))
        for file in files:
            if (
                file.is_file()
                and file not in found
                and file.suffix in {".py", ".yaml"}
                and file != package / "__init__.py"
            ):
                found.add(file)
                queue += _imports(file.read_text(encoding="utf-8")) if file.suffix == ".py" else []
    return sorted(file.relative_to(package.parent) for file in found)


def _imports(source: str) -> Iterator[str]:
    """Modules of realm_lib that Python source imports, at its top or inside functions."""
    home = _public_homes()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # what only a type checker imports changes no result
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("realm_lib."):
            yield ".".join(node.module.split(".")[:2])
        elif isinstance(node, ast.ImportFrom) and node.module == "realm_lib":
            yield from (f"realm_lib.{home.get(alias.name, alias.name)}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("realm_lib."))


def _python(cell: dict[str, Any], notebook: Path) -> str:
    """A cell's source as Python, IPython's own syntax (%magics, !commands) translated."""
    source = "".join(cell["source"])
    try:
        ast.parse(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        source = TransformerManager().transform_cell(source)
        try:
            ast.parse(source)
        except SyntaxError as error:
            raise NotebookError(f"{notebook}: a cell is not Python: {error.msg}\n{_indented(source)}") from None
    return source


def _public_homes() -> dict[str, str]:
    import realm_lib

    return realm_lib._HOME


def _notebooks() -> list[Path]:
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def _code_cells(notebook: Path) -> list[dict[str, Any]]:
    import json

    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())
