"""The folder is the architecture: imports point down, heavy libraries stay in their place."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ea_pointcloud"
NAME = "ea_pointcloud"

# Room -> its level in CONTRIBUTING.md. The files at the root are rooms of their own.
LEVEL = {
    "_checks": 0,
    "_device": 0,
    "_files": 0,
    "ops": 1,
    "io": 1,
    "descriptors": 1,
    "augment": 1,
    "metrics": 1,
    "datasets": 1,
    "viz": 1,
    "nn": 2,
    "models": 3,
    "inference": 4,
    "explain": 4,
    "robustness": 4,
    "training": 4,
    "export": 4,
    "report": 4,
    "cli": 5,
    "__main__": 6,
    "__init__": 6,
}
# Room -> all rooms that it imports. A new arrow is added here first; one that is gone is removed.
MAY_IMPORT = {
    "_checks": "",
    "_device": "",
    "_files": "",
    "ops": "_checks _device",
    "io": "_checks _files ops",
    "descriptors": "_checks ops",
    "augment": "_checks ops",
    "metrics": "_checks",
    "datasets": "_checks _device _files ops io descriptors augment",
    "viz": "_checks _files ops io",
    "nn": "_checks ops",
    "models": "_checks _device _files ops descriptors nn",
    "inference": "_checks _device ops io descriptors augment datasets nn models",
    "explain": "_checks ops io descriptors nn models inference",
    "robustness": "_checks _device ops io datasets models inference",
    "training": (
        "_checks _device _files ops io descriptors augment metrics datasets nn models inference "
        "robustness"
    ),
    "export": "_checks _files ops descriptors models",
    "report": "_files metrics datasets viz models robustness training",
    "cli": (
        "_checks _device _files ops io datasets viz models inference explain robustness "
        "training export report"
    ),
    "__main__": "cli",
    "__init__": "io datasets models inference training",
}
HOMES = {
    "scipy": (),
    "open3d": ("viz/", "io/cloud.py", "robustness/visibility.py"),
    "h5py": ("datasets/", "io/"),
    "pooch": ("datasets/",),
    "requests": ("datasets/",),
    "laspy": ("io/",),
    "mapbox_earcut": ("io/",),
    "DracoPy": ("io/",),
    "lightning": ("training/",),
    "torchmetrics": ("metrics.py", "training/"),
    "omegaconf": ("training/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "PIL": ("viz/", "report/"),
    "safetensors": ("models/",),
    "huggingface_hub": ("models/",),
    "numba": ("ops/_cpu",),
    "plotly": ("viz/", "report/"),
    "jinja2": ("report/",),
    "triton": ("ops/_triton",),
    "ray": ("inference/ray.py",),
    "onnx": ("export/",),
    "onnxruntime": ("export/",),
    "onnxscript": ("export/",),
    "torch_geometric": ("datasets/pyg.py", "datasets/pyg_source.py"),
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return found


def docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            yield getattr(node.body[0], "value", node.body[0])


def named_in_strings(tree: ast.AST) -> list[str]:
    """Modules of ours that strings name: to be loaded later, here or in another process.

    One whose end is not known is the name of what is known of it.
    """
    left_out = set(map(id, docstrings(tree)))
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in left_out
    ]
    return [name for text in texts for name in re.findall(rf"\b{NAME}\.(?:\w+\.)*\w*", text)]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_in(path: Path) -> set[str]:
    """The rooms that a file imports, its own left out; "" stands for one that is not known."""
    tree = ast.parse(path.read_text())
    names = [name for name in imports(tree) if name.split(".")[0] == NAME]
    # "from ea_pointcloud import Predictor" would hide where a name comes from.
    assert NAME not in names, f"{path} imports the package itself"
    return {name.split(".")[1] for name in names + named_in_strings(tree)} - {room_of(path)}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def files_in(path: Path, files: set[str]) -> set[str]:
    """The files that a file imports or names, but for the package that it lies in by its name."""
    tree = ast.parse(path.read_text())
    found = set(named_in_strings(tree)) - {module_of(path).rpartition(".")[0]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(each if each in files else node.module or "" for each in inner)
    return found & files


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of a circle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_who_may_import_what(path: Path) -> None:
    own = room_of(path)
    for name in imports(ast.parse(path.read_text())):
        assert name.split(".")[0] != "scripts", f"the package must not import {name}"
    allowed = set(MAY_IMPORT[own].split())
    if own == "__init__":  # loads public names and rooms by the names it is asked for
        allowed.add("")
    assert rooms_in(path) <= allowed, f"{own} must not import {rooms_in(path) - allowed}"


def test_the_table_has_no_arrow_too_many() -> None:
    drawn: dict[str, set[str]] = {}
    for path in sources():
        drawn.setdefault(room_of(path), set()).update(rooms_in(path) - {""})
    assert drawn == {room: set(others.split()) for room, others in MAY_IMPORT.items()}


def test_arrows_point_down() -> None:
    assert set(LEVEL) == set(MAY_IMPORT)
    up = [
        (room, other)
        for room, others in MAY_IMPORT.items()
        for other in others.split()
        if LEVEL[other] > LEVEL[room]
    ]
    assert up == []
    assert circle({room: set(others.split()) for room, others in MAY_IMPORT.items()}) == []


def test_no_file_leads_back_to_itself() -> None:
    files = {module_of(path): path for path in sources()}
    graph = {name: files_in(path, set(files)) - {name} for name, path in files.items()}
    assert circle(graph) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) != []
    tree = ast.parse('"""ea_pointcloud.io"""\nload("from ea_pointcloud.viz.colors import x")\n')
    assert named_in_strings(tree) == ["ea_pointcloud.viz.colors"]
    assert named_in_strings(ast.parse('f"ea_pointcloud.{name}"')) == ["ea_pointcloud."]


def test_six_files_at_the_root() -> None:
    files = {path.name for path in PACKAGE.glob("*.py")}
    assert files == {
        *("__init__.py", "__main__.py", "_checks.py", "_device.py", "_files.py", "metrics.py")
    }


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_in_their_place(path: Path) -> None:
    inside = path.relative_to(PACKAGE).as_posix()
    for name in imports(ast.parse(path.read_text())):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or inside.startswith(homes), f"{inside} must not import {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_open3d_is_imported_inside_functions_only(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not any(name.startswith("open3d") for name in imports(node))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_has_a_level_and_a_first_sentence(path: Path) -> None:
    assert room_of(path) in LEVEL
    assert ast.get_docstring(ast.parse(path.read_text()))


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


def test_import_takes_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'open3d', 'lightning', 'h5py', 'typer', 'rich', 'torch_geometric'}"
    code = f"import sys, ea_pointcloud; print(sorted({heavy} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_command_line_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'open3d', 'lightning', 'h5py', 'torchmetrics'}"
    code = f"import sys, ea_pointcloud.cli; print(sorted({heavy} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_a_prediction_imports_no_compiler_of_networks() -> None:
    heavy = "{'torch._dynamo', 'torch._inductor', 'sympy', 'lightning', 'torchmetrics', 'pandas'}"
    code = (
        "import sys, numpy\n"
        "from ea_pointcloud import Predictor\n"
        "Predictor.from_pretrained().classify([numpy.eye(3)])\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert run_python(code) == "[]"


def test_processes_behind_the_guard_and_pool_start_light() -> None:
    code = "import sys, ea_pointcloud.io.pool as _; print('numpy' in sys.modules)"
    assert run_python(code) == "False"
    code = "import sys, ea_pointcloud.io.guard_worker as _; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_public_names_resolve() -> None:
    import ea_pointcloud

    for name in ea_pointcloud.__all__:
        assert getattr(ea_pointcloud, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = ea_pointcloud.nonsense
    assert set(ea_pointcloud.__all__) <= set(dir(ea_pointcloud))
