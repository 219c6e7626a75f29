"""Point clouds and meshes in files: one file a family of formats, and the guard of native parsers.

Names are imported on first use: the process behind the guard takes neither torch nor other parsers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ea_pointcloud.io.cloud import Cloud, cloud_from_array, cloud_of
    from ea_pointcloud.io.common import CloudFileError
    from ea_pointcloud.io.read import READABLE, conventional_up, read_cloud
    from ea_pointcloud.io.write import write_cloud, write_mesh

__all__ = [
    "READABLE",
    "Cloud",
    "CloudFileError",
    "cloud_from_array",
    "cloud_of",
    "conventional_up",
    "read_cloud",
    "write_cloud",
    "write_mesh",
]

_HOME = {
    "READABLE": "read",
    "conventional_up": "read",
    "Cloud": "cloud",
    "CloudFileError": "common",
    "cloud_from_array": "cloud",
    "cloud_of": "cloud",
    "read_cloud": "read",
    "write_cloud": "write",
    "write_mesh": "write",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f"ea_pointcloud.io.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ea_pointcloud.io' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
