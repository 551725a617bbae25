"""The rendered report of a run: an index page and one page a notebook, that open from disk and without a network."""

import base64
import re
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

from realm_lib.params import Params, load_params
from realm_lib.runs import MissingStepError, Run, write_text

__all__ = ["write_report"]

_TEMPLATES = Path(__file__).parent / "templates"

_FIGURES = (
    (
        "evaluation_accuracy",
        "How often each reward is right.",
        "Points are accuracies on the test pairs, bars their 95 % intervals over posts.",
    ),
    (
        "features_chosen_rejected",
        "What the two features know.",
        "Distribution over chosen and rejected test responses. The further the curves part, the more a feature knows.",
    ),
    (
        "combiner_surface",
        "What the combiner learned.",
        "Reward over the plane of the two features, with the validation responses drawn on it. Bent lines of equal "
        "reward mean that one feature decides how much the other counts.",
    ),
    (
        "evaluation_domains",
        "Where it is right.",
        "Accuracy by domain with 95 % intervals. Wide intervals are small domains: read no order into them.",
    ),
    (
        "combiner_training",
        "How the combiner was trained.",
        "Loss and accuracy by epoch; the marked epoch is the one that was kept.",
    ),
)


def write_report(run: Run) -> Path:
    """Render every executed notebook of ``run`` and reports/index.html, and return the index page's path.

    Raises :class:`MissingStepError` when the evaluation has not run: without it there is nothing to report.
    """
    if not run.path("metrics", "evaluation.json").exists():
        raise MissingStepError(f"{run.folder}: no evaluation to report; run `make` for this run first")
    notebooks = sorted(path for path in run.path("notebooks").glob("*.ipynb") if path.name.count(".") == 1)
    pages = [{"href": "index.html", "label": "Report"}]
    pages += [{"href": f"{path.stem}.html", "label": _label(path.stem)} for path in notebooks]
    simulated = "ceiling" in run.read_metrics("evaluation")
    for path in notebooks:
        content = {"title": _label(path.stem), "body": _notebook_body(path), "simulated": simulated}
        _write_page(run, f"{path.stem}.html", "page.html.j2", pages, **content)
    return _write_page(run, "index.html", "index.html.j2", pages, title=f"REALM: {run.folder.name}", **_index(run))


def _write_page(run: Run, name: str, template: str, pages: list[dict[str, str]], **content: Any) -> Path:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8") + _code_colours())
    footer = f"Made by REALM from {run.folder.name}/metrics. Every number here can be recomputed from that folder."
    html = environment.get_template(template).render(pages=pages, here=name, style=style, footer=footer, **content)
    path = run.path("reports", name)
    write_text(path, html)
    return path


def _index(run: Run) -> dict[str, Any]:
    evaluation = run.read_metrics("evaluation")
    features = run.read_metrics("features")
    manifest = run.manifest
    params = load_params(run.path("params.yaml"))
    rows, axis = _reward_rows(evaluation)
    return {
        "run_name": run.folder.name,
        "date": datetime.now(UTC).strftime("%d %B %Y"),
        "simulated": "ceiling" in evaluation,
        "verdict": evaluation["verdict"],
        "evaluation": evaluation,
        "rewards": rows,
        "axis": axis,
        "differences": [_difference_row(name, found) for name, found in evaluation["differences"].items()],
        "figures": [_figure(run, *figure) for figure in _FIGURES if run.path("figures", f"{figure[0]}.svg").exists()],
        "steps": [_step_row(run, name, step) for name, step in manifest.get("steps", {}).items()],
        "facts": _facts(params, features, manifest),
        "files": _files(run),
        "params": run.path("params.yaml").read_text(encoding="utf-8"),
        "packages": "\n".join(f"{name}=={version}" for name, version in manifest.get("packages", {}).items()),
    }


def _reward_rows(evaluation: dict[str, Any]) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """The headline table, best first, with the places of points and intervals on a common axis in percent."""
    from realm_lib.figures import COLOURS, LABELS

    found = dict(evaluation["rewards"])
    if "ceiling" in evaluation:
        found["ceiling"] = evaluation["ceiling"]
    ends = [end for values in found.values() for end in values["ci"]]
    low, high = int(min(0.5, *ends) * 20) * 5, -int(-max(0.5, *ends) * 20 // 1) * 5
    spread = (high - low) / 100

    def place(value: float) -> float:
        return round((value - low / 100) / spread * 100, 2)

    rows = [
        {
            "name": name,
            "label": LABELS.get(name, name),
            "colour": COLOURS.get(name, "#777777"),
            "accuracy": f"{values['accuracy']:.1%}",
            "interval": f"{values['ci'][0]:.1%} to {values['ci'][1]:.1%}",
            "place": place(values["accuracy"]),
            "left": place(values["ci"][0]),
            "width": round(place(values["ci"][1]) - place(values["ci"][0]), 2),
            "log_loss": f"{values['log_loss']:.3f}" if "log_loss" in values else "",
            "ece": f"{values['ece']:.3f}" if "ece" in values else "",
            "ties": f"{values['ties']:,}" if "ties" in values else "",
        }
        for name, values in sorted(found.items(), key=lambda item: -item[1]["accuracy"])
    ]
    return rows, (low, high)


def _difference_row(name: str, found: dict[str, Any]) -> dict[str, str]:
    from realm_lib.figures import LABELS

    low, high = found["ci"]
    words = "better" if low > 0 else "worse" if high < 0 else "the data cannot tell"
    return {
        "label": " minus ".join(LABELS.get(side, side) for side in name.split(" - ")),
        "value": f"{100 * found['value']:+.1f}",
        "interval": f"{100 * low:+.1f} to {100 * high:+.1f}",
        "p": f"{found['p_value']:.4f}" if found["p_value"] >= 0.0001 else "below 0.0001",
        "words": words,
    }


def _figure(run: Run, name: str, title: str, caption: str) -> dict[str, str]:
    data = base64.b64encode(run.path("figures", f"{name}.svg").read_bytes()).decode()
    return {
        "title": title,
        "caption": caption,
        "alt": f"{title} {caption}",
        "source": f"data:image/svg+xml;base64,{data}",
    }


def _step_row(run: Run, name: str, step: dict[str, Any]) -> dict[str, str]:
    page = f"{name}.html" if run.path("notebooks", f"{name}.ipynb").exists() else "index.html"
    seconds = step.get("seconds")
    return {
        "name": _label(name),
        "href": page,
        "seconds": "" if seconds is None else f"{seconds:.0f} s",
        "exit": step.get("exit", ""),
    }


def _facts(params: Params, features: dict[str, Any], manifest: dict[str, Any]) -> list[tuple[str, str]]:
    hardware = manifest.get("hardware", {})
    commit = manifest.get("commit", {})
    source = {"simulator": "REALM's simulator", "hub": params.data.dataset_name, "local": params.data.path}
    splits = features["splits"]
    return [
        ("Pairs", f"{source[params.data.source]}: " + ", ".join(f"{n['pairs']:,} {s}" for s, n in splits.items())),
        ("Reward model", f"{params.reward_model.model_id} ({params.reward_model.backend})"),
        ("Embeddings", f"{params.embedding.model_id} ({params.embedding.backend})"),
        ("Responses", f"{features['unique_responses']:,} distinct, {features['scored']:,} scored in this run"),
        ("Seeds", ", ".join(f"{name} {seed}" for name, seed in manifest.get("seeds", {}).items())),
        (
            "Machine",
            f"{hardware.get('cores')} cores, {hardware.get('memory_gib')} GiB, "
            f"{', '.join(hardware.get('gpus', [])) or 'no GPU'}, Python {manifest.get('python')}",
        ),
        ("Commit", f"{commit.get('id') or 'not a git checkout'}{' with local changes' if commit.get('dirty') else ''}"),
    ]


def _files(run: Run) -> list[dict[str, str]]:
    paths = [run.path("params.yaml"), run.path("manifest.json"), *sorted(run.path("metrics").glob("*.json"))]
    paths += sorted(path for path in run.path("models").glob("[!.]*") if path.is_dir())
    found = [path.relative_to(run.folder).as_posix() for path in paths if path.exists()]
    return [{"href": f"../{name}", "label": name} for name in found]


def _label(stem: str) -> str:
    """``02_combiner_training`` as ``02 Combiner training``."""
    number, _, words = stem.partition("_")
    return f"{number} {words.replace('_', ' ').capitalize()}"


# Notebooks


def _notebook_body(path: Path) -> Any:
    """A notebook as an HTML fragment: prose and results open, code folded, formulas as MathML."""
    import nbformat
    from markupsafe import Markup
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = "# The parameters of this run:\n" + cell.source.removeprefix("# Parameters\n")
        if cell.cell_type == "markdown":
            cell.source = _with_mathml(re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.html)", cell.source))
        else:
            # What libraries say on standard error stays in the executed notebook; a reader has no use for it.
            cell.outputs = [_readable(out) for out in cell.outputs if out.get("name") != "stderr"]
        cells.append(cell)
    notebook.cells = cells
    exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(_TEMPLATES)])
    exporter.exclude_output_prompt = exporter.exclude_input_prompt = True
    html, _ = exporter.from_notebook_node(notebook)
    return Markup(re.sub(r'href="([^"]*)"', _safe_link, html))


def _safe_link(match: re.Match[str]) -> str:
    """A link that is not to a page or a file (javascript: and the like, out of a quoted post) leads nowhere."""
    target = re.sub(r"[\x00-\x20]", "", unescape(match[1])).lower()
    scheme = re.match(r"[a-z][a-z0-9+.-]*:", target)
    return match[0] if scheme is None or scheme[0] in {"http:", "https:", "mailto:"} else 'href="#"'


def _readable(output: Any) -> Any:
    """Markdown that a cell made quotes posts and comments: their tags, dollars and pictures are text, nothing more."""
    markdown = output.get("data", {}).get("text/markdown")
    if markdown is not None:
        text = markdown.replace("<", "&lt;").replace("$", "&#36;").replace("![", "!&#91;")
        output["data"]["text/markdown"] = text
    return output


def _with_mathml(markdown: str) -> str:
    """TeX between dollars as MathML, which browsers draw without a script; code spans are left alone."""
    from latex2mathml.converter import convert

    def formula(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        tex, display = (match["block"], "block") if match["block"] else (match["inline"], "inline")
        return str(convert(" ".join(tex.split()), display=display))

    pattern = r"(?P<code>```.*?```|`[^`\n]+`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$"
    return re.sub(pattern, formula, markdown, flags=re.DOTALL)


def _code_colours() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n.highlight {{ background: none !important; }}"
