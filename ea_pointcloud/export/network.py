"""A trained network with its preprocessing and its softmax, as one module to export."""

import copy
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud.descriptors.channels import descriptor_of
from ea_pointcloud.models import Classifier, Segmenter
from ea_pointcloud.ops import _backend, gather_points, interpolate_features, outermost_point
from ea_pointcloud.ops.frames import normalize_unit_sphere

FORMAT_VERSION = 1


class Deployed(nn.Module):
    """A copy of a network with its preprocessing and calibrated softmax, in one forward.

    Centring and scaling, in float64 as :class:`~ea_pointcloud.Predictor` does it; where points are
    grouped and their number is open, farthest point sampling to the number of training, and
    interpolation to all points; the calibrated softmax.

    Args:
        model: a classifier or segmenter.
        dynamic_points: any number of points instead of that of training.
        normalize: whether clouds are centred and scaled inside; None: wherever that can be.

    Shape:
        Inputs in the order of ``input_names``: xyz (B, N, 3) float32; features (B, N, F) float32;
        category (B,) int64 -> a dictionary of ``probs`` (B, classes) and ``logits`` (B, classes),
        or of ``probs`` (B, N, P).

    Raises:
        ValueError: if ``normalize`` cannot be had.
    """

    allowed: Tensor  # (categories, P) bool, where the network is conditioned on the category

    def __init__(
        self,
        model: Classifier | Segmenter,
        *,
        dynamic_points: bool = False,
        normalize: bool | None = None,
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
        spec, config = model.data_spec, model.config
        self.described = descriptor_of(spec.features) is not None
        if self.described and normalize:
            raise ValueError(
                f"normalize must be left out: these weights read {spec.features[0]}, which is "
                "computed from points that are centred and scaled already"
            )
        self.normalize = not self.described if normalize is None else normalize
        self.dynamic_points = dynamic_points
        self.labels_points = isinstance(model, Segmenter)
        self.temperature = 1.0 if model.calibration is None else model.calibration.temperature
        self.input_names = ["xyz"]
        if config.feature_channels:
            self.input_names.append("features")
        if self.labels_points and config.num_categories:
            self.input_names.append("category")
            allowed = torch.zeros(config.num_categories, config.num_parts, dtype=torch.bool)
            for row, parts in zip(allowed, spec.parts, strict=True):
                row[list(parts) or slice(None)] = True
            self.register_buffer("allowed", allowed)
        pyramid = self.model.build_pyramid(torch.rand(1, spec.num_points, 3))
        # Descriptors were computed from all points: no subset can be chosen afterwards.
        self.chooses = dynamic_points and bool(pyramid) and not self.described
        self.num_neighbors = pyramid[0].neighbor.shape[-1] if pyramid else 1

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run on inputs in the order of ``input_names``."""
        given = dict(zip(self.input_names, inputs, strict=True))
        xyz, features, category = given["xyz"], given.get("features"), given.get("category")
        if self.normalize:
            xyz = normalize_unit_sphere(xyz.double()).float()
        seen = xyz
        if self.chooses:
            count = torch.sym_min(xyz.shape[1], self.model.data_spec.num_points)
            start = outermost_point(xyz)
            idx = _backend.operators().farthest_point_sample(xyz, count, None, start)
            seen = gather_points(xyz, idx)
            features = None if features is None else gather_points(features, idx)
        if not self.labels_points:
            logits = self.model(seen, features)
            return {"probs": (logits / self.temperature).softmax(-1), "logits": logits}
        options = {} if category is None else {"category": category}
        logits = self.model(seen, features, **options) / self.temperature
        if category is not None:
            logits = logits.masked_fill(~self.allowed[category][:, None], -torch.inf)
        probs = logits.softmax(-1)
        if self.chooses:
            probs = interpolate_features(xyz, seen, probs, 3 if seen.shape[1] >= 3 else 1)
        return {"probs": probs}

    def description(self) -> dict[str, Any]:
        """Inputs, outputs and conventions of the file, for JSON."""
        spec, config = self.model.data_spec, self.model.config
        points: str | int = "points" if self.dynamic_points else spec.num_points
        shapes = {
            "xyz": ["batch", points, 3],
            "features": ["batch", points, config.feature_channels],
            "category": ["batch"],
        }
        where = "any position and scale" if self.normalize else "mean at 0, farthest point at 1"
        features = "as in training"
        if spec.features:
            features = f"{', '.join(spec.features)} of the points"
        if self.described:
            features += f", as ea_pointcloud.descriptors.{spec.features[0]} gives them"
        elif spec.feature_mean:
            features += ", in the units of the files"
        meanings = {
            "xyz": f"finite coordinates, {spec.up_axis} up, {where}",
            "features": features,
            "category": "indices into category_names",
        }
        classes = "class_names"
        if "category" in self.input_names:
            classes += ", 0 for parts of other categories"
        probs = ["batch", points] if self.labels_points else ["batch"]
        shape = [*probs, len(spec.class_names)]
        outputs = [{"name": "probs", "type": "float32", "shape": shape, "meaning": classes}]
        if not self.labels_points:
            meaning = "of class_names, before temperature and softmax"
            outputs.append({**outputs[0], "name": "logits", "meaning": meaning})
        return {
            "format_version": FORMAT_VERSION,
            "producer": "ea_pointcloud",
            "producer_version": _version(),
            "architecture": type(self.model).__name__,
            "task": "part segmentation" if self.labels_points else "classification",
            "class_names": list(spec.class_names),
            "category_names": list(spec.category_names),
            "parts": [list(ids) for ids in spec.parts],
            "up_axis": spec.up_axis,
            "normalization": spec.normalization,
            "normalized_inside": self.normalize,
            "num_points": spec.num_points,
            "dynamic_points": self.dynamic_points,
            "sampling": spec.sampling,
            "points_chosen_inside": self.chooses,
            "features": list(spec.features),
            "temperature": self.temperature,
            "inputs": [
                {
                    "name": name,
                    "type": "int64" if name == "category" else "float32",
                    "shape": shapes[name],
                    "meaning": meanings[name],
                }
                for name in self.input_names
            ],
            "outputs": outputs,
        }


def _version() -> str:
    try:
        return version("ea-pointcloud")
    except PackageNotFoundError:
        return "not installed"
