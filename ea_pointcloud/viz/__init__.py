"""Pictures of clouds; the only place that imports Open3D's visualization."""

from ea_pointcloud.viz.colors import part_colors
from ea_pointcloud.viz.interactive import figure, show_notebook
from ea_pointcloud.viz.page import to_html
from ea_pointcloud.viz.pictures import compare, render, turntable
from ea_pointcloud.viz.style import Camera, Style
from ea_pointcloud.viz.window import show

__all__ = [
    "Camera",
    "Style",
    "compare",
    "figure",
    "part_colors",
    "render",
    "show",
    "show_notebook",
    "to_html",
    "turntable",
]
