"""Writing a network to one file that runs without this package, and checking it."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ea_pointcloud._checks import check_choice
from ea_pointcloud._files import whole_file
from ea_pointcloud.export.checking import TOLERANCE, example_inputs, largest_difference
from ea_pointcloud.export.network import Deployed
from ea_pointcloud.models import Classifier, Segmenter
from ea_pointcloud.ops import _backend

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}  # name -> suffix
METADATA = "ea_pointcloud"  # in metadata_props of ONNX, and, with .json, in extra_files of torch
_REMEDY = "install them with: pip install 'ea-pointcloud[export]'"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: the file.
        description: the metadata of the file.
        difference: the largest between file and network; None where nothing could run the file.
        clouds: on how many clouds they were compared.
    """

    path: Path
    description: dict[str, Any]
    difference: float | None
    clouds: int


def export_model(
    model: Classifier | Segmenter,
    path: str | Path,
    file_format: str = "onnx",
    *,
    dynamic_points: bool = False,
    normalize: bool | None = None,
    force: bool = False,
) -> Exported:
    """Write a network, with the sampling inside, to a file that runs without this package.

    The file is written aside, compared with the network where it can be run, and renamed. The
    number of clouds in a batch is always open. Inputs and outputs are those of
    :class:`~ea_pointcloud.export.Deployed`, described in JSON: under ``ea_pointcloud`` in the
    metadata of ONNX, as ``ea_pointcloud.json`` in the extra files of ``torch.export``.

    Args:
        model: a classifier or segmenter.
        path: the file, in a folder that exists.
        file_format: ``"onnx"`` or ``"torch-export"``.
        dynamic_points: any number of points instead of that of training.
        normalize: centre and scale clouds inside; None: wherever that can be.
        force: replace an existing file.

    Raises:
        FileExistsError: if the file exists.
        ImportError: if ONNX is missing.
        ValueError: if an argument is impossible, or file and network differ.
    """
    check_choice("format", file_format, FORMATS)
    path = Path(path)
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; choose another name or add --force")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    if file_format == "onnx":
        check_onnx()
    network = Deployed(model, dynamic_points=dynamic_points, normalize=normalize)
    with whole_file(path) as partial, _quiet():
        write = _write_onnx if file_format == "onnx" else _write_torch
        description = write(network, partial)
        difference, clouds = None, 0
        if file_format != "onnx" or find_spec("onnxruntime") is not None:
            run = (_onnx_run if file_format == "onnx" else _torch_run)(partial, network)
            difference, clouds = largest_difference(network, run, description["min_points"])
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"{path} was not kept: it differs from the network by {difference:.2g}, more "
                    f"than {TOLERANCE:g}, with torch {torch.__version__}; install the versions in "
                    "scripts/constraints.txt, or report it"
                )
    return Exported(path, description, difference, clouds)


def check_onnx() -> None:
    """Raise unless ONNX files can be written.

    Raises:
        ImportError: if not.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX files are written by {' and '.join(missing)}; {_REMEDY}")


def _write_onnx(network: Deployed, path: Path) -> dict[str, Any]:
    from ea_pointcloud.export.onnx_operators import OPSET, translations

    with _backend.keep_operators():
        program = _trace(network)
    description: dict[str, Any] = network.description() | {"min_points": 1}
    written = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=network.input_names,
        output_names=[output["name"] for output in description["outputs"]],
        custom_translation_table=translations(),
    )
    assert written is not None
    onnx = written.model
    onnx.producer_name, onnx.producer_version = METADATA, description["producer_version"]
    onnx.graph.name = description["architecture"]
    onnx.metadata_props.clear()
    onnx.metadata_props[METADATA] = json.dumps(description, ensure_ascii=False)
    for node in onnx.graph.all_nodes():  # stack traces of this machine
        node.metadata_props.clear()
    written.save(path, external_data=False)
    return description


def _write_torch(network: Deployed, path: Path) -> dict[str, Any]:
    # Loops compiled for other sizes would be reused for these.
    torch.compiler.reset()
    program = _trace(network)
    for module in program.graph_module.modules():
        assert isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes:  # stack traces of this machine
            node.meta.pop("stack_trace", None)
    description: dict[str, Any] = network.description()
    description["min_points"] = max(network.num_neighbors, 2)
    content = io.BytesIO()
    text = json.dumps(description, ensure_ascii=False, indent=2)
    torch.export.save(program, content, extra_files={f"{METADATA}.json": text})
    path.write_bytes(content.getvalue())
    return description


def _trace(network: Deployed) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    num_points, dims = network.model.data_spec.num_points, {0: batch}
    if network.dynamic_points:
        # More than are chosen, and a size that no layer has.
        num_points = 2 * num_points + 1
        dims = {0: batch, 1: torch.export.Dim("points", min=max(network.num_neighbors, 2))}
    shapes = tuple({0: batch} if name == "category" else dims for name in network.input_names)
    inputs = example_inputs(network, 2, num_points, torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.export.export(network, tuple(inputs), dynamic_shapes=(shapes,))


def _onnx_run(path: Path, network: Deployed) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: list[Tensor]) -> Any:
        given = zip(network.input_names, inputs, strict=True)
        found = session.run(None, {name: value.numpy() for name, value in given})
        return dict(zip(names, found, strict=True))

    return run


def _torch_run(path: Path, network: Deployed) -> Any:
    del network
    program = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def run(inputs: list[Tensor]) -> Mapping[str, NDArray]:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in program(*inputs).items()}

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' warnings about their internals, which no user can act upon."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
