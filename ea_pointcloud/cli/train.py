"""``ea-pointcloud train``: a recipe into a run folder."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ea_pointcloud.cli import _common as opt

if TYPE_CHECKING:
    from ea_pointcloud.training.recipe_keys import Recipe

NAME = "train"
EXAMPLES = opt.examples(
    "ea-pointcloud train procedural",
    "ea-pointcloud train modelnet10 data.root=/data optim.lr=1e-3 --run-dir runs/a",
    "ea-pointcloud train --resume runs/a",
    "ea-pointcloud train folder data.root=shapes data.up=z model.init=runs/a",
    "ea-pointcloud train folder data.root=scans data.features=[r] --columns x,y,z,r",
    "ea-pointcloud train parts data.root=tools --columns x,y,z,label",
    "ea-pointcloud train modelnet40 data.root=/data trainer.devices=4 --auto-resume",
)


RunDir = Annotated[
    Path | None, typer.Option(help="Run folder; runs/RECIPE-seedN or runs/FOLDER-seedN if omitted.")
]
Resume = Annotated[
    Path | None,
    typer.Option(help="Continue the stopped run in this folder; RECIPE may be left out."),
]
AutoResume = Annotated[
    bool,
    typer.Option(
        "--auto-resume",
        help="Continue the run in the run folder where there is one, else start it: one command "
        "for jobs that may be started again.",
    ),
]


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="procedural, modelnet10, modelnet40, folder (classes of your own), parts "
            "(labelled points of your own), psb_part or shapenetpart, their forms for other "
            "networks, such as psb_part_eagraph ('ea-pointcloud info' lists all), or the path of a "
            ".yaml file of your own.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Values to replace; runs/NAME/recipe.yaml shows them all."
        ),
    ] = None,
    columns: opt.Columns = None,
    run_dir: RunDir = None,
    resume: Resume = None,
    auto_resume: AutoResume = False,
) -> None:
    """Train a recipe."""
    if resume is not None and run_dir is not None:
        raise ValueError("--run-dir names a new run and --resume a stopped one; give one of them")
    keys = list(overrides or [])
    if columns is not None:
        keys.append(f"data.columns={columns}")
    if resume is not None and recipe is not None and "=" in recipe:
        keys, recipe = [recipe, *keys], None
    if resume is None and recipe is None:
        raise ValueError("give a RECIPE to train, such as procedural, or --resume RUN")
    from ea_pointcloud.training.recipe import load_recipe, run_name
    from ea_pointcloud.training.run_folder import RECIPE_FILE, resume_recipe

    if resume is not None:
        _train(resume_recipe(resume, keys, of=recipe), resume, resume=True)
        return
    assert recipe is not None
    loaded = load_recipe(recipe, keys)
    folder = run_dir or Path("runs") / run_name(loaded)
    continues = auto_resume and (folder / RECIPE_FILE).is_file()
    if continues:
        loaded = resume_recipe(folder, keys, of=recipe)
    _train(loaded, folder, resume=continues)


def _train(recipe: "Recipe", folder: Path, *, resume: bool) -> None:
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
    is_rank_zero = processes_of(recipe.trainer).is_rank_zero

    def say(text: str) -> None:
        if is_rank_zero:
            opt.say(text)

    if is_rank_zero:
        check_run(recipe, folder, resume=resume)
    device = resolve_device(recipe.trainer.device)
    total = recipe.trainer.epochs
    if (folder / COMPLETE_FILE).exists():
        say(f"{folder} is complete ({total} of {total} epochs)")
        return
    say(f"training {recipe.name} on {device} into {folder}")
    status = None
    try:
        train(recipe, folder, resume=resume)
    except KeyboardInterrupt:
        status = 130
    except TrainingTerminatedError as error:
        status = 128 + error.signum
    if status is None:
        say(f"done; next: ea-pointcloud evaluate {folder} --split test")
        return
    progress = furthest(folder)
    command = shlex.join(["ea-pointcloud", "train", "--resume", str(folder)])
    say(f"stopped; to continue after epoch {progress.epochs}, batch {progress.batches}: {command}")
    raise typer.Exit(status)
