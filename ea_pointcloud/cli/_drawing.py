"""What ``view`` draws of clouds and their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ea_pointcloud.cli._common import say

if TYPE_CHECKING:
    from ea_pointcloud.io import Cloud


def draw_clouds(
    clouds: "Sequence[Cloud]",
    titles: Sequence[str],
    axes: Sequence[str],
    truth: Any,
    html: Path | None,
    render: Path | None,
    turntable: Path | None,
    drawing: dict[str, Any],
    pixels: dict[str, int],
) -> None:
    """Write the files whose paths are given, or show one cloud after another in windows.

    ``axes`` are up in the clouds, ``drawing`` are options of every function of ``viz``, ``pixels``
    those of pictures.
    """
    import ea_pointcloud.viz as viz

    one = {"truth": truth, "title": titles[0], "up": axes[0], **drawing}
    if html is not None:
        viz.to_html(clouds[0], html, **one)
    if turntable is not None:
        viz.turntable(clouds[0], turntable, **pixels, **one)
    if render is not None and len(clouds) == 1:
        viz.render(clouds[0], render, **pixels, **one)
    elif render is not None:
        viz.compare(clouds, titles, render, up=axes, **pixels, **drawing)
    written = [path for path in (html, turntable, render) if path is not None]
    for path in written:
        say(f"wrote {path}")
    if not written:
        for cloud, title, up in zip(clouds, titles, axes, strict=True):
            viz.show(cloud, truth=truth, title=title, up=up, **drawing)


def true_labels(file: str, cloud: "Cloud", reading: dict[str, Any]) -> Any:
    """The labels of a file that must hold the same points."""
    import numpy as np

    from ea_pointcloud.io import read_cloud

    true = read_cloud(file, **reading)
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
