"""What an evaluation is shown as: tables for the terminal, and a page with charts and pictures."""

from ea_pointcloud.report.answers import Answers, ClassAnswers, PartAnswers, answers_for
from ea_pointcloud.report.page import PAGE_FILE, write_report

__all__ = [
    "PAGE_FILE",
    "Answers",
    "ClassAnswers",
    "PartAnswers",
    "answers_for",
    "write_report",
]
