"""The published files of ModelNet40-C and ModelNet-C: the test split of ModelNet40, corrupted."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.augment.transforms import negate_x
from ea_pointcloud.datasets._files import data_root
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.datasets.catalog import MODELNET40_CLASSES

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
        return self._read_h5(self.folder / "clean.h5")

    def read(self, name: str, severity: int) -> tuple[Tensor, Tensor]:
        """(n, M, 3) float32 clouds, M as the corruption left it, and (n,) int64 labels.

        Raises:
            ValueError: if a file is damaged.
        """
        path = self._path(name, severity)
        return self._read_h5(path) if self.has_clean else self._read_npy(path)

    def _path(self, name: str, severity: int) -> Path:
        if self.has_clean:
            return self.folder / f"{name}_{severity - 1}.h5"
        return self.folder / f"data_{name}_{severity}.npy"

    def _read_npy(self, path: Path) -> tuple[Tensor, Tensor]:
        try:
            xyz = np.load(path, allow_pickle=False)
            label = np.load(self.folder / "label.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        return self._posed(*_checked(path, xyz, label))

    def _read_h5(self, path: Path) -> tuple[Tensor, Tensor]:
        import h5py

        try:
            with h5py.File(path, "r") as file:
                xyz, label = np.asarray(file["data"]), np.asarray(file["label"])
        except (OSError, KeyError) as error:
            raise _damaged(path, error) from error
        return self._posed(*_checked(path, xyz, label))

    def _posed(self, xyz: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return negate_x(xyz) if self.mirroring == "undone" else xyz, label


def find_corrupted(root: str | Path | None, benchmark: str) -> Path | None:
    """The folder of a benchmark's published files below the data root, None where there is none."""
    folder, marker = _LAYOUTS[benchmark]
    found = data_root(root) / folder
    return found if (found / marker).is_file() else None


def _checked(path: Path, xyz: np.ndarray, label: np.ndarray) -> tuple[Tensor, Tensor]:
    label = label.astype(np.int64).ravel()
    if xyz.ndim != 3 or xyz.shape[-1] != 3 or len(xyz) != len(label):
        raise ValueError(
            f"{path} must hold clouds (n, N, 3) with n labels, got {xyz.shape} and {label.shape}; "
            "download it again"
        )
    if not 0 <= label.min() <= label.max() < len(MODELNET40_CLASSES):
        raise ValueError(f"{path} must have labels from 0 to 39; download it again")
    return torch.from_numpy(xyz.astype(np.float32)), torch.from_numpy(label)


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read ({error}); download it again")
