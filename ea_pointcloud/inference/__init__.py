"""From files or arrays to labels: the Predictor and all that stands behind it."""

from ea_pointcloud.inference.batch import (
    Job,
    Outcome,
    Outcomes,
    Segmented,
    classification,
    segmentation,
    stream,
)
from ea_pointcloud.inference.classify import Candidate, Classification
from ea_pointcloud.inference.files import Found, find_files
from ea_pointcloud.inference.predictor import Predictor
from ea_pointcloud.inference.preprocess import CloudLike, Prepared
from ea_pointcloud.inference.segment import Segmentation

__all__ = [
    "Candidate",
    "Classification",
    "CloudLike",
    "Found",
    "Job",
    "Outcome",
    "Outcomes",
    "Predictor",
    "Prepared",
    "Segmentation",
    "Segmented",
    "classification",
    "find_files",
    "segmentation",
    "stream",
]
