"""Baselines of the field on the same terms as our networks: PointNet and DGCNN."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_no_empty_cloud
from ea_pointcloud.models.baselines_config import DGCNNConfig, PointNetConfig
from ea_pointcloud.models.classifier import Classifier, classification_head
from ea_pointcloud.models.encoder import stem_input
from ea_pointcloud.models.hub import DataSpec
from ea_pointcloud.nn import EdgeConv, LinearNorm, TransformNet
from ea_pointcloud.nn.edge_conv import at_most
from ea_pointcloud.ops import PyramidLevel, gather_points, knn


class AllPointsClassifier(Classifier):
    """A classifier that pools over all points of a cloud, and so has to know which are real."""

    def pool(self, token: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C) of the tokens (B, N, C) of all points."""
        if mask is None:
            return super().pool(token, mask)
        parts = []
        for kind in self.config.pooling.split("_"):
            if kind == "max":
                parts.append(token.amax(1))  # padded points are -inf
            else:
                total = token.masked_fill(~mask[..., None], 0).sum(1)
                parts.append(total / mask.sum(1, keepdim=True))
        return torch.cat(parts, dim=-1)


class PointNetEncoder(nn.Module):
    """PointNet below its pooling: every point alone, after two transforms that the cloud decides.

    Args:
        config: the architecture; the head's entries are not read.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> (B, N, C), C the last of ``config.global_channels``; -inf at padded points.
    """

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__()
        self.config = config
        options = {
            "point_channels": config.transform_channels,
            "head_channels": config.transform_head_channels,
        }
        self.turn_points = TransformNet(3, **options)
        self.local = _layers((3 + config.feature_channels, *config.local_channels))
        self.turn_features = TransformNet(config.local_channels[-1], **options)
        self.wide = _layers((config.local_channels[-1], *config.global_channels))
        self.deviation: Tensor | None = None  # of the last training batch, until it is asked for

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """All points, each its own and only neighbour: nothing to compute ahead.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        own = _places(xyz)
        return (PyramidLevel(xyz, own, own[..., None]),)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Encode; of ``pyramid`` nothing is needed."""
        del pyramid
        points = _real_points(xyz, features, mask, self.config.feature_channels)
        points = points.to(self.turn_points.out.weight.dtype)
        turned = points[..., :3] @ self.turn_points(points[..., :3], mask)
        hidden = torch.cat([turned, points[..., 3:]], dim=-1)
        for layer in self.local:
            hidden = layer(hidden, mask)
        matrix = self.turn_features(hidden, mask)
        if self.training:
            self.deviation = deviation_from_orthogonal(matrix)
        hidden = hidden @ matrix.to(hidden.dtype)
        for layer in self.wide:
            hidden = layer(hidden, mask)
        return _without_padding(hidden, mask)


class PointNetClassifier(AllPointsClassifier):
    """PointNet, see :class:`~ea_pointcloud.models.Classifier`.

    In training ``config.orthogonality`` times the squared Frobenius norm of I - A A^T, mean over
    the clouds, is part of the loss, for the transform A of features (the published formula; the
    published code takes half the sum over the batch).

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: class names and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).

    Reference:
        Qi et al., PointNet: Deep learning on point sets for 3D classification and segmentation,
        CVPR 2017.
    """

    config_class = PointNetConfig

    def __init__(self, config: PointNetConfig, data_spec: DataSpec | None = None) -> None:
        head = classification_head(config, config.global_channels[-1], nn.ReLU())
        super().__init__(config, data_spec, PointNetEncoder(config), head)

    def auxiliary_loss(self) -> Tensor | None:
        """How far the transform of features is from orthogonal, weighted."""
        encoder = self.encoder
        assert isinstance(encoder, PointNetEncoder)
        deviation, encoder.deviation = encoder.deviation, None
        return None if deviation is None else self.config.orthogonality * deviation


class DGCNNEncoder(nn.Module):
    """DGCNN below its pooling: edge convolutions, each on a graph of its own input.

    Args:
        config: the architecture; the head's entries are not read.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> (B, N, ``config.fuse_channels``); -inf at padded points.
    """

    def __init__(self, config: DGCNNConfig) -> None:
        super().__init__()
        self.config = config
        widths = (3 + config.feature_channels, *config.edge_channels)
        self.edges = nn.ModuleList(
            EdgeConv(one, two, num_neighbors=config.num_neighbors) for one, two in pairwise(widths)
        )
        self.fuse = LinearNorm(
            sum(config.edge_channels), config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """The first graph, which follows from the coordinates: all points and their neighbours.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        points = _real_points(xyz, None, mask, 0)
        nearest = at_most(self.config.num_neighbors, xyz.shape[1])
        if mask is None:
            _, neighbor = knn(points, points, nearest)
        else:  # the operator wants padding last
            order = mask.byte().argsort(dim=1, descending=True, stable=True)
            real_first = gather_points(points, order)
            _, neighbor = knn(points, real_first, nearest, lengths=mask.sum(1))
            neighbor = order.gather(1, neighbor.flatten(1)).view_as(neighbor)
        return (PyramidLevel(xyz, _places(xyz), neighbor),)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Encode; ``pyramid`` is what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``."""
        hidden = _real_points(xyz, features, mask, self.config.feature_channels)
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        if len(pyramid) != 1:
            raise ValueError(
                f"pyramid must have 1 level, the first graph, got {len(pyramid)}; build it with "
                "build_pyramid() of this model"
            )
        hidden = hidden.to(self.fuse.linear.weight.dtype)
        neighbor, outputs = pyramid[0].neighbor, []
        for edge in self.edges:
            hidden = edge(hidden, mask, neighbor=neighbor)
            outputs.append(hidden)
            neighbor = None  # from here on it follows from the features
        return _without_padding(self.fuse(torch.cat(outputs, dim=-1), mask), mask)


class DGCNNClassifier(AllPointsClassifier):
    """DGCNN, see :class:`~ea_pointcloud.models.Classifier`.

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: class names and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).

    Reference:
        Wang et al., Dynamic graph CNN for learning on point clouds, ACM TOG 2019.
    """

    config_class = DGCNNConfig

    def __init__(self, config: DGCNNConfig, data_spec: DataSpec | None = None) -> None:
        head = classification_head(config, config.fuse_channels)
        super().__init__(config, data_spec, DGCNNEncoder(config), head)


def deviation_from_orthogonal(matrix: Tensor) -> Tensor:
    """Squared Frobenius norm of I - A A^T for matrices A (B, C, C), mean over the batch."""
    with torch.autocast(matrix.device.type, enabled=False):
        own = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return (own - matrix @ matrix.transpose(1, 2)).square().sum((1, 2)).mean()


def _layers(widths: tuple[int, ...]) -> nn.ModuleList:
    return nn.ModuleList(LinearNorm(one, two) for one, two in pairwise(widths))


def _places(xyz: Tensor) -> Tensor:
    """(B, N) int64, the place of each point."""
    return torch.arange(xyz.shape[1], device=xyz.device).expand(xyz.shape[:2])


def _real_points(
    xyz: Tensor, features: Tensor | None, mask: Tensor | None, feature_channels: int
) -> Tensor:
    """(B, N, 3 + F) checked points, padded ones zero whatever they were."""
    points = stem_input(xyz, features, mask, feature_channels)
    if mask is None:
        return points
    check_no_empty_cloud(mask)
    return points.masked_fill(~mask[..., None], 0)


def _without_padding(token: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens that no padded point wins the maximum of."""
    return token if mask is None else token.masked_fill(~mask[..., None], -torch.inf)
