"""PyTorch Geometric's own data sets as something to train on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud._device import mix_seeds
from ea_pointcloud.datasets._padded import PaddedClouds, pad
from ea_pointcloud.datasets._splits import SPLIT_SEED, SPLITS, check_opening, stratified_mask
from ea_pointcloud.datasets.shapenetpart import SHAPENETPART_PARTS
from ea_pointcloud.ops.frames import AXES

if TYPE_CHECKING:
    from torch_geometric.data import Data

# What PyG's data sets call the file of a split, alone or after an underscore.
_STEMS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}

_Cloud = tuple[Tensor, Tensor, int]


class PyGShapes(PaddedClouds):
    """A PyG data set of ``Data(pos, y)`` held in memory, for training.

    ``y`` is a label for each cloud or one for each point; with these ``category`` is that of the
    cloud. Meshes (``face``, as in PyG's ``ModelNet``) are sampled by area, each with a seed of its
    own. Transforms of the data set are applied once; features ``x`` are left out.

    Args:
        graphs: a PyG data set, or a list of graphs.
        split: what to call it.
        class_names: in the order of the labels of clouds; by default their numbers.
        category_names: in the order of ``category``; by default their numbers.
        parts: the part ids of each category; by default those that occur.
        num_points: see :class:`~ea_pointcloud.datasets.FolderDataset`, as the others.
        sampling: which points.
        stored_points: points drawn from each mesh.
        up: the axis that is up, ``"z"`` in ModelNet's meshes.
        mirrored: whether x (once y is up) is negated.

    Attributes:
        label: (n,) int64 of clouds; empty where points are labelled.
        part_label: (n, N) int64, -1 in the padding; empty where clouds are labelled.
        category: (n,) int64; empty where clouds are labelled.

    Raises:
        ValueError: if there are no graphs, one lacks ``pos`` or ``y``, or an argument is
            impossible.
    """

    def __init__(
        self,
        graphs: Any,
        *,
        split: str = "train",
        class_names: Sequence[str] = (),
        category_names: Sequence[str] = (),
        parts: Sequence[Sequence[int]] = (),
        num_points: int = 0,
        sampling: str = "first",
        stored_points: int = 2048,
        up: str = "y",
        mirrored: bool = False,
    ) -> None:
        check_opening(split, num_points, sampling, None)
        check_count("stored_points", stored_points)
        check_choice("up", up, AXES)
        self.name = type(graphs).__name__
        self.split = split
        self.mirroring = "undone" if mirrored else "none"
        clouds = [_cloud(graphs[place], place, stored_points) for place in range(len(graphs))]
        if not clouds:
            raise ValueError(f"the PyG data set {graphs!r} is empty")
        self.label = self.category = torch.empty(0, dtype=torch.int64)
        self.part_label = torch.empty(0, 0, dtype=torch.int64)
        self.parts: tuple[tuple[int, ...], ...] = ()
        self.points_are_labelled = any(y.numel() != 1 for _, y, _ in clouds)
        if self.points_are_labelled:
            self.fields = ("part_label", "category")
            self._set_parts(clouds, category_names, parts)
        else:
            self.fields = ("label",)
            self.label = torch.cat([y for _, y, _ in clouds])
            self.class_names = _names("class_names", class_names, self.label)
        self._set_clouds([pos.numpy() for pos, _, _ in clouds], up)
        self._keep_points(num_points, sampling)

    def _set_parts(
        self, clouds: list[_Cloud], names: Sequence[str], parts: Sequence[Sequence[int]]
    ) -> None:
        for place, (pos, y, _) in enumerate(clouds):
            if len(y) != len(pos):
                raise ValueError(
                    f"graph {place} has {len(pos)} points and {len(y)} labels in y; either every "
                    "graph has one label, or every point"
                )
        self.category = torch.tensor([category for _, _, category in clouds])
        self.category_names = _names("category_names", names, self.category)
        self.part_label = pad([y.numpy() for _, y, _ in clouds], -1)
        if not parts:
            rows = [self.part_label[self.category == c] for c in range(len(self.category_names))]
            parts = [row[row >= 0].unique().tolist() for row in rows]
        self.parts = tuple(tuple(ids) for ids in parts)
        known = {
            part: f"{name}/{number}"
            for name, ids in zip(self.category_names, self.parts, strict=True)
            for number, part in enumerate(ids)
        }
        count = 1 + max(int(self.part_label.max()), *known)
        self.part_names = tuple(known.get(part, f"unused/{part}") for part in range(count))


def open_pyg(
    root: str | Path, *, split: str = "train", val_fraction: float = 0.1, **options: Any
) -> PyGShapes:
    """Open what a PyG ``InMemoryDataset`` has processed and stored, without its class.

    A val split that PyG did not store is divided from train by the rule of ``ModelNet``. Names come
    from the folders of ``root/raw`` where these are no fewer than the classes (PyG numbers
    ModelNet's classes by them), for PyG's ``ShapeNet`` from the names of its files.

    Args:
        root: the data set's root, which holds ``processed/``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        val_fraction: fraction of each class or category of train that goes to val.
        options: of :class:`PyGShapes`.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if the file does not hold a data set, or an argument is impossible.
    """
    check_choice("split", split, SPLITS[:3])
    check_opening(split, 0, "first", val_fraction)
    folder = Path(root).expanduser() / "processed"
    path, from_train = _stored(folder, split), False
    if path is None and split == "val":
        path, from_train = _stored(folder, "train"), True
    if path is None:
        there = ", ".join(sorted(each.name for each in folder.glob("*.pt"))) or "no .pt file"
        raise FileNotFoundError(
            f"{folder} holds no {split} split: {there}; give the root of a PyG data set, and let "
            "PyG process it first"
        )
    graphs = _load(path)
    if from_train or (split == "train" and _stored(folder, "val") is None):
        keys = graphs.y if len(graphs.y) == len(graphs) else graphs.category
        is_val = stratified_mask(keys, val_fraction)
        graphs = graphs[is_val if from_train else ~is_val]
    # From ``cap_cha_train.pt``: PyG's ShapeNet names its files by its categories.
    by_prefix = {name[:3].lower(): name for name in SHAPENETPART_PARTS}
    prefixes = path.stem.split("_")[:-1]
    categories = [by_prefix[prefix] for prefix in prefixes if prefix in by_prefix]
    if len(categories) != len(prefixes):
        categories = []
    shapes = PyGShapes(
        graphs,
        split=split,
        class_names=() if categories else _raw_names(folder.parent / "raw", graphs),
        category_names=categories,
        parts=[SHAPENETPART_PARTS[name] for name in categories],
        **options,
    )
    shapes.name = folder.parent.resolve().name
    return shapes


def _cloud(graph: "Data", place: int, stored_points: int) -> _Cloud:
    """Coordinates (N, 3), labels (1,) or (N,), and category of a graph."""
    from torch_geometric.transforms import SamplePoints

    if graph.pos is None or not isinstance(graph.y, Tensor):
        raise ValueError(f"graph {place} must have pos and y, got {graph}")
    if graph.face is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seeds(SPLIT_SEED, place))
            graph = SamplePoints(stored_points)(graph)
    pos, y = graph.pos, graph.y
    assert isinstance(pos, Tensor)
    assert isinstance(y, Tensor)
    if not len(pos) or not bool(pos.isfinite().all()):
        raise ValueError(f"graph {place} has no points, or some that are not finite; leave it out")
    category = getattr(graph, "category", None)
    return pos.float(), y.flatten().long(), 0 if category is None else int(category)


def _names(argument: str, given: Sequence[str], label: Tensor) -> tuple[str, ...]:
    count = int(label.max()) + 1
    if int(label.min()) < 0 or (given and count > len(given)):
        raise ValueError(
            f"{argument} must name all labels, which run from {int(label.min())} to {count - 1} "
            f"and may not be negative, got {len(given)} names"
        )
    return tuple(given) or tuple(map(str, range(count)))


def _stored(folder: Path, split: str) -> Path | None:
    for path in sorted(folder.glob("*.pt")):
        if path.stem.rpartition("_")[2] in _STEMS[split]:
            return path
    return None


def _load(path: Path) -> Any:
    """The data set in a file; unlike PyG's own ``load`` it never runs code from the file."""
    from torch_geometric.data import Data, InMemoryDataset

    try:
        data, slices, *_ = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever it leads to
        raise ValueError(
            f"{path} cannot be read as a PyG data set ({error}); let PyG process it again"
        ) from error
    dataset = InMemoryDataset()
    dataset.data = Data.from_dict(data) if isinstance(data, dict) else data
    dataset.slices = slices
    return dataset


def _raw_names(raw: Path, graphs: Any) -> tuple[str, ...]:
    names = sorted(each.name for each in raw.iterdir() if each.is_dir()) if raw.is_dir() else []
    return tuple(names) if len(names) >= graphs.num_classes else ()
