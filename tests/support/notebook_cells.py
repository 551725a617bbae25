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
