"""PointNet++ and DGCNN of PyTorch Geometric, to time beside ours.

Built from its layers, with the sizes of its ``examples/pointnet2_classification.py`` and
``examples/dgcnn_classification.py``. Sampling and neighbours come from torch-cluster.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from scripts.benchmarks.timing import describe_error


def make_peers(num_classes: int) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Untrained networks that take (B, N, 3) and return (B, classes).

    Returns:
        networks: those that can be built here, by name.
        skipped: name -> why it cannot.
    """
    networks: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    missing = [each for each in ("torch_geometric", "torch_cluster") if find_spec(each) is None]
    for name, make in {"PointNet++ (PyG)": _PointNet2, "DGCNN (PyG)": _DGCNN}.items():
        if missing:
            skipped[name] = f"needs {' and '.join(missing).replace('_', '-')}"
            continue
        try:
            networks[name] = make(num_classes)
        except Exception as error:  # a broken installation raises anything
            skipped[name] = describe_error(error)
    return networks, skipped


class _PointNet2(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from torch_geometric.nn import MLP, PointNetConv

        self.levels = ((0.5, 0.2), (0.25, 0.4))  # ratio of the points kept, radius
        self.convolutions = nn.ModuleList(
            PointNetConv(MLP(widths), add_self_loops=False)
            for widths in ([3, 64, 64, 128], [128 + 3, 128, 128, 256])
        )
        self.whole = MLP([256 + 3, 256, 512, 1024])
        self.head = MLP([1024, 512, 256, num_classes], dropout=0.5, norm=None)

    def forward(self, xyz: Tensor) -> Tensor:
        from torch_cluster import fps, radius
        from torch_geometric.nn import global_max_pool

        position, cloud = _flat(xyz)
        features: Any = None
        for (ratio, reach), convolution in zip(self.levels, self.convolutions, strict=True):
            idx = fps(position, cloud, ratio=ratio)
            row, col = radius(
                position, position[idx], reach, cloud, cloud[idx], max_num_neighbors=64
            )
            picked = None if features is None else features[idx]
            edges = torch.stack([col, row])
            features = convolution((features, picked), (position, position[idx]), edges)
            position, cloud = position[idx], cloud[idx]
        features = self.whole(torch.cat([features, position], dim=1))
        return self.head(global_max_pool(features, cloud))


class _DGCNN(nn.Module):
    def __init__(self, num_classes: int, k: int = 20) -> None:
        super().__init__()
        from torch_geometric.nn import MLP, EdgeConv

        self.k = k
        self.edges = nn.ModuleList(
            EdgeConv(MLP(widths), aggr="max") for widths in ([6, 64, 64, 64], [128, 128])
        )
        self.whole = nn.Linear(128 + 64, 1024)
        self.head = MLP([1024, 512, 256, num_classes], dropout=0.5, norm=None)

    def forward(self, xyz: Tensor) -> Tensor:
        from torch_cluster import knn_graph
        from torch_geometric.nn import global_max_pool

        features, cloud = _flat(xyz)
        outputs: list[Any] = []
        for edge in self.edges:
            features = edge(features, knn_graph(features, self.k, cloud, loop=True))
            outputs.append(features)
        return self.head(global_max_pool(self.whole(torch.cat(outputs, dim=1)), cloud))


def _flat(xyz: Tensor) -> tuple[Tensor, Tensor]:
    """(B * N, 3) points, and the cloud of each."""
    batch, num_points, _ = xyz.shape
    cloud = torch.arange(batch, device=xyz.device).repeat_interleave(num_points)
    return xyz.reshape(-1, 3), cloud
