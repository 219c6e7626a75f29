"""Data sets: files on disk, or generated shapes, as tensors."""

from ea_pointcloud.datasets._folder_files import list_examples
from ea_pointcloud.datasets._open import open_dataset
from ea_pointcloud.datasets._padded import collate
from ea_pointcloud.datasets.folder import FolderDataset
from ea_pointcloud.datasets.modelnet import ModelNet
from ea_pointcloud.datasets.out_of_core import OutOfCoreModelNet
from ea_pointcloud.datasets.out_of_core_loader import OutOfCoreLoader
from ea_pointcloud.datasets.part_folder import PartFolderDataset
from ea_pointcloud.datasets.procedural import ProceduralShapes
from ea_pointcloud.datasets.shapenetpart import ShapeNetPart
from ea_pointcloud.datasets.writing import write_modelnet

__all__ = [
    "FolderDataset",
    "ModelNet",
    "OutOfCoreLoader",
    "OutOfCoreModelNet",
    "PartFolderDataset",
    "ProceduralShapes",
    "ShapeNetPart",
    "collate",
    "list_examples",
    "open_dataset",
    "write_modelnet",
]
