"""Pictures of clouds; the only place that imports Open3D's visualization."""

from ea_pointcloud.viz.colors import part_colors
from ea_pointcloud.viz.offscreen import contact_sheet, render

__all__ = ["contact_sheet", "part_colors", "render"]
