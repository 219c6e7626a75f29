"""``ea-pointcloud view``: clouds and meshes in a window, a browser or a picture."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli._attention import (
    Attention,
    Critical,
    Saliency,
    Slots,
    Topk,
    check_attention,
    draw_attention,
)
from ea_pointcloud.cli._batch import announce_up
from ea_pointcloud.cli._drawing import draw_clouds, true_labels

NAME = "view"
EXAMPLES = opt.examples(
    "ea-pointcloud view chair.off --up z",
    "ea-pointcloud view parts/chair.ply --html chair.html --names seat,back,leg",
    "ea-pointcloud view parts/*.ply --color-by confidence --render confidence.png",
    "ea-pointcloud view found.ply --truth true.ply --turntable mistakes.gif",
    "ea-pointcloud view chair.off --model runs/a --attention -1 --render slots.png",
)
# Those of ``ea_pointcloud.viz``, which takes seconds to import.
COLORINGS = ("auto", "labels", "error", "confidence", "height", "normals", "colors")
BACKGROUNDS = ("white", "dark")
SURFACE_POINTS, NETWORK_POINTS = 40_000, 10_000  # of a mesh

ColorBy = Annotated[
    str,
    typer.Option(
        help="labels, error (needs --truth), confidence, height, normals, colors, or auto: the "
        "first of error, labels, colors and height that the file has."
    ),
]
Truth = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The same points with their true labels; for one FILE."),
]
Names = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...", help="Names of the labels 0, 1, ...; those in the file if omitted."
    ),
]
Html = Annotated[
    Path | None, typer.Option(help="Write a page to turn the cloud in a browser, offline (.html).")
]
Render = Annotated[
    Path | None, typer.Option(help="Write a picture, of several files side by side (.png).")
]
Turntable = Annotated[
    Path | None, typer.Option(help="Write a picture that turns (.gif, or .png, larger).")
]
Size = Annotated[
    int | None, typer.Option(min=64, help="Edge of a picture, of each cloud, in pixels.")
]
PointSize = Annotated[
    float | None, typer.Option(help="Diameter of a point in pixels; chosen if omitted.")
]
Azimuth = Annotated[float, typer.Option(help="Degrees from the front to the right.")]


def run(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Clouds or meshes.")],
    color_by: ColorBy = "auto",
    truth: Truth = None,
    names: Names = None,
    up: Annotated[
        str | None,
        typer.Option(
            help="Axis that is up in the files: x, y or z; if omitted what the file says, else z "
            "in .off, .stl, .las, .laz, .pcd, .e57, y in others."
        ),
    ] = None,
    html: Html = None,
    render: Render = None,
    backend: opt.Backend = "auto",
    turntable: Turntable = None,
    background: Annotated[str, typer.Option(help="white or dark.")] = "white",
    size: Size = None,
    point_size: PointSize = None,
    azimuth: Azimuth = 37.0,
    elevation: Annotated[float, typer.Option(help="Degrees above the ground, -90 to 90.")] = 24.0,
    model: Annotated[
        str | None, typer.Option(metavar="WEIGHTS", help="A trained network, to show what it uses.")
    ] = None,
    attention: Attention = None,
    slots: Slots = None,
    topk: Topk = None,
    saliency: Saliency = False,
    critical: Critical = False,
    drop_invalid: opt.DropInvalid = None,
    columns: opt.Columns = None,
    force: opt.Force = False,
) -> None:
    """Look at clouds: in a window, or with --html, --render or --turntable in a file."""
    opt.check_option("--up", up, opt.UPS[:3])
    opt.check_option("--color-by", color_by, COLORINGS)
    opt.check_option("--background", background, BACKGROUNDS)
    opt.check_option("--backend", backend, opt.BACKENDS)
    opt.check_output("--html", html, (".html",), force=force)
    opt.check_output("--render", render, (".png",), force=force)
    opt.check_output("--turntable", turntable, (".gif", ".png"), force=force)
    if len(files) > 1:
        one = {"html": html, "turntable": turntable, "truth": truth}
        opt.check_absent(f"is for one FILE, got {len(files)}", **one)
    view = check_attention(model, attention, slots, topk, saliency=saliency, critical=critical)
    if view is not None:
        given = {"turntable": turntable, "truth": truth, "names": names}
        given["color_by"] = None if color_by == "auto" else color_by
        given["backend"] = None if backend == "auto" else backend
        opt.check_absent("does not go with --attention, --saliency or --critical", **given)

    from ea_pointcloud.io import conventional_up, read_cloud
    from ea_pointcloud.viz import Camera
    from ea_pointcloud.viz.window import check_display

    if html is None and render is None and turntable is None:
        check_display()
    drawing: dict[str, Any] = {"background": background, "point_size": point_size,
               "camera": Camera(azimuth, elevation)}  # fmt: skip
    pixels: dict[str, Any] = {"backend": backend} | ({} if size is None else {"size": size})
    reading = {"drop_invalid": drop_invalid, "columns": columns}
    # Meshes are drawn as closed surfaces; a network sees what it sees elsewhere.
    points = SURFACE_POINTS if view is None else NETWORK_POINTS
    clouds = [read_cloud(file, num_points=points, **reading) for file in files]
    titles = [Path(file).name for file in files]
    silent = [file for file, cloud in zip(files, clouds, strict=True) if cloud.up is None]
    if up is None and silent:
        announce_up(silent)
    axes = [
        up or each.up or conventional_up(file) for file, each in zip(files, clouds, strict=True)
    ]
    if view is not None:
        draw_attention(view, clouds, titles, axes, html, render, drawing, pixels)
        return
    drawing |= {"color_by": color_by, "names": names and names.split(",")}
    true = None if truth is None else true_labels(truth, clouds[0], reading)
    draw_clouds(clouds, titles, axes, true, html, render, turntable, drawing, pixels)
