"""Mirrored data sets: how they are recognised; their readers negate x.

Everything in this package is right-handed with y up, and z up becomes y up by the rotation
(x, y, z) -> (-x, z, y). The published clouds of ModelNet40, and the corrupted ones made from them,
are (x, z, y) of the meshes instead: a network that is trained on them as they are sees every mesh
and scan as its mirror image.
"""

from pathlib import Path

from ea_pointcloud._checks import check_choice
from ea_pointcloud._files import read_json_object
from ea_pointcloud.datasets._files import MANIFEST
from ea_pointcloud.datasets.catalog import CATALOG, MODELNET40_CLASSES
from ea_pointcloud.datasets.layouts import listed_classes, recognize

MIRRORED = ("auto", True, False)
# One of ``ops.frames.MIRRORING`` -> what to say of the clouds of a set.
STORED_AS = {
    "none": "stored right-handed",
    "undone": "stored mirrored, x negated",
    "kept": "stored mirrored and left so",
}
_LISTED = ("modelnet_h5", "modelnet_txt")  # layouts that come with class names


def find_mirroring(folder: Path, mirrored: bool | str = "auto") -> str:
    """What a reader does about the handedness of the files in ``folder``.

    Args:
        folder: of one set.
        mirrored: whether the files are mirror images; ``"auto"`` recognises those that have the
            layout of a published set that is (``mirrored`` of
            :class:`~ea_pointcloud.datasets.catalog.CatalogEntry`), the 40 official class names, and
            no manifest of this package.

    Returns:
        ``"none"`` for right-handed files, ``"undone"`` where the reader has to negate x, ``"kept"``
        for mirrored files that ``mirrored=False`` leaves as they are.

    Raises:
        ValueError: if ``mirrored`` is something else.
    """
    check_choice("mirrored", mirrored, MIRRORED)
    if mirrored is True:
        return "undone"
    if not _is_published(folder):
        return "none"
    return "undone" if mirrored == "auto" else "kept"


def _is_published(folder: Path) -> bool:
    layout = recognize(folder)
    if layout not in {entry.layout for entry in CATALOG.values() if entry.mirrored}:
        return False
    path = folder / MANIFEST
    if path.is_file():
        return read_json_object(path, "prepare the set again").get("mirroring") == "kept"
    return layout not in _LISTED or set(listed_classes(folder, layout)) == set(MODELNET40_CLASSES)
