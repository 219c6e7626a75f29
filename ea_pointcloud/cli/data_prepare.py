"""``ea-pointcloud data prepare``: the meshes of a set into the layout that training reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli._common import say
from ea_pointcloud.cli._progress import log_to_stderr

if TYPE_CHECKING:
    from ea_pointcloud.datasets.catalog import CatalogEntry

NAME = "prepare"
EXAMPLES = opt.examples(
    "ea-pointcloud data prepare modelnet10",
    "ea-pointcloud data prepare modelnet40 --points 10000 --fps",
    "ea-pointcloud data prepare ~/meshes --up z --output ~/data/mine_ply_hdf5_2048",
    "ea-pointcloud data prepare ~/scans --columns x,y,z,intensity --features intensity",
)
_MIRRORED: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}

Output = Annotated[
    Path | None,
    typer.Option(help="Folder to make; NAME_ply_hdf5_POINTS beside the set if omitted."),
]
Fps = Annotated[
    bool,
    typer.Option(
        "--fps",
        help="Farthest points of four times the number, in that order, so that the first points of "
        "a cloud are spread evenly; independent points if omitted.",
    ),
]
Up = Annotated[
    str | None,
    typer.Option(help="Axis that is up in the files: x, y or z; y, or that of the known set."),
]
Mirrored = Annotated[
    str,
    typer.Option(
        help="Whether the files are mirror images, whose x is negated: auto, true or false. "
        "auto recognises modelnet40_normal_resampled."
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be read.")]
Workers = Annotated[int | None, typer.Option(help="Processes; 0 for none but this one.")]


def run(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FOLDER", help="A downloaded set, or a folder of classes.")
    ],
    root: opt.Root = None,
    output: Output = None,
    points: Annotated[int, typer.Option(help="Points of each shape.")] = 2048,
    seed: Annotated[int, typer.Option(help="Of the drawing of points.")] = 0,
    fps: Fps = False,
    normals: Annotated[bool, typer.Option(help="Keep the normals of the surface too.")] = True,
    up: Up = None,
    mirrored: Mirrored = "auto",
    features: Annotated[
        str, typer.Option(metavar="NAMES", help="Further channels to keep: colors,intensity,...")
    ] = "",
    columns: opt.Columns = None,
    skip_bad: SkipBad = False,
    workers: Workers = None,
    force: opt.Force = False,
) -> None:
    """Draw points from the meshes of a set, once, into the HDF5 layout that training reads.

    A stopped preparation is continued. The outcome does not depend on the number of workers.
    """
    opt.check_option("--mirrored", mirrored, _MIRRORED)

    from ea_pointcloud.datasets._sampling import Preparation
    from ea_pointcloud.datasets.prepare import prepare_folder

    folder, entry = locate(name, root)
    if entry is not None and entry.prepared is None:
        raise ValueError(f"{entry.name} needs no preparation; it is read as it is")
    up = up or (entry.up if entry else "y")
    channels = tuple(filter(None, features.split(",")))
    preparation = Preparation(
        points, seed, fps, normals, up, _MIRRORED[mirrored], channels, columns
    )
    if output is None:
        stem = (entry and entry.prepared) or folder.resolve().name
        stem = stem.removesuffix("_ply_hdf5_2048")
        output = folder.resolve().parent / f"{stem}_ply_hdf5_{points}"
    log_to_stderr("ea_pointcloud.datasets")
    manifest = prepare_folder(
        folder,
        output,
        preparation,
        source=entry.name if entry is not None else "",
        skip_bad=skip_bad,
        force=force,
        workers=workers,
    )
    _report(folder, output, manifest, entry)


def _report(folder: Path, output: Path, manifest: dict, entry: "CatalogEntry | None") -> None:
    from ea_pointcloud.datasets.axes import STORED_AS

    counts = {split: sum(each.values()) for split, each in manifest["counts"].items()}
    listed = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    say(f"wrote {output}: {listed} shapes of {len(manifest['classes'])} classes")
    say(f"{folder}: {STORED_AS[manifest['mirroring']]}")
    for split, count in counts.items():
        if entry is not None and count != entry.counts[split]:
            official = f"{entry.counts[split]:,}"
            say(f"warning: {count:,} {split} shapes, the official set has {official}")


def locate(
    name: str, root: Path | None, *, prepared: bool = False
) -> "tuple[Path, CatalogEntry | None]":
    """The folder that a name or path means, and the known set it is, if it is one.

    ``prepared`` takes what was made of a set where that itself is not there.
    """
    from ea_pointcloud.datasets._files import data_root
    from ea_pointcloud.datasets.catalog import CATALOG, find_entry

    base = data_root(root)
    for folder in (Path(name).expanduser(), base / name):
        if folder.is_dir():
            known = (each for each in CATALOG.values() if each.folder == folder.resolve().name)
            return folder, next(known, None)
    entry = find_entry(name)
    folder = base / entry.folder
    if prepared and entry.prepared and not folder.is_dir() and (base / entry.prepared).is_dir():
        return base / entry.prepared, None
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no {folder}; run 'ea-pointcloud data download {entry.name}', or give --root"
        )
    return folder, entry
