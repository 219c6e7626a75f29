"""The published files of ModelNet40-C and ModelNet-C: the test split of ModelNet40, corrupted."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.datasets._files import data_root, read_h5
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.datasets.catalog import MODELNET40_CLASSES
from ea_pointcloud.ops.frames import negate_x

SEVERITIES = (1, 2, 3, 4, 5)
# Of each benchmark: its folder, and the file that marks it.
_LAYOUTS = {"modelnet40-c": ("modelnet40_c", "label.npy"), "modelnet-c": ("modelnet_c", "clean.h5")}


class CorruptedFiles:
    """One of the two benchmarks as it was published, read a set at a time.

    Args:
        folder: with ``data_CORRUPTION_SEVERITY.npy`` and ``label.npy`` (ModelNet40-C), or with
            ``CORRUPTION_LEVEL.h5``, levels from 0, and ``clean.h5`` (ModelNet-C).
        benchmark: ``"modelnet40-c"`` or ``"modelnet-c"``.
        names: of the corruptions that have to be there.
        mirrored: see :func:`~ea_pointcloud.datasets.axes.find_mirroring`.

    Attributes:
        has_clean: whether clouds that are not corrupted are among them.
        mirroring: ``"undone"`` where x is negated, as these files need it.

    Raises:
        FileNotFoundError: if a set is missing.
    """

    def __init__(
        self,
        folder: Path,
        benchmark: str,
        names: Iterable[str],
        *,
        mirrored: bool | str = "auto",
    ) -> None:
        self.folder = folder
        self.mirroring = find_mirroring(folder, mirrored)
        self.has_clean = benchmark == "modelnet-c"
        wanted = [self._path(name, severity) for name in names for severity in SEVERITIES]
        missing = [path.name for path in wanted if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks {len(missing)} of {len(wanted)} sets, {missing[0]} first; run "
                f"'ea-pointcloud data download {_LAYOUTS[benchmark][0]}', or rename the folder to "
                "have the corruptions generated"
            )

    def clean(self) -> tuple[Tensor, Tensor]:
        """(n, N, 3) float32 clouds and (n,) int64 labels, where :attr:`has_clean`."""
        return self._read(self.folder / "clean.h5")

    def read(self, name: str, severity: int) -> tuple[Tensor, Tensor]:
        """(n, M, 3) float32 clouds, M as the corruption left it, and (n,) int64 labels.

        Raises:
            ValueError: if a file is damaged.
        """
        return self._read(self._path(name, severity))

    def _path(self, name: str, severity: int) -> Path:
        if self.has_clean:
            return self.folder / f"{name}_{severity - 1}.h5"
        return self.folder / f"data_{name}_{severity}.npy"

    def _read(self, path: Path) -> tuple[Tensor, Tensor]:
        if path.suffix == ".h5":
            xyz, label = read_h5(path, "data", "label")
        else:
            xyz, label = _read_npy(path), _read_npy(self.folder / "label.npy")
        label = label.astype(np.int64).ravel()
        if xyz.ndim != 3 or xyz.shape[-1] != 3 or len(xyz) != len(label):
            raise ValueError(
                f"{path} must hold clouds (n, N, 3) with n labels, got {xyz.shape} and "
                f"{label.shape}; download it again"
            )
        if not 0 <= label.min() <= label.max() < len(MODELNET40_CLASSES):
            raise ValueError(f"{path} must have labels from 0 to 39; download it again")
        clouds = torch.from_numpy(xyz.astype(np.float32))
        clouds = negate_x(clouds) if self.mirroring == "undone" else clouds
        return clouds, torch.from_numpy(label)


def find_corrupted(root: str | Path | None, benchmark: str) -> Path | None:
    """The folder of a benchmark's published files below the data root, None where there is none."""
    folder, marker = _LAYOUTS[benchmark]
    found = data_root(root) / folder
    return found if (found / marker).is_file() else None


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); download it again") from error
