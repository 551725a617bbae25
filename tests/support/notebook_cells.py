"""The stored notebooks, and their cells."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

Cell = dict[str, Any]


def cells_of(path: Path) -> list[Cell]:
    cells: list[Cell] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def code_of(path: Path) -> list[Cell]:
    return [cell for cell in cells_of(path) if cell["cell_type"] == "code"]


def tagged(path: Path) -> list[Cell]:
    return [cell for cell in code_of(path) if "parameters" in cell["metadata"].get("tags", [])]


def run_here(path: Path, values: dict[str, Any]) -> None:
    """Run a notebook's code in this process; ``values`` take the place of those of its parameters cell."""
    names: dict[str, Any] = {"__name__": "__main__", "display": print}
    for cell in code_of(path):
        exec(source(cell), names)
        if cell in tagged(path):
            names |= {name: values[name] for name in names.keys() & values.keys()}
