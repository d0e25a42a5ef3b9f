"""Run docs/notebooks/*.ipynb and keep what they show; tests/test_notebooks.py only runs their code.

    python docs/notebooks.py [WEIGHTS]

All in one temporary folder, in which `digits` leaves the features that `cache` looks into. With WEIGHTS, a file of VGG16 without
its top, that is taken where Keras' own can't be had.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"
NAMES = ("digits", "cache", "photos", "competition")
TAKEN = """
import featcache, functools
for name in ("fit", "encode"):
    setattr(featcache, name, functools.partial(getattr(featcache, name), weights={!r}))
"""


def shown(book: nbformat.NotebookNode, folder: str, weights: str | None) -> nbformat.NotebookNode:
    """The notebook with what its cells show when they are run in `folder`."""
    if weights is not None:
        book.cells.insert(0, nbformat.v4.new_code_cell(TAKEN.format(weights)))
    NotebookClient(book, timeout=600, coalesce_streams=True, resources={"metadata": {"path": folder}}).execute()
    del book.cells[: weights is not None]
    for cell in book.cells:
        cell.metadata = {}
    for number, cell in enumerate((cell for cell in book.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            output.get("data", {}).pop("image/jpeg", None)  # the PNG is there, too
    return book


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(sys.argv[1]).name if sys.argv[1:] else None
        if weights is not None:
            Path(temporary, weights).symlink_to(Path(sys.argv[1]).absolute())
        for name in NAMES:
            path = FOLDER / f"{name}.ipynb"
            book = shown(nbformat.read(path, as_version=4), temporary, weights)
            path.write_text(nbformat.writes(book).replace(f"{temporary}/", "") + "\n")
