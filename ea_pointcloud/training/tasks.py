"""What a classifier and a segmenter do differently in training; the loop around them is one.

A task makes the network, turns a stored batch into the network's input, and knows the loss and the
metrics. Batches are dictionaries as the data sets give them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection

from ea_pointcloud._checks import values_readable
from ea_pointcloud.augment.pipeline import Augmentation, intersect_masks
from ea_pointcloud.augment.transforms import transform_with_normals
from ea_pointcloud.descriptors.channels import normal_columns, rotate_features
from ea_pointcloud.metrics import classification_metrics, part_segmentation_metrics
from ea_pointcloud.models import DataSpec, PretrainedModel
from ea_pointcloud.ops import farthest_point_sample, gather_points, random_point_sample
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.training.recipe_keys import Recipe

Batch = dict[str, Tensor]


class Task(Protocol):
    """What the training loop asks of a task."""

    monitor: str  # the metric on val that selects the weights, under its logged name

    def model(self, spec: DataSpec) -> PretrainedModel:
        """The untrained network."""
        ...

    def metrics(self, spec: DataSpec, prefix: str) -> MetricCollection:
        """Metrics of one split, logged under ``prefix``."""
        ...

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A training batch as the network shall see it, never the stored tensors altered."""
        ...

    def logits(self, model: PretrainedModel, batch: Batch) -> Tensor:
        """Call the network."""
        ...

    def loss(self, logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross entropy."""
        ...

    def update(self, metrics: MetricCollection, logits: Tensor, batch: Batch) -> None:
        """Count a batch."""
        ...


class ClassificationTask:
    """One name for each cloud.

    Args:
        recipe: the checked recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        # Adjusted logits are for classes that count alike.
        kind = "mean_class" if recipe.optim.logit_adjustment else "overall"
        self.monitor = f"val/{kind}_accuracy"
        self.num_points = recipe.num_sampled()
        self.augmentation = recipe.augment.augmentation()
        self.cutmix = recipe.augment.cutmix()

    def model(self, spec: DataSpec) -> PretrainedModel:
        """The untrained network."""
        return self.recipe.network(self.recipe.model_config(len(spec.class_names)), spec)

    def metrics(self, spec: DataSpec, prefix: str) -> MetricCollection:
        """Overall and mean class accuracy."""
        return classification_metrics(len(spec.class_names), prefix)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Sample points where the recipe says so, then augment, mix, and drop points.

        With CutMix ``label`` counts with weight ``lam`` (B,) and ``other_label`` with the rest.
        """
        if 0 < self.num_points < batch["xyz"].shape[1]:
            batch = _draw_points(batch, self.num_points, self.recipe.data.sampling, generator)
        mask = batch.get("mask")
        xyz, features, kept = _augment(self.recipe, self.augmentation, batch, generator)
        augmented = {"label": batch["label"]}
        if self.cutmix is not None:
            points = xyz if features is None else torch.cat([xyz, features], dim=-1)
            points, lam, partner = self.cutmix(points, mask, generator=generator)
            xyz, features = points[..., :3], None if features is None else points[..., 3:]
            augmented |= {"other_label": batch["label"][partner], "lam": lam}
        # Points are dropped from the mixed cloud: from both clouds by their parts, on average.
        mask = _drop(mask, kept)
        if self.recipe.augment.normalize:
            xyz = normalize_unit_sphere(xyz, mask)
        augmented["xyz"] = xyz
        if features is not None:
            augmented["features"] = features
        return augmented if mask is None else {**augmented, "mask": mask}

    def logits(self, model: PretrainedModel, batch: Batch) -> Tensor:
        """(B, classes)."""
        return class_logits(model, batch)

    def loss(self, logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Mean over the clouds; a mixed one has two labels, weighted by their points."""
        logits, target = logits.float(), batch["label"]
        if "lam" in batch:
            own, other = (
                F.one_hot(batch[name], logits.shape[1]).to(logits.dtype)
                for name in ("label", "other_label")
            )
            target = torch.lerp(other, own, batch["lam"][:, None].to(logits.dtype))
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)

    def update(self, metrics: MetricCollection, logits: Tensor, batch: Batch) -> None:
        """Count a batch."""
        metrics.update(logits, batch["label"])


class SegmentationTask:
    """One part for each point.

    Args:
        recipe: the checked recipe.
    """

    monitor = "val/instance_miou"

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.num_points = recipe.num_sampled()
        self.augmentation = recipe.augment.augmentation()

    def model(self, spec: DataSpec) -> PretrainedModel:
        """The untrained network."""
        categories = len(spec.category_names) if self.recipe.model.category else 0
        if self.recipe.data.dataset == "parts" and categories == 1:
            categories = 0  # a single one says nothing
        config = self.recipe.segmenter_config(len(spec.class_names), categories)
        return self.recipe.network(config, spec)

    def metrics(self, spec: DataSpec, prefix: str) -> MetricCollection:
        """Instance and category mIoU, point accuracy; argmax among the parts of the category."""
        return part_segmentation_metrics(spec.parts, prefix)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Sample points where the recipe says so, then augment and drop points."""
        if 0 < self.num_points < batch["xyz"].shape[1]:
            batch = _draw_points(batch, self.num_points, self.recipe.data.sampling, generator)
        xyz, features, kept = _augment(self.recipe, self.augmentation, batch, generator)
        mask = _drop(batch["mask"], kept)
        assert mask is not None
        augmented = {**batch, "xyz": xyz, "mask": mask}
        return augmented if features is None else {**augmented, "features": features}

    def logits(self, model: PretrainedModel, batch: Batch) -> Tensor:
        """(B, N, P)."""
        return part_logits(model, batch)

    def loss(self, logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Mean over the real points that have a label, and the soft IoU as the recipe weighs it."""
        logits = logits.float()
        label = batch["part_label"].masked_fill(~batch["mask"], -1)
        total = F.cross_entropy(
            logits.flatten(0, 1), label.flatten(), ignore_index=-1, reduction="sum",
            label_smoothing=label_smoothing,
        )  # fmt: skip
        loss = total / (label >= 0).sum().clamp_min(1)  # a batch may have no label at all
        weight = self.recipe.optim.iou_weight
        return loss + weight * soft_iou_loss(logits, label) if weight else loss

    def update(self, metrics: MetricCollection, logits: Tensor, batch: Batch) -> None:
        """Count a batch."""
        metrics.update(logits, batch["part_label"], batch["category"], batch["mask"])


def class_logits(model: PretrainedModel, batch: Batch) -> Tensor:
    """(B, classes) of a classifier."""
    return model(batch["xyz"], batch.get("features"), mask=_given(batch.get("mask")))


def part_logits(model: PretrainedModel, batch: Batch) -> Tensor:
    """(B, N, P) of a segmenter, conditioned on the category if it was built for it."""
    return model(
        batch["xyz"],
        batch.get("features"),
        category=batch["category"] if model.config.num_categories else None,
        mask=_given(batch["mask"]),
    )


def transform_batch(
    batch: Batch, features: Sequence[str], transform: Callable[[Tensor], Tensor]
) -> Batch:
    """A batch after a transform that is a matrix for each cloud, which normals follow."""
    place, values = normal_columns(features), batch.get("features")
    if place is None or values is None:
        return {**batch, "xyz": transform(batch["xyz"])}
    xyz, normals = transform_with_normals(transform, batch["xyz"], values[..., place])
    assert normals is not None
    return {**batch, "xyz": xyz, "features": rotate_features(values, features, lambda _: normals)}


def soft_iou_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 - IoU with probabilities in place of decisions, mean over the parts of each shape.

    Cross entropy weighs a part by its points, the metric every part alike; this is differentiable
    and weighs as the metric does. Parts that a shape does not have are left to the cross entropy.

    Args:
        logits: (B, N, P).
        label: (B, N) int64, below 0 for a point that does not count.

    Reference:
        Rahman and Wang, Optimizing intersection-over-union in deep neural networks for image
        segmentation, ISVC 2016.
    """
    counts = label >= 0
    truth = F.one_hot(label.clamp_min(0), logits.shape[-1]) * counts[..., None]  # (B, N, P)
    probs = logits.softmax(-1) * counts[..., None]
    both = (probs * truth).sum(1)  # (B, P)
    size = truth.sum(1)
    iou = both / (probs.sum(1) + size - both).clamp_min(1e-6)
    has = size > 0
    return (1 - (iou * has).sum(1) / has.sum(1).clamp_min(1)).mean()


_TASKS: dict[str, Any] = {"classification": ClassificationTask, "segmentation": SegmentationTask}


def task_of(recipe: Recipe) -> Task:
    """The task that a recipe names."""
    return _TASKS[recipe.task](recipe)


def _given(mask: Tensor | None) -> Tensor | None:
    """The mask where it leaves something out: a network is faster if there is none.

    On a GPU it stays, for looking at its values would mean waiting.
    """
    return None if mask is None or (values_readable(mask) and bool(mask.all())) else mask


def _augment(
    recipe: Recipe, augmentation: Augmentation, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Augmented coordinates, features whose normals follow them, and which points are kept."""
    features, place = batch.get("features"), normal_columns(recipe.data.features)
    normals = None if features is None or place is None else features[..., place]
    xyz, turned, kept = augmentation.with_normals(
        batch["xyz"], normals, mask=batch.get("mask"), generator=generator
    )
    if features is not None and turned is not None:
        features = rotate_features(features, recipe.data.features, lambda _: turned)
    return xyz, features, kept


def _drop(mask: Tensor | None, kept: Tensor | None) -> Tensor | None:
    """The mask (B, N) without what the augmentation dropped."""
    if mask is None or kept is None:
        return kept if mask is None else mask
    return intersect_masks(mask, kept)  # where only padding is kept, the whole cloud stays


def _draw_points(batch: Batch, num_points: int, choice: str, generator: torch.Generator) -> Batch:
    """At most ``num_points`` points of each cloud; smaller clouds keep all of theirs.

    They are random, or with ``"fps"`` the farthest of a random half of the stored points.
    """
    xyz = batch["xyz"]
    lengths = batch["mask"].sum(1) if "mask" in batch else None
    among = num_points if choice == "random" else max(num_points, xyz.shape[1] // 2)
    idx = random_point_sample(xyz, among, lengths=lengths, generator=generator)
    if choice == "fps":
        left = None if lengths is None else lengths.clamp(max=among)
        far = farthest_point_sample(gather_points(xyz, idx), num_points, lengths=left)
        idx = idx.gather(1, far)
    drawn = {**batch, "xyz": gather_points(batch["xyz"], idx)}
    if "features" in batch:
        drawn["features"] = gather_points(batch["features"], idx)
    if "part_label" in batch:
        drawn["part_label"] = batch["part_label"].gather(1, idx)
    if lengths is not None:
        drawn["mask"] = mask = torch.arange(num_points, device=idx.device) < lengths[:, None]
        if "part_label" in drawn:
            drawn["part_label"] = drawn["part_label"].masked_fill(~mask, -1)
    return drawn
