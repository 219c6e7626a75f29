"""``ea-pointcloud train``: a recipe into a run folder."""

from pathlib import Path
from typing import Annotated

import typer

NAME = "train"
EXAMPLES = """Examples:

ea-pointcloud train procedural

ea-pointcloud train modelnet10 data.root=/data optim.lr=1e-3 --run runs/a

ea-pointcloud train modelnet10 --resume runs/a

ea-pointcloud train folder data.root=shapes data.up=z model.init=runs/a
"""


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="procedural, modelnet10, modelnet40, folder (classes of your own), psb_part or "
            "shapenetpart, or the path of a .yaml file of your own.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Values to replace; runs/NAME/recipe.yaml shows them all."
        ),
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Run folder; runs/RECIPE-seedN without it, of a folder runs/FOLDER-seedN."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the stopped run in this folder.")
    ] = None,
) -> None:
    """Train a recipe."""
    from ea_pointcloud.training.recipe import load_recipe

    if resume is not None and run_folder is not None:
        raise ValueError("--run names a new run and --resume a stopped one; give one of them")
    resolved = load_recipe(recipe, overrides if resume is None else None)
    if resume is not None:
        # The run's own recipe is continued; overrides may change what check_run allows.
        stored = load_recipe(resume / "recipe.yaml", overrides)
        if stored.name != resolved.name:
            raise ValueError(f"{resume} is a run of the recipe {stored.name}, not {resolved.name}")
        resolved = stored

    # Only now the libraries that take seconds: an error in the recipe shows at once.
    import logging

    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.training.fit import check_run, epochs_done, train

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    name = resolved.name
    if resolved.data.dataset == "folder":
        name = Path(resolved.data.root or "").expanduser().resolve().name
    default = Path("runs") / f"{name}-seed{resolved.trainer.seed}"
    folder = resume or run_folder or default
    check_run(resolved, folder, resume=resume is not None)
    device = resolve_device(resolved.trainer.device)
    total = resolved.trainer.epochs
    if epochs_done(folder) >= total:
        typer.echo(f"{folder} is complete ({total} of {total} epochs)", err=True)
        return
    typer.echo(f"training {resolved.name} on {device} into {folder}", err=True)
    try:
        train(resolved, folder, resume=resume is not None)
    except KeyboardInterrupt:
        command = f"ea-pointcloud train {recipe} --resume {folder}"
        typer.echo(f"stopped; to continue after the last whole epoch: {command}", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"done; next: ea-pointcloud evaluate {folder} --split test", err=True)
