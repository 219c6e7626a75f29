"""The notebooks run from top to bottom, and are stored small: no outputs but a picture each."""

import ast
import base64
import importlib.util
import os
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST_PICTURE = 60_000  # bytes
# What the cell tagged "parameters" sets, made small; none of the sets in 05 is there.
QUICK: dict[str, dict[str, Any]] = {
    "01_train_and_classify": {"EPOCHS": 2, "SHAPES": [56, 14, 14]},
    "02_segment_parts": {"EPOCHS": 1, "SHAPES": [28, 14, 14]},
    "03_neighbourhoods": {
        "NUM_POINTS": 2048,
        "NUM_CENTRES": 64,
        "NUM_NEIGHBOURS": 32,
        "MANY_POINTS": 2000,
    },
    "04_what_external_attention_sees": {"EPOCHS": 1, "SHAPES": [56, 14, 28]},
    "05_modelnet40": {
        "DATA_ROOT": "nowhere",
        "SETS": ["modelnet40", "modelnet10"],
        "EPOCHS": 1,
        "SHAPES": [56, 14, 28],
    },
    "06_own_classes": {"EXAMPLES": 5, "QUERIES": 6},
}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def tagged(notebook: NotebookNode, tag: str) -> NotebookNode:
    (cell,) = (cell for cell in notebook.cells if tag in cell.metadata.get("tags", ()))
    return cell


def assigned(source: str) -> set[str]:
    statements = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {target.id for node in statements for target in node.targets}  # pyright: ignore


def pictures(cell: NotebookNode) -> list[Image.Image]:
    encoded = [each.get("data", {}).get("image/png") for each in cell.outputs]
    return [Image.open(BytesIO(base64.b64decode(each))) for each in encoded if each]


def shown(notebook: NotebookNode, kind: str) -> list[Any]:
    """The outputs of one kind, as ``text/markdown``, in order."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    data = (each.get("data", {}) for cell in cells for each in cell.outputs)
    return [each[kind] for each in data if kind in each]


def printed(notebook: NotebookNode) -> str:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return "\n".join(each.get("text", "") for cell in cells for each in cell.outputs)


def test_all_stories_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(QUICK)


@each_notebook
def test_stored_without_outputs_but_one_picture(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    picture = tagged(notebook, "picture")
    assert len(picture.outputs) == 1
    assert list(picture.outputs[0].data) == ["image/png"]
    assert len(base64.b64decode(picture.outputs[0].data["image/png"])) <= LARGEST_PICTURE
    assert len(pictures(picture)[0].convert("RGB").getcolors(100_000) or ()) > 8
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None
            assert cell is picture or cell.outputs == []


@each_notebook
def test_no_paths_of_one_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    for place in ("/home", "/root", "/tmp", "/work", "/Users", "C:\\", "/content"):
        assert place not in text


@each_notebook
def test_begins_with_a_title_and_what_colab_lacks(path: Path) -> None:
    first, install = nbformat.read(path, as_version=4).cells[:2]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    expected = tagged(nbformat.read(NOTEBOOKS[0], as_version=4), "install")
    assert install.metadata.tags == ["install"]
    assert install.source == expected.source


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("checkout", [True, False])
def test_installs_only_what_is_missing(
    *, installed: bool, checkout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []

    class Shell:
        def run_line_magic(self, name: str, line: str) -> None:
            ran.append((name, line.format(**scope)))

    (tmp_path / "notebooks").mkdir()
    if checkout:
        (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    source = tagged(nbformat.read(NOTEBOOKS[0], as_version=4), "install").source
    scope: dict[str, Any] = {"get_ipython": Shell}
    exec(TransformerManager().transform_cell(source), scope)
    wanted = ".." if checkout else "ea-pointcloud"
    assert ran == ([] if installed else [("pip", f"install --quiet {wanted}")])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookClient]:
    """A kernel in an empty folder; one for all notebooks, for the imports take longest."""
    folder, scratch = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("scratch")
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": python_path, "TMPDIR": str(scratch)}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=300, kernel_name="python3")
    with client.setup_kernel(cwd=str(folder), env=environment):
        yield client
    assert list(folder.iterdir()) == []  # all files of theirs are temporary ones


def run(client: NotebookClient, path: Path, values: dict[str, Any]) -> NotebookNode:
    """Run all cells with other parameters, in a namespace that is empty but for these."""
    notebook = nbformat.read(path, as_version=4)
    parameters = tagged(notebook, "parameters")
    assert assigned(parameters.source) == set(values)
    parameters.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client.nb = notebook
    client.reset_execution_trackers()
    for place, cell in enumerate(notebook.cells):
        client.execute_cell(cell, place)
    return notebook


@each_notebook
def test_runs(path: Path, client: NotebookClient) -> None:
    notebook = run(client, path, QUICK[path.stem])
    stored = tagged(nbformat.read(path, as_version=4), "picture")
    (picture,), (kept,) = pictures(tagged(notebook, "picture")), pictures(stored)
    assert picture.width == kept.width
    assert "Warning" not in printed(notebook)
    if path.stem == "01_train_and_classify":
        curves = shown(notebook, "application/vnd.plotly.v1+json")[0]["data"]
        assert [len(each["y"]) for each in curves] == [2, 2, 2]
        assert all(isinstance(value, float) for each in curves for value in each["y"])
    if path.stem == "05_modelnet40":
        assert "running on procedural" in printed(notebook)
    if path.stem == "06_own_classes":
        text = printed(notebook)
        assert "3 classes, 5 examples each; ridge regression" in text
        correct = re.search(r"(\d+) of 18 correct", text)
        assert correct is not None
        assert int(correct[1]) >= 15
        assert "labelled mug, looks like bottle" in text


def test_modelnet40_is_taken_where_it_is(modelnet_folder: Path, client: NotebookClient) -> None:
    (path,) = (path for path in NOTEBOOKS if path.stem == "05_modelnet40")
    values = {**QUICK[path.stem], "DATA_ROOT": str(modelnet_folder.parent)}
    notebook = run(client, path, values)
    assert "running on modelnet40" in printed(notebook)
    (table,) = shown(notebook, "text/markdown")
    assert "modelnet40, 40 test shapes" in table
    assert "validation (primary)" in table
