"""Pictures of clouds; the only place that imports Open3D's visualization."""

from ea_pointcloud.viz.offscreen import contact_sheet, render

__all__ = ["contact_sheet", "render"]
