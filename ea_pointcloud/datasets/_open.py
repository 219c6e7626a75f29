"""``open_dataset``: whatever lies in a folder, or a data set by its name."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ea_pointcloud._checks import check_choice
from ea_pointcloud.datasets._files import data_root as find_data_root
from ea_pointcloud.datasets._modelnet_files import SCANOBJECTNN_VARIANTS
from ea_pointcloud.datasets._part_files import PUBLISHED_LAYOUTS, PUBLISHED_NAME
from ea_pointcloud.datasets._splits import SPLITS
from ea_pointcloud.datasets.axes import STORED_AS
from ea_pointcloud.datasets.catalog import CATALOG, CatalogEntry, entry_of_folder
from ea_pointcloud.datasets.folder import FolderDataset
from ea_pointcloud.datasets.layouts import LAYOUTS, recognize
from ea_pointcloud.datasets.modelnet import ModelNet
from ea_pointcloud.datasets.part_folder import PartFolderDataset
from ea_pointcloud.datasets.procedural import ProceduralShapes
from ea_pointcloud.datasets.shapenetpart import ShapeNetPart
from ea_pointcloud.datasets.verify import count_deviations
from ea_pointcloud.descriptors.channels import parse_features

AnyShapes = ModelNet | ShapeNetPart | PartFolderDataset | FolderDataset | ProceduralShapes
PROCEDURAL = "procedural"
_SUFFIXES = ("_ply_hdf5_2048", "_hdf5_2048", "_hdf5_data", "_txt_normal")

logger = logging.getLogger(__name__)


def open_dataset(
    root_or_name: str | Path,
    *,
    split: str = "train",
    num_points: int = 0,
    sampling: str = "first",
    features: str | Sequence[str] = "none",
    parts: bool = False,
    data_root: str | Path | None = None,
) -> AnyShapes:
    """Open a data set, whatever its layout, which is logged and seen in its ``repr``.

    Class names and their order come from the files. Where clouds are stored mirrored, as those of
    ModelNet40 are, x is negated. Where the set is a published one and has not the official numbers
    of classes and shapes, that is a warning with the figures.

    Args:
        root_or_name: the set's own folder; or its name, as ``ea-pointcloud data list`` has it, or
            ``NAME`` of a folder ``NAME_ply_hdf5_2048``, ``NAME_hdf5_2048``, ``NAME_hdf5_data`` or
            ``NAME_txt_normal`` below ``data_root``; ``"scanobjectnn"``, ``"scanobjectnn_obj_bg"``
            or ``"scanobjectnn_obj_only"``; or ``"procedural"``. ModelNet's meshes
            are read as z up, other folders of classes as y up: :class:`FolderDataset` has the
            choice.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"trainval"`` (not of procedural shapes).
        num_points: most points kept of each cloud, 0 for all.
        sampling: which: ``"first"``, ``"random"`` or ``"fps"``; procedural shapes have theirs.
        features: channels of the points, such as ``["normals"]``; of part-labelled sets also
            descriptors, see :class:`ShapeNetPart`.
        parts: whether a folder of own files has labels of points, :class:`PartFolderDataset`.
        data_root: where names are looked for; default ``$EA_POINTCLOUD_DATA``, then ``./data``.

    Raises:
        FileNotFoundError: if there is no such folder or name; says what there is.
        ValueError: if the folder's layout is unknown or needs ``ea-pointcloud data prepare``.
    """
    check_choice("split", split, SPLITS)
    if root_or_name == PROCEDURAL:
        return ProceduralShapes(split, num_points=num_points or 1024)
    options: dict[str, Any] = {"split": split, "num_points": num_points, "sampling": sampling}
    options["features"] = parse_features("features", features)
    if root_or_name in SCANOBJECTNN_VARIANTS:
        return ModelNet(data_root, name=str(root_or_name), **options)
    folder = _find(root_or_name, data_root)
    entry = entry_of_folder(folder.resolve().name)
    layout = recognize(folder) or "meshes"
    if parts and layout == "meshes":
        return PartFolderDataset(folder, **options)
    dataset = _open(folder, layout, entry, options)
    logger.info("%s: opened as %s, %s", folder, LAYOUTS[layout].title, STORED_AS[dataset.mirroring])
    if entry is not None:
        wrong = count_deviations(entry, layout, folder)
        if wrong:
            listed = "; ".join(f"{w.what}: {w.found}, official {w.expected}" for w in wrong)
            logger.warning("%s differs from the published set: %s", folder, listed)
    return dataset


def _open(
    folder: Path, layout: str, entry: CatalogEntry | None, options: dict[str, Any]
) -> AnyShapes:
    if layout == "modelnet_h5":
        return ModelNet(folder, name=_plain_name(folder), **options)
    if layout == "scanobjectnn":
        return ModelNet(folder, name="scanobjectnn", **options)
    if layout in ("parts_h5", "parts_txt"):
        published = folder.name in dict(PUBLISHED_LAYOUTS)
        name = PUBLISHED_NAME if published else _plain_name(folder)
        return ShapeNetPart(folder, name=name, **options)
    if layout == "meshes":
        sets = sorted(path.name for path in folder.iterdir() if path.is_dir() and recognize(path))
        if sets:
            raise ValueError(f"{folder} holds several data sets; name one of {', '.join(sets)}")
        return FolderDataset(folder, up=entry.up if entry else "y", **options)
    title = LAYOUTS[layout].title
    if layout == "modelnet_txt":
        name = entry.name if entry else folder
        raise ValueError(
            f"{folder} is {title}; run 'ea-pointcloud data prepare {name}' and open its outcome"
        )
    raise ValueError(f"{folder} is {title}, which is not opened as clouds to train on")


def _plain_name(folder: Path) -> str:
    name = folder.resolve().name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _find(root_or_name: str | Path, below_root: str | Path | None) -> Path:
    """The folder itself, or the folder of the set of this name below the data root."""
    folder = Path(root_or_name).expanduser()
    if folder.is_dir():
        return folder
    root, name = find_data_root(below_root), str(root_or_name)
    entry = CATALOG.get(name)
    # As training finds the set of that name: what is prepared comes before what it was made of.
    below = [*(f"{name}{suffix}" for suffix in _SUFFIXES), name]
    if entry is not None:
        below += [*filter(None, [entry.prepared]), entry.folder]
    if name == PUBLISHED_NAME:
        below += [folder for folder, _ in PUBLISHED_LAYOUTS]
    below = list(dict.fromkeys(below))
    for each in below:
        if (root / each).is_dir():
            return root / each
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    remedy = f"run 'ea-pointcloud data download {name}'" if entry else "give its folder"
    raise FileNotFoundError(
        f"no data set {name}: neither a folder nor one of {', '.join(below)} in {root}, which "
        f"holds {', '.join(there) or 'none'}; {remedy}, or see data/README.md"
    )
