"""Run examples/tutorial.ipynb from first to last, and store what its cells print: ``python tools/run_tutorial.py``.

The cells run in one namespace, as in a notebook. What a cell prints, and the picture of its last line, become its
output. No notebook server is needed.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"


def run(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the code cells in order, put what they print into them, and return the names that they made."""
    names: dict[str, Any] = {"__name__": "__main__"}
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            last = _run_cell("".join(cell["source"]), names, number)
        cell |= {"execution_count": number, "outputs": list(_outputs(printed.getvalue(), last, number))}
    return names


def _run_cell(source: str, names: dict[str, Any], number: int) -> Any:
    """Run a cell; return the value of its last line, None where that is no expression."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    shows = isinstance(last, ast.Expr)
    tree.body = tree.body[:-1] if shows else tree.body
    exec(compile(tree, f"cell {number}", "exec"), names)
    return (
        None
        if not isinstance(last, ast.Expr)
        else eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    )


def _outputs(printed: str, last: Any, number: int) -> Any:
    if printed:
        yield {"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)}
    picture = getattr(last, "_repr_png_", lambda: None)()
    if picture is not None:
        data = {"image/png": base64.b64encode(picture).decode(), "text/plain": ["a picture"]}
        yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def main() -> None:
    """Run the notebook and write it anew."""
    sys.path.insert(0, str(ROOT))
    read = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    run(read["cells"])
    NOTEBOOK.write_text(json.dumps(read, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
