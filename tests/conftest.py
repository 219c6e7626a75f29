import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError:
    from tests import without_hypothesis

    sys.modules["hypothesis"] = without_hypothesis  # pyright: ignore[reportArgumentType]

# Two threads on tiny tensors wait for each other more than they work, and one thread makes sums
# exactly repeatable.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long goes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets, for tests marked ``data``."""
    root = os.environ.get("EA_POINTCLOUD_DATA")
    if not root:
        pytest.skip("set EA_POINTCLOUD_DATA to the folder of real data sets to run this test")
    return Path(root)


@pytest.fixture
def modelnet_folder(tmp_path: Path) -> Path:
    """A small ModelNet40 in the published layout: 40 classes, two train files, one test file."""
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    rng = np.random.default_rng(0)
    (folder / "shape_names.txt").write_text("".join(f"shape{i:02d}\n" for i in range(40)))
    files = {"train0": 120, "train1": 80, "test0": 40}
    for name, count in files.items():
        xyz = rng.normal(size=(count, 2048, 3)).astype(np.float32)
        xyz -= xyz.mean(1, keepdims=True)
        xyz /= np.linalg.norm(xyz, axis=2).max(1)[:, None, None]
        with h5py.File(folder / f"ply_data_{name}.h5", "w") as file:
            file["data"] = xyz
            file["label"] = (np.arange(count) % 40).astype(np.uint8)[:, None]
    # As published: paths on the author's disk.
    published = "data/modelnet40_ply_hdf5_2048/ply_data_"
    (folder / "train_files.txt").write_text(f"{published}train0.h5\n{published}train1.h5\n")
    (folder / "test_files.txt").write_text(f"{published}test0.h5\n")
    return folder
