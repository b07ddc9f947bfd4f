"""Write each notebook `notebooks/*.ipynb` from its script of the same name; `--check` only says which are out of step.

The script is the source: text, code, no outputs. The notebook is what JupyterLab and a code host open. Cells get ids by
their place, so the same script is the same file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


def notebook_of(script: Path) -> str:
    """Return the text of the notebook that a percent script stands for."""
    book = jupytext.read(script)
    for place, cell in enumerate(book.cells):
        cell["id"] = f"cell-{place:02d}"
    return nbformat.writes(book, version=nbformat.NO_CONVERT) + "\n"


def main(check: bool) -> int:
    """Write what differs (or only name it); return how many differed when checking, else 0."""
    stale = [s for s in sorted(FOLDER.glob("*.py")) if _read(s.with_suffix(".ipynb")) != notebook_of(s)]
    for script in stale:
        print(f"{script.name}: {'out of step with its notebook' if check else 'notebook written'}")
        if not check:
            script.with_suffix(".ipynb").write_text(notebook_of(script), encoding="utf-8")
    return len(stale) if check else 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
