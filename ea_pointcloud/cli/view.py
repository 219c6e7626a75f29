"""``ea-pointcloud view``: look at clouds and meshes, in a window, a browser or a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ea_pointcloud.io import Cloud

NAME = "view"
EXAMPLES = """Examples:

ea-pointcloud view chair.off --up z

ea-pointcloud view parts/chair.ply --html chair.html --names seat,back,leg

ea-pointcloud view parts/*.ply --color-by confidence --render confidence.png

ea-pointcloud view found.ply --truth true.ply --turntable mistakes.gif

ea-pointcloud view chair.off --model runs/a --attention -1 --render slots.png
"""


def run(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Clouds or meshes.")],
    color_by: Annotated[
        str,
        typer.Option(
            help="labels, error (needs --truth), confidence, height, normals, colors, or auto: the "
            "first of error, labels, colors and height that the file has."
        ),
    ] = "auto",
    truth: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The same points with their true labels; for one FILE."),
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Names of the labels 0, 1, ...")
    ] = None,
    up: Annotated[str, typer.Option(help="Axis that is up in the files: x, y or z.")] = "y",
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page to turn the cloud in a browser, offline (.html)."),
    ] = None,
    render: Annotated[
        Path | None, typer.Option(help="Write a picture, of several files side by side (.png).")
    ] = None,
    turntable: Annotated[
        Path | None, typer.Option(help="Write a picture that turns (.gif, or .png, larger).")
    ] = None,
    background: Annotated[str, typer.Option(help="white or dark.")] = "white",
    size: Annotated[
        int | None, typer.Option(min=64, help="Edge of a picture, of each cloud, in pixels.")
    ] = None,
    point_size: Annotated[
        float | None, typer.Option(help="Diameter of a point in pixels; chosen without it.")
    ] = None,
    azimuth: Annotated[
        float, typer.Option(help="Degrees from the front to the right, seen from there.")
    ] = 37.0,
    elevation: Annotated[float, typer.Option(help="Degrees above the ground, -90 to 90.")] = 24.0,
    model: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="A trained network, to show what it looks at."),
    ] = None,
    attention: Annotated[
        int | None,
        typer.Option(
            metavar="LAYER",
            help="Colour by the weight of memory slots; 0 is the first layer, -1 the last.",
        ),
    ] = None,
    slots: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Which slots; see --top without it.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="How many of the slots used most; 6 without it.")
    ] = None,
    saliency: Annotated[
        bool, typer.Option("--saliency", help="Colour by how much the class hangs on each point.")
    ] = False,
    critical: Annotated[
        bool, typer.Option("--critical", help="Colour by the pooled channels each point wins.")
    ] = False,
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Leave out points that are not finite.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let the outputs replace existing files.")
    ] = False,
) -> None:
    """Look at clouds: in a window, or with --html, --render or --turntable in a file."""
    from ea_pointcloud._checks import check_choice
    from ea_pointcloud.augment.transforms import AXES
    from ea_pointcloud.cli._clouds import check_output
    from ea_pointcloud.cli._look import check_look, draw_look
    from ea_pointcloud.io import read_cloud
    from ea_pointcloud.viz import Camera, compare, show, to_html
    from ea_pointcloud.viz import render as render_one
    from ea_pointcloud.viz import turntable as turn_one
    from ea_pointcloud.viz.style import BACKGROUNDS, COLORINGS
    from ea_pointcloud.viz.window import check_display

    check_choice("--up", up, AXES)
    check_choice("--color-by", color_by, COLORINGS)
    check_choice("--background", background, BACKGROUNDS)
    check_output("--html", html, (".html",), force=force)
    check_output("--render", render, (".png",), force=force)
    check_output("--turntable", turntable, (".gif", ".png"), force=force)
    if len(files) > 1:
        for option, value in (("--html", html), ("--turntable", turntable), ("--truth", truth)):
            if value is not None:
                raise ValueError(f"{option} is for one FILE, got {len(files)}")
    for option, value in (
        ("--turntable", turntable),
        ("--truth", truth),
        ("--names", names),
        ("--color-by", None if color_by == "auto" else color_by),
    ):
        if value is not None and (attention is not None or saliency or critical):
            raise ValueError(f"{option} does not go with --attention, --saliency or --critical")
    look = check_look(
        model=model,
        attention=attention,
        slots=slots,
        top=top,
        saliency=saliency,
        critical=critical,
    )
    to_file = html is not None or render is not None or turntable is not None
    if not to_file:
        check_display()
    camera = Camera(azimuth, elevation)
    clouds = [read_cloud(file, drop_invalid=drop_invalid) for file in files]
    titles = [Path(file).name for file in files]
    pixels = {} if size is None else {"size": size}
    drawing = {"background": background, "point_size": point_size, "camera": camera}
    if look is not None:
        draw_look(look, clouds, titles, up, html, render, drawing, pixels)
        return
    true_labels = None if truth is None else _true_labels(truth, clouds[0], drop_invalid)
    options: dict[str, Any] = {
        "color_by": color_by,
        "names": None if names is None else names.split(","),
        "up": up,
        **drawing,
    }
    if html is not None:
        to_html(clouds[0], html, truth=true_labels, title=titles[0], **options)
    if turntable is not None:
        turn_one(clouds[0], turntable, truth=true_labels, title=titles[0], **pixels, **options)
    if render is not None and len(files) == 1:
        render_one(clouds[0], render, truth=true_labels, title=titles[0], **pixels, **options)
    elif render is not None:
        compare(clouds, titles, render, **pixels, **options)
    for path in (html, turntable, render):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)
    if not to_file:
        for cloud, title in zip(clouds, titles, strict=True):
            show(cloud, truth=true_labels, title=title, **options)


def _true_labels(file: str, cloud: "Cloud", drop_invalid: bool) -> Any:
    """The labels of a file that must hold the same points."""
    import numpy as np

    from ea_pointcloud.io import read_cloud

    true = read_cloud(file, drop_invalid=drop_invalid)
    if true.labels is None:
        raise ValueError(f"--truth {file} has no labels; name a file that has them")
    same = len(true) == len(cloud) and np.allclose(
        true.xyz + true.center, cloud.xyz + cloud.center, atol=1e-4 * np.abs(cloud.xyz).max()
    )
    if not same:
        raise ValueError(
            f"--truth {file} must hold the same points in the same order, got {len(true)} for "
            f"{len(cloud)}, or other coordinates"
        )
    return true.labels
