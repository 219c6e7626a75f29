import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ea_pointcloud.datasets import ShapeNetPart
from ea_pointcloud.datasets.shapenetpart import SHAPENETPART_PARTS

CATEGORIES = {"Airplane": "02691156", "Bag": "02773838", "Chair": "03001627"}
PARTS = {name: SHAPENETPART_PARTS[name] for name in CATEGORIES}
H5 = "shapenet_part_seg_hdf5_data"
TXT = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
PLAIN = "shapenetcore_partanno_segmentation_benchmark_v0"
SIZES = {"train": 30, "val": 6, "test": 9}

# One shape: category, points (N, 3), normals (N, 3), part ids (N,).
Shape = tuple[int, np.ndarray, np.ndarray, np.ndarray]


def make_shapes(
    seed: int, count: int, lengths: Sequence[int], parts: dict[str, tuple[int, ...]] = PARTS
) -> list[Shape]:
    rng = np.random.default_rng(seed)
    shapes = []
    for i in range(count):
        n = lengths[i % len(lengths)]
        xyz, normals = rng.normal(3, 2, (2, n, 3)).astype(np.float32)
        own = list(parts.values())[i % len(parts)]
        shapes.append((i % len(parts), xyz, normals, np.resize(own, n)))  # every part occurs
    return shapes


def categories_text(categories: dict[str, str] = CATEGORIES) -> str:
    return "".join(f"{name}\t{synset}\n" for name, synset in categories.items())


def write_h5(folder: Path, splits: dict[str, list[Shape]]) -> Path:
    folder.mkdir()
    (folder / "all_object_categories.txt").write_text(categories_text())
    for split, shapes in splits.items():
        # Two files a split, as the published train and test splits have several.
        for number, part in enumerate((shapes[:4], shapes[4:])):
            with h5py.File(folder / f"ply_data_{split}{number}.h5", "w") as file:
                file["data"] = np.stack([xyz for _, xyz, _, _ in part])
                file["label"] = np.array([[category] for category, *_ in part], np.uint8)
                file["pid"] = np.stack([ids for *_, ids in part]).astype(np.uint8)
        listing = folder / f"{split}_hdf5_file_list.txt"
        listing.write_text(f"ply_data_{split}0.h5\nply_data_{split}1.h5\n")
    return folder


def write_lists(folder: Path, splits: dict[str, list[Shape]]) -> list[tuple[Path, str, Shape]]:
    """The two lists of the txt layout; returns the folder of each shape and its id."""
    (folder / "train_test_split").mkdir(parents=True)
    (folder / "synsetoffset2category.txt").write_text(categories_text())
    written = []
    for split, shapes in splits.items():
        entries = []
        for i, shape in enumerate(shapes):
            synset = list(CATEGORIES.values())[shape[0]]
            (folder / synset).mkdir(exist_ok=True)
            entries.append(f"shape_data/{synset}/{split}{i}")
            written.append((folder / synset, f"{split}{i}", shape))
        listing = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        listing.write_text(json.dumps(entries))
    return written


def write_txt(folder: Path, splits: dict[str, list[Shape]]) -> Path:
    for place, shape, (_, xyz, normals, ids) in write_lists(folder, splits):
        np.savetxt(place / f"{shape}.txt", np.column_stack([xyz, normals, ids]), "%.9g")
    return folder


def write_plain(folder: Path, splits: dict[str, list[Shape]]) -> Path:
    for place, shape, (category, xyz, _, ids) in write_lists(folder, splits):
        (place / "points").mkdir(exist_ok=True)
        (place / "points_label").mkdir(exist_ok=True)
        np.savetxt(place / "points" / f"{shape}.pts", xyz, "%.9g")
        first = list(PARTS.values())[category][0]
        np.savetxt(place / "points_label" / f"{shape}.seg", ids - first + 1, "%d")
    return folder


@pytest.fixture
def splits() -> dict[str, list[Shape]]:
    """Shapes of 40 points each."""
    return {split: make_shapes(i, n, [40]) for i, (split, n) in enumerate(SIZES.items())}


@pytest.fixture
def uneven() -> dict[str, list[Shape]]:
    """Shapes of 20 to 60 points."""
    return {
        split: make_shapes(i, n, [20, 60, 45, 31]) for i, (split, n) in enumerate(SIZES.items())
    }


def same(a: ShapeNetPart, b: ShapeNetPart) -> bool:
    names = ("xyz", "mask", "part_label", "category")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def test_the_published_table() -> None:
    assert len(SHAPENETPART_PARTS) == 16
    assert [part for ids in SHAPENETPART_PARTS.values() for part in ids] == list(range(50))


def test_all_layouts_hold_the_same(tmp_path: Path, splits: dict[str, list[Shape]]) -> None:
    folders = [
        write_h5(tmp_path / H5, splits),
        write_txt(tmp_path / TXT, splits),
        write_plain(tmp_path / PLAIN, splits),
    ]
    for split in ("train", "val", "test", "trainval"):
        h5, txt, plain = (ShapeNetPart(folder, split=split) for folder in folders)
        assert same(h5, txt)
        assert same(h5, plain)
        for opened in (h5, txt, plain):
            assert opened.category_names == tuple(CATEGORIES)
            assert opened.parts == tuple(PARTS.values())
            assert opened.part_names == h5.part_names
    named = [*(f"Airplane/{i}" for i in range(4)), "Bag/0", "Bag/1"]
    named += [*(f"unused/{part}" for part in range(6, 12)), *(f"Chair/{i}" for i in range(4))]
    assert h5.part_names == tuple(named)
    assert repr(h5) == (
        "ShapeNetPart('shapenetpart', split='trainval', shapes=36, points=40, categories=3, "
        "parts=16)"
    )


def test_values_are_those_of_the_files(tmp_path: Path, splits: dict[str, list[Shape]]) -> None:
    test = ShapeNetPart(write_h5(tmp_path / H5, splits), split="test")
    assert len(test) == 9
    for i, (category, xyz, _, ids) in enumerate(splits["test"]):
        centred = xyz.astype(float) - xyz.astype(float).mean(0)
        expected = centred / np.linalg.norm(centred, axis=1).max()
        np.testing.assert_allclose(test.xyz[i].numpy(), expected, atol=1e-6)
        assert test.part_label[i].tolist() == ids.tolist()
        assert int(test.category[i]) == category
    assert test.mask.all()
    dtypes = [t.dtype for t in (test.xyz, test.mask, test.part_label, test.category)]
    assert dtypes == [torch.float32, torch.bool, torch.int64, torch.int64]
    assert test.features is None
    assert test.up_axis == "y"


def test_found_below_the_root_with_hdf5_first(
    tmp_path: Path, splits: dict[str, list[Shape]], monkeypatch: pytest.MonkeyPatch
) -> None:
    txt = write_txt(tmp_path / TXT, splits)
    assert ShapeNetPart(tmp_path).folder == txt
    h5 = write_h5(tmp_path / "hdf5_data", splits)  # as the published archive unpacks
    assert ShapeNetPart(tmp_path).folder == h5
    assert ShapeNetPart(txt).folder == txt
    assert ShapeNetPart(tmp_path, features="normals").folder == txt
    monkeypatch.setenv("EA_POINTCLOUD_DATA", str(tmp_path))
    assert ShapeNetPart().folder == h5
    h5.rename(tmp_path / "mine_hdf5_data")
    assert ShapeNetPart(name="mine", split="test").folder == tmp_path / "mine_hdf5_data"
    txt.rename(tmp_path / "other_txt_normal")
    assert ShapeNetPart(name="other", split="test").folder == tmp_path / "other_txt_normal"


def test_point_counts_stay_as_they_are(tmp_path: Path, uneven: dict[str, list[Shape]]) -> None:
    test = ShapeNetPart(write_txt(tmp_path / TXT, uneven), split="test", features="normals")
    assert test.xyz.shape == (9, 60, 3)
    assert test.mask.sum(1).tolist() == [20, 60, 45, 31, 20, 60, 45, 31, 20]
    padding = ~test.mask
    assert (test.xyz[padding] == 0).all()
    assert (test.part_label[padding] == -1).all()
    assert test.features is not None
    assert (test.features[padding] == 0).all()
    for i, (_, xyz, normals, ids) in enumerate(uneven["test"]):
        assert np.array_equal(test.features[i, : len(xyz)].numpy(), normals)
        assert test.part_label[i, : len(xyz)].tolist() == ids.tolist()
        norm = test.xyz[i, : len(xyz)].norm(dim=-1)
        assert float(norm.max()) == pytest.approx(1, abs=1e-6)
        assert float(test.xyz[i, : len(xyz)].mean(0).abs().max()) < 1e-6
    assert "points=20..60" in repr(test)


def test_indexing_crops_to_the_longest_cloud(
    tmp_path: Path, uneven: dict[str, list[Shape]]
) -> None:
    folder = write_txt(tmp_path / TXT, uneven)
    test = ShapeNetPart(folder, split="test", features="normals")
    one = test[3]
    assert {key: tuple(value.shape) for key, value in one.items()} == {
        "xyz": (31, 3),
        "mask": (31,),
        "part_label": (31,),
        "category": (),
        "features": (31, 3),
    }
    for index in ([2, 0, 3], torch.tensor([2, 0, 3])):
        batch = test[index]
        assert batch["xyz"].shape == batch["features"].shape == (3, 45, 3)
        assert batch["mask"].sum(1).tolist() == [45, 20, 31]
        assert batch["part_label"].shape == (3, 45)
        assert batch["category"].tolist() == [2, 0, 0]
        assert torch.equal(batch["xyz"][2, :31], one["xyz"])
    assert "features" not in ShapeNetPart(folder, split="test")[0]


@pytest.mark.parametrize("choice", ["first", "random", "fps"])
def test_num_points_is_the_most_that_is_kept(
    tmp_path: Path, uneven: dict[str, list[Shape]], choice: str
) -> None:
    folder = write_txt(tmp_path / TXT, uneven)
    whole = ShapeNetPart(folder, split="test", features="normals")
    some, again = (
        ShapeNetPart(folder, split="test", num_points=40, sampling=choice, features="normals")
        for _ in range(2)
    )
    assert same(some, again)
    assert some.xyz.shape == (9, 40, 3)
    assert some.mask.sum(1).tolist() == [20, 40, 40, 31, 20, 40, 40, 31, 20]
    assert some.features is not None
    assert whole.features is not None
    assert (some.xyz[~some.mask] == 0).all()
    assert (some.features[~some.mask] == 0).all()
    assert (some.part_label[~some.mask] == -1).all()
    for i in range(9):
        rows = [
            {
                (*xyz, *normal, part)
                for xyz, normal, part in zip(
                    data.xyz[i][data.mask[i]].tolist(),
                    data.features[i][data.mask[i]].tolist(),  # pyright: ignore
                    data.part_label[i][data.mask[i]].tolist(),
                    strict=True,
                )
            }
            for data in (some, whole)
        ]
        # No point twice, none made up, and each with its own label and normal.
        assert len(rows[0]) == int(some.mask[i].sum())
        assert rows[0] <= rows[1]
    if choice == "first":
        assert torch.equal(some.xyz, whole.xyz[:, :40])
    assert same(ShapeNetPart(folder, split="test", num_points=60, sampling=choice), whole)


def test_without_a_val_split_a_fixed_share_is_held_out(
    tmp_path: Path, splits: dict[str, list[Shape]]
) -> None:
    del splits["val"]
    folder = write_h5(tmp_path / H5, splits)
    train, val, both = (ShapeNetPart(folder, split=s) for s in ("train", "val", "trainval"))
    assert len(both) == 30
    assert val.category.bincount().tolist() == [2, 2, 2]  # a fifth of 10
    assert train.category.bincount().tolist() == [8, 8, 8]
    rows = {tuple(row) for row in both.xyz[:, 0].tolist()}
    assert {tuple(row) for row in torch.cat([train.xyz, val.xyz])[:, 0].tolist()} == rows
    assert same(val, ShapeNetPart(write_txt(tmp_path / TXT, splits), split="val"))
    assert len(ShapeNetPart(folder, split="val", val_fraction=0.5)) == 15
    # A published val split is taken as it is, whatever the share.
    splits["val"] = make_shapes(9, 6, [40])
    published = write_h5(tmp_path / "hdf5_data", splits)
    assert len(ShapeNetPart(published, split="val", val_fraction=0.5)) == 6
    assert len(ShapeNetPart(published, split="train")) == 30
    assert len(ShapeNetPart(published, split="trainval")) == 36


def test_names_and_tables_come_from_the_files(
    tmp_path: Path, splits: dict[str, list[Shape]]
) -> None:
    folder = write_h5(tmp_path / H5, splits)
    names = {"Airplane": ["body", "wing", "tail", "engine"], "Bag": ["handle", "body"]}
    names["Chair"] = ["back", "seat", "leg", "arm"]
    (folder / "part_names.json").write_text(json.dumps(names))
    assert ShapeNetPart(folder).part_names[12:] == tuple(f"Chair/{n}" for n in names["Chair"])
    # The published table of the HDF5 files, and a category whose parts it orders otherwise.
    table = [
        [CATEGORIES[name], number + 1] for name, ids in PARTS.items() for number in range(len(ids))
    ]
    (folder / "overallid_to_catid_partid.json").write_text(json.dumps(table))
    renumbered = {"Airplane": (0, 1, 2, 3), "Bag": (4, 5), "Chair": (6, 7, 8, 9)}
    write_h5(tmp_path / "new", {"train": make_shapes(0, 9, [40], renumbered)})
    for path in (tmp_path / "new").glob("*.h5"):
        path.replace(folder / path.name)
    opened = ShapeNetPart(folder)
    assert opened.parts == tuple(renumbered.values())
    assert opened.part_names[6] == "Chair/back"
    (folder / "overallid_to_catid_partid.json").unlink()
    (folder / "seg_classes.json").write_text(json.dumps(renumbered))
    assert ShapeNetPart(folder).parts == tuple(renumbered.values())


def test_other_categories_get_the_parts_that_occur_in_any_split(tmp_path: Path) -> None:
    used = {"Airplane": (0, 2), "Bag": (4, 5), "Chair": (6, 9)}
    splits = {"train": make_shapes(0, 9, [40], used)}
    splits["test"] = make_shapes(1, 9, [40], used | {"Bag": (5, 7)})  # part 7 is in test only
    folder = write_txt(tmp_path / "own_txt_normal", splits)
    categories = {"Plane": "02691156", "Sack": "02773838", "Seat": "03001627", "Rest": "1"}
    (folder / "synsetoffset2category.txt").write_text(categories_text(categories))
    train, test = (ShapeNetPart(tmp_path, name="own", split=s) for s in ("train", "test"))
    assert train.parts == test.parts == ((0, 2), (4, 5, 7), (6, 9), ())
    assert train.part_names == test.part_names
    assert train.part_names[3:6] == ("unused/3", "Sack/0", "Sack/1")


def break_h5(path: Path, key: str, value: np.ndarray) -> None:
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = value


def test_errors_of_the_arguments(tmp_path: Path, splits: dict[str, list[Shape]]) -> None:
    folder = write_h5(tmp_path / H5, splits)
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test', 'trainval'"):
        ShapeNetPart(folder, split="validation")
    with pytest.raises(ValueError, match="sampling must be one of 'first', 'random', 'fps'"):
        ShapeNetPart(folder, sampling="last")
    with pytest.raises(ValueError, match="num_points must be at least 0, got -1"):
        ShapeNetPart(folder, num_points=-1)
    with pytest.raises(ValueError, match=r"val_fraction must be between 0 and 1, got 1"):
        ShapeNetPart(folder, val_fraction=1)
    nowhere = r"no all_object_categories.txt or synsetoffset2category.txt in .*data/README.md"
    with pytest.raises(FileNotFoundError, match=nowhere):
        ShapeNetPart(tmp_path / "nowhere")
    lacking = r"train0.h5 has no normals \(data.features\), only data, label, pid; add a data set"
    with pytest.raises(ValueError, match=lacking):
        ShapeNetPart(folder, features="normals")


def test_errors_of_hdf5_files(tmp_path: Path, splits: dict[str, list[Shape]]) -> None:
    folder = write_h5(tmp_path / H5, splits)
    h5 = folder / "ply_data_test0.h5"
    break_h5(h5, "pid", np.full((4, 40), 12))
    with pytest.raises(
        ValueError,
        match=r"test0.h5, shape 0, has part ids \[12\], but 'Airplane' has the parts \[0, 1, 2, 3]",
    ):
        ShapeNetPart(folder, split="test")
    break_h5(h5, "label", np.full((4, 1), 3))
    with pytest.raises(ValueError, match=r"labels from 3 to 3, but all_object_categories.txt list"):
        ShapeNetPart(folder, split="test")
    break_h5(h5, "data", np.full((4, 40, 3), np.nan))
    with pytest.raises(ValueError, match=r"test0.h5 holds coordinates that are not finite"):
        ShapeNetPart(folder, split="test")
    break_h5(h5, "pid", np.zeros((4, 39)))
    with pytest.raises(
        ValueError, match=r"must hold data \(n, N, 3\), label \(n, 1\) and pid \(n, N\), got \(4, 4"
    ):
        ShapeNetPart(folder, split="test")
    h5.write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"cannot be read as HDF5 with 'data', 'label' and 'pid'"):
        ShapeNetPart(folder, split="test")
    h5.unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*ply_data_test0.h5, which its list names"):
        ShapeNetPart(folder, split="test")
    (folder / "test_hdf5_file_list.txt").write_text("")
    with pytest.raises(ValueError, match=r"test_hdf5_file_list.txt lists no shape"):
        ShapeNetPart(folder, split="test")
    (folder / "test_hdf5_file_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match="pointcloud data download shapenetpart"):
        ShapeNetPart(folder, split="test")
    (folder / "all_object_categories.txt").write_text("Airplane\n")
    with pytest.raises(ValueError, match="must hold a name and an id on each line"):
        ShapeNetPart(folder, split="test")


def test_errors_of_tables(tmp_path: Path, splits: dict[str, list[Shape]]) -> None:
    folder = write_h5(tmp_path / H5, splits)
    names, classes = folder / "part_names.json", folder / "seg_classes.json"
    names.write_text(json.dumps({name: ["a", "b"] for name in CATEGORIES}))
    with pytest.raises(ValueError, match="names 2 parts of 'Airplane', which has the 4 parts"):
        ShapeNetPart(folder)
    names.write_text("{}")
    with pytest.raises(ValueError, match=r"part_names.json has no entry for \['Airplane', 'Bag'"):
        ShapeNetPart(folder)
    names.write_text("{")
    with pytest.raises(ValueError, match=r"part_names.json is not JSON"):
        ShapeNetPart(folder)
    (folder / "overallid_to_catid_partid.json").write_text('[["02691156", 1], ["5", 1]]')
    with pytest.raises(ValueError, match=r"must give parts to the ids in all_object_categories"):
        ShapeNetPart(folder)
    classes.write_text(json.dumps({name: [0, 1] for name in CATEGORIES}))
    with pytest.raises(ValueError, match="gives part 0 to 'Bag', but part ids must be at least 0"):
        ShapeNetPart(folder)


def test_errors_of_text_files(tmp_path: Path, splits: dict[str, list[Shape]]) -> None:
    folder = write_txt(tmp_path / TXT, splits)
    first = folder / "02691156" / "test0.txt"
    rows = first.read_text().splitlines()

    def expect(text: str, message: str) -> None:
        first.write_text(text)
        with pytest.raises(ValueError, match=message):
            ShapeNetPart(folder, split="test")

    expect("\n".join(rows)[:-4], r"test0.txt must hold rows of 4 or 7 numbers, got 7 in the first")
    expect("", r"test0.txt must hold rows of 4 or 7 numbers, got 0 in the first row and 0 in all")
    expect("1 2 3 x 5 6 7", r"test0.txt must hold numbers \(could not convert string to float: 'x'")
    expect("1 2 3 4 5 nan 1", "test0.txt holds numbers that are not finite")
    expect("1 2 3 4 5 6 1.5", r"whole numbers as part labels in its last column, got 1.5")
    expect("1 2 3 4 5 6 9", r"test0.txt has part ids \[9\], but 'Airplane' has the parts \[0, 1, 2")
    first.write_text("1 2 3 1\n2 3 4 2\n")
    assert int(ShapeNetPart(folder, split="test").mask[0].sum()) == 2
    with pytest.raises(ValueError, match=r"test0.txt has no normals; leave features='none'"):
        ShapeNetPart(folder, split="test", features="normals")
    first.unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*test0.txt, which its list names"):
        ShapeNetPart(folder, split="test")
    listing = folder / "train_test_split" / "shuffled_test_file_list.json"
    listing.write_text('["shape_data/123/4"]')
    with pytest.raises(ValueError, match=r"'shape_data/123/4', whose category is not in synsetoff"):
        ShapeNetPart(folder, split="test")


def test_errors_of_points_and_labels_in_two_folders(
    tmp_path: Path, splits: dict[str, list[Shape]]
) -> None:
    folder = write_plain(tmp_path / PLAIN, splits)
    labels = folder / "02691156" / "points_label" / "test0.seg"
    labels.write_text("5\n" * 40)
    with pytest.raises(ValueError, match="labels from 5 to 5, but 'Airplane' has the parts 1 to 4"):
        ShapeNetPart(folder, split="test")
    labels.write_text("1\n")
    with pytest.raises(ValueError, match=r"test0.pts has 40 points, but .*test0.seg has 1 labels"):
        ShapeNetPart(folder, split="test")
    unknown = {"Plane": "02691156", "Bag": "02773838", "Chair": "03001627"}
    (folder / "synsetoffset2category.txt").write_text(categories_text(unknown))
    with pytest.raises(ValueError, match=r"counted from 1 in each category, .*seg_classes.json"):
        ShapeNetPart(folder, split="test")


def test_a_split_without_shapes(tmp_path: Path, splits: dict[str, list[Shape]]) -> None:
    folder = write_txt(tmp_path / TXT, {"train": splits["train"][:3]})  # one of each category
    assert len(ShapeNetPart(folder)) == 3
    with pytest.raises(ValueError, match="has no shape for split 'val'; take 'trainval'"):
        ShapeNetPart(folder, split="val")


@pytest.mark.data
def test_real_princeton_parts(data_root: Path) -> None:
    train, val, test = (
        ShapeNetPart(data_root, name="psb_part", split=s) for s in ("train", "val", "test")
    )
    assert (len(train), len(val), len(test)) == (190, 38, 152)
    assert val.category.bincount().tolist() == [2] * 19  # a fifth of 12
    assert test.category.bincount().tolist() == [8] * 19
    assert len(test.category_names) == 19
    assert len(test.part_names) == 94
    assert test.part_names[:2] == ("Airplane/body", "Airplane/engine")
    assert test.mask.all()
    for data in (train, val, test):
        torch.testing.assert_close(data.xyz.norm(dim=-1).amax(1), torch.ones(len(data)))


@pytest.mark.data
def test_real_princeton_text_files_hold_the_same_shapes(data_root: Path) -> None:
    h5 = [ShapeNetPart(data_root, name="psb_part", split=s) for s in ("trainval", "test")]
    xyz, part_label = (torch.cat([getattr(d, key) for d in h5]) for key in ("xyz", "part_label"))
    folder = data_root / "psb_part_txt_normal"
    sizes, parts = {"train": 12, "val": 6, "test": 6}, dict(enumerate(h5[0].parts))
    for split, size in sizes.items():
        txt = ShapeNetPart(folder, name="psb_part", split=split, features="normals")
        assert len(txt) == size
        assert txt.features is not None
        torch.testing.assert_close(
            txt.features.norm(dim=-1), torch.ones(size, 2048), atol=1e-3, rtol=0
        )
        for i in range(size):
            gap = (xyz - txt.xyz[i]).abs().amax((1, 2))
            match = int(gap.argmin())
            # The HDF5 coordinates are rounded to 2^-10, those of the text to four decimals.
            assert float(gap[match]) < 1.5e-3
            assert match < 228 or split == "test"
            assert torch.equal(part_label[match], txt.part_label[i])
        for category, ids in enumerate(txt.parts):
            assert not ids or ids == parts[category]
