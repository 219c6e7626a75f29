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
from ea_pointcloud.inference.examples import Example
from ea_pointcloud.inference.predictor import Predictor
from ea_pointcloud.inference.preprocess import CloudLike, ModelInput
from ea_pointcloud.inference.segment import Segmentation
from ea_pointcloud.inference.support_report import Doubt, SupportReport

__all__ = [
    "Candidate",
    "Classification",
    "CloudLike",
    "Doubt",
    "Example",
    "Found",
    "Job",
    "ModelInput",
    "Outcome",
    "Outcomes",
    "Predictor",
    "Segmentation",
    "Segmented",
    "SupportReport",
    "batch_inference",
    "classification",
    "find_files",
    "segmentation",
]
