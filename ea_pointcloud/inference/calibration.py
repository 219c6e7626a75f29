"""Fits to outputs of a trained classifier: a temperature, an out-of-distribution detector."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.descriptors.channels import file_channels
from ea_pointcloud.inference.classify import embed_clouds
from ea_pointcloud.inference.preprocess import choose_input
from ea_pointcloud.inference.segment import pooled_features
from ea_pointcloud.io.pool import track
from ea_pointcloud.models import Classifier, MahalanobisDetector, Segmenter
from ea_pointcloud.ops.frames import normalize_unit_sphere

# Of the mean variance: keeps directions that hardly vary in training from deciding alone.
_SHRINKAGE = 1e-3
_SMALL_SHRINKAGE = 0.1  # where there are fewer clouds than features
_SMALL_THRESHOLD = 0.9
_FOLDS = 5
_AT_ONCE = 32  # clouds


class ClassifierOutput(NamedTuple):
    """Outputs of a classifier for n clouds."""

    features: Tensor  # (n, C) float32, the input of the last layer
    logits: Tensor  # (n, K) float32, at temperature 1


def extract_features(model: Classifier, samples: Iterable[dict[str, Tensor]]) -> ClassifierOutput:
    """Outputs for clouds, preprocessed as by the :class:`~ea_pointcloud.Predictor`.

    Args:
        model: in evaluation mode.
        samples: each with ``xyz`` (N, 3), perhaps ``mask`` (N,), and ``features`` (N, F) where the
            network reads some.
    """
    found, tracked = [], track(samples, "calibrating: clouds")
    while group := list(islice(tracked, _AT_ONCE)):
        clouds = []
        for sample in group:
            real = sample.get("mask", torch.ones(len(sample["xyz"]), dtype=torch.bool))
            features = sample["features"][real] if "features" in sample else None
            xyz = sample["xyz"][real].double()
            clouds.append(choose_input(xyz, features, model.data_spec).points)
        found.append(embed_clouds(model, clouds))
    features, logits = (torch.cat(each) for each in zip(*found, strict=True))
    return ClassifierOutput(features, logits)


def extract_pooled(model: Segmenter, samples: Iterable[dict[str, Tensor]]) -> Tensor:
    """(n, C) pooled features of a segmenter for clouds, as the Predictor compares them.

    Args:
        model: in evaluation mode.
        samples: each with ``xyz`` (N, 3), perhaps ``mask`` (N,), and ``features`` (N, F) where the
            network was trained with channels of the files.
    """
    device, rows = next(model.parameters()).device, []
    for sample in track(samples, "calibrating: shapes"):
        real = sample.get("mask", torch.ones(len(sample["xyz"]), dtype=torch.bool))
        xyz = normalize_unit_sphere(sample["xyz"][real][None]).float().to(device)
        features = None
        if file_channels(model.data_spec.features):
            features = sample["features"][real][None].to(device)
        rows.append(pooled_features(model, xyz, features))
    return torch.stack(rows)


def calibrate_temperature(logits: Tensor, label: Tensor) -> float:
    """The temperature under which the labels are the most probable.

    Where every label is predicted correctly, the likelihood alone would drive the temperature to 0:
    a weak prior (its logarithm is normal, mean 0, deviation 1) prevents that for few clouds.

    Args:
        logits: (n, K), finite, n >= 1.
        label: (n,) int64.

    Reference:
        Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    if not len(logits):
        raise ValueError("logits must have at least one row, got none")
    with torch.inference_mode(False), torch.enable_grad():
        # Copies: tensors that were made in inference mode cannot take part.
        rows, label = logits.detach().double().clone(), label.clone()
        log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [log_temperature], max_iter=100, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            nll = F.cross_entropy(rows / log_temperature.exp(), label)
            value = nll + log_temperature.square() / (2 * len(rows))
            value.backward()
            return value

        optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return float(log_temperature.detach().exp())


def fit_small_detector(features: Tensor, label: Tensor) -> MahalanobisDetector:
    """A detector for sets with too few validation clouds, whose distances are cross-validated.

    Those of each fifth of the clouds come from a detector that was fitted to the others.

    Args:
        features: (n, C) of all clouds, n >= 10.
        label: (n,) int64, their classes.
    """
    fold = torch.randperm(len(label), generator=torch.Generator().manual_seed(0)) % _FOLDS
    parts = [
        fit_detector(
            features[fold != each], label[fold != each], features[fold == each], _SMALL_SHRINKAGE
        )
        for each in range(_FOLDS)
    ]
    whole = fit_detector(features, label, features, _SMALL_SHRINKAGE)
    distances = torch.cat([each.distances for each in parts]).sort().values
    return MahalanobisDetector(whole.class_means, whole.whitening, distances, _SMALL_THRESHOLD)


def fit_detector(
    features: Tensor, label: Tensor, held_out: Tensor, shrinkage: float = _SHRINKAGE
) -> MahalanobisDetector:
    """Fit a detector of clouds that are out of distribution.

    Args:
        features: (n, C) of training clouds.
        label: (n,) int64, their classes; those without clouds are left out.
        held_out: (V, C) features of validation clouds.
        shrinkage: of the mean variance, added to every direction.

    Raises:
        ValueError: if there are no clouds.
    """
    if not len(features) or not len(held_out):
        raise ValueError(
            f"features and held_out must have rows, got {len(features)} and {len(held_out)}"
        )
    scaled = F.normalize(features.double(), dim=-1)
    occurring, index = label.unique(return_inverse=True)
    means = torch.stack([scaled[index == each].mean(0) for each in range(len(occurring))])
    offset = scaled - means[index]
    covariance = offset.T @ offset / len(offset)
    spread = covariance.trace() / len(covariance)
    floor = (shrinkage * spread).clamp_min(torch.finfo(torch.float32).tiny)
    covariance += floor * torch.eye(len(covariance), dtype=torch.float64)
    # d^T S^-1 d = |d L^-T|^2 with S = L L^T.
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T.contiguous()
    found = MahalanobisDetector(means.float(), whitening.float(), torch.empty(0))
    distances = found.distance(held_out.float()).sort().values
    return MahalanobisDetector(found.class_means, found.whitening, distances)
