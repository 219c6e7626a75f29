"""Trained networks as files that run without this package: ONNX, and torch.export's."""

from ea_pointcloud.export.network import Deployed
from ea_pointcloud.export.writing import FORMATS, METADATA, Exported, check_onnx, export_model

__all__ = ["FORMATS", "METADATA", "Deployed", "Exported", "check_onnx", "export_model"]
