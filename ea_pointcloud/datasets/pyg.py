"""PyTorch Geometric and this package: samples, data sets, batches and transforms, both ways.

PyG keeps the points of a batch in one long list with the number of the cloud beside each; the
networks here take (B, N, 3) with a mask. PyG's own data sets as something to train on are in
``pyg_source.py``; no other file imports ``torch_geometric``.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch_geometric import seed_everything
from torch_geometric.data import Batch, Data
from torch_geometric.data import Dataset as GraphDataset
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import to_dense_batch


class Samples(Protocol):
    """Any data set of this package."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One sample."""
        ...


class PyGDataset(GraphDataset):
    """A data set of this package as one of PyG's, for its ``DataLoader``, transforms and models.

    Args:
        shapes: the data set; also one that stays on disk.
        transform: of PyG, applied at every access.
    """

    def __init__(self, shapes: Samples, *, transform: Callable[[Data], Data] | None = None) -> None:
        super().__init__(None, transform)
        self.shapes = shapes

    def len(self) -> int:
        """Number of samples."""
        return len(self.shapes)

    def get(self, idx: int) -> Data:
        """One sample, see :func:`to_pyg`."""
        return to_pyg(self.shapes[idx])

    @property
    def num_classes(self) -> int:
        """What ``y`` counts: classes, or parts where points are labelled."""
        names = getattr(self.shapes, "class_names", ()) or getattr(self.shapes, "part_names", ())
        return len(names)


def to_pyg(sample: dict[str, Tensor]) -> Data:
    """One sample of a data set of this package as a PyG graph without edges and padding.

    Args:
        sample: ``xyz`` (N, 3), and where there are any ``mask`` (N,), ``features`` (N, F),
            ``label`` (), ``part_label`` (N,) and ``category`` ().

    Returns:
        ``pos`` (N, 3), ``x`` (N, F), ``y`` and ``category`` (1,). ``y`` is the label (1,) where the
        cloud has one, ``part_label`` (N,) beside it; else the part labels, as in its ``ShapeNet``.

    Raises:
        ValueError: if ``xyz`` is a batch.
    """
    xyz = sample["xyz"]
    if xyz.ndim != 2:
        raise ValueError(f"xyz must have shape (N, 3), got {tuple(xyz.shape)}; index one sample")
    if "mask" in sample:
        names = ("xyz", "features", "part_label")
        real = {name: sample[name][sample["mask"]] for name in names if name in sample}
        sample = {**sample, **real}
    data = Data(pos=sample["xyz"], x=sample.get("features"))
    if "label" in sample:
        data.y = sample["label"].view(1)
    if "part_label" in sample:
        data["part_label" if "label" in sample else "y"] = sample["part_label"]
    if "category" in sample:
        data.category = sample["category"].view(1)
    return data


def from_pyg(batch: Data) -> dict[str, Tensor]:
    """A PyG batch, clouds of any sizes, as the networks here take it.

    Args:
        batch: or a single graph, with ``pos`` (all points, 3), and where there are any ``x``
            (features), ``y`` (a label for each cloud or for each point), ``part_label`` and
            ``category``.

    Returns:
        ``xyz`` (B, N, 3) padded with zeros to the longest cloud, ``mask`` (B, N) True = real point,
        and where given ``features`` (B, N, F), ``label`` (B,), ``part_label`` (B, N) with -1 in the
        padding, and ``category`` (B,): ``model(xyz, features, mask=mask)``.

    Raises:
        ValueError: if there is no ``pos``, or ``y`` belongs neither to clouds nor to points.
    """
    if batch.pos is None:
        raise ValueError("the PyG batch has no pos; set data.pos to the coordinates (N, 3)")
    cloud = getattr(batch, "batch", None)  # (points,) number of each point's cloud
    xyz, mask = to_dense_batch(batch.pos, cloud)
    result = {"xyz": xyz, "mask": mask}
    if batch.x is not None:
        result["features"] = to_dense_batch(batch.x, cloud)[0]
    part = getattr(batch, "part_label", None)
    if isinstance(batch.y, Tensor):
        if batch.y.numel() == len(xyz):
            result["label"] = batch.y.flatten()
        elif batch.y.numel() == len(batch.pos):
            part = batch.y
        else:
            raise ValueError(
                f"y must have a value for each of {len(xyz)} clouds or {len(batch.pos)} points, "
                f"got {tuple(batch.y.shape)}; set data.y to a label (1,) or part labels (N,)"
            )
    if part is not None:
        result["part_label"] = to_dense_batch(part.flatten(), cloud, fill_value=-1)[0]
    category = getattr(batch, "category", None)
    if category is not None:
        result["category"] = torch.as_tensor(category, device=xyz.device).flatten()
    return result


def pyg_batches(
    graphs: GraphDataset | Sequence[Data], batch_size: int, **options: Any
) -> Iterator[dict[str, Tensor]]:
    """Batches of PyG's ``DataLoader``, which takes ``options``, see :func:`from_pyg`."""
    for batch in DataLoader(graphs, batch_size=batch_size, **options):
        yield from_pyg(batch)


class CloudTransform(BaseTransform):
    """A transform of this package as one of PyG's.

    ``CloudTransform(normalize_unit_sphere)``, or with a generator of one's own,
    ``CloudTransform(partial(Augmentation(rotation="up"), generator=generator))``. Points that the
    transform drops are dropped with all that belongs to them.

    Args:
        function: takes (B, N, 3), returns that or, as
            :class:`~ea_pointcloud.augment.Augmentation`, a pair with the mask (B, N) of the
            points kept or None.

    Raises:
        ValueError: when it is called, if ``function`` returns another number of points.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def forward(self, data: Data) -> Data:
        """Transform a shallow copy, which PyG hands over."""
        pos = data.pos
        if pos is None:
            raise ValueError("the PyG graph has no pos; set data.pos to the coordinates (N, 3)")
        moved = self.function(pos[None])
        xyz, kept = moved if isinstance(moved, tuple) else (moved, None)
        if xyz.shape[1] != len(pos):
            raise ValueError(
                f"the transform must keep the number of points, {len(pos)}, got {xyz.shape[1]}; "
                "choose points with PyG's FixedPoints"
            )
        of_points = [key for key in data.keys() if data.is_node_attr(key)]  # noqa: SIM118
        data.pos = xyz[0]
        if kept is not None:
            for key in of_points:
                data[key] = data[key][kept[0]]
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.function})"


def apply_pyg(
    transform: Callable[[Data], Data],
    batch: dict[str, Tensor],
    *,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """A transform of PyG on a batch of this package, cloud by cloud.

    Args:
        transform: of PyG; may change the number of points.
        batch: ``xyz`` (B, N, 3) with whatever a data set here has beside it.
        generator: decides what the transform draws. PyG's transforms draw from the global
            generators of Python, numpy and torch, which are restored afterwards; if omitted,
            they draw from these as they are.

    Returns:
        A new batch; with ``mask``, and padded where clouds came to differ in size.
    """
    count = len(batch["xyz"])
    samples = [{name: value[row] for name, value in batch.items()} for row in range(count)]
    with _seeded(generator):
        graphs = [transform(to_pyg(sample)) for sample in samples]
    whole: Any = Batch.from_data_list(graphs)  # pyright: ignore[reportArgumentType]
    return from_pyg(whole)


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    # PyG's transforms draw from the legacy generator too.
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            seed_everything(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
