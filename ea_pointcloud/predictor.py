"""From files or arrays to names: numpy in, labels out, over the tensor door of the models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud._device import resolve_device
from ea_pointcloud.io import Cloud, read_cloud
from ea_pointcloud.models import EAClassifier, EASegmenter, load_model
from ea_pointcloud.models.inference import farthest_points, label_points
from ea_pointcloud.ops import gather_points
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


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The parts of a cloud, an entry for every input point.

    Args:
        labels: (N,) int64, places in ``names``.
        confidence: (N,) float32, the label's probability among the parts it was chosen from.
        category: what the object was taken for; None where the weights know no categories.
        category_from: who said so.
        names: the parts the network tells apart, over all categories.
    """

    labels: NDArray[np.int64]
    confidence: NDArray[np.float32]
    category: str | None
    category_from: Literal["given", "classifier", "network"]
    names: tuple[str, ...]


class Predictor:
    """Classify or segment clouds of any size, in any position and scale, from files or arrays.

    What the weights expect is done inside: up axis, centring, scaling, and the choice of points.
    The same input gives the same answer every time, whatever else is in the batch.

    Args:
        model: a trained network; its ``data_spec`` says what it expects. A classifier classifies,
            a segmenter segments.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        ValueError: if the model was trained with another axis up than y, or there is no such
            device.
    """

    def __init__(
        self, model: EAClassifier | EASegmenter, device: str | torch.device = "auto"
    ) -> None:
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
        assert isinstance(model, (EAClassifier, EASegmenter))
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
            ValueError: if a file or array holds no usable points, or the weights are a segmenter's.
        """
        if not isinstance(clouds, (list, tuple)):
            return self.classify([clouds], up=up, top=top)[0]  # pyright: ignore
        self.check_classify()
        check_count("top", top)
        check_choice("up", up, AXES)
        prepared = [self._prepare(cloud, up) for cloud in clouds]
        results = []
        for start in range(0, len(prepared), _BATCH_SIZE):
            results += self._classify_batch(prepared[start : start + _BATCH_SIZE], top)
        return results

    @overload
    def segment(
        self,
        clouds: CloudLike,
        *,
        up: str = ...,
        category: str | None = ...,
        classifier: "Predictor | None" = ...,
    ) -> Segmentation: ...

    @overload
    def segment(
        self,
        clouds: Sequence[CloudLike],
        *,
        up: str = ...,
        category: str | None = ...,
        classifier: "Predictor | None" = ...,
    ) -> list[Segmentation]: ...

    def segment(
        self,
        clouds: CloudLike | Sequence[CloudLike],
        *,
        up: str = "y",
        category: str | None = None,
        classifier: "Predictor | None" = None,
    ) -> Segmentation | list[Segmentation]:
        """Name the part of every point of one cloud, or of each cloud of a list.

        Labels are chosen among the parts of the object's category. A network that is told the
        category needs one; any other takes the category whose parts are the most probable over all
        points. Networks on all points see every point; grouped ones see the farthest points, as
        many as in training, and all points get what their three nearest of those have.

        Args:
            clouds: a path, a :class:`~ea_pointcloud.io.Cloud`, an (N, 3) array, or a list of these.
                Weights trained with normals need them: a file or Cloud that has some.
            up: the axis that is up in them: ``"x"``, ``"y"`` or ``"z"``.
            category: of all these clouds, one of the model's, in upper or lower case.
            classifier: names the category of each cloud; its classes are categories of the model.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file or array holds no usable points, the category is unknown, missing
                or comes from two places, or the weights are a classifier's.
        """
        if not isinstance(clouds, (list, tuple)):
            options = {"up": up, "category": category, "classifier": classifier}
            return self.segment([clouds], **options)[0]  # pyright: ignore
        check_choice("up", up, AXES)
        self.check_segment(category=category, classifier=classifier)
        return [self._segment_one(cloud, up, category, classifier) for cloud in clouds]

    def check_classify(self) -> None:
        """Raise for what :meth:`classify` would refuse whatever the cloud.

        Raises:
            ValueError: if the weights are a segmenter's.
        """
        if not isinstance(self.model, EAClassifier):
            raise ValueError(
                f"these weights are of {type(self.model).__name__}, which labels points; use "
                "segment, or give the weights of a classifier"
            )

    def check_segment(
        self, *, category: str | None = None, classifier: "Predictor | None" = None
    ) -> None:
        """Raise for what :meth:`segment` would refuse whatever the cloud.

        Raises:
            ValueError: if the weights are a classifier's, or the category is unknown, missing or
                comes from two places.
        """
        if not isinstance(self.model, EASegmenter):
            raise ValueError(
                f"these weights are of {type(self.model).__name__}, which names whole clouds; use "
                "classify, or give the weights of a segmenter"
            )
        if category is not None and classifier is not None:
            raise ValueError("category and classifier both name the category; give one of them")
        if category is not None:
            self._place_of(category, "category")
        elif classifier is not None:
            classifier.check_classify()
        elif self.model.config.num_categories:
            raise ValueError(
                "these weights need the category of the object: give category (--category), one of "
                f"{', '.join(self.model.data_spec.category_names)}, or a classifier that names it "
                "(--classifier)"
            )

    def __repr__(self) -> str:
        """The network, its classes or parts, and the device."""
        name, count = type(self.model).__name__, len(self.model.data_spec.class_names)
        what = "classes" if isinstance(self.model, EAClassifier) else "parts"
        return f"Predictor({name}, {count} {what}, {self.device})"

    def _posed(self, cloud: CloudLike, up: str) -> Tensor:
        """(1, N, 3) float32 on the model's device, y up, in the unit sphere."""
        xyz = torch.from_numpy(_coordinates(cloud))[None].to(self.device)
        return normalize_unit_sphere(to_y_up(xyz, up)).float()

    def _prepare(self, cloud: CloudLike, up: str) -> Tensor:
        """(n, 3) as the classifier was trained on, n <= num_points, on the model's device."""
        xyz = self._posed(cloud, up)
        return gather_points(xyz, farthest_points(xyz, self.model.data_spec.num_points))[0]

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

    def _segment_one(
        self, cloud: CloudLike, up: str, category: str | None, classifier: "Predictor | None"
    ) -> Segmentation:
        model, spec = self.model, self.model.data_spec
        assert isinstance(model, EASegmenter)
        if isinstance(cloud, (str, Path)):
            cloud = read_cloud(cloud)
        xyz, features = self._posed(cloud, up), self._features(cloud, up)
        place, source = None, "network"
        if category is not None:
            place, source = self._place_of(category, "category"), "given"
        elif classifier is not None:
            named = classifier.classify(cloud, up=up, top=1).label
            place, source = self._place_of(named, "the class found by the classifier"), "classifier"
        labels, confidence, place = label_points(model, xyz, features, place)
        return Segmentation(
            labels=labels.cpu().numpy(),
            confidence=confidence.cpu().numpy(),
            category=None if place is None else spec.category_names[place],
            category_from=source,
            names=spec.class_names,
        )

    def _place_of(self, category: str, what: str) -> int:
        """The place of a category, written in whatever case, among the model's."""
        spec = self.model.data_spec
        if not spec.category_names:
            raise ValueError(f"{what} is {category!r}, but these weights know no categories")
        known = {name.casefold(): place for place, name in enumerate(spec.category_names)}
        place = known.get(category.casefold())
        if place is None:
            raise ValueError(
                f"{what} must be one of {', '.join(spec.category_names)}, got {category!r}"
            )
        if not spec.parts[place]:
            raise ValueError(f"{what} is {category!r}, of which these weights know no parts")
        return place

    def _features(self, cloud: Cloud | NDArray[np.floating], up: str) -> Tensor | None:
        """(1, N, 3) normals where the network was trained with them."""
        if self.model.data_spec.features != "normals":
            return None
        normals = cloud.normals if isinstance(cloud, Cloud) else None
        if normals is None:
            raise ValueError(
                "these weights were trained with normals, which this cloud has not; give a file or "
                "Cloud that has them"
            )
        if not np.isfinite(normals).all():
            raise ValueError("a cloud must have finite normals; drop rows with NaN or inf first")
        return to_y_up(torch.from_numpy(normals)[None].to(self.device), up)


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
