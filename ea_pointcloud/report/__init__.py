"""Reports of evaluations: tables for the terminal, and a page with charts and pictures."""

from ea_pointcloud.report.page import PAGE_FILE, write_report
from ea_pointcloud.report.predictions import (
    ClassPredictions,
    PartPredictions,
    Predictions,
    predictions_for,
)

__all__ = [
    "PAGE_FILE",
    "ClassPredictions",
    "PartPredictions",
    "Predictions",
    "predictions_for",
    "write_report",
]
