"""The library's own lines, for a notebook to show beside the formula that they compute."""

import ast
import inspect
from collections.abc import Callable
from typing import Any


def source_of(*functions: Callable[..., Any]) -> str:
    """The source of ``functions`` as a block of Markdown, without their docstrings; comments stay."""
    sources = [_without_docstring(inspect.getsource(function)) for function in functions]
    return "```python\n" + "\n\n".join(sources) + "```"


def _without_docstring(source: str) -> str:
    """``source``, that of one function at the top of a module, less the lines of its docstring."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef), "functions of a module, not methods or classes"
    if ast.get_docstring(function) is None or len(function.body) == 1:
        return source
    docstring = function.body[0]
    lines = source.splitlines(keepends=True)
    return "".join(lines[: docstring.lineno - 1]) + "".join(lines[docstring.end_lineno :]).lstrip("\n")
