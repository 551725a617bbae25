"""An executed notebook as part of a page: prose and results open, code folded, formulas drawn, figures described."""

import re
from collections.abc import Collection
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_lib.report.pages.pages import TEMPLATES
from realm_lib.report.pages.pictures import describe, picture
from realm_lib.runs.notebooks import read_notebook
from realm_lib.runs.run import Run

if TYPE_CHECKING:
    from markupsafe import Markup

_NUMBER = re.compile(r"[-+−≥<~]?\s*[\d.,]*\d(e[-+]?\d+)?\s*%?(\s*\(.*\))?$|$|nan$|True$|False$|None$", re.IGNORECASE)
"""What stands to the right: a number, perhaps with its interval in brackets, or nothing."""


def notebook_body(path: Path, run: Run, pages: Collection[str]) -> "Markup":
    """The notebook at ``path`` as an HTML fragment; figures that ``run`` has as SVG are drawn from it.

    A link to another notebook leads to its page where ``pages`` (stems) has it, and is plain text elsewhere, as is a
    link to one of the project's own pages (README.md): a report may be read far from the project.
    """
    from markupsafe import Markup
    from nbconvert import HTMLExporter

    notebook = read_notebook(path)
    heading = "the notebook"
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = "# The parameters of this run:\n" + cell.source.removeprefix("# Parameters\n")
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE) or [heading])[-1]
            cell.source = _with_mathml(_linked(cell.source, pages))
        elif cell.cell_type == "code":
            # What libraries say on standard error stays in the executed notebook; a reader has no use for it.
            readable = (_readable(out) for out in cell.outputs if out.get("name") != "stderr")
            cell.outputs = [out for out in readable if out is not None]
            _draw_figures(cell, heading, run)
    exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)])
    exporter.exclude_output_prompt = exporter.exclude_input_prompt = True
    html, _ = exporter.from_notebook_node(notebook)
    html = re.sub(r'href="([^"]*)"', _safe_link, html)
    html = re.sub(r"<table.*?</table>", lambda match: _table_for_reading(match[0]), html, flags=re.DOTALL)
    # What scrolls sideways must be reachable without a mouse.
    return Markup(re.sub(r'<(div(?= class="output_html)|math(?= display="block"))', r'<\1 tabindex="0"', html))


def _linked(markdown: str, pages: Collection[str]) -> str:
    def link(match: re.Match[str]) -> str:
        return f"[{match[1]}]({match[2]}.html)" if match[2] in pages else match[1]

    return re.sub(r"\[([^\]]+)\]\(([\w./]+)\.(?:ipynb|md)\)", link, markdown)


def _draw_figures(cell: Any, heading: str, run: Run) -> None:
    """Give the pictures that a cell shows their vector form, where the cell saved them, and a text for the blind."""
    shown = [out for out in cell.outputs if "image/png" in out.get("data", {})]
    saved = re.findall(r'save_figure\([^"]+"(\w+)"\)', cell.source)
    for index, output in enumerate(shown):
        if len(saved) == len(shown) and run.path("figures", f"{saved[index]}.svg").exists():
            output["data"] = {"text/html": str(picture(run, saved[index]))}
            continue
        alt = describe(saved[0]) if len(saved) == 1 else f"Figure {index + 1} of “{heading}”"
        output.setdefault("metadata", {})["image/png"] = {"alt": alt}


def _table_for_reading(html: str) -> str:
    """A table with words to the left and numbers to the right, and without an index that only counts rows."""
    from bs4 import BeautifulSoup

    table = BeautifulSoup(html, "html.parser")
    body, heads = ([row.find_all(["th", "td"]) for row in table.select(f"{part} tr")] for part in ("tbody", "thead"))
    first = [row[0] for row in [*heads, *body] if row]
    labels = [cell.get_text(strip=True) for cell in first]
    if body and labels == [""] * len(heads) + [str(n) for n in range(len(body))] and first[-1].name == "th":
        for cell in first:
            cell.decompose()
    # Columns are counted from the right: an index of several levels spans rows on the left.
    cells = [[cell for cell in row if cell.name == "td"][::-1] for row in body]
    wordy = {n for row in cells for n, cell in enumerate(row) if not _NUMBER.match(cell.get_text(strip=True))}
    for row in [*cells, *(row[::-1] for row in heads)]:
        for n in wordy & set(range(len(row))):
            cell = row[n]
            cell["class"] = f"{' '.join(cell.get_attribute_list('class'))} text".strip()
            if cell.name == "td" and cell.string is not None:
                cell.string = cell.string.replace("\\n", "\n")  # pandas writes line breaks as two characters
    return str(table)


def _safe_link(match: re.Match[str]) -> str:
    """A link that is not to a page or a file (javascript: and the like, out of a quoted post) leads nowhere."""
    target = re.sub(r"[\x00-\x20]", "", unescape(match[1])).lower()
    scheme = re.match(r"[a-z][a-z0-9+.-]*:", target)
    return match[0] if scheme is None or scheme[0] in {"http:", "https:", "mailto:"} else 'href="#"'


def _readable(output: Any) -> Any:
    """An output for readers: quoted texts are text and nothing more, widgets are pictures, bars have left no trace.

    None for what only a kernel can show.
    """
    if output.get("output_type") == "stream":
        output["text"] = re.sub(r"(?m)^[^\n]*\r(?!\n)[^\n]*\n?", "", output["text"])
        return output
    data = output.get("data", {})
    # A widget needs a kernel; a picture or a table that stands beside it does not. Its name as text says nothing.
    if data.pop("application/vnd.jupyter.widget-view+json", None) and not {"image/png", "text/html"} & data.keys():
        return None
    if (markdown := data.get("text/markdown")) is not None:
        # Markdown that a cell made quotes posts and comments: their tags, dollars and pictures are only text.
        data["text/markdown"] = markdown.replace("<", "&lt;").replace("$", "&#36;").replace("![", "!&#91;")
    return output


def _with_mathml(markdown: str) -> str:
    """TeX between dollars as MathML, which browsers draw without a script; code spans are left alone."""
    from latex2mathml.converter import convert

    def formula(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        tex, display = (match["block"], "block") if match["block"] else (match["inline"], "inline")
        return _space_functions(str(convert(" ".join(tex.split()), display=display)))

    pattern = r"(?P<code>```.*?```|`[^`\n]+`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$"
    return re.sub(pattern, formula, markdown, flags=re.DOTALL)


def _space_functions(mathml: str) -> str:
    """With TeX's thin space between a function's name (log, exp) and what stands beside it, brackets excepted."""
    name, thin = "<mi>[a-z]{2,}</mi>", '<mspace width="0.167em"></mspace>'
    mathml = re.sub(f"(?<=</m[in]>)(?={name})", thin, mathml)
    return re.sub(f"({name})(?=<m[^o])", rf"\1{thin}", mathml)
