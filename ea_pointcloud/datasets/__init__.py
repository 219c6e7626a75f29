"""Data sets: files on disk, or generated shapes, as tensors."""

from ea_pointcloud.datasets.folder import FolderDataset
from ea_pointcloud.datasets.modelnet import ModelNet
from ea_pointcloud.datasets.opening import open_dataset
from ea_pointcloud.datasets.procedural import ProceduralShapes
from ea_pointcloud.datasets.shapenetpart import ShapeNetPart

__all__ = ["FolderDataset", "ModelNet", "ProceduralShapes", "ShapeNetPart", "open_dataset"]
