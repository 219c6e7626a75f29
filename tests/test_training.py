import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.datasets import ModelNet, ShapeNetPart
from ea_pointcloud.datasets.procedural import CATEGORIES, CATEGORY_PARTS
from ea_pointcloud.datasets.writing import write_modelnet
from ea_pointcloud.models import DataSpec, EAClassifier, EASegmenter, create_model
from ea_pointcloud.ops import farthest_point_sample, gather_points, knn, random_point_sample
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.training.batches import BatchIndices
from ea_pointcloud.training.callbacks import EpochBar, read_metrics
from ea_pointcloud.training.data import data_spec, open_held_out
from ea_pointcloud.training.evaluate_classifier import ClassificationReport, evaluate_classifier
from ea_pointcloud.training.evaluate_run import evaluate_run, evaluate_weights
from ea_pointcloud.training.evaluate_segmenter import SegmentationReport, evaluate_segmenter
from ea_pointcloud.training.evaluation_data import EvaluationOptions
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.module import RecipeModule, learning_rate_factor
from ea_pointcloud.training.recipe import load_recipe, recipe_values, save_recipe
from ea_pointcloud.training.run_folder import load_run_recipe
from ea_pointcloud.training.tasks import SegmentationTask, task_of
from tests.oracles import cloud, seeded
from tests.test_datasets_shapenetpart import TXT, make_shapes, write_txt

# A network and a set small enough for an epoch a second.
QUICK = [
    "data.shapes=[56,28,28]",
    "data.num_points=64",
    "trainer.epochs=3",
    "trainer.batch_size=14",
    "optim.warmup_epochs=1",
    "augment.point_dropout=0.3",
    "model.overrides.num_centers=[16,8]",
    "model.overrides.num_neighbors=[8,8]",
    "model.overrides.embed_channels=[16,16]",
    "model.overrides.stem_channels=8",
    "model.overrides.fuse_channels=32",
    "model.overrides.head_channels=[16]",
    "model.overrides.dropout=0.1",
    "optim.lr=0.02",
]
# The same for part labels.
PARTS = [*QUICK, "task=segmentation", "model.size=grouped_tiny"]


class Crash(Callback):
    """Fails in the middle of an epoch, as a killed process would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 2:
            raise RuntimeError("power cut")


class Interrupt(Callback):
    """Presses Ctrl-C in the second epoch."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / name / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    for which in ("last", "best"):
        one, two = weights(first, which), weights(second, which)
        assert one.keys() == two.keys()
        different = [name for name in one if not torch.equal(one[name], two[name])]
        assert different == []


@pytest.mark.parametrize(("ema", "seed"), [("0.0", 0), ("0.9", 0), ("0.0", 4)])
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, ema: str, seed: int) -> None:
    recipe = load_recipe("procedural", [*QUICK, f"optim.ema_decay={ema}", f"trainer.seed={seed}"])
    train(recipe, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, tmp_path / "stopped", callbacks=[Crash(epoch=2)])
    assert len(read_metrics(tmp_path / "stopped" / "metrics.csv")) == 2
    (tmp_path / "stopped").rename(tmp_path / "moved")  # runs may be moved between machines
    train(recipe, tmp_path / "moved", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "moved")
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "moved")]
    for row in rows[0] + rows[1]:
        del row["seconds"]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("category", ["true", "false"])
def test_part_labels_train_and_resume_exactly(tmp_path: Path, category: str) -> None:
    options = [f"model.category={category}", "optim.ema_decay=0.0", "eval.legacy=true"]
    recipe = load_recipe("procedural", [*PARTS, *options])
    train(recipe, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, tmp_path / "stopped", callbacks=[Crash(epoch=2)])
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")
    rows, again = (read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "stopped"))
    for row in rows + again:
        del row["seconds"]
    assert rows == again

    spec = EASegmenter.from_pretrained(tmp_path / "whole" / "best").data_spec
    assert (spec.category_names, spec.parts) == (CATEGORIES, tuple(CATEGORY_PARTS.values()))
    device = torch.device("cpu")
    best, last = evaluate_run(tmp_path / "whole", "val", device).reports
    assert isinstance(best, SegmentationReport)
    assert isinstance(last, SegmentationReport)
    values = [float(row["val/instance_miou"]) for row in rows]
    assert best.instance_miou == pytest.approx(max(values), abs=1e-6)
    assert last.instance_miou == pytest.approx(values[-1], abs=1e-6)
    report = evaluate_run(tmp_path / "whole", "test", device)
    assert report.legacy_accuracy == max(float(row["test/instance_miou"]) for row in rows)


class Spoil(Callback):
    """Turns the logits round while epochs after the first two are measured on val."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._turn(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._turn(trainer, pl_module)

    def _turn(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch >= 2:
            for parameter in pl_module.model.out.parameters():  # pyright: ignore
                parameter.data.neg_()


def test_the_epoch_is_chosen_by_the_parts_on_val(tmp_path: Path) -> None:
    options = [*PARTS, "trainer.epochs=4", "optim.ema_decay=0.0"]
    run = train(load_recipe("procedural", options), tmp_path / "run", callbacks=[Spoil()])
    values = [float(row["val/instance_miou"]) for row in read_metrics(run / "metrics.csv")]
    best = max(range(4), key=values.__getitem__)
    assert best < 2
    device = torch.device("cpu")
    chosen, last = evaluate_run(run, "val", device).reports
    assert isinstance(chosen, SegmentationReport)
    assert isinstance(last, SegmentationReport)
    assert chosen.instance_miou == pytest.approx(values[best], abs=1e-6)
    assert last.instance_miou > chosen.instance_miou  # which only an unspoilt val would have shown


def test_point_counts_may_vary(tmp_path: Path) -> None:
    lengths = [20, 60, 45, 31]
    shapes = {name: make_shapes(i, 12, lengths) for i, name in enumerate(("train", "val", "test"))}
    write_txt(tmp_path / TXT, shapes)
    options = [
        f"data.root={tmp_path}",
        "data.num_points=40",
        "trainer.epochs=1",
        "augment.point_dropout=0",
    ]
    quick = [*PARTS, *options, "trainer.device=cpu", "trainer.batch_size=6", "eval.batch_size=5"]
    recipe = load_recipe("shapenetpart", quick)

    task = SegmentationTask(recipe)
    dataset = ShapeNetPart(tmp_path, split="train")
    stored = dataset[[0, 1, 2, 3]]
    batch = task.augment(stored, torch.Generator().manual_seed(0))
    assert batch["mask"].sum(1).tolist() == [20, 40, 40, 31]
    assert batch["xyz"].shape == (4, 40, 3)
    assert (batch["part_label"][~batch["mask"]] == -1).all()
    for row, category in enumerate(batch["category"].tolist()):
        own = set(batch["part_label"][row][batch["mask"][row]].tolist())
        assert own <= set(dataset.parts[category])
    model = task.model(data_spec(recipe, dataset)).eval()
    spoiled = {**batch, "xyz": batch["xyz"].masked_fill(~batch["mask"][..., None], 7.0)}
    losses = [task.loss(task.logits(model, one), one) for one in (batch, spoiled)]
    torch.testing.assert_close(losses[0], losses[1])

    run = train(recipe, tmp_path / "run")
    # Measured at every point, whatever training saw, and whatever shares a batch.
    one, many = (
        evaluate_segmenter(
            EASegmenter.from_pretrained(run / "best"),
            open_held_out(recipe, "test"),
            selection="",
            votes=1,
            batch_size=size,
            device=torch.device("cpu"),
        )
        for size in (1, 12)
    )
    assert one.instance_miou == pytest.approx(many.instance_miou, abs=1e-6)
    assert one.voted_instance_miou == pytest.approx(many.voted_instance_miou, abs=1e-6)
    assert one.point_accuracy == many.point_accuracy


def test_one_seed_gives_the_same_weights_another_gives_others(tmp_path: Path) -> None:
    quick = [*QUICK, "trainer.epochs=1"]
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        train(load_recipe("procedural", [*quick, f"trainer.seed={seed}"]), tmp_path / name)
    assert_same_weights(tmp_path / "first", tmp_path / "second")
    one, other = weights(tmp_path / "first"), weights(tmp_path / "other")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_run_folder_holds_everything(tmp_path: Path) -> None:
    recipe = load_recipe("procedural", [*QUICK, "eval.legacy=true", "eval.votes=2"])
    run = train(recipe, tmp_path / "run")
    assert {path.name for path in run.iterdir() if path.name != ".lock"} == {
        "recipe.yaml", "versions.json", "metrics.csv", "best", "last", "checkpoints",
    }  # fmt: skip
    assert recipe_values(load_run_recipe(run)) == recipe_values(recipe)
    assert json.loads((run / "versions.json").read_text())["torch"] == torch.__version__
    rows = read_metrics(run / "metrics.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert {"lr", "seconds", "train/loss", "val/overall_accuracy", "test/overall_accuracy"} <= set(
        rows[0]
    )
    spec = EAClassifier.from_pretrained(run / "best").data_spec
    assert spec.class_names == CATEGORIES
    assert (spec.up_axis, spec.num_points, spec.sampling) == ("y", 64, "first")

    report = evaluate_run(run, "test", torch.device("cpu"))
    best = max(float(row["val/overall_accuracy"]) for row in rows)
    assert evaluate_run(run, "val", torch.device("cpu")).reports[0].overall_accuracy == (
        pytest.approx(best, abs=1e-6)
    )
    assert report.legacy_accuracy == max(float(row["test/overall_accuracy"]) for row in rows)
    assert [part.selection for part in report.reports] == ["validation (primary)", "last epoch"]
    last = report.reports[1]
    assert last.overall_accuracy == pytest.approx(
        float(rows[-1]["test/overall_accuracy"]), abs=1e-6
    )
    matrix = torch.tensor(last.confusion)
    assert matrix.sum() == last.shapes == 28
    assert matrix.trace() / 28 == pytest.approx(last.overall_accuracy)
    assert report.macs > 0
    assert report.parameters == sum(value.numel() for value in parameters(run))


def parameters(run: Path) -> list[torch.Tensor]:
    return list(EAClassifier.from_pretrained(run / "best").parameters())


def test_published_modelnet40_recipe_runs(modelnet_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        "modelnet40_ea",
        [
            f"data.root={modelnet_folder.parent}",
            "data.num_points=64",
            "trainer.epochs=1",
            "trainer.batch_size=40",
            "model.size=tiny",
            "trainer.device=cpu",
        ],
    )
    run = train(recipe, tmp_path / "run")
    report = evaluate_run(run, "test", torch.device("cpu"))
    assert report.reports[0].shapes == 40


def test_what_cannot_be_trained_says_why(tmp_path: Path, modelnet_folder: Path) -> None:
    recipe = load_recipe("procedural", [*QUICK, "trainer.epochs=1"])
    with pytest.raises(
        FileNotFoundError, match=r"none is not a run folder: it holds no recipe.yam"
    ):
        train(recipe, tmp_path / "none", resume=True)
    run = tmp_path / "run"
    run.mkdir()
    save_recipe(recipe, run / "recipe.yaml")
    with pytest.raises(FileExistsError, match=r"run folder .* is not empty; continue it with --re"):
        train(recipe, run)
    with pytest.raises(
        FileNotFoundError, match="holds no best weights: it stopped before its first"
    ):
        evaluate_run(run, "test", torch.device("cpu"))
    train(recipe, run, resume=True)  # nothing to continue from: starts at the first epoch
    assert len(read_metrics(run / "metrics.csv")) == 1
    (run / "checkpoints" / "last.ckpt").write_bytes(b"half a checkpoint")
    with pytest.raises(ValueError, match=r"last.ckpt is damaged \(.*copy the run folder again, or"):
        train(recipe, run, resume=True)
    with pytest.raises(FileNotFoundError, match=r"no shape_names.txt in"):
        train(load_recipe("modelnet40_ea", [f"data.root={tmp_path}/x"]), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    train(recipe, tmp_path / "done")
    changed = load_recipe("procedural", [*QUICK, "trainer.epochs=1", "optim.lr=0.5"])
    with pytest.raises(ValueError, match=r"was trained with optim.lr=0.02, got 0.5; leave it out"):
        train(changed, tmp_path / "done", resume=True)
    model = EAClassifier.from_pretrained(tmp_path / "done" / "best")
    with pytest.raises(ValueError, match=r"the data's classes .* are not the model's \['airplane'"):
        evaluate_classifier(
            model,
            ModelNet(modelnet_folder, split="test", num_points=64),
            selection="validation",
            votes=0,
            batch_size=8,
            device=torch.device("cpu"),
        )


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    optim = load_recipe("procedural", ["optim.lr=0.1", "optim.min_lr=0.01"]).optim
    factors = [learning_rate_factor(step, 100, 10, optim) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])  # linear
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx((1 + 0.1) / 2)  # half way down the cosine
    assert factors[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_logits_of_frequent_classes_are_raised_in_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = torch.tensor([*range(10, 150, 11), 0])[:14]
    batch = {"xyz": torch.rand(4, 40, 3), "label": torch.tensor([0, 1, 2, 13])}
    monkeypatch.setattr(
        RecipeModule, "trainer", type("Trainer", (), {"world_size": 1, "current_epoch": 0})()
    )
    monkeypatch.setattr(RecipeModule, "global_rank", 0)
    monkeypatch.setattr(RecipeModule, "log", lambda *_, **__: None)
    logits = torch.randn(4, 14, requires_grad=True)
    for weight in (0.0, 0.5, 1.0):
        recipe = load_recipe("procedural", [f"optim.logit_adjustment={weight}"])
        module = RecipeModule(EAClassifier(recipe.model_config(14)), recipe, counts)
        monkeypatch.setattr(module.task, "logits", lambda *_: logits)
        # The posterior of classes by their shares in training, of the likelihoods of the logits.
        share = (counts.double().clamp_min(1) / counts.sum()) ** weight
        likelihood = logits.double().exp() * share
        probs = likelihood / likelihood.sum(1, keepdim=True)
        truth = F.one_hot(batch["label"], 14) * (1 - 0.1) + 0.1 / 14
        expected = -(truth * probs.log()).sum(1).mean()
        found = module.training_step(batch, 0)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_adjusted_logits_are_chosen_by_the_mean_over_classes(tmp_path: Path) -> None:
    options = ["optim.logit_adjustment=1", "trainer.epochs=1", "augment.normalize=true"]
    train(load_recipe("procedural", [*QUICK, *options]), tmp_path / "run")
    assert load_run_recipe(tmp_path / "run").optim.logit_adjustment == 1
    assert task_of(load_run_recipe(tmp_path / "run")).monitor == "val/mean_class_accuracy"
    assert (tmp_path / "run" / "best").is_dir()
    assert task_of(load_recipe("procedural")).monitor == "val/overall_accuracy"


def test_shuffled_batches_cover_an_epoch_once() -> None:
    batches = BatchIndices(25, 8, shuffle_seed=3)
    first = list(batches)
    assert [len(batch) for batch in first] == [8, 8, 8]  # the last one is not full
    assert len({index for batch in first for index in batch}) == 24
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first
    assert len(next(iter(BatchIndices(3, 8, shuffle_seed=3)))) == 3
    assert list(BatchIndices(5, 2, None)) == [[0, 1], [2, 3], [4]]


def test_a_small_set_is_gone_through_again() -> None:
    batches = BatchIndices(7, 3, shuffle_seed=0, least=5)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 5
    passes = [drawn[:2], drawn[2:4], drawn[4:]]  # two full batches go through 6 of 7
    for one in passes:
        indices = [index for batch in one for index in batch]
        assert len(set(indices)) == len(indices) == 3 * len(one)
    assert passes[0] != passes[1]
    assert drawn[:2] == list(BatchIndices(7, 3, shuffle_seed=0))
    assert [len(batch) for batch in BatchIndices(4, 32, shuffle_seed=0, least=3)] == [4, 4, 4]


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [*QUICK, "trainer.epochs=1", "trainer.tensorboard=true"]
    run = train(load_recipe("procedural", quick), tmp_path / "run")
    assert list((run / "tensorboard").glob("events.*"))

    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr("ea_pointcloud.training.fit.TensorBoardLogger", missing)
    with pytest.raises(ImportError, match=r"pip install 'ea-pointcloud\[track\]'"):
        train(load_recipe("procedural", quick), tmp_path / "other")


def test_ctrl_c_leaves_a_run_to_resume(tmp_path: Path) -> None:
    recipe = load_recipe("procedural", QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", callbacks=[Interrupt()])
    train(recipe, tmp_path / "run", resume=True)
    assert len(read_metrics(tmp_path / "run" / "metrics.csv")) == 3


def test_data_may_move_between_training_and_evaluation(
    modelnet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(modelnet_folder.parent)
    quick = [value for value in QUICK if not value.startswith("data.")]
    recipe = load_recipe(
        "modelnet40_ea", [*quick, "trainer.epochs=1", "data.root=.", "trainer.device=cpu"]
    )
    run = train(recipe, tmp_path / "run")
    monkeypatch.chdir("/")  # a relative root was resolved when the run began
    device = torch.device("cpu")
    here = evaluate_run(run, "test", device).reports[0].overall_accuracy
    moved = modelnet_folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no shape_names.txt in .* \(--data-root of eval"):
        evaluate_run(run, "test", device)
    there = evaluate_run(run, "test", device, data_root=moved).reports[0].overall_accuracy
    assert here == there


def test_a_class_without_shapes_has_no_accuracy(tmp_path: Path) -> None:
    quick = [value for value in QUICK if not value.startswith("data.shapes")]
    recipe = load_recipe("procedural", [*quick, "data.shapes=[28,28,5]", "trainer.epochs=1"])
    run = train(recipe, tmp_path / "run")
    report = evaluate_run(run, "test", torch.device("cpu")).reports[0]
    assert list(report.class_accuracy.values())[5:] == [None] * 9
    assert all(value is not None for value in list(report.class_accuracy.values())[:5])


class TrainAgain(Callback):
    """Starts a second training into the same folder while the first one runs."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        train(load_run_recipe(self.run), self.run, resume=True)


def test_one_process_trains_into_a_run_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(OSError, match=r"another process is training into .*; wait for it"):
        train(load_recipe("procedural", QUICK), run, callbacks=[TrainAgain(run)])
    train(load_run_recipe(run), run, resume=True)  # the lock fell with the failure
    assert len(read_metrics(run / "metrics.csv")) == 3


def spacing(xyz: Tensor) -> float:
    """Mean distance of a point to its nearest other one."""
    return float(knn(xyz, xyz, 2)[0][..., 1].sqrt().mean())


@pytest.mark.parametrize("choice", ["random", "fps"])
def test_points_are_drawn_again_for_every_batch(choice: str) -> None:
    recipe = load_recipe("modelnet10", [f"data.sampling={choice}", "data.num_points=64"])
    recipe.augment.scale, recipe.augment.shift = [1.0, 1.0], 0.0
    task = task_of(recipe)
    batch = {"xyz": cloud("surface", 400, batch=2), "label": torch.tensor([0, 1])}
    one, same, other = (task.augment(batch, seeded(seed))["xyz"] for seed in (0, 0, 1))
    assert one.shape == (2, 64, 3)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    for drawn, whole in zip(one, batch["xyz"], strict=True):
        assert len(drawn.unique(dim=0)) == 64
        assert (knn(drawn[None], whole[None], 1)[0] == 0).all()  # they are stored points
    random = gather_points(batch["xyz"], random_point_sample(batch["xyz"], 64, generator=seeded(2)))
    assert (spacing(one) > 1.4 * spacing(random)) == (choice == "fps")


def test_farthest_points_of_clouds_of_different_sizes() -> None:
    recipe = load_recipe("modelnet10", ["data.sampling=fps", "data.num_points=64"])
    mask = torch.arange(300) < torch.tensor([[300], [40]])
    xyz = cloud("surface", 300, batch=2).masked_fill(~mask[..., None], 9.0)
    recipe.augment.scale, recipe.augment.shift = [1.0, 1.0], 0.0
    batch = {"xyz": xyz, "mask": mask, "label": torch.tensor([0, 1])}
    seen = task_of(recipe).augment(batch, seeded())
    assert seen["mask"].sum(1).tolist() == [64, 40]
    small = seen["xyz"][1, seen["mask"][1]]
    assert torch.equal(small.unique(dim=0), xyz[1, :40].unique(dim=0))


def test_weights_on_another_set_are_compared_by_the_names_of_the_classes(tmp_path: Path) -> None:
    names = ("airplane", "bottle", "chair", "vase")
    torch.manual_seed(0)
    model = create_model(
        "ea_classifier_tiny",
        data_spec=DataSpec(names, num_points=64),
        num_centers=[16, 8],
        num_neighbors=[8, 8],
    ).eval()
    model.save_pretrained(tmp_path / "weights")
    xyz = normalize_unit_sphere(cloud("surface", 64, batch=12))
    label = torch.arange(12) % 2
    piece = (xyz.numpy(), label.numpy())
    names = ("vase", "bottle")  # in another order than the network's
    write_modelnet(tmp_path / "other_hdf5_2048", names, train=[piece], test=[piece])
    write_modelnet(tmp_path / "cups_hdf5_2048", ("cup", "mug"), train=[piece])
    found = evaluate_weights(
        tmp_path / "weights",
        "other",
        "test",
        torch.device("cpu"),
        data_root=tmp_path,
        options=EvaluationOptions(votes=0),
    )
    with torch.no_grad():
        logits = model(gather_points(xyz, farthest_point_sample(xyz, 64)))
    truth = torch.tensor([3, 1])[label]
    report = found.report
    assert isinstance(report, ClassificationReport)
    assert report.data_classes == ("vase", "bottle")
    assert report.shapes == 12
    assert report.overall_accuracy == pytest.approx(
        float((logits.argmax(1) == truth).float().mean())
    )
    among = torch.tensor([3, 1])[logits[:, [3, 1]].argmax(1)]
    assert report.restricted_accuracy == pytest.approx(float((among == truth).float().mean()))
    assert report.class_accuracy["airplane"] is None
    cups = tmp_path / "cups_hdf5_2048"
    with pytest.raises(ValueError, match=r"classes \['cup', 'mug'\] are not the model's"):
        evaluate_weights(tmp_path / "weights", cups, "train", torch.device("cpu"))


def test_the_bar_counts_epochs_from_one() -> None:
    bar = EpochBar()
    bar._trainer = SimpleNamespace(max_epochs=12, sanity_checking=False)  # pyright: ignore
    assert [bar._get_train_description(each).strip() for each in (0, 11)] == [
        "Epoch 1/12", "Epoch 12/12"
    ]  # fmt: skip
