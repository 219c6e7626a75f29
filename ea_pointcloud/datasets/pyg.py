"""Between this package's batches and PyTorch Geometric's: padded tensors with a mask, or one list.

PyG keeps the points of a batch in one long list with the number of the cloud beside each; the
networks here take (B, N, 3) with a mask. The only file that imports ``torch_geometric``.
"""

from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import to_dense_batch


def to_pyg(sample: dict[str, Tensor]) -> Data:
    """One sample of a data set of this package as a PyG graph without edges.

    Args:
        sample: ``xyz`` (N, 3), ``label`` (), and where there is one ``part_label`` (N,).

    Returns:
        ``pos`` (N, 3), ``y`` (1,), and ``part_label`` (N,) where given; ready for PyG's
        ``DataLoader`` and transforms.

    Raises:
        ValueError: if ``xyz`` is a batch.
    """
    xyz = sample["xyz"]
    if xyz.ndim != 2:
        raise ValueError(f"xyz must have shape (N, 3), got {tuple(xyz.shape)}; index one sample")
    data = Data(pos=xyz, y=sample["label"].view(1))
    if "part_label" in sample:
        data.part_label = sample["part_label"]
    return data


def from_pyg(batch: Data) -> dict[str, Tensor]:
    """A PyG batch, clouds of any sizes, as the networks here take it.

    Args:
        batch: or a single graph, with ``pos`` (all points, 3), and where there are any ``x``
            (features) and ``y`` (labels).

    Returns:
        ``xyz`` (B, N, 3) padded with zeros to the longest cloud, ``mask`` (B, N) True = real point,
        and where given ``features`` (B, N, F) and ``label`` (B,): ``model(xyz, features,
        mask=mask)``.

    Raises:
        ValueError: if there is no ``pos``.
    """
    if batch.pos is None:
        raise ValueError("the PyG batch has no pos; set data.pos to the coordinates (N, 3)")
    cloud = getattr(batch, "batch", None)  # (points,) number of each point's cloud
    xyz, mask = to_dense_batch(batch.pos, cloud)
    result = {"xyz": xyz, "mask": mask}
    if batch.x is not None:
        result["features"] = to_dense_batch(batch.x, cloud)[0]
    if isinstance(batch.y, Tensor):
        result["label"] = batch.y.flatten()
    return result
