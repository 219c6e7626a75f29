"""From files or arrays to labels: the Predictor and all that stands behind it."""

from ea_pointcloud.inference.batch import (
    Found,
    Job,
    Outcome,
    Outcomes,
    Segmented,
    batch_inference,
    classification,
    find_files,
    segmentation,
)
from ea_pointcloud.inference.classify import Candidate, Classification
from ea_pointcloud.inference.predictor import Predictor
from ea_pointcloud.inference.preprocess import CloudLike, ModelInput
from ea_pointcloud.inference.segment import Segmentation

__all__ = [
    "Candidate",
    "Classification",
    "CloudLike",
    "Found",
    "Job",
    "ModelInput",
    "Outcome",
    "Outcomes",
    "Predictor",
    "Segmentation",
    "Segmented",
    "batch_inference",
    "classification",
    "find_files",
    "segmentation",
]
