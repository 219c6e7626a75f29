"""``ea-pointcloud data``: list, download, prepare and verify data sets."""

from typing import Annotated

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli import data_download, data_prepare
from ea_pointcloud.cli._common import print_json, print_table

NAME = "data"
EXAMPLES = opt.examples(
    "ea-pointcloud data list",
    "ea-pointcloud data download modelnet40_ply_hdf5_2048",
    "ea-pointcloud data prepare modelnet10",
)

app = typer.Typer(
    help="List, download, prepare and verify data sets.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=EXAMPLES,
)


@app.command(
    "list",
    epilog=opt.examples(
        "ea-pointcloud data list",
        "ea-pointcloud data list --root ~/data --json",
    ),
)
def list_sets(root: opt.Root = None, as_json: opt.AsJson = False) -> None:
    """Show the known data sets, which are in place, and their terms."""
    from ea_pointcloud.datasets._files import data_root
    from ea_pointcloud.datasets.catalog import CATALOG

    base = data_root(root)
    fields = ("name", "title", "megabytes", "folder", "prepared", "mirrored")
    terms = ("licence", "terms", "citation", "page")
    rows = [
        {
            **{field: getattr(entry, field) for field in fields},
            "in_place": (base / entry.folder).is_dir(),
            "is_prepared": entry.prepared is not None and (base / entry.prepared).is_dir(),
            **{field: getattr(entry, field) for field in terms},
        }
        for entry in CATALOG.values()
    ]
    if as_json:
        print_json(rows)
        return
    shown = []
    for row in rows:
        size = "?" if row["megabytes"] is None else f"{row['megabytes']:,}"
        place = "prepared" if row["is_prepared"] else "yes" if row["in_place"] else "-"
        shown.append([row["name"], row["title"], size, place, row["licence"]])
    headings = ("name", "what", "MB", "in place", "licence")
    print_table(shown, headings, title=f"data sets, in {base}", right=("MB",))


for command in (data_download, data_prepare):
    app.command(command.NAME, epilog=command.EXAMPLES)(command.run)


@app.command(
    epilog=opt.examples(
        "ea-pointcloud data verify modelnet40_ply_hdf5_2048",
        "ea-pointcloud data verify ~/data/modelnet10_ply_hdf5_2048 --json",
    )
)
def verify(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FOLDER", help="A known set, or the folder of any.")
    ],
    root: opt.Root = None,
    as_json: opt.AsJson = False,
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

    folder, entry = data_prepare.locate(name, root, prepared=True)
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
        print_json({"folder": str(folder), "layout": layout, "right": right, "findings": rows})
    else:
        shown = [
            (
                finding.what,
                *(_shortened(text) for text in (finding.expected or "-", finding.found)),
                "ok" if finding.right else "DIFFERS",
            )
            for finding in findings
        ]
        print_table(shown, ("what", "expected", "found", ""), title=f"{folder}: {layout}")
    if not right:
        raise typer.Exit(1)


def _shortened(text: str) -> str:
    """A checksum by its first digits, as people compare them."""
    return f"{text[:12]}..." if len(text) >= 32 and " " not in text else text
