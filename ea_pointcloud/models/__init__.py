"""Whole networks, their configurations, and their weights."""

from ea_pointcloud.models.base import Classifier
from ea_pointcloud.models.base_segmenter import Segmenter
from ea_pointcloud.models.baselines import (
    DGCNNClassifier,
    DGCNNConfig,
    PointNetClassifier,
    PointNetConfig,
)
from ea_pointcloud.models.ea import (
    ClassifierConfig,
    EAClassifier,
    PointEncoder,
)
from ea_pointcloud.models.ea_segmenter import EASegmenter, SegmenterConfig
from ea_pointcloud.models.eagraph import (
    EAGraphClassifier,
    EAGraphClassifierConfig,
    EAGraphConfig,
    EAGraphSegmenter,
    EAGraphSegmenterConfig,
)
from ea_pointcloud.models.eamlp import (
    EAMLPClassifier,
    EAMLPClassifierConfig,
    EAMLPConfig,
    EAMLPSegmenter,
    EAMLPSegmenterConfig,
)
from ea_pointcloud.models.factory import count_macs, create_model, list_models
from ea_pointcloud.models.finetune import load_matching_weights
from ea_pointcloud.models.metadata import Calibration, DataSpec, MahalanobisDetector
from ea_pointcloud.models.pretrained import PretrainedModel, list_pretrained, load_model

__all__ = [
    "Calibration",
    "Classifier",
    "ClassifierConfig",
    "DGCNNClassifier",
    "DGCNNConfig",
    "DataSpec",
    "EAClassifier",
    "EAGraphClassifier",
    "EAGraphClassifierConfig",
    "EAGraphConfig",
    "EAGraphSegmenter",
    "EAGraphSegmenterConfig",
    "EAMLPClassifier",
    "EAMLPClassifierConfig",
    "EAMLPConfig",
    "EAMLPSegmenter",
    "EAMLPSegmenterConfig",
    "EASegmenter",
    "MahalanobisDetector",
    "PointEncoder",
    "PointNetClassifier",
    "PointNetConfig",
    "PretrainedModel",
    "Segmenter",
    "SegmenterConfig",
    "count_macs",
    "create_model",
    "list_models",
    "list_pretrained",
    "load_matching_weights",
    "load_model",
]
