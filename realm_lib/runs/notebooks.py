"""Running notebooks for make: which parameters and files each depends on, and one execution at a time.

make decides what is out of date. This module resolves a profile into a run's folder, writes for every notebook the
sections that its ``parameters`` cell declares and the files that it imports (the library's, and those of the user's own
functions), and executes a notebook with papermill so that a failure is kept for reading and never stands where a result
would.
"""

import ast
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realm_lib.config.base import ParamsError, project_root
from realm_lib.config.overrides import split_overrides
from realm_lib.config.profile import SECTIONS, Params, dump_yaml, load_params
from realm_lib.config.text import read_yaml
from realm_lib.runs.files import write_text
from realm_lib.runs.functions import function_files
from realm_lib.runs.reading import read_text
from realm_lib.runs.run import Run, open_run
from realm_lib.runs.steps import at_work


class NotebookError(RuntimeError):
    """A notebook that cannot be run or that failed; the message shows the cell and its error."""


def prepare(profile: str, overrides: list[str]) -> Run:
    """Resolve ``params/PROFILE.yaml`` with overrides into the run's folder, and return the run.

    Writes params.yaml, .steps/NOTEBOOK.yaml (the sections that the notebook declares: what papermill injects),
    .steps/depends.mk (what each executed notebook depends on) and .steps/jobs (how many may run at once). A file whose
    content is unchanged keeps its time, so that make reruns only what a changed parameter reaches.
    Raises :class:`ParamsError` for a folder whose name make or the shell would read as more than a name.
    """
    params = read_profile(profile, overrides)
    if signs := "".join(sorted(set(re.findall(r"[^\w ./,+@~-]", params.run.output_dir)))):
        raise ParamsError(f"run.output_dir: make cannot use a folder with {signs!r} in its name: choose another")
    run = open_run(params)
    _write_if_changed(run.path("params.yaml"), dump_yaml(params))
    notebooks = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    notebooks = [path for path in notebooks if params.offline_models or "offline" not in path.stem]
    notebooks = [path for path in notebooks if params.rlhf or "rlhf" not in declared_sections(path)]
    rules = [f"STEPS := {' '.join(path.stem for path in notebooks)}"]
    before: list[str] = []
    for notebook in notebooks:
        sections = declared_sections(notebook)
        _write_if_changed(run.path(".steps", f"{notebook.stem}.yaml"), dump_yaml(params, sections))
        after = [f"$(RUN)/notebooks/{name}.ipynb" for name in _after(notebook, before)]
        needs = [*map(str, imported_modules(notebook)), *after]
        if "signals" in sections:
            needs += [str(file).replace(" ", "\\ ") for file in function_files(params.signals)]
        rules.append(f"$(RUN)/notebooks/{notebook.stem}.ipynb: {' '.join(needs)}")
        before.append(notebook.stem)
    _write_if_changed(run.path(".steps", "depends.mk"), "\n".join(rules) + "\n")
    _write_if_changed(run.path(".steps", "jobs"), f"{params.run.jobs}\n")
    return run


def read_profile(profile: str, overrides: Iterable[str] = ()) -> Params:
    """The parameters of ``params/PROFILE.yaml``, of a YAML file, or of a run's folder, with overrides merged in.

    Raises :class:`ParamsError` where there is none of them.
    """
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else project_root() / "params" / f"{profile}.yaml"
    resolved = Path(profile) / "params.yaml"
    if resolved.exists() and not path.exists():
        path = resolved
    return load_params(path, [change for text in overrides for change in split_overrides(text)])


def execute(run: Run, name: str) -> None:
    """Execute notebooks/NAME.ipynb into the run with papermill and record the step in the manifest.

    The executed copy appears under its own name only when every cell ran; a failed one is kept as NAME.failed.ipynb.
    Raises :class:`NotebookError` with the cell's error, for a kernel that died, and for a notebook that the run lacks.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from realm_lib.runs.kernel import OwnKernelManager

    source = project_root() / "notebooks" / f"{name}.ipynb"
    params = load_params(run.path("params.yaml"))
    prepared = run.path(".steps", f"{name}.yaml")
    if not (source.exists() and prepared.exists()):
        steps = ", ".join(path.stem for path in sorted(prepared.parent.glob("*.yaml")))
        raise NotebookError(f"{run.folder} has no notebook {name}; it has: {steps or 'none, run `make` for it first'}")
    values = read_yaml(read_text(prepared), f"{prepared}:")
    if not isinstance(values, dict):
        raise NotebookError(f"{prepared}: holds no sections: run `make` again")
    target = run.path("notebooks", f"{name}.ipynb")
    failed = target.with_suffix(".failed.ipynb")
    working = target.with_suffix(".running.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with at_work(run, name), run.step(name, params), _kernel_environment():
            papermill.execute_notebook(
                str(source),
                str(working),
                parameters=values,
                kernel_name="python3",
                kernel_manager_class=OwnKernelManager,
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
    variables = {"REALM_QUIET": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


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
    unknown = [name for name in names if name not in SECTIONS]
    if unknown or len(names) != len(statements):
        wrong = unknown or "other code"
        raise NotebookError(f"{notebook}: the parameters cell may only assign sections, found {wrong}")
    return names


def _after(notebook: Path, before: list[str]) -> list[str]:
    """The notebooks whose results a notebook reads: those that its metadata name (realm: after), else the one before.

    Raises :class:`NotebookError` for a name that does not stand ``before`` it.
    """
    metadata = read_notebook(notebook)["metadata"]
    after: list[str] = metadata.get("realm", {}).get("after", before[-1:])
    if unknown := [name for name in after if name not in before]:
        raise NotebookError(f"{notebook}: comes after {unknown[0]}, which is not a notebook before it")
    return after


def imported_modules(notebook: Path, package: str = "realm_lib") -> list[Path]:
    """The files of ``package`` that a notebook imports, and those that they import, relative to the project's root.

    Data files (YAML) count with the package that they lie in. What only a type checker imports changes no result.
    """
    import grimp

    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    root = Path(spec.origin).parent
    public = _public_names(root)
    sources = [_python(cell, notebook) for cell in _code_cells(notebook)]
    queue = [public.get(name, name) for source in sources for name in _imports(source)]
    modules: set[str] = set()
    while queue:
        module = queue.pop()
        # The top only says where names live; of a name that a module holds, the module is what counts.
        if module.startswith(f"{package}.") and module not in modules:
            modules.add(module)
            queue.append(module.rpartition(".")[0])  # importing a module runs the packages around it
            queue += graph.find_modules_directly_imported_by(module) if module in graph.modules else ()
    files = {_file(root, module) for module in modules & graph.modules}
    files |= {data for data in root.rglob("*.yaml") if _package_around(data) in files}
    return sorted(file.relative_to(root.parent) for file in files)


def _imports(source: str) -> Iterator[str]:
    """The modules and the names in modules that Python source imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _public_names(root: Path) -> dict[str, str]:
    """The names that the stub of a package makes public, as PACKAGE.NAME, and the module of each."""
    stub = root / "__init__.pyi"
    tree = ast.parse(stub.read_text(encoding="utf-8") if stub.exists() else "")
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {f"{root.name}.{alias.name}": f"{root.name}.{node.module}" for node in imports for alias in node.names}


def _file(root: Path, module: str) -> Path:
    path = root.parent.joinpath(*module.split("."))
    # A module may have a folder of data beside it, under its own name: that one is no package.
    return path / "__init__.py" if (path / "__init__.py").exists() else path.with_suffix(".py")


def _package_around(file: Path) -> Path:
    """The __init__.py of the innermost package that ``file`` lies in."""
    return next(folder / "__init__.py" for folder in file.parents if (folder / "__init__.py").exists())


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


def _code_cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in read_notebook(notebook)["cells"] if cell["cell_type"] == "code"]


def read_notebook(path: Path) -> Any:
    """The notebook at ``path``, as nbformat has it. Raises :class:`NotebookError` for a file that is none."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    # The last two: nbformat takes any JSON for a notebook and looks into it.
    except (OSError, ValueError, RecursionError, nbformat.ValidationError, AttributeError, TypeError) as error:
        raise NotebookError(
            f"{path}: not a notebook that can be read: take it from git, or run it again where a run holds it"
        ) from error


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())
