"""Data sets: files on disk, or generated shapes, as tensors."""

from ea_pointcloud.datasets.batch_stream import BatchStream
from ea_pointcloud.datasets.folder import FolderDataset
from ea_pointcloud.datasets.modelnet import ModelNet
from ea_pointcloud.datasets.opening import open_dataset
from ea_pointcloud.datasets.procedural import ProceduralShapes
from ea_pointcloud.datasets.shapenetpart import ShapeNetPart
from ea_pointcloud.datasets.streamed import StreamedModelNet
from ea_pointcloud.datasets.writing import write_modelnet

__all__ = [
    "BatchStream",
    "FolderDataset",
    "ModelNet",
    "ProceduralShapes",
    "ShapeNetPart",
    "StreamedModelNet",
    "open_dataset",
    "write_modelnet",
]
