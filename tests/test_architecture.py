"""The folder is the architecture: imports point down, heavy libraries stay in their place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ea_pointcloud"

# Rank of each part; a part may import parts of a lower rank, or itself. The integers are the levels
# of CONTRIBUTING.md, the fractions order the parts of level 1 among themselves.
RANK = {
    "_files": 0,
    "_checks": 0,
    "_device": 0.1,
    "ops": 1,
    "descriptors": 1.1,
    "augment": 1.1,
    "io": 1.01,
    "metrics": 1.2,
    "datasets": 1.3,
    "viz": 1.3,
    "nn": 2,
    "models": 3,
    "inference": 4,
    "explain": 4.05,
    "robustness": 4.05,
    "training": 4.1,
    "export": 4.2,
    "report": 4.2,
    "cli": 5,
    "__main__": 6,
    "__init__": 7,
}
HOMES = {
    "scipy": ("augment/matching.py",),
    "open3d": ("viz/", "robustness/visibility.py"),
    "h5py": ("datasets/", "io/"),
    "pooch": ("datasets/",),
    "requests": ("datasets/",),
    "laspy": ("io/",),
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


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = part_of(path)
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        assert parts[0] != "scripts", f"the package must not import {name}"
        if parts[0] != "ea_pointcloud":
            continue
        # "from ea_pointcloud import Predictor" would hide where a name comes from.
        assert parts[1:2] != [], f"{own} must not import {name}"
        assert parts[1] in RANK, f"{own} must not import {name}"
        assert parts[1] == own or RANK[parts[1]] < RANK[own], f"{own} must not import {name}"


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
def test_every_part_has_a_rank_and_a_first_sentence(path: Path) -> None:
    assert part_of(path) in RANK
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


def test_public_names_resolve() -> None:
    import ea_pointcloud

    for name in ea_pointcloud.__all__:
        assert getattr(ea_pointcloud, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = ea_pointcloud.nonsense
    assert set(ea_pointcloud.__all__) <= set(dir(ea_pointcloud))
