"""The embedding in which a few-shot classifier compares clouds."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from ea_pointcloud._checks import check_count

_FLOOR = 1e-3  # of the mean deviation, added to that of each channel: some hardly vary
_SHRINKAGE = 0.8


class UnitEmbedding(nn.Module):
    """Standardise features, whiten the directions in which classes vary most, scale to length 1.

    With standardised features z, a covariance S within the classes and its mean variance t, the
    shrunk covariance is (1 - s) S + s t I, s = 0.8. Only the eigenvectors of S of the largest
    eigenvalues w are kept; along the others it is taken to be that of the mean of the rest. Buffers
    are zero until they are loaded or :meth:`fit`.

    Args:
        channels: C.
        rank: R >= 1, directions that are whitened.

    Shape:
        (B, C) -> (B, C), each of length 1.

    Reference:
        Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices,
        JMVA 2004 (shrinkage); Wang et al., SimpleShot, arXiv 1911.04623 (centring and length).
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    gain: Tensor

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        check_count("channels", channels)
        check_count("rank", rank)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))  # 1 / standard deviation
        self.register_buffer("directions", torch.zeros(rank, channels))
        self.register_buffer("gain", torch.zeros(rank))  # factor along a direction, less 1

    def forward(self, features: Tensor) -> Tensor:
        """Embed."""
        standard = (features - self.mean) * self.scale
        along = F.linear(standard, self.directions) * self.gain  # (B, R)
        return F.normalize(standard + along @ self.directions, dim=-1)

    @classmethod
    @torch.no_grad()
    def fit(cls, features: Tensor, label: Tensor, rank: int) -> Self:
        """Fit to features (n, C) of clouds with classes (n,), n >= 2; classes weigh equally.

        Without two clouds of one class nothing is whitened.
        """
        wide = features.double()
        deviation = wide.std(0)
        deviation += (_FLOOR * deviation.mean()).clamp_min(torch.finfo(torch.float32).tiny)
        mean = wide.mean(0)
        standard = (wide - mean) / deviation
        covariance = standard.new_zeros(2 * standard.shape[1:])
        occurring = [standard[label == each] for each in label.unique()]
        repeated = [rows - rows.mean(0) for rows in occurring if len(rows) > 1]
        for offset in repeated:
            covariance += offset.T @ offset / ((len(offset) - 1) * len(repeated))
        found = cls(features.shape[1], rank)
        found.mean.copy_(mean)
        found.scale.copy_(1 / deviation)
        if repeated:
            variance, vectors = torch.linalg.eigh(covariance)
            shrunk = (1 - _SHRINKAGE) * variance + _SHRINKAGE * variance.mean()
            kept = min(rank, len(variance) - 1)
            rest = shrunk[:-kept].mean()
            found.directions[:kept] = vectors.T[-kept:].float()
            found.gain[:kept] = ((rest / shrunk[-kept:]).sqrt() - 1).float()
        return found
