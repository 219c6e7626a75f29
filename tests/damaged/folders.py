"""Sound weights, runs, archives, recipes and descriptions, and what damaged ones are given to."""

import gzip
import io
import json
import lzma
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ea_pointcloud.cli._csv_log import CsvLog
from ea_pointcloud.cli._resume import OutputFolder
from ea_pointcloud.datasets._unpack import unpack
from ea_pointcloud.datasets.download import silent
from ea_pointcloud.datasets.verify import verify_prepared
from ea_pointcloud.inference import Predictor
from ea_pointcloud.inference.batch import Found
from ea_pointcloud.models import DataSpec, Segmenter, create_model, load_model
from ea_pointcloud.models.metadata import Calibration, MahalanobisDetector
from ea_pointcloud.training.checkpoints import furthest, refuse_links, remove_leftovers
from ea_pointcloud.training.evaluate_corruptions import read_figures
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import list_recipes, load_recipe, own_up
from ea_pointcloud.training.run_folder import (
    best_logged,
    check_run,
    load_run_recipe,
    read_versions,
    resume_recipe,
)
from tests.damaged.damages import STRANGE, damage, damage_json, damage_yaml

XYZ = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Case = tuple[str, Callable[[], object]]
SMALL = ["data.shapes=[28,28,5]", "data.num_points=32", "trainer.epochs=1", "trainer.batch_size=14",
         "optim.warmup_epochs=0", "model.overrides.num_centers=[8,4]", "trainer.device=cpu",
         "model.overrides.num_neighbors=[4,4]", "model.overrides.stem_channels=8", "eval.votes=0",
         "model.overrides.embed_channels=[8,8]", "model.overrides.fuse_channels=16",
         "model.overrides.memory_size=8"]  # fmt: skip


def copied(source: Path, folder: Path) -> Path:
    """A copy of a sound folder that may be damaged."""
    shutil.copytree(source, folder / source.name)
    return folder / source.name


class Weights:
    """Weights of a classifier and of a segmenter, which then predict."""

    def __init__(self, folder: Path) -> None:
        small: dict[str, Any] = {"channels": 8, "depth": 1, "heads": 2, "patch_channels": (8,)}
        small |= {"num_centers": 8, "num_neighbors": 4, "memory_size": 8}
        model = create_model("eamlp_classifier_small", num_classes=4, **small)
        detector = MahalanobisDetector(torch.ones(4, 16), torch.eye(16), torch.arange(5.0))
        model.calibration = Calibration(1.0, detector)
        spec = DataSpec(("a", "b", "c"), category_names=("u", "v"), parts=((0, 1), (2,)),
                        num_points=32, features="eigen_features")  # fmt: skip
        labels = create_model("eamlp_segmenter_small", num_parts=3, num_categories=2,
                              feature_channels=19, **small)  # fmt: skip
        labels = type(labels)(labels.config, spec)
        self.sound = [folder / "classifier", folder / "segmenter"]
        for network, path in zip((model, labels), self.sound, strict=True):
            network.save_pretrained(path)
            predict(path)

    def case(self, number: int, draw: random.Random, folder: Path) -> Case:
        path = copied(self.sound[number % 2], folder)
        damaged = draw.choice(sorted(path.iterdir()))
        if damaged.suffix == ".json":
            damaged.write_bytes(damage_json(damaged.read_text(), draw))
        else:
            damaged.write_bytes(damage(damaged.read_bytes(), draw))
        return damaged.name, lambda: predict(path)


def predict(path: Path) -> None:
    """Load weights and give them a cloud; the answer is a probability."""
    predictor = Predictor.from_pretrained(path, "cpu")
    if isinstance(predictor.model, Segmenter):
        probs = predictor.segment(XYZ).confidence
    else:
        probs = np.array([each.prob for each in predictor.classify(XYZ).top])
    assert ((probs >= 0) & (probs <= 1)).all(), f"probabilities are {probs}"


class Runs:
    """Run folders, which are read and, one of thirty, resumed."""

    def __init__(self, folder: Path) -> None:
        self.sound = train(load_recipe("procedural", SMALL), folder / "run")
        recipe = self.sound / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("epochs: 1\n", "epochs: 2\n", 1))
        (self.sound / "checkpoints" / "complete").unlink()
        read_run(self.sound)

    def case(self, number: int, draw: random.Random, folder: Path) -> Case:
        run = copied(self.sound, folder)
        if number % 30 == 0:
            path = run / "checkpoints" / draw.choice(("last.ckpt", "last.ckpt", "best.ckpt"))
            content = torch.load(path, weights_only=True)
            torch.save(damage_checkpoint(content, draw), path)
            return "resumed", lambda: train(resume_recipe(run), run, resume=True)
        files = [path for path in run.rglob("*") if path.is_file() and path.stat().st_size]
        path = draw.choice(sorted(files))
        if path.suffix == ".json":
            path.write_bytes(damage_json(path.read_text(), draw))
        elif path.suffix == ".yaml":
            path.write_bytes(damage_yaml(path.read_text(), draw))
        else:
            path.write_bytes(damage(path.read_bytes(), draw))
        return path.suffix, lambda: read_run(run)


def damage_checkpoint(content: Any, draw: random.Random) -> Any:
    """Change, remove or reshape an entry of a checkpoint, or of a dictionary inside."""
    key = draw.choice(list(content))
    inside = content[key]
    if isinstance(inside, dict) and inside and draw.random() < 0.7:
        content[key] = damage_checkpoint(inside, draw)
    elif draw.random() < 0.3:
        del content[key]
    elif isinstance(inside, torch.Tensor) and draw.random() < 0.7:
        content[key] = draw.choice((inside.flatten()[:1], inside.double() * torch.nan,
                                    torch.zeros(2, 2), inside.to(torch.int8)))  # fmt: skip
    else:
        content[key] = draw.choice(STRANGE)
    return content


def read_run(run: Path) -> None:
    """All that reads a run folder, but the training itself."""
    recipe = load_run_recipe(run)
    check_run(recipe, run, resume=True)
    own_up(run / "recipe.yaml")
    read_versions(run)
    refuse_links(run)
    remove_leftovers(run)
    furthest(run)
    best_logged(run, "val/overall_accuracy")
    load_model(run)


class Archives:
    """Archives of four kinds, unpacked."""

    def __init__(self, folder: Path) -> None:
        files = {"set/a.txt": b"text", "set/inner/b.bin": bytes(range(256)) * 40}
        files["set/" + "n" * 150] = b"1"
        plain, zipped = io.BytesIO(), io.BytesIO()
        with (
            tarfile.open(fileobj=plain, mode="w") as tar,
            zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                archive.writestr(name, content)
        self.tar = plain.getvalue()
        self.sound = {
            "zip": zipped.getvalue(),
            "tar": self.tar,
            "tar.gz": gzip.compress(self.tar, mtime=0),
            "tar.xz": lzma.compress(self.tar),
        }
        for kind, content in self.sound.items():
            (folder / kind).write_bytes(content)
            unpack(folder / kind, folder / f"unpacked-{kind}", silent)

    def case(self, number: int, draw: random.Random, folder: Path) -> Case:
        kind = list(self.sound)[number % len(self.sound)]
        content = self.sound[kind]
        if kind.startswith("tar") and draw.random() < 0.5:  # with the right checksum and packing
            content = damage_header(self.tar, draw)
            pack = {"tar": bytes, "tar.gz": gzip.compress, "tar.xz": lzma.compress}[kind]
            content = pack(content)
        else:
            content = damage(content, draw)
        path = folder / f"damaged.{kind}"
        path.write_bytes(content)
        return kind, lambda: unpack(path, folder / "inner" / "unpacked", silent)


def damage_header(content: bytes, draw: random.Random) -> bytes:
    """Put something strange into a field of a tar's first header."""
    header = bytearray(content[:512])
    fields = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155))
    at, size = draw.choice(fields)
    values = (*(b"../outside", b"/tmp/outside", b"", b"\x80" + b"\xff" * 11, b"77777777777"),
              *(b"\xff" * 12, b"2", b"1", b"6", b"S", b"L", b"x", b"-1", b"a\\..\\b"),
              draw.randbytes(size))  # fmt: skip
    value = draw.choice(values)[:size]
    header[at : at + size] = value + bytes(size - len(value))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[512:]


class Recipes:
    """Recipes of every kind, with overrides."""

    def __init__(self, folder: Path) -> None:
        self.names = list_recipes()
        self.texts = [Path(f"ea_pointcloud/recipes/{name}.yaml").read_text() for name in self.names]
        for name in self.names:
            load_recipe(name, ["data.root=data"])

    def case(self, number: int, draw: random.Random, folder: Path) -> Case:
        which = number % len(self.texts)
        path, overrides = folder / "own.yaml", ["data.root=data"]
        if draw.random() < 0.6:
            path.write_bytes(damage_yaml(self.texts[which], draw))
        else:
            path.write_text(self.texts[which])
            keys = ("data.num_points", "trainer.epochs", "optim.lr", "model.overrides", "name", "x",
                    "model.overrides.channels", "data.root", "model.size", "trainer", "data.up",
                    "model.overrides.a", "data.shapes", "a" + ".b" * draw.choice((3, 20_000)),
                    "model.name", "model.init", "a" + "[0]" * draw.choice((3, 20_000)))  # fmt: skip
            for _ in range(draw.randint(1, 3)):
                strange = draw.choice(STRANGE)
                value = json.dumps(strange) if draw.random() < 0.5 else str(strange)
                overrides.append(f"{draw.choice(keys)}={value}")
        return "override" if overrides[1:] else "text", lambda: load_recipe(path, overrides)


class Descriptions:
    """JSON files beside results, sets and figures."""

    def __init__(self, folder: Path) -> None:
        made_with = {"command": "segment", "model": "m", "weights": "w", "up": "y"}
        data = {"dataset": "procedural", "name": ""}
        figures = [
            {
                "recipe": {"name": "a", "model": {"size": "tiny"}, "data": data},
                "reports": [{"split": "val"}],
                "corruptions": [{"benchmark": "modelnet-c", "accuracy": {"jitter": [0.5]}}],
            }
        ]
        manifest = {"classes": ["a"], "counts": {"train": {"a": 1}}, "sha256": {"x.h5": "0"}}
        recipe = load_recipe("procedural")
        self.kinds: list[tuple[str, Any, Callable[[Path], object]]] = [
            ("res.csv.json", made_with, lambda path: _continue_csv(path, made_with)),
            ("segment.json", made_with, lambda path: _continue_folder(path, made_with)),
            ("manifest.json", manifest, lambda path: verify_prepared(path.parent)),
            ("figures.json", figures, lambda path: read_figures(path, recipe, "val")),
        ]

    def case(self, number: int, draw: random.Random, folder: Path) -> Case:
        name, document, read = self.kinds[number % len(self.kinds)]
        (folder / name).write_bytes(damage_json(json.dumps(document), draw))
        (folder / "a.ply").write_text("ply")  # a result that is there
        (folder / "res.csv").write_bytes(damage(b"file,label\na,b\nc,d\n", draw))
        return name, lambda: read(folder / name)


def _continue_csv(path: Path, made_with: dict[str, Any]) -> None:
    with CsvLog(path.with_suffix(""), ["file", "label"], made_with, force=False) as log:
        log.begin([Found("a", "a")])


def _continue_folder(path: Path, made_with: dict[str, Any]) -> None:
    with OutputFolder(path.parent, "ply", made_with, [], force=False) as store:
        store.begin([Found("a", "a")])
