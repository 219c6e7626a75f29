"""From files or arrays to names: numpy in, labels out, over the tensor door of the models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud._device import resolve_device
from ea_pointcloud.io import Cloud, read_cloud
from ea_pointcloud.models import EAClassifier, load_model
from ea_pointcloud.ops import farthest_point_sample, gather_points, outermost_point
from ea_pointcloud.transforms import AXES, normalize_unit_sphere, to_y_up

CloudLike = str | Path | Cloud | NDArray[np.floating]

_BATCH_SIZE = 32


@dataclass(frozen=True)
class Candidate:
    """One possible class and its probability."""

    label: str
    prob: float


@dataclass(frozen=True)
class Classification:
    """What a cloud was taken for; ``top`` holds the candidates, most probable first."""

    label: str
    prob: float
    top: tuple[Candidate, ...]


class Predictor:
    """Classify clouds of any size, in any position and scale, from files or arrays.

    What the weights expect is done inside: up axis, centring, scaling, and the choice of points.
    The same input gives the same answer every time, whatever else is in the batch.

    Args:
        model: a trained network; its ``data_spec`` says what it expects.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        ValueError: if the model was trained with another axis up than y, or there is no such
            device.
    """

    def __init__(self, model: EAClassifier, device: str | torch.device = "auto") -> None:
        if model.data_spec.up_axis != "y":
            raise ValueError(f"the model must be one with y up, got {model.data_spec.up_axis} up")
        self.device = resolve_device(device)
        self.model = model.to(self.device).eval()

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, device: str | torch.device = "auto"
    ) -> "Predictor":
        """Load weights from a folder, a run folder, or the hub."""
        model = load_model(str(name_or_path))
        assert isinstance(model, EAClassifier)
        return cls(model, device)

    @overload
    def classify(self, clouds: CloudLike, *, up: str = ..., top: int = ...) -> Classification: ...

    @overload
    def classify(
        self, clouds: Sequence[CloudLike], *, up: str = ..., top: int = ...
    ) -> list[Classification]: ...

    def classify(
        self, clouds: CloudLike | Sequence[CloudLike], *, up: str = "y", top: int = 3
    ) -> Classification | list[Classification]:
        """Name the class of one cloud, or of each cloud of a list.

        Args:
            clouds: a path, a :class:`~ea_pointcloud.io.Cloud`, an (N, 3) array, or a list of these.
            up: the axis that is up in them: ``"x"``, ``"y"`` or ``"z"``.
            top: candidates kept, >= 1; at most the number of classes come back.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file or array holds no usable points.
        """
        if not isinstance(clouds, (list, tuple)):
            return self.classify([clouds], up=up, top=top)[0]  # pyright: ignore
        check_count("top", top)
        check_choice("up", up, AXES)
        prepared = [self._prepare(cloud, up) for cloud in clouds]
        results = []
        for start in range(0, len(prepared), _BATCH_SIZE):
            results += self._classify_batch(prepared[start : start + _BATCH_SIZE], top)
        return results

    def __repr__(self) -> str:
        """The network, its classes and the device."""
        name, classes = type(self.model).__name__, len(self.model.data_spec.class_names)
        return f"Predictor({name}, {classes} classes, {self.device})"

    def _prepare(self, cloud: CloudLike, up: str) -> Tensor:
        """(n, 3) as the model was trained on, n <= num_points, on the model's device."""
        xyz = torch.from_numpy(_coordinates(cloud))[None].to(self.device)
        xyz = normalize_unit_sphere(to_y_up(xyz, up)).float()
        # Whatever the points of training were: farthest points cover any cloud evenly, need no
        # seed, and do not depend on the order in the file. On ModelNet10's val split they are as
        # good as points drawn at random (0.972 against 0.969, trained on random points).
        num_points = min(self.model.data_spec.num_points, xyz.shape[1])
        idx = farthest_point_sample(xyz, num_points, start=outermost_point(xyz))
        return gather_points(xyz, idx)[0]

    def _classify_batch(self, clouds: list[Tensor], top: int) -> list[Classification]:
        lengths = torch.tensor([len(cloud) for cloud in clouds], device=self.device)
        xyz = pad_sequence(clouds, batch_first=True)
        mask = torch.arange(xyz.shape[1], device=self.device) < lengths[:, None]
        with torch.inference_mode():
            logits = self.model(xyz, mask=None if bool(mask.all()) else mask)
        names = self.model.data_spec.class_names
        prob, order = logits.float().softmax(-1).topk(min(top, len(names)))
        results = []
        for row_prob, row_order in zip(prob.tolist(), order.tolist(), strict=True):
            pairs = zip(row_order, row_prob, strict=True)
            candidates = tuple(Candidate(names[index], value) for index, value in pairs)
            results.append(Classification(candidates[0].label, candidates[0].prob, candidates))
        return results


def _coordinates(cloud: CloudLike) -> NDArray[np.float64]:
    """(N, 3) float64: large offsets must not eat the shape before it is centred."""
    if isinstance(cloud, (str, Path)):
        cloud = read_cloud(cloud)
    xyz = cloud.xyz if isinstance(cloud, Cloud) else np.asarray(cloud)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0:
        raise ValueError(f"a cloud must be an array (N, 3) with N >= 1, got shape {xyz.shape}")
    xyz = xyz.astype(np.float64)
    if not np.isfinite(xyz).all():
        raise ValueError("a cloud must have finite coordinates; drop rows with NaN or inf first")
    if (xyz == xyz[0]).all():
        raise ValueError(f"a cloud must have an extent, got {len(xyz)} points in one place")
    return xyz
