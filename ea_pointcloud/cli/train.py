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

ea-pointcloud train modelnet40 data.root=/data trainer.devices=4 --auto-resume
"""


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="procedural, modelnet10, modelnet40, folder (classes of your own), psb_part or "
            "shapenetpart, their forms for other networks, such as psb_part_eagraph "
            "('ea-pointcloud info' lists all), or the path of a .yaml file of your own.",
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
            "--run",
            "--run-folder",  # torchrun takes --run for the beginning of its own --run-path
            help="Run folder; runs/RECIPE-seedN without it, of a folder runs/FOLDER-seedN. After "
            "torchrun only the longer name works.",
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the stopped run in this folder.")
    ] = None,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="Continue the run in the run folder where there is one, else start it: one "
            "command for jobs that may be started again.",
        ),
    ] = False,
) -> None:
    """Train a recipe."""
    from ea_pointcloud.training.recipe import load_recipe, run_name

    if resume is not None and run_folder is not None:
        raise ValueError("--run names a new run and --resume a stopped one; give one of them")
    resolved = load_recipe(recipe, overrides if resume is None else None)
    folder = resume or run_folder or Path("runs") / run_name(resolved)
    if auto_resume and (folder / "recipe.yaml").is_file():
        resume = folder
    if resume is not None:
        # The run's own recipe is continued; overrides may change what check_run allows.
        stored = load_recipe(resume / "recipe.yaml", overrides)
        if stored.name != resolved.name:
            raise ValueError(f"{resume} is a run of the recipe {stored.name}, not {resolved.name}")
        resolved = stored

    # Only now the libraries that take seconds: an error in the recipe shows at once.
    import logging

    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.training.checkpoints import furthest
    from ea_pointcloud.training.distributed import processes_of
    from ea_pointcloud.training.fault_tolerance import TrainingTerminatedError
    from ea_pointcloud.training.fit import train
    from ea_pointcloud.training.run_folder import COMPLETE_FILE, check_run

    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    is_rank_zero = processes_of(resolved.trainer).is_rank_zero

    def say(text: str) -> None:
        if is_rank_zero:
            typer.echo(text, err=True)

    if is_rank_zero:
        check_run(resolved, folder, resume=resume is not None)
    device = resolve_device(resolved.trainer.device)
    total = resolved.trainer.epochs
    if (folder / COMPLETE_FILE).exists():
        say(f"{folder} is complete ({total} of {total} epochs)")
        return
    say(f"training {resolved.name} on {device} into {folder}")
    status = None
    try:
        train(resolved, folder, resume=resume is not None)
    except KeyboardInterrupt:
        status = 130
    except TrainingTerminatedError as error:
        status = 128 + error.signum
    if status is None:
        say(f"done; next: ea-pointcloud evaluate {folder} --split test")
        return
    place = furthest(folder)
    command = f"ea-pointcloud train {recipe} --resume {folder}"
    say(f"stopped; to continue after epoch {place.epochs}, batch {place.batches}: {command}")
    raise typer.Exit(status)
