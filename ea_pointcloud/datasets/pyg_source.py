"""PyTorch Geometric's own data sets as something to train on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud._checks import check_at_least, check_choice, check_count
from ea_pointcloud._device import mix_seeds
from ea_pointcloud.augment.transforms import (
    AXES,
    SAMPLINGS,
    negate_x,
    normalize_unit_sphere,
    to_y_up,
)
from ea_pointcloud.datasets._padding import choose_real_points, in_chunks, length_mask, pad
from ea_pointcloud.datasets._splits import (
    SPLIT_SEED,
    SPLITS,
    check_val_fraction,
    stratified_mask,
)
from ea_pointcloud.datasets.shapenetpart import SHAPENETPART_PARTS
from ea_pointcloud.ops import gather_points

if TYPE_CHECKING:
    from torch_geometric.data import Data

PROCESSED = "processed"
# What PyG's data sets call the file of a split, alone or after an underscore.
_STEMS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}


class PyGShapes(Dataset[dict[str, Tensor]]):
    """A PyG data set of ``Data(pos, y)`` held in memory, as training here takes it.

    ``y`` is a label for each cloud or one for each point; with these ``category`` is that of the
    cloud. Meshes (``face``, as in PyG's ``ModelNet``) are sampled by area, each with a seed of its
    own. Transforms of the data set are applied once; features ``x`` are left out.

    Args:
        graphs: a PyG data set, or a list of graphs.
        split: what to call it.
        class_names: in the order of the labels of clouds; their numbers without it.
        category_names: in the order of ``category``; their numbers without it.
        parts: the part ids of each category; those that occur without it.
        num_points: most points kept of each cloud, 0 for all.
        sampling: which: ``"first"``, a ``"random"`` set, or by farthest point (``"fps"``).
        stored_points: points drawn from each mesh.
        up: the axis that is up, ``"x"``, ``"y"`` or ``"z"`` (as in ModelNet's meshes).
        mirrored: whether the graphs are mirror images, whose x (once y is up) is negated.

    Attributes:
        xyz: (n, N, 3) float32, y up, centred, farthest point at distance 1; padding is zero.
        mask: (n, N) bool, True = real point; real points come first.
        label: (n,) int64 of clouds; empty where points are labelled.
        part_label: (n, N) int64, -1 in the padding; empty where clouds are labelled.
        category: (n,) int64; empty where clouds are labelled.
        mirroring: ``"undone"`` where x is negated, else ``"none"``.

    Raises:
        ValueError: if there are no graphs, one lacks ``pos`` or ``y``, or an argument is
            impossible.
    """

    up_axis: ClassVar[str] = "y"

    def __init__(
        self,
        graphs: "Sequence[Data] | Any",
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
        check_at_least("num_points", num_points, 0)
        check_choice("sampling", sampling, SAMPLINGS)
        check_count("stored_points", stored_points)
        check_choice("up", up, AXES)
        self.name = type(graphs).__name__
        self.split = split
        clouds = [_cloud(graphs[place], place, stored_points) for place in range(len(graphs))]
        if not clouds:
            raise ValueError(f"the PyG data set {graphs!r} is empty")
        self._take_labels(clouds, class_names, category_names, parts)
        arrays = [pos.numpy() for pos, _, _ in clouds]
        self.mask = length_mask(arrays)
        posed = to_y_up(pad(arrays, 0), up)
        self.mirroring = "undone" if mirrored else "none"
        if mirrored:
            posed = negate_x(posed)
        self.xyz = in_chunks(normalize_unit_sphere, posed, self.mask)
        if 0 < num_points < self.mask.shape[1]:
            idx = choose_real_points(self.xyz, self.mask, num_points, sampling)
            self.mask = self.mask[:, :num_points]
            padding = ~self.mask
            self.xyz = gather_points(self.xyz, idx).masked_fill_(padding[..., None], 0)
            if self.points_are_labelled:
                self.part_label = self.part_label.gather(1, idx).masked_fill_(padding, -1)

    @property
    def points_are_labelled(self) -> bool:
        """Whether parts are learned from it, else classes."""
        return bool(self.part_names)

    def __len__(self) -> int:
        return len(self.xyz)

    def __getitem__(self, index: int | list[int] | Tensor) -> dict[str, Tensor]:
        """One sample, or a whole batch where ``index`` is a list or tensor.

        Returns:
            ``xyz``, ``mask`` and ``label``, or ``part_label`` and ``category``; no longer than the
            longest cloud of the batch.
        """
        mask = self.mask[index]
        longest = int(mask.sum(-1).max())
        sample = {"xyz": self.xyz[index][..., :longest, :], "mask": mask[..., :longest]}
        if not self.points_are_labelled:
            return {**sample, "label": self.label[index]}
        sample["part_label"] = self.part_label[index][..., :longest]
        return {**sample, "category": self.category[index]}

    def __repr__(self) -> str:
        lengths = self.mask.sum(1)
        low, high = int(lengths.min()), int(lengths.max())
        names = f"classes={len(self.class_names)}"
        if self.points_are_labelled:
            names = f"categories={len(self.category_names)}, parts={len(self.part_names)}"
        return (
            f"PyGShapes({self.name!r}, split={self.split!r}, shapes={len(self)}, "
            f"points={high if low == high else f'{low}..{high}'}, {names})"
        )

    def _take_labels(
        self,
        clouds: "list[_Cloud]",
        class_names: Sequence[str],
        category_names: Sequence[str],
        parts: Sequence[Sequence[int]],
    ) -> None:
        self.label = self.category = torch.empty(0, dtype=torch.int64)
        self.part_label = torch.empty(0, 0, dtype=torch.int64)
        self.class_names, self.category_names, self.part_names = (), (), ()
        self.parts: tuple[tuple[int, ...], ...] = ()
        if all(y.numel() == 1 for _, y, _ in clouds):
            self.label = torch.cat([y for _, y, _ in clouds])
            self.class_names = _names("class_names", class_names, self.label)
            return
        for place, (pos, y, _) in enumerate(clouds):
            if len(y) != len(pos):
                raise ValueError(
                    f"graph {place} has {len(pos)} points and {len(y)} labels in y; either every "
                    "graph has one label, or every point"
                )
        self.category = torch.tensor([category for _, _, category in clouds])
        self.category_names = _names("category_names", category_names, self.category)
        self.part_label = pad([y.numpy() for _, y, _ in clouds], -1)
        if not parts:
            rows = [self.part_label[self.category == c] for c in range(len(self.category_names))]
            parts = [row[row >= 0].unique().tolist() for row in rows]
        self.parts = tuple(tuple(ids) for ids in parts)
        owner = {part: place for place, ids in enumerate(self.parts) for part in ids}
        count = 1 + max(int(self.part_label.max()), *owner)
        self.part_names = tuple(
            f"{self.category_names[owner[part]]}/{self.parts[owner[part]].index(part)}"
            if part in owner
            else f"unused/{part}"
            for part in range(count)
        )


def open_pyg(
    root: str | Path,
    *,
    split: str = "train",
    val_fraction: float = 0.1,
    num_points: int = 0,
    sampling: str = "first",
    stored_points: int = 2048,
    up: str = "y",
    mirrored: bool = False,
) -> PyGShapes:
    """Open what a PyG ``InMemoryDataset`` has processed and stored, without its class.

    A val split that PyG did not store is cut from train by the rule of ``ModelNet``. Names come
    from the folders of ``root/raw`` where these are no fewer than the classes (PyG numbers
    ModelNet's classes by them), for PyG's ``ShapeNet`` from the names of its files.

    Args:
        root: the data set's root, which holds ``processed/``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        val_fraction: fraction of each class or category of train that goes to val.
        num_points: see :class:`PyGShapes`, as the others.
        sampling: which.
        stored_points: of each mesh.
        up: the axis that is up.
        mirrored: whether x is negated.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if the file does not hold a data set, or an argument is impossible.
    """
    check_choice("split", split, SPLITS[:3])
    check_val_fraction(val_fraction)
    folder = Path(root).expanduser() / PROCESSED
    path, cut = _stored(folder, split), False
    if path is None and split == "val":
        path, cut = _stored(folder, "train"), True
    if path is None:
        there = ", ".join(sorted(each.name for each in folder.glob("*.pt"))) or "no .pt file"
        raise FileNotFoundError(
            f"{folder} holds no {split} split: {there}; give the root of a PyG data set, and let "
            "PyG process it first"
        )
    graphs = _load(path)
    if cut or (split == "train" and _stored(folder, "val") is None):
        keys = graphs.y if len(graphs.y) == len(graphs) else graphs.category
        is_val = stratified_mask(keys, val_fraction)
        graphs = graphs[is_val if cut else ~is_val]
    categories = _shapenet_categories(path)
    shapes = PyGShapes(
        graphs,
        split=split,
        class_names=() if categories else _raw_names(folder.parent / "raw", graphs),
        category_names=categories,
        parts=[SHAPENETPART_PARTS[name] for name in categories],
        num_points=num_points,
        sampling=sampling,
        stored_points=stored_points,
        up=up,
        mirrored=mirrored,
    )
    shapes.name = folder.parent.resolve().name
    return shapes


_Cloud = tuple[Tensor, Tensor, int]


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


def _shapenet_categories(path: Path) -> tuple[str, ...]:
    """From ``cap_cha_train.pt``: PyG's ``ShapeNet`` names its files by its categories."""
    by_prefix = {name[:3].lower(): name for name in SHAPENETPART_PARTS}
    prefixes = path.stem.split("_")[:-1]
    known = [by_prefix[prefix] for prefix in prefixes if prefix in by_prefix]
    return tuple(known) if known and len(known) == len(prefixes) else ()
