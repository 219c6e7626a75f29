"""Attention maps, use of memory slots, saliency and critical points of a trained network."""

from ea_pointcloud.explain.maps import (
    AttentionMap,
    attention_layers,
    attention_maps,
    most_used,
)
from ea_pointcloud.explain.saliency import critical_points, saliency
from ea_pointcloud.explain.subject import Subject, subject_of
from ea_pointcloud.explain.usage import SlotUsage, slot_usage

__all__ = [
    "AttentionMap",
    "SlotUsage",
    "Subject",
    "attention_layers",
    "attention_maps",
    "critical_points",
    "most_used",
    "saliency",
    "slot_usage",
    "subject_of",
]
