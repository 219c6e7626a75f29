"""Sets that stay on disk: the same clouds as in memory, in an order that can be repeated."""

import math
import shutil
import sys
import threading
from itertools import chain, islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch_geometric.loader import DataLoader

from ea_pointcloud._device import available_memory
from ea_pointcloud.datasets import ModelNet, ProceduralShapes
from ea_pointcloud.datasets.out_of_core import OutOfCoreModelNet
from ea_pointcloud.datasets.out_of_core_loader import OutOfCoreLoader
from ea_pointcloud.datasets.pyg import PyGDataset, from_pyg
from ea_pointcloud.datasets.sharding import Shard
from ea_pointcloud.datasets.writing import write_modelnet
from ea_pointcloud.models import create_model
from ea_pointcloud.training import calibrate
from ea_pointcloud.training import data as training_data
from ea_pointcloud.training.batches import batches
from ea_pointcloud.training.data import open_split, put_on
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe
from tests.test_cli import call
from tests.test_training import QUICK, Crash

POINTS = 20
CPU = torch.device("cpu")


def in_unit_sphere(xyz: np.ndarray) -> np.ndarray:
    """Clouds (n, N, 3) centred, with the farthest point at distance 1."""
    xyz = xyz - xyz.mean(1, keepdims=True)
    return xyz / np.linalg.norm(xyz, axis=2).max(1)[:, None, None]


def write_set(
    folder: Path, counts: dict[str, list[int]], *, points: int = POINTS, **options
) -> Path:
    """A set of three classes, sorted by class as prepared sets are; options are those of h5py."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    (folder / "shape_names.txt").write_text("ball\nbox\ncone\n")
    for split, lengths in counts.items():
        names = []
        for number, length in enumerate(lengths):
            names.append(f"{split}{number}.h5")
            with h5py.File(folder / names[-1], "w") as file:
                data = in_unit_sphere(rng.normal(size=(length, points, 3))).astype(np.float32)
                file.create_dataset("data", data=data, **options)
                file["label"] = (np.arange(length) * 3 // length).astype(np.uint8)[:, None]
        (folder / f"{split}_files.txt").write_text("\n".join(names))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets") / "mine"
    counts = {"train": [70, 50, 30], "test": [24]}
    return write_set(place, counts, chunks=(5, POINTS, 3), compression="gzip")


def small_windows(folder: Path, split: str = "train", **options) -> OutOfCoreModelNet:
    """A set whose windows hold a fraction of it, of many blocks."""
    dataset = OutOfCoreModelNet(folder, split=split, **options)
    dataset.window = 40
    dataset.blocks = dataset._cut([5, 5, 5], [70, 50, 30])
    return dataset


def order(loader: OutOfCoreLoader, first: int = 0) -> list[list[int]]:
    """Which clouds of the set are in each batch; no two are equal."""
    stored = loader.dataset[list(range(len(loader.dataset)))]["xyz"]
    index = {float(x): place for place, x in enumerate(stored[:, 0, 0])}
    return [[index[float(x)] for x in batch["xyz"][:, 0, 0]] for batch in loader.starting_at(first)]


# --- samples


@pytest.mark.parametrize("split", ["train", "val", "trainval", "test"])
@pytest.mark.parametrize("points", [("first", 0), ("first", 7), ("fps", 7)])
def test_samples_are_those_in_memory(folder: Path, split: str, points: tuple[str, int]) -> None:
    choice, count = points
    options = {"split": split, "num_points": count, "sampling": choice, "val_fraction": 0.3}
    held, out_of_core = ModelNet(folder, **options), OutOfCoreModelNet(folder, **options)
    assert len(out_of_core) == len(held)
    assert torch.equal(out_of_core.label, held.label)
    assert out_of_core.class_names == held.class_names
    for index in (0, -1, [3, 1, 1, 20], torch.tensor([5, 0])):
        for name, value in held[index].items():
            assert torch.equal(out_of_core[index][name], value)
    whole = [batch["xyz"] for batch in OutOfCoreLoader(out_of_core, 16, num_workers=0)]
    assert torch.equal(torch.cat(whole), held.xyz)


def test_random_points_are_the_same_at_every_reading(folder: Path) -> None:
    dataset = OutOfCoreModelNet(folder, split="test", num_points=5, sampling="random")
    (stored,) = OutOfCoreLoader(dataset, 24, num_workers=0)
    assert torch.equal(dataset[7]["xyz"], stored["xyz"][7])
    every = OutOfCoreModelNet(folder, split="test")[7]["xyz"]
    assert all(any(torch.equal(point, other) for other in every) for point in dataset[7]["xyz"])
    assert len(dataset[7]["xyz"].unique(dim=0)) == 5
    different = [indices_of(dataset, row, folder) for row in (7, 8)]
    assert different[0] != different[1]


def indices_of(dataset: OutOfCoreModelNet, row: int, folder: Path) -> list[int]:
    every = OutOfCoreModelNet(folder, split="test")[row]["xyz"]
    return torch.cdist(dataset[row]["xyz"], every).argmin(1).tolist()


def test_half_precision_files_are_read_as_float32(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"train": [6]})
    with h5py.File(folder / "train0.h5", "a") as file:
        data = np.asarray(file["data"]).astype(np.float16)
        del file["data"]
        file["data"] = data
    (batch,) = OutOfCoreLoader(OutOfCoreModelNet(folder, split="trainval"), 6, num_workers=0)
    assert batch["xyz"].dtype == torch.float32
    assert np.array_equal(batch["xyz"].numpy(), data)


@pytest.mark.parametrize("num_points", [0, 7])
def test_any_scale_and_offset_is_brought_to_the_unit_sphere(
    folder: Path, tmp_path: Path, num_points: int
) -> None:
    """As prediction does: whatever the unit and origin of the stored coordinates."""
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    for path in moved.glob("*.h5"):
        with h5py.File(path, "a") as file:
            file["data"][...] = 400 * np.asarray(file["data"]) + np.array([30.0, -2.0, 5.0])
    options = {"split": "test", "num_points": num_points}
    expected = ModelNet(folder, **options).xyz
    held, out_of_core = ModelNet(moved, **options), OutOfCoreModelNet(moved, **options)
    torch.testing.assert_close(held.xyz, expected, atol=1e-4, rtol=0)
    assert torch.equal(out_of_core[:]["xyz"], held.xyz)  # pyright: ignore[reportArgumentType]
    batches_of = OutOfCoreLoader(out_of_core, 8, num_workers=0)
    assert torch.equal(torch.cat([batch["xyz"] for batch in batches_of]), held.xyz)


def test_three_ways_to_the_same_logits(folder: Path) -> None:
    torch.manual_seed(0)
    model = create_model("ea_classifier_tiny", num_classes=3, num_centers=(16, 8)).eval()
    chosen = [3, 60, 17, 99, 101, 4]
    out_of_core = OutOfCoreModelNet(folder, split="train")
    held = ModelNet(folder, split="train")
    graphs = PyGDataset(out_of_core).index_select(chosen)
    (packed,) = DataLoader(graphs, batch_size=len(chosen))
    pyg = from_pyg(packed)
    with torch.no_grad():
        expected = model(held[chosen]["xyz"])
        assert torch.equal(model(out_of_core[chosen]["xyz"]), expected)
        assert torch.equal(model(pyg["xyz"]), expected)
        # With the mask another, equal, computation runs.
        torch.testing.assert_close(model(pyg["xyz"], mask=pyg["mask"]), expected)
        loader = OutOfCoreLoader(out_of_core, len(chosen), shuffle_seed=5, num_workers=0)
        for batch, places in zip(islice(loader, 3), order(loader)[:3], strict=True):
            assert torch.equal(model(batch["xyz"]), model(held[places]["xyz"]))
            assert torch.equal(batch["label"], held[places]["label"])
            assert torch.equal(pyg["label"], held[chosen]["label"])


# --- order


def test_a_shuffled_epoch_has_every_cloud_once(folder: Path) -> None:
    dataset = small_windows(folder, "trainval")
    loader = OutOfCoreLoader(dataset, 10, shuffle_seed=3, num_workers=0)
    assert len(loader) == 15
    found = order(loader)
    assert [len(batch) for batch in found] == [10] * 15
    assert sorted(chain(*found)) == list(range(150))
    loader.set_epoch(1)
    other = order(loader)
    assert sorted(chain(*other)) == list(range(150))
    assert other != found


def test_windows_mix_blocks_and_clouds(folder: Path) -> None:
    dataset = small_windows(folder, "trainval")
    loader = OutOfCoreLoader(dataset, 40, shuffle_seed=3, num_workers=0)
    for window in loader._windows(0)[:-1]:
        assert 40 <= len(window.index) < 45
        # Files are sorted by class: without mixing there would be one of three.
        assert len(dataset.label[window.index].unique()) == 3
        assert (window.index.diff() == 1).float().mean() < 0.2
        # As they are read the clouds of a block come in stored order.
        blocks = [dataset.blocks[number] for number in window.blocks]
        stored = chain(*(range(block.first, block.end) for block in blocks))
        assert window.index[window.place].tolist() == list(stored)


def test_the_order_depends_on_seed_and_epoch_alone(folder: Path) -> None:
    def found(seed: int, epoch: int, workers: int = 0, split: str = "train") -> list[list[int]]:
        dataset = small_windows(folder, split)
        loader = OutOfCoreLoader(dataset, 8, shuffle_seed=seed, num_workers=workers)
        loader.set_epoch(epoch)
        return order(loader)

    torch.manual_seed(1)
    first = found(0, 4)
    torch.manual_seed(2)
    assert found(0, 4) == first
    assert found(0, 4, workers=2) == first
    assert found(1, 4) != first
    assert found(0, 5) != first


def test_reading_leaves_the_global_generator_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    list(OutOfCoreLoader(small_windows(folder), 8, shuffle_seed=0, num_workers=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("first", [0, 1, 4, 6, 16, 17, 20, 33])
def test_an_epoch_continues_at_any_batch(folder: Path, first: int) -> None:
    loader = OutOfCoreLoader(
        small_windows(folder), 8, shuffle_seed=0, least=34, num_workers=0
    )  # two passes and a bit
    assert len(loader) == 34
    assert order(loader, first) == order(loader)[first:]


def test_continuing_reads_no_window_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = small_windows(folder, "trainval")
    loader = OutOfCoreLoader(dataset, 10, shuffle_seed=0, num_workers=0)
    windows = loader._windows(0)
    read: list[int] = []
    read_block = dataset.read_block
    monkeypatch.setattr(dataset, "read_block", lambda n: read.append(n) or read_block(n))
    list(loader.starting_at(14))  # the last batch
    assert read == windows[-1].blocks


@pytest.mark.parametrize(("size", "world"), [(8, 2), (10, 3), (7, 4), (99, 2)])
def test_processes_share_an_epoch(folder: Path, size: int, world: int) -> None:
    dataset = small_windows(folder, "trainval")
    for seed in (3, None):
        loaders = [
            OutOfCoreLoader(
                dataset, size, shuffle_seed=seed, least=2, num_workers=0, shard=Shard(rank, world)
            )
            for rank in range(world)
        ]
        found = [order(loader) for loader in loaders]
        assert len({len(part) for part in found}) == 1
        assert [len(loader) for loader in loaders] == [len(part) for part in found]
        of_a_pass = len(loaders[0]._sizes())
        first_pass = [chain(*part[:of_a_pass]) for part in found]
        clouds = list(chain(*first_pass))
        assert len(set(clouds)) == len(clouds)
        if seed is None or size * world > 150:
            assert sorted(clouds) == list(range(150))
        else:  # those that do not fill a batch of all processes are left out
            assert len(clouds) == 150 // (size * world) * size * world
        for loader, part in zip(loaders, found, strict=True):
            assert order(loader, 1) == part[1:]


def test_a_process_reads_its_own_share_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = small_windows(folder, "trainval")
    read: list[int] = []
    read_block = dataset.read_block
    monkeypatch.setattr(dataset, "read_block", lambda n: read.append(n) or read_block(n))
    for rank in range(3):
        list(OutOfCoreLoader(dataset, 10, shuffle_seed=0, num_workers=0, shard=Shard(rank, 3)))
    assert set(read) == set(range(30))
    assert len(read) <= 30 + 2  # a block on the border of two shares is read by both


def test_a_small_set_is_gone_through_again(folder: Path) -> None:
    dataset = OutOfCoreModelNet(folder, split="test")
    loader = OutOfCoreLoader(dataset, 12, shuffle_seed=0, least=5, num_workers=0)
    found = order(loader)
    assert [len(batch) for batch in found] == [12] * 5
    assert sorted(found[0] + found[1]) == list(range(24)) == sorted(found[2] + found[3])
    assert found[0] != found[2]
    assert [len(batch) for batch in order(OutOfCoreLoader(dataset, 99, shuffle_seed=0))] == [24]
    assert [len(batch) for batch in order(OutOfCoreLoader(dataset, 10))] == [10, 10, 4]


def test_leaving_early_ends_the_reading_thread(folder: Path) -> None:
    before = threading.active_count()
    for _ in OutOfCoreLoader(small_windows(folder), 8, shuffle_seed=0, num_workers=0):
        break
    assert threading.active_count() == before


# --- memory


def test_blocks_are_whole_chunks_and_windows_fit_the_buffer(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"train": [3000]}, points=100, chunks=(7, 100, 3))
    dataset = OutOfCoreModelNet(folder, split="trainval", buffer_mb=2)
    assert dataset.window == 2_000_000 // 3 // 1200
    sizes = {block.stop - block.start for block in dataset.blocks[:-1]}
    assert sizes == {7}  # 555 / 64 is 8
    assert OutOfCoreModelNet(folder, num_points=10, buffer_mb=2).window == 10 * dataset.window + 5
    assert dataset.file_bytes == dataset.num_bytes == 3000 * 1200


def test_available_memory_knows_the_limits_of_the_process() -> None:
    if sys.platform != "linux":
        pytest.skip("limits and what is used are read from Linux's /proc")
    import resource

    before = available_memory(CPU)
    status = Path("/proc/self/status").read_text()
    used = 1024 * int(status.partition("VmData:")[2].split()[0])
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + 10**8, limits[1]))
    try:
        after = available_memory(CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
    assert after is not None
    assert 5e7 < after <= 1e8
    assert before is not None
    assert before > after


def test_auto_reads_out_of_core_what_does_not_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("modelnet40_ea", [f"data.root={folder}", "data.num_points=10"])
    room = 3 * 150 * POINTS * 12
    monkeypatch.setattr(training_data, "available_memory", lambda device: room)
    assert isinstance(open_split(recipe.data, "train"), ModelNet)
    monkeypatch.setattr(training_data, "available_memory", lambda device: room - 1)
    for split in ("train", "val", "test"):
        assert isinstance(open_split(recipe.data, split), OutOfCoreModelNet)
    monkeypatch.setattr(training_data, "available_memory", lambda device: None)
    assert isinstance(open_split(recipe.data, "train"), ModelNet)
    recipe = load_recipe("modelnet40_ea", [f"data.root={folder}", "data.in_memory=false"])
    assert recipe.data.num_points > POINTS
    with pytest.raises(ValueError, match=r"num_points must be at most the 20 points stored, got"):
        open_split(recipe.data, "train")


def test_a_set_that_fits_goes_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = ProceduralShapes("test", num_shapes=14, num_points=8)
    held, where = put_on(shapes, CPU)
    assert held is shapes
    assert where == "test: 14 clouds, 0 MB in memory"
    # No GPU is needed to see what would be put there.
    size = sum(tensor.nbytes for tensor in vars(shapes).values() if torch.is_tensor(tensor))
    moved: list[str] = []

    def fake_to(tensor: torch.Tensor, device: object) -> torch.Tensor:
        moved.append(str(device))
        return tensor.clone()

    monkeypatch.setattr(training_data, "available_memory", lambda device: 2 * size)
    monkeypatch.setattr(torch.Tensor, "to", fake_to)
    placed, where = put_on(shapes, torch.device("cuda:0"))
    assert where.endswith("MB on cuda:0")
    assert set(moved) == {"cuda:0"}
    assert placed is not shapes
    assert placed.xyz is not shapes.xyz
    assert torch.equal(placed[3]["xyz"], shapes[3]["xyz"])
    monkeypatch.setattr(training_data, "available_memory", lambda device: 2 * size - 1)
    assert put_on(shapes, torch.device("cuda:0"))[0] is shapes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_of_a_set_on_the_gpu() -> None:
    shapes = ProceduralShapes("test", num_shapes=28, num_points=8)
    placed, _ = put_on(shapes, torch.device("cuda"))
    pairs = zip(batches(shapes, 8, shuffle_seed=1), batches(placed, 8, shuffle_seed=1), strict=True)
    for one, other in pairs:
        assert {value.device.type for value in other.values()} == {"cuda"}
        assert all(torch.equal(value, other[name].cpu()) for name, value in one.items())


# --- training


@pytest.fixture
def trained(folder: Path) -> list[str]:
    quick = [each for each in QUICK if not each.startswith(("data.", "trainer.epochs"))]
    return [*quick, f"data.root={folder}", "data.num_points=16", "data.val_fraction=0.2",
            "trainer.epochs=2", "model.size=tiny"]  # fmt: skip


def test_a_run_resumes_exactly_and_keeps_what_was_decided(
    folder: Path, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_core = [*trained, "data.in_memory=false", "data.workers=0"]
    whole = train(load_recipe("modelnet40_ea", out_of_core), tmp_path / "whole")
    monkeypatch.setattr(training_data, "available_memory", lambda device: 0)
    auto = load_recipe("modelnet40_ea", trained)
    half = tmp_path / "half"
    with pytest.raises(RuntimeError, match="power cut"):
        train(auto, half, callbacks=[Crash(1)])
    assert load_recipe(half / "recipe.yaml").data.in_memory is False
    monkeypatch.setattr(training_data, "available_memory", lambda device: None)
    train(auto, half, resume=True)
    one, other = (load_file(run / "last" / "model.safetensors") for run in (whole, half))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_command_line_trains_evaluates_and_says_where_the_clouds_are(
    folder: Path,
    trained: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    out_of_core = [*trained, "data.in_memory=false", "--run-dir", run]
    assert call(monkeypatch, "train", "modelnet40_ea", *out_of_core) == 0
    assert f"train: 120 clouds, 0 MB read out of core from {folder}" in capsys.readouterr().err
    assert call(monkeypatch, "evaluate", run, "--split", "test", "--json") == 0
    assert '"shapes": 24' in capsys.readouterr().out


def test_calibration_reads_a_bounded_share_of_a_large_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = create_model("ea_classifier_tiny", num_classes=3, num_centers=(16, 8)).eval()
    val, train_split = (OutOfCoreModelNet(folder, split=split) for split in ("trainval", "train"))
    read: list[int] = []
    get = OutOfCoreModelNet.__getitem__
    monkeypatch.setattr(calibrate, "VAL_CLOUDS", 40)
    monkeypatch.setattr(calibrate, "TRAIN_CLOUDS", 30)
    monkeypatch.setattr(OutOfCoreModelNet, "__getitem__", lambda s, i: read.append(i) or get(s, i))
    calibrate.calibrate_classifier(model, val, train_split)
    assert len(read) == 70
    assert len(set(read[:40])) == 40


def test_a_set_of_ones_own_is_written_piece_by_piece(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pieces = [
        (in_unit_sphere(rng.normal(size=(count, 9, 3))).astype(np.float16), np.arange(count) % 2)
        for count in (6, 4, 5)
    ]
    written = write_modelnet(
        tmp_path / "own", ["ball", "box"], train=(piece for piece in pieces[:2]), test=pieces[2:]
    )
    train_split = OutOfCoreModelNet(written, split="trainval")
    expected = np.concatenate([xyz for xyz, _ in pieces[:2]]).astype(np.float32)
    assert np.array_equal(train_split[list(range(10))]["xyz"].numpy(), expected)
    assert train_split.label.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert train_split.class_names == ("ball", "box")
    assert torch.equal(ModelNet(written, split="test").xyz, torch.tensor(pieces[2][0]).float())
    with pytest.raises(FileExistsError, match=r"own exists and is not empty; choose another fold"):
        write_modelnet(written, ["ball", "box"], train=pieces)
    with pytest.raises(
        ValueError, match=r"class_names must be words without blanks, got \['a b'\]"
    ):
        write_modelnet(tmp_path / "other", ["a b"], train=pieces)
    with pytest.raises(ValueError, match=r"train0.h5 has labels from 0 to 1, but shape_names.txt"):
        write_modelnet(tmp_path / "other", ["ball"], train=pieces)
    wrong = [(pieces[0][0].astype(float), pieces[0][1])]
    with pytest.raises(ValueError, match=r"train piece 0 must be float16 or float32 of 9 points a"):
        write_modelnet(tmp_path / "other", ["ball", "box"], train=wrong)


def test_what_cannot_be_read_out_of_core_says_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.in_memory must be one of 'auto', True, False, got"):
        load_recipe("modelnet40_ea", ["data.in_memory=disk"])
    with pytest.raises(ValueError, match=r"data.in_memory=false needs data.dataset=modelnet, w"):
        load_recipe("procedural", ["data.in_memory=false"])
    with pytest.raises(ValueError, match=r"data.buffer_mb must be at least 1, got 0"):
        load_recipe("modelnet40_ea", ["data.buffer_mb=0"])
    with pytest.raises(ValueError, match=r"data.workers must be at least 0, got -1"):
        load_recipe("modelnet40_ea", ["data.workers=-1"])
    dataset = OutOfCoreModelNet(folder)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        OutOfCoreLoader(dataset, 0)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    with h5py.File(broken / "train1.h5", "a") as file:
        file["data"][3, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"train1.h5 holds coordinates that are not finite"):
        list(OutOfCoreLoader(OutOfCoreModelNet(broken), 8, num_workers=0))
    with h5py.File(broken / "train2.h5", "w") as file:
        file["data"], file["label"] = np.zeros((4, 9, 3)), np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"train2.h5 holds clouds of 9 points, .*train0.h5 of 20"):
        OutOfCoreModelNet(broken)
    (broken / "train2.h5").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"train2.h5 cannot be read as HDF5"):
        OutOfCoreModelNet(broken)
    (broken / "train2.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*train2.h5, which its list names"):
        OutOfCoreModelNet(broken)


def test_repr_says_what_it_is(folder: Path) -> None:
    assert repr(OutOfCoreModelNet(folder, split="test", num_points=7)) == (
        "OutOfCoreModelNet('modelnet40', split='test', shapes=24, points=7, classes=3)"
    )
    assert available_memory(CPU) is None or available_memory(CPU) > 0
