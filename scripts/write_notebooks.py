"""Run the notebooks and store them as they are kept: no outputs but one small picture each.

After editing notebooks: ``python scripts/write_notebooks.py [NOTEBOOK...]``, all without arguments.
Each runs in an empty folder. The cell tagged ``picture`` keeps its picture.
"""

import base64
import sys
import time
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def store(path: Path) -> float:
    """Run a notebook and write it back without what differs from run to run; returns seconds."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}})
        client.execute()
    seconds = time.perf_counter() - started
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            tagged = "picture" in cell.metadata.get("tags", ())
            cell.outputs = [small_picture(cell.outputs)] if tagged else []
            cell.execution_count = None
    nbformat.write(notebook, path)
    return seconds


def small_picture(outputs: list[nbformat.NotebookNode]) -> nbformat.NotebookNode:
    """The picture among the outputs of a cell, in 128 colours: a third of the bytes."""
    (encoded,) = (each.data["image/png"] for each in outputs if "image/png" in each.get("data", ()))
    picture = Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")
    content = BytesIO()
    picture.quantize(128).save(content, format="PNG", optimize=True)
    data = {"image/png": base64.b64encode(content.getvalue()).decode()}
    return nbformat.v4.new_output("display_data", data)


def main() -> None:
    """Store the notebooks named on the command line, else all."""
    for path in map(Path, sys.argv[1:] or sorted(NOTEBOOKS.glob("*.ipynb"))):
        sys.stdout.write(f"{path.name}: {store(path):.0f} s\n")


if __name__ == "__main__":
    main()
