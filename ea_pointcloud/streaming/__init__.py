"""Any number of files through a predictor, in constant memory; printing is the command line's."""

from ea_pointcloud.streaming.files import Found, find_files
from ea_pointcloud.streaming.pipeline import (
    Job,
    Outcome,
    Outcomes,
    Segmented,
    classification,
    segmentation,
    stream,
)

__all__ = [
    "Found",
    "Job",
    "Outcome",
    "Outcomes",
    "Segmented",
    "classification",
    "find_files",
    "segmentation",
    "stream",
]
