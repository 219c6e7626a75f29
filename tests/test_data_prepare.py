import json
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ea_pointcloud.datasets import FolderDataset, ModelNet, prepare
from ea_pointcloud.datasets._sampling import Preparation
from ea_pointcloud.datasets.layouts import recognize
from ea_pointcloud.datasets.prepare import prepare_folder
from ea_pointcloud.datasets.verify import verify_prepared
from ea_pointcloud.io import CloudFileError
from ea_pointcloud.io.pool import listening
from ea_pointcloud.ops.frames import to_y_up

TETRAHEDRON = "4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
# As they occur in ModelNet and in what people export.
MALFORMED = {
    "counts_on_the_first_line": f"OFF{TETRAHEDRON}",
    "counts_after_a_space": f"OFF {TETRAHEDRON}",
    "comments": "# by hand\nOFF # a format\n\n4 4 6 # counts\n" + TETRAHEDRON.partition("\n")[2],
    "polygons": "OFF\n8 6 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n0 0 1\n1 0 1\n1 1 1\n0 1 1\n"
    "4 0 1 2 3\n4 4 5 6 7\n4 0 1 5 4\n4 1 2 6 5\n4 2 3 7 6\n4 3 0 4 7\n",
    "no_area": "OFF\n5 6 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n2 0 0\n"
    "3 0 1 4\n3 2 2 3\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n",
    "unused_vertices": "OFF\n6 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n900 900 900\nnan 0 0\n"
    "3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n",
}


def write_classes(folder: Path, texts: dict[str, str]) -> Path:
    """Two classes with a train and a test split, the same files in either."""
    for name in ("cup", "lamp"):
        for split in ("train", "test"):
            for stem, text in texts.items():
                path = folder / name / split / f"{name}_{stem}.off"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    return folder


def read(folder: Path, split: str, number: int = 0) -> dict[str, np.ndarray]:
    with h5py.File(folder / f"ply_data_{split}{number}.h5", "r") as file:
        return {key: np.asarray(file[key]) for key in file}


def test_malformed_meshes_are_prepared(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "set", MALFORMED)
    target = tmp_path / "set_ply_hdf5_256"
    manifest = prepare_folder(folder, target, Preparation(points=256))
    assert manifest["counts"] == {
        "train": {"cup": len(MALFORMED), "lamp": len(MALFORMED)},
        "test": {"cup": len(MALFORMED), "lamp": len(MALFORMED)},
    }
    assert json.loads((target / "manifest.json").read_text()) == manifest
    assert recognize(target) == "modelnet_h5"
    assert all(finding.right for finding in verify_prepared(target))
    for split in ("train", "test"):
        columns = read(target, split)
        assert columns["data"].dtype == columns["normal"].dtype == np.float32
        assert columns["label"].dtype == np.uint8
        assert columns["label"].shape == (2 * len(MALFORMED), 1)
        assert np.allclose(columns["data"].mean(1), 0, atol=1e-6)
        # Unused vertices and triangles without area are no part of the surface.
        assert np.allclose(np.linalg.norm(columns["data"], axis=2).max(1), 1, atol=1e-6)
        assert np.allclose(np.linalg.norm(columns["normal"], axis=2), 1, atol=1e-5)
    opened = ModelNet(target, split="trainval")
    assert opened.class_names == ("cup", "lamp")
    assert len(opened) == 2 * len(MALFORMED)
    files = [path.decode() for path in read(target, "train")["file"]]
    assert opened.label.tolist() == [int(path.startswith("lamp")) for path in files]


@pytest.mark.parametrize("fps", [False, True])
def test_points_are_uniform_by_area(tmp_path: Path, fps: bool) -> None:
    # Three faces of a box, at right angles, so that the normals tell them apart: 1, 3 and 6 in
    # area, the largest of them in 200 slivers.
    corners = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 3), (1, 0, 3)]
    faces = ["3 0 1 2", "3 0 2 3", "3 0 1 5", "3 0 5 4"]
    for step in range(101):
        corners += [(0, step / 50, 0), (0, step / 50, 3)]
    for step in range(100):
        first = 6 + 2 * step
        faces += [f"3 {first} {first + 1} {first + 2}", f"3 {first + 1} {first + 2} {first + 3}"]
    body = "".join(f"{x} {y} {z}\n" for x, y, z in corners) + "".join(f"{f}\n" for f in faces)
    text = f"OFF\n{len(corners)} {len(faces)} 0\n{body}"
    folder = write_classes(tmp_path / "set", {"a": text})
    count = 1200 if fps else 4000
    prepare_folder(folder, tmp_path / "out", Preparation(points=count, fps=fps, seed=3))
    for split in ("train", "test"):
        columns = read(tmp_path / "out", split)
        for normal, xyz in zip(np.abs(columns["normal"]), columns["data"], strict=True):
            share = np.array([normal[:, axis].round().sum() for axis in (2, 1, 0)]) / count
            expected = np.array([0.1, 0.3, 0.6])
            deviation = np.sqrt(expected * (1 - expected) / count)  # binomial
            # Farthest points are evenly spread: closer to the areas than chance, but for edges.
            assert (np.abs(share - expected) < (0.02 if fps else 4 * deviation)).all()
            # Along the slivers too.
            height = np.sort(xyz[normal[:, 0] > 0.5, 2])
            even = np.linspace(height[0], height[-1], len(height))
            assert np.abs(height - even).max() / np.ptp(height) < 0.04
    # Files of the same content have streams of their own.
    assert (columns["data"][0] != columns["data"][1]).any()


def test_first_points_by_farthest_points_are_spread(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "set", {"a": MALFORMED["polygons"]})

    def gap(name: str, fps: bool) -> float:
        """Smallest distance between two of the first 64 of 512 points."""
        prepare_folder(folder, tmp_path / name, Preparation(points=512, fps=fps))
        first = read(tmp_path / name, "train")["data"][0, :64]
        distance = np.linalg.norm(first[:, None] - first[None], axis=2)
        return float(distance[~np.eye(64, dtype=bool)].min())

    assert gap("fps", True) > 5 * gap("plain", False)


def test_up_axis_turns_points_and_normals(tmp_path: Path) -> None:
    import torch

    folder = write_classes(tmp_path / "set", {"a": MALFORMED["no_area"]})
    prepare_folder(folder, tmp_path / "y", Preparation(points=64))
    prepare_folder(folder, tmp_path / "z", Preparation(points=64, up="z"))
    plain, turned = read(tmp_path / "y", "train"), read(tmp_path / "z", "train")
    for key in ("data", "normal"):
        expected = to_y_up(torch.from_numpy(plain[key]), "z").numpy()
        assert np.allclose(turned[key], expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"up must be one of 'x', 'y', 'z', got 'w'"):
        Preparation(up="w")


def test_seed_and_workers(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "set", {"a": f"OFF\n{TETRAHEDRON}"})
    for name, seed, workers in (("here", 0, 0), ("there", 0, 1), ("other", 1, 0)):
        prepare_folder(folder, tmp_path / name, Preparation(64, seed), workers=workers)
    here, there, other = (read(tmp_path / name, "test") for name in ("here", "there", "other"))
    assert all((here[key] == there[key]).all() for key in here)
    assert (here["data"] != other["data"]).any()


def test_interrupted_preparation_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "SHAPES_PER_FILE", 3)
    texts = {str(number): f"OFF\n{TETRAHEDRON}" for number in range(4)}
    folder, target = write_classes(tmp_path / "set", texts), tmp_path / "out"
    preparation = Preparation(points=64)
    whole = prepare_folder(folder, tmp_path / "whole", preparation)

    def stop(what: str, done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(stop):
        prepare_folder(folder, target, preparation)
    assert not target.exists()
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *at: seen.append(at)):
        continued = prepare_folder(folder, target, preparation)
    # Two files of three shapes each were whole.
    assert seen[:3] == [("sampling set", done, 16) for done in (0, 6, 7)]
    assert seen[-1] == ("sampling set", 16, 16)
    assert continued["sha256"] == whole["sha256"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "set", "whole", "out", ".whole.lock", ".out.lock"
    }  # fmt: skip
    assert len(ModelNet(target, split="test")) == 8
    with pytest.raises(FileExistsError, match=r"out: exists; replace it with --force, or choose"):
        prepare_folder(folder, target, preparation)
    other = Preparation(points=32)
    assert prepare_folder(folder, target, other, force=True)["points"] == 32
    assert ModelNet(target, split="test").xyz.shape == (8, 32, 3)


def test_what_an_interruption_left_is_not_mixed_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "SHAPES_PER_FILE", 1)
    folder = write_classes(tmp_path / "set", {"a": f"OFF\n{TETRAHEDRON}"})

    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(stop):
        prepare_folder(folder, tmp_path / "out", Preparation(points=64))
    changed = folder / "cup" / "train" / "cup_a.off"
    changed.write_text(MALFORMED["polygons"])
    prepare_folder(folder, tmp_path / "out", Preparation(points=64))
    prepare_folder(folder, tmp_path / "fresh", Preparation(points=64))
    for number in range(2):
        ours, fresh = (read(tmp_path / name, "train", number) for name in ("out", "fresh"))
        assert (ours["data"] == fresh["data"]).all()


def test_bad_files_are_listed_and_may_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare, "SHAPES_PER_FILE", 1)
    texts = {"a": f"OFF\n{TETRAHEDRON}", "b": f"OFF\n{TETRAHEDRON}"}
    folder, target = write_classes(tmp_path / "set", texts), tmp_path / "out"
    bad = folder / "lamp" / "train" / "lamp_b.off"
    bad.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n")
    with pytest.raises(CloudFileError) as caught:
        prepare_folder(folder, target, Preparation(points=64))
    assert (
        "1 files cannot be prepared:\n  lamp/train/lamp_b.off: the header promises 3 vert"
        in str(caught.value)
    )
    assert not target.exists()
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *at: seen.append(at)):
        manifest = prepare_folder(folder, target, Preparation(points=64), skip_bad=True)
    assert [at[1:] for at in seen] == [(0, 8), (7, 8), (8, 8)]  # only the bad one is read again
    assert manifest["left_out"] == ["lamp/train/lamp_b.off"]
    assert manifest["counts"]["train"] == {"cup": 2, "lamp": 1}
    assert "lamp_b.off" in caplog.text
    assert len(ModelNet(target, split="trainval")) == 3

    bad.write_text(f"OFF\n{TETRAHEDRON}")
    manifest = prepare_folder(folder, target, Preparation(points=64), force=True)
    assert manifest["left_out"] == []
    assert len(ModelNet(target, split="trainval")) == 4


def test_text_clouds_follow_the_published_lists(tmp_path: Path) -> None:
    folder = tmp_path / "modelnet40_normal_resampled"
    rng = np.random.default_rng(0)
    for number, name in ((1, "cup"), (2, "cup"), (1, "night_stand"), (2, "night_stand")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        normal = rng.normal(size=(100, 3))
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        rows = np.concatenate([rng.normal(size=(100, 3)), normal], 1)
        np.savetxt(folder / name / f"{name}_000{number}.txt", rows, fmt="%.6f", delimiter=",")
    (folder / "modelnet40_shape_names.txt").write_text("night_stand\ncup\n")
    (folder / "modelnet40_train.txt").write_text("cup_0001\nnight_stand_0001\n")
    (folder / "modelnet40_test.txt").write_text("cup_0002\nnight_stand_0002\n")
    (folder / "modelnet10_shape_names.txt").write_text("night_stand\n")
    (folder / "modelnet10_train.txt").write_text("night_stand_0001\n")
    assert recognize(folder) == "modelnet_txt"
    manifest = prepare_folder(folder, tmp_path / "out", Preparation(points=60))
    assert manifest["counts"]["test"] == {"night_stand": 1, "cup": 1}
    columns = read(tmp_path / "out", "test")
    assert columns["file"].tolist() == [b"cup/cup_0002.txt", b"night_stand/night_stand_0002.txt"]
    assert columns["label"].ravel().tolist() == [1, 0]  # the order of the list of names
    assert np.allclose(np.linalg.norm(columns["normal"], axis=2), 1, atol=1e-4)
    with pytest.raises(CloudFileError, match=r"has 100 points, fewer than 200; lower --points"):
        prepare_folder(folder, tmp_path / "more", Preparation(points=200))


def test_normals_that_are_not_there(tmp_path: Path) -> None:
    for name in ("cup", "lamp"):
        for number in range(3):
            path = tmp_path / "set" / name / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.random.default_rng(number).normal(size=(50, 3)))
    with pytest.raises(CloudFileError, match=r"has no normals; prepare without them \(--no-norm"):
        prepare_folder(tmp_path / "set", tmp_path / "out", Preparation(points=20))
    plain = Preparation(points=20, normals=False)
    manifest = prepare_folder(tmp_path / "set", tmp_path / "out", plain)
    assert manifest["counts"] == {"train": {"cup": 2, "lamp": 2}, "test": {"cup": 1, "lamp": 1}}
    assert "normal" not in read(tmp_path / "out", "train")


def test_class_names_are_words(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "set", {"a": f"OFF\n{TETRAHEDRON}"})
    (folder / "cup").rename(folder / "coffee cup")
    with pytest.raises(ValueError, match=r"names have blanks, \['coffee cup'\], .*; rename them"):
        prepare_folder(folder, tmp_path / "out", Preparation(points=20))


def test_points_in_one_place_are_bad(tmp_path: Path) -> None:
    for name in ("cup", "lamp"):
        for number in range(2):
            path = tmp_path / "set" / name / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.ones((50, 3)))
    with pytest.raises(CloudFileError, match=r"has no extent: 50 points in one place"):
        prepare_folder(tmp_path / "set", tmp_path / "out", Preparation(points=20))


@pytest.mark.data
def test_real_meshes(data_root: Path, tmp_path: Path, caplog: Any) -> None:
    folder = data_root / "modelnet10_meshes"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    caplog.set_level(logging.WARNING)
    preparation = Preparation(points=1024, up="z")
    manifest = prepare_folder(folder, tmp_path / "out", preparation)
    assert manifest["left_out"] == []
    assert sum(sum(counts.values()) for counts in manifest["counts"].values()) == 20
    assert caplog.text == ""
    prepared = ModelNet(tmp_path / "out", split="test")
    # Another reading of the same files: as tall, as wide, as deep.
    plain = FolderDataset(folder, split="test", up="z", num_workers=0)
    paths = [path.decode() for path in read(tmp_path / "out", "test")["file"]]
    for path, xyz in zip(paths, prepared.xyz, strict=True):
        other = plain.xyz[plain.files.index(path)]
        assert (xyz.std(0) - other.std(0)).abs().max() < 0.05
