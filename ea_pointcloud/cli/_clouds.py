"""What the commands on clouds share: one file after another, and where pictures may go."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ea_pointcloud.io import Cloud

Result = TypeVar("Result")


def each_cloud(
    files: Sequence[str], work: "Callable[[str, Cloud], Result]", *, drop_invalid: bool
) -> tuple[dict[str, Result], dict[str, str]]:
    """Read each file and hand it on; one that fails is remembered and the others go on.

    Args:
        files: paths.
        work: called with the path and its cloud.
        drop_invalid: leave out points that are not finite.

    Returns:
        results: file -> what ``work`` returned.
        errors: file -> the message.
    """
    from ea_pointcloud.io import read_cloud

    results: dict[str, Result] = {}
    errors: dict[str, str] = {}
    for file in files:
        try:
            results[file] = work(file, read_cloud(file, drop_invalid=drop_invalid))
        # PyTorch runs out of memory with a RuntimeError.
        except (OSError, ValueError, ImportError, MemoryError, RuntimeError) as error:
            errors[file] = str(error) or type(error).__name__
    return results, errors


def check_picture(path: Path | None, *, force: bool) -> None:
    """Raise before the work for a picture (``--render``) that could not be written after it."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise ValueError(f"--render must name a .png file, got {path}")
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"--render {path}: no such folder, or a folder itself")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; choose another name or add --force")
