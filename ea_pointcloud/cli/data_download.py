"""``ea-pointcloud data download``: a published data set into its folder."""

from pathlib import Path
from typing import Annotated

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli._common import say
from ea_pointcloud.cli._progress import log_to_stderr, progress_bar

NAME = "download"
EXAMPLES = opt.examples(
    "ea-pointcloud data download modelnet40_ply_hdf5_2048",
    "ea-pointcloud data download shapenetpart --root ~/data",
    "ea-pointcloud data download scanobjectnn --from-file ~/Downloads/h5_files.zip",
)

FromFile = Annotated[
    Path | None,
    typer.Option(metavar="ARCHIVE", help="Unpack this archive instead of downloading one."),
]
Manual = Annotated[bool, typer.Option("--manual", help="Print what to do by hand, and do nothing.")]
KeepArchive = Annotated[
    bool, typer.Option("--keep-archive", help="Leave the downloaded archive beside the folder.")
]


def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in 'data list'.")],
    root: opt.Root = None,
    from_file: FromFile = None,
    manual: Manual = False,
    keep_archive: KeepArchive = False,
    force: opt.Force = False,
) -> None:
    """Download a data set, check it and unpack it; a stopped download is continued.

    Mirrors are tried one after another. Nothing appears under the data set's name before all of it
    is there and its checksum, where one is published, is right.
    """
    from rich.progress import DownloadColumn, TransferSpeedColumn

    from ea_pointcloud.datasets._files import data_root
    from ea_pointcloud.datasets.catalog import find_entry
    from ea_pointcloud.datasets.download import download, manual_steps

    entry = find_entry(name)
    if manual:
        typer.echo(manual_steps(entry, root))
        return
    folder = data_root(root) / entry.folder
    if folder.exists() and not force:
        say(
            f"{folder} is in place; 'ea-pointcloud data verify {entry.name}' checks it, --force "
            "replaces it"
        )
        return
    size = "" if entry.megabytes is None else f", about {entry.megabytes:,} MB"
    say(f"{entry.name}: {entry.title}{size}")
    for what, text in (
        ("licence", entry.licence), ("cite", entry.citation), ("page", entry.page)
    ):  # fmt: skip
        say(f"  {what:9} {text}")
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as bar:
        log_to_stderr("ea_pointcloud.datasets")
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=what, completed=done, total=total)

        folder = download(entry, root, from_file=from_file, force=force,
                          keep_archive=keep_archive, progress=progress)  # fmt: skip
    step = f"prepare {entry.name}" if entry.prepared else f"verify {entry.name}"
    say(f"{folder} is in place; next: ea-pointcloud data {step}")
