"""What all pages share: templates, style, navigation, and how an HTML file is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_lib.runs.files import write_text

TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Page:
    """A page in the navigation: its address from the page that shows it, and its name."""

    href: str
    label: str


def write_page(path: Path, template: str, pages: list[Page], *, source: str, **content: Any) -> Path:
    """Render ``template`` to ``path``, with ``pages`` to go to and the run ``source``, or a ``footer``, at its foot."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8") + _code_colours())
    footer = f"Made by REALM from {source}. Every number here can be recomputed from that folder."
    content = {"simulated": False, "footer": footer, **content}
    write_text(path, environment.get_template(template).render(pages=pages, here=path.name, style=style, **content))
    return path


def notebook_label(stem: str) -> str:
    """``02_combiner_training`` as ``02 Combiner training``."""
    number, _, words = stem.partition("_")
    words = words.replace("_", " ")
    return f"{number} {words.upper() if words in {'ppo', 'dpo'} else words.capitalize()}"


def _code_colours() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    light += "\n.highlight .ow { color: #7a1fb8 }"  # the style's own is too pale on the pages' grey
    return (
        f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}\n"
        ".highlight { background: none !important; }"
    )
