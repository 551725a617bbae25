"""The rendered report of a run, and runs side by side: pages that open from disk, without a network or a script."""

from pathlib import Path

from realm_lib.report.pages.index import index_content
from realm_lib.report.pages.notebooks import notebook_body
from realm_lib.report.pages.pages import Page, notebook_label, write_page
from realm_lib.report.pages.side_by_side import ComparisonOfRunsError, write_side_by_side
from realm_lib.runs.files import write_text
from realm_lib.runs.reading import read_text
from realm_lib.runs.run import MissingStepError, Run

__all__ = ["ComparisonOfRunsError", "write_report", "write_side_by_side"]

_FILES = ("params.yaml", "manifest.json")


def write_report(run: Run) -> Path:
    """Render every executed notebook of ``run`` and reports/index.html, and return the index page's path.

    The folder reports/ needs nothing outside itself: parameters, manifest and metrics are copied into reports/files.
    Raises :class:`MissingStepError` where no run is, and when the evaluation has not run: without it there is
    nothing to report.
    """
    Run.existing(run.folder)
    if not run.path("metrics", "evaluation.json").exists():
        raise MissingStepError(f"{run.folder}: no evaluation to report; run `make` for this run first")
    notebooks = sorted(path for path in run.path("notebooks").glob("*.ipynb") if path.name.count(".") == 1)
    pages = [Page("index.html", "Report")]
    pages += [Page(f"{path.stem}.html", notebook_label(path.stem)) for path in notebooks]
    simulated = "ceiling" in run.read_metrics("evaluation")
    for path in notebooks:
        write_page(
            run.path("reports", f"{path.stem}.html"),
            "page.html.j2",
            pages,
            title=f"{notebook_label(path.stem)} · REALM {run.folder.name}",
            body=notebook_body(path, run, {other.stem for other in notebooks}),
            simulated=simulated,
            source=run.folder.name,
        )
    content = index_content(run, notebooks, _copied_files(run))
    return write_page(run.path("reports", "index.html"), "index.html.j2", pages, source=run.folder.name, **content)


def _copied_files(run: Run) -> list[str]:
    """Copy what a reader may want to check the numbers with into reports/files; their names."""
    paths = [run.path(name) for name in _FILES] + sorted(run.path("metrics").glob("*.json"))
    copied = [path for path in paths if path.exists()]
    for path in copied:
        write_text(run.path("reports", "files", path.name), read_text(path))
    return [path.name for path in copied]
