"""Clouds of different sizes in memory: padded tensors with a mask, True = real point."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ea_pointcloud.datasets._splits import SPLIT_SEED
from ea_pointcloud.descriptors.channels import rotate_features
from ea_pointcloud.ops import farthest_point_sample, gather_points, random_point_sample
from ea_pointcloud.ops.frames import negate_x, normalize_unit_sphere, to_y_up

_CHUNK = 256  # clouds handled at a time
_PADDING = {"xyz": 0, "features": 0, "part_label": -1}  # what belongs to points, not to clouds


class PaddedClouds(Dataset[dict[str, Tensor]]):
    """Base of the data sets in memory whose clouds differ in size.

    Attributes:
        xyz: (n, N, 3) float32, y up, centred, farthest point at distance 1; padding is zero.
        features: (n, N, F) float32, zero in the padding; None without any.
        mask: (n, N) bool, True = real point; real points come first.
        fields: names of the other tensors that are part of a sample.
        mirroring: ``"none"`` (right-handed files), ``"undone"`` (x negated) or ``"kept"``.
    """

    up_axis: ClassVar[str] = "y"
    name: str
    split: str
    xyz: Tensor
    mask: Tensor
    features: Tensor | None = None
    fields: tuple[str, ...] = ()
    mirroring: str = "none"
    class_names: tuple[str, ...] = ()
    category_names: tuple[str, ...] = ()
    part_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, index: int | list[int] | Tensor) -> dict[str, Tensor]:
        """One sample, or a whole batch where ``index`` is a list or tensor.

        Returns:
            ``xyz``, ``mask`` and :attr:`fields`; no longer than the longest cloud of the batch.
        """
        mask = self.mask[index]
        longest = int(mask.sum(-1).max())
        sample = {"xyz": self.xyz[:, :longest][index], "mask": mask[..., :longest]}
        for name in self.fields:
            values = getattr(self, name)
            sample[name] = (values[:, :longest] if name in _PADDING else values)[index]
        return sample

    def __repr__(self) -> str:
        lengths = self.mask.sum(1)
        low, high = int(lengths.min()), int(lengths.max())
        counts = f"classes={len(self.class_names)}"
        if self.part_names:
            counts = f"categories={len(self.category_names)}, parts={len(self.part_names)}"
        return (
            f"{type(self).__name__}({self.name!r}, split={self.split!r}, shapes={len(self)}, "
            f"points={high if low == high else f'{low}..{high}'}, {counts})"
        )

    def _set_clouds(self, arrays: Sequence[np.ndarray], up: str = "y") -> None:
        """Set ``xyz`` and ``mask`` to clouds (N, 3): y up, right-handed, in the unit sphere."""
        lengths = torch.tensor([len(array) for array in arrays])
        self.mask = torch.arange(int(lengths.max())) < lengths[:, None]
        xyz = self._upright(pad(arrays, 0), up)
        self.xyz = in_chunks(normalize_unit_sphere, xyz, self.mask)

    def _set_features(self, arrays: Sequence[np.ndarray], names: Sequence[str], up: str) -> None:
        """Set ``features`` to channels (N, F) of the files, with normals in the axes of ``xyz``."""
        self.features = rotate_features(
            pad(arrays, 0), names, lambda normals: self._upright(normals, up)
        )
        self.fields = (*self.fields, "features")

    def _upright(self, vectors: Tensor, up: str) -> Tensor:
        vectors = to_y_up(vectors, up)
        return negate_x(vectors) if self.mirroring == "undone" else vectors

    def _keep_points(self, num_points: int, sampling: str) -> None:
        """Keep at most ``num_points`` of each cloud; a cloud with fewer keeps them all."""
        if not 0 < num_points < self.mask.shape[1]:
            return
        idx = choose_real_points(self.xyz, self.mask, num_points, sampling)
        self.mask = self.mask[:, :num_points]
        for name in ("xyz", *self.fields):
            if name in _PADDING:
                values = getattr(self, name)
                flat = gather_points(values.view(*values.shape[:2], -1), idx)
                flat.masked_fill_(~self.mask[..., None], _PADDING[name])
                setattr(self, name, flat.view(*idx.shape, *values.shape[2:]))


def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Make a batch of samples whose clouds may differ in size: ``DataLoader(collate_fn=collate)``.

    Args:
        samples: with ``xyz`` (N, 3), perhaps ``mask``, ``features`` and ``part_label`` of the
            points, and tensors of any other names that have one shape in all of them.

    Returns:
        The same names with a batch axis, padded to the longest cloud (labels with -1), and
        ``mask`` (B, N), True = real point.
    """
    if not samples:
        raise ValueError("samples must hold at least one, got none")
    batch: dict[str, Tensor] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name in _PADDING:
            batch[name] = pad_sequence(values, batch_first=True, padding_value=_PADDING[name])
        elif name != "mask":
            batch[name] = torch.stack(values)
    masks = [
        sample.get("mask", torch.ones(len(sample["xyz"]), dtype=torch.bool)) for sample in samples
    ]
    batch["mask"] = pad_sequence(masks, batch_first=True)
    return batch


def pad(arrays: Sequence[np.ndarray], value: int) -> Tensor:
    """(n, Nmax, ...) of arrays (N, ...), filled up with ``value``."""
    shape = (len(arrays), max(map(len, arrays)), *arrays[0].shape[1:])
    padded = np.full(shape, value, arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)


def in_chunks(function: Callable[[Tensor, Tensor], Tensor], xyz: Tensor, mask: Tensor) -> Tensor:
    """``function(xyz, mask)``, a few clouds at a time so that memory stays bounded."""
    chunks = zip(xyz.split(_CHUNK), mask.split(_CHUNK), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks])


def choose_real_points(xyz: Tensor, mask: Tensor, num_points: int, sampling: str) -> Tensor:
    """Indices (n, num_points) of the points to keep, the same at every call.

    The real points of a shorter cloud come first in its choice, then repetitions: padding.

    Args:
        xyz: (n, N, 3).
        mask: (n, N) bool, the real points first.
        num_points: 1 <= num_points <= N.
        sampling: ``"first"``, ``"random"`` or ``"fps"``.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)

    def choose(xyz: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        if sampling == "random":
            return random_point_sample(xyz, num_points, lengths=lengths, generator=generator)
        if sampling == "fps":
            return farthest_point_sample(xyz, num_points, lengths=lengths)
        return torch.arange(num_points).expand(len(xyz), -1)

    return in_chunks(choose, xyz, mask)
