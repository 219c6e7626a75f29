"""Options of inference on corrupted clouds: rotations, outlier removal, batch-norm adaptation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_count, check_share, real_points
from ea_pointcloud.inference.adapt_bn import adapt_batch_norm
from ea_pointcloud.inference.classify import turned_probs
from ea_pointcloud.inference.preprocess import inliers
from ea_pointcloud.models import Classifier
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.robustness.corrupted_sets import Batch


@dataclass(frozen=True)
class InferenceOptions:
    """Options of inference.

    Args:
        tta_rotations: rotations about the up axis whose probabilities are averaged, >= 1.
        remove_outliers: remove statistical outliers, see
            :func:`~ea_pointcloud.inference.preprocess.inliers`.
        adaptation: weight of the statistics of the clouds at hand in the batch normalisations,
            see :func:`~ea_pointcloud.inference.adapt_bn.adapt_batch_norm`; None for none.
    """

    tta_rotations: int = 1
    remove_outliers: bool = False
    adaptation: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check_count("tta_rotations", self.tta_rotations)
        if self.adaptation is not None:
            check_share("adaptation", self.adaptation)

    def __str__(self) -> str:
        """The options that differ from the defaults, in words."""
        words = []
        if self.remove_outliers:
            words.append("without statistical outliers")
        if self.adaptation is not None:
            weight = "" if self.adaptation == 1 else f" of weight {self.adaptation:g}"
            words.append(f"with batch-norm adaptation{weight}")
        if self.tta_rotations > 1:
            words.append(f"averaged over {self.tta_rotations} rotations")
        return ", ".join(words)


@torch.inference_mode()
def predict(
    model: Classifier, batches: Iterable[Batch], options: InferenceOptions
) -> Iterator[tuple[Tensor, Tensor]]:
    """Classify clouds, each centred and scaled to the unit sphere.

    Batch normalisation is adapted to all of these clouds together.

    Args:
        model: in evaluation mode, on the device to use; not altered.
        batches: of clouds, on any device.
        options: of inference.

    Yields:
        pred (B,) and label (B,) of each batch, on the CPU.

    Raises:
        ValueError: if there are too few clouds to adapt to.
    """
    device = next(model.parameters()).device
    posed = (_posed(*batch, options, device) for batch in batches)
    if options.adaptation is not None:
        posed = list(posed)
        model = adapt_batch_norm(model, *_joined(posed), weight=options.adaptation)
    for xyz, mask, label in posed:
        probs = turned_probs(model, xyz, mask, tta_rotations=options.tta_rotations)
        yield probs.argmax(-1).cpu(), label.cpu()


def _posed(
    xyz: Tensor,
    mask: Tensor | None,
    label: Tensor,
    options: InferenceOptions,
    device: torch.device,
) -> Batch:
    xyz, mask = xyz.to(device), None if mask is None else mask.to(device)
    if options.remove_outliers:
        mask = real_points(mask, xyz).clone()
        for cloud, real in zip(xyz, mask, strict=True):
            real[real.clone()] = inliers(cloud[real])
    return normalize_unit_sphere(xyz, mask), mask, label


def _joined(batches: list[Batch]) -> tuple[Tensor, Tensor | None]:
    """The clouds of all batches in one, padded to the same number of points."""
    longest = max(xyz.shape[1] for xyz, _, _ in batches)
    clouds, masks = [], []
    for xyz, mask, _ in batches:
        missing = longest - xyz.shape[1]
        clouds.append(F.pad(xyz, (0, 0, 0, missing)))
        masks.append(F.pad(real_points(mask, xyz), (0, missing)))
    mask = torch.cat(masks)
    return torch.cat(clouds), None if bool(mask.all()) else mask
