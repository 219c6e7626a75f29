"""Fits to outputs of a trained classifier: a temperature, an out-of-distribution detector."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.inference.classify import embed_clouds
from ea_pointcloud.inference.preprocess import preprocess
from ea_pointcloud.models import Classifier, MahalanobisDetector

# Of the mean variance: keeps directions that hardly vary in training from deciding alone.
_SHRINKAGE = 1e-3


class ClassifierOutput(NamedTuple):
    """Outputs of a classifier for n clouds."""

    features: Tensor  # (n, C) float32, the input of the last layer
    logits: Tensor  # (n, K) float32, at temperature 1


def extract_features(model: Classifier, samples: Iterable[dict[str, Tensor]]) -> ClassifierOutput:
    """Outputs for clouds, preprocessed as by the :class:`~ea_pointcloud.Predictor`.

    Args:
        model: in evaluation mode.
        samples: each with ``xyz`` (N, 3) and perhaps ``mask`` (N,).
    """
    clouds = []
    for sample in samples:
        xyz = sample["xyz"][sample["mask"]] if "mask" in sample else sample["xyz"]
        clouds.append(preprocess(xyz.numpy(), model.data_spec).xyz)
    return ClassifierOutput(*embed_clouds(model, clouds))


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


def fit_detector(features: Tensor, label: Tensor, held_out: Tensor) -> MahalanobisDetector:
    """Fit a detector of clouds that are out of distribution.

    Args:
        features: (n, C) of training clouds.
        label: (n,) int64, their classes; those without clouds are left out.
        held_out: (V, C) features of validation clouds.

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
    floor = (_SHRINKAGE * spread).clamp_min(torch.finfo(torch.float32).tiny)
    covariance += floor * torch.eye(len(covariance), dtype=torch.float64)
    # d^T S^-1 d = |d L^-T|^2 with S = L L^T.
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T.contiguous()
    found = MahalanobisDetector(means.float(), whitening.float(), torch.empty(0))
    distances = found.distance(held_out.float()).sort().values
    return MahalanobisDetector(found.class_means, found.whitening, distances)
