"""``ea-pointcloud data``: list, download, prepare and verify data sets."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ea_pointcloud.datasets.catalog import CatalogEntry

NAME = "data"
EXAMPLES = """Examples:

ea-pointcloud data list

ea-pointcloud data download modelnet40_ply_hdf5_2048

ea-pointcloud data prepare modelnet10
"""

_MIRRORED: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}

app = typer.Typer(
    help="List, download, prepare and verify data sets.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=EXAMPLES,
)

Root = Annotated[
    Path | None,
    typer.Option(
        "--root", help="Folder of data sets; $EA_POINTCLOUD_DATA, then ./data without it."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command(
    "list",
    epilog="""Examples:

ea-pointcloud data list

ea-pointcloud data list --root ~/data --json
""",
)
def list_sets(root: Root = None, as_json: AsJson = False) -> None:
    """Show the data sets there are, which are in place, and their terms."""
    from ea_pointcloud.datasets._files import data_root
    from ea_pointcloud.datasets.catalog import CATALOG

    base = data_root(root)
    rows = [
        {
            "name": entry.name,
            "title": entry.title,
            "megabytes": entry.megabytes,
            "folder": entry.folder,
            "in_place": (base / entry.folder).is_dir(),
            "prepared": entry.prepared,
            "mirrored": entry.mirrored,
            "is_prepared": entry.prepared is not None and (base / entry.prepared).is_dir(),
            "licence": entry.licence,
            "terms": entry.terms,
            "citation": entry.citation,
            "page": entry.page,
        }
        for entry in CATALOG.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    from ea_pointcloud.cli._output import console

    table = Table(title=f"data sets, in {base}")
    for heading in ("name", "what", "MB", "in place", "licence"):
        table.add_column(heading, justify="right" if heading == "MB" else "left")
    for row in rows:
        size = "?" if row["megabytes"] is None else f"{row['megabytes']:,}"
        place = "prepared" if row["is_prepared"] else "yes" if row["in_place"] else "-"
        table.add_row(row["name"], row["title"], size, place, row["licence"])
    console().print(table)


@app.command(
    epilog="""Examples:

ea-pointcloud data download modelnet40_ply_hdf5_2048

ea-pointcloud data download shapenetpart --root ~/data

ea-pointcloud data download scanobjectnn --from-file ~/Downloads/h5_files.zip
"""
)
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As 'data list' has it.")],
    root: Root = None,
    from_file: Annotated[
        Path | None,
        typer.Option(metavar="ARCHIVE", help="Unpack this archive instead of downloading one."),
    ] = None,
    manual: Annotated[
        bool, typer.Option("--manual", help="Print what to do by hand, and do nothing.")
    ] = False,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="Leave the downloaded archive beside the folder.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the data set if it is in place.")
    ] = False,
) -> None:
    """Download a data set, check it and unpack it; a stopped download is continued.

    Mirrors are tried one after another. Nothing appears under the data set's name before all of it
    is there and its checksum, where one is published, is right.
    """
    from ea_pointcloud.datasets._files import data_root
    from ea_pointcloud.datasets.catalog import find_entry
    from ea_pointcloud.datasets.download import download, manual_steps

    entry = find_entry(name)
    if manual:
        typer.echo(manual_steps(entry, root))
        return
    folder = data_root(root) / entry.folder
    if folder.exists() and not force:
        typer.echo(
            f"{folder} is in place; 'ea-pointcloud data verify {entry.name}' checks it, --force "
            "replaces it",
            err=True,
        )
        return
    _introduce(entry)
    with _bar() as bar:
        _log_to_stderr()
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=what, completed=done, total=total)

        folder = download(
            entry,
            root,
            from_file=from_file,
            force=force,
            keep_archive=keep_archive,
            progress=progress,
        )
    step = f"prepare {entry.name}" if entry.prepared else f"verify {entry.name}"
    typer.echo(f"{folder} is in place; next: ea-pointcloud data {step}", err=True)


@app.command(
    epilog="""Examples:

ea-pointcloud data prepare modelnet10

ea-pointcloud data prepare modelnet40 --points 10000 --fps

ea-pointcloud data prepare ~/meshes --up z --out ~/data/mine_ply_hdf5_2048
"""
)
def prepare(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|FOLDER", help="A downloaded set, or a folder of classes."),
    ],
    root: Root = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to make; NAME_ply_hdf5_POINTS beside the set without it."),
    ] = None,
    points: Annotated[int, typer.Option(help="Points of each shape.")] = 2048,
    seed: Annotated[int, typer.Option(help="Of the drawing of points.")] = 0,
    fps: Annotated[
        bool,
        typer.Option(
            "--fps",
            help="Farthest points of four times as many, in that order, so that the first points "
            "of a cloud are spread evenly; independent points without it.",
        ),
    ] = False,
    normals: Annotated[bool, typer.Option(help="Keep the normals of the surface too.")] = True,
    up: Annotated[
        str | None,
        typer.Option(help="Axis that is up in the files: x, y or z; y, or that of the known set."),
    ] = None,
    mirrored: Annotated[
        str,
        typer.Option(
            help="Whether the files are mirror images, whose x is negated: auto, true or false. "
            "auto takes modelnet40_normal_resampled for it."
        ),
    ] = "auto",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that cannot be read.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; 0 for none but this one.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder if it exists.")
    ] = False,
) -> None:
    """Draw points from the meshes of a set, once, into the HDF5 layout that training reads.

    A stopped preparation is continued. The outcome does not depend on the number of workers.
    """
    from ea_pointcloud._checks import check_choice
    from ea_pointcloud.datasets._sampling import Preparation
    from ea_pointcloud.datasets.axes import STORED_AS
    from ea_pointcloud.datasets.prepare import prepare_folder

    check_choice("--mirrored", mirrored, _MIRRORED)
    folder, entry = _locate(name, root)
    if entry is not None and entry.prepared is None:
        raise ValueError(f"{entry.name} needs no preparation; it is read as it is")
    up = up or (entry.up if entry else "y")
    preparation = Preparation(points, seed, fps, normals, up, _MIRRORED[mirrored])
    if out is None:
        base = entry.prepared if entry is not None else None
        stem = (base or folder.resolve().name).removesuffix("_ply_hdf5_2048")
        out = folder.resolve().parent / f"{stem}_ply_hdf5_{points}"
    with _bar(count="files") as bar:
        _log_to_stderr()
        task = bar.add_task(f"prepare {folder.name}", total=None)
        manifest = prepare_folder(
            folder,
            out,
            preparation,
            source=entry.name if entry is not None else "",
            skip_bad=skip_bad,
            force=force,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    counts = {split: sum(each.values()) for split, each in manifest["counts"].items()}
    listed = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    typer.echo(f"wrote {out}: {listed} shapes of {len(manifest['classes'])} classes", err=True)
    typer.echo(f"{folder}: {STORED_AS[manifest['mirroring']]}", err=True)
    if entry is not None:
        for split, count in counts.items():
            if count != entry.counts[split]:
                typer.echo(
                    f"warning: {count:,} {split} shapes, the official set has "
                    f"{entry.counts[split]:,}",
                    err=True,
                )


@app.command(
    epilog="""Examples:

ea-pointcloud data verify modelnet40_ply_hdf5_2048

ea-pointcloud data verify ~/data/modelnet10_ply_hdf5_2048 --json
"""
)
def verify(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FOLDER", help="A known set, or the folder of any.")
    ],
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Compare a data set with what was published: files, checksums, numbers of classes and shapes.

    A prepared folder is compared with its manifest. The exit status is 1 if anything differs.
    """
    from ea_pointcloud.datasets.layouts import LAYOUTS, recognize
    from ea_pointcloud.datasets.verify import (
        MANIFEST,
        verify_folder,
        verify_listed,
        verify_prepared,
    )

    folder, entry = _locate(name, root)
    if (folder / MANIFEST).is_file():
        findings = verify_prepared(folder)
    elif entry is not None:
        findings = verify_folder(entry, folder)
    else:
        findings = verify_listed(folder)
    layout = LAYOUTS[recognize(folder) or "meshes"].title
    right = all(finding.right for finding in findings)
    if as_json:
        rows = [{**vars(finding), "right": finding.right} for finding in findings]
        facts = {"folder": str(folder), "layout": layout, "right": right, "findings": rows}
        typer.echo(json.dumps(facts, indent=2))
    else:
        from rich.table import Table

        from ea_pointcloud.cli._output import console

        table = Table(title=f"{folder}: {layout}")
        for heading in ("what", "expected", "found", ""):
            table.add_column(heading)
        for finding in findings:
            mark = "ok" if finding.right else "DIFFERS"
            shown = [_shortened(text) for text in (finding.expected or "-", finding.found)]
            table.add_row(finding.what, *shown, mark)
        console().print(table)
    if not right:
        raise typer.Exit(1)


def _shortened(text: str) -> str:
    """A checksum by its first digits, as people compare them."""
    return f"{text[:12]}..." if len(text) >= 32 and " " not in text else text


def _locate(name: str, root: Path | None) -> "tuple[Path, CatalogEntry | None]":
    """The folder that a name or path means, and the known set it is, if it is one."""
    from ea_pointcloud.datasets._files import data_root
    from ea_pointcloud.datasets.catalog import CATALOG, find_entry

    base = data_root(root)
    for folder in (Path(name).expanduser(), base / name):
        if folder.is_dir():
            known = (each for each in CATALOG.values() if each.folder == folder.resolve().name)
            return folder, next(known, None)
    entry = find_entry(name)
    folder = base / entry.folder
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no {folder}; run 'ea-pointcloud data download {entry.name}', or give --root"
        )
    return folder, entry


def _introduce(entry: "CatalogEntry") -> None:
    """Terms and citation, before anything is downloaded."""
    size = "" if entry.megabytes is None else f", about {entry.megabytes:,} MB"
    typer.echo(f"{entry.name}: {entry.title}{size}", err=True)
    typer.echo(f"  licence   {entry.licence}", err=True)
    typer.echo(f"  cite      {entry.citation}", err=True)
    typer.echo(f"  page      {entry.page}", err=True)


def _log_to_stderr() -> None:
    """Let people see, above the bar, which mirror is tried and why it was given up."""
    import logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("ea_pointcloud.datasets").setLevel(logging.INFO)


@contextmanager
def _bar(count: str = "") -> "Iterator[Bar]":
    """A progress bar on standard error, of bytes, or of ``count``."""
    from rich import progress
    from rich.console import Console

    amount = progress.MofNCompleteColumn() if count else progress.DownloadColumn()
    speed = () if count else (progress.TransferSpeedColumn(),)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        amount,
        *speed,
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Without a terminal it would be one line, at the end.
    with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield bar
