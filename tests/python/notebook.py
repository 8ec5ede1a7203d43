"""Runs a notebook's cells: python notebook.py NOTEBOOK writes their outputs into it, and test_notebook.py holds what they print against these."""
import ast
import contextlib
import io
import json
import os
import sys


def run_cell(source, names):
    """What the cell prints, with the repr of its last expression, as Jupyter shows them; an error's last line."""
    out, body = io.StringIO(), ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
            if shown is not None:
                print(repr(shown))
        except Exception as e:
            print(f"{type(e).__name__}: {e}")
    return out.getvalue()


def run(path):
    """(source, what it printed, what the notebook says) of each code cell, run where the notebook is."""
    with open(path) as f:
        book = json.load(f)
    names, there = {}, os.getcwd()
    os.chdir(os.path.dirname(os.path.abspath(path)))
    try:
        cells = [c for c in book["cells"] if c["cell_type"] == "code"]
        return book, [(c, run_cell("".join(c["source"]), names), "".join("".join(o["text"]) for o in c["outputs"])) for c in cells]
    finally:
        os.chdir(there)


if __name__ == "__main__":
    import conftest  # noqa: F401
    path = sys.argv[1]
    book, cells = run(path)
    for number, (cell, printed, _) in enumerate(cells, 1):
        cell["execution_count"] = number
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)}] if printed else []
    with open(path, "w") as f:
        json.dump(book, f, indent=1, ensure_ascii=False)
        f.write("\n")
