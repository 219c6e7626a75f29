"""Refined figures against the definition, written out cloud by cloud."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ea_pointcloud.datasets import ShapeNetPart
from ea_pointcloud.inference.postprocess import min_part_fractions
from ea_pointcloud.inference.segment import label_points
from ea_pointcloud.models import DataSpec, EASegmenter
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.training.evaluate_segmenter import SegmentationReport, evaluate_segmenter
from tests.test_datasets_shapenetpart import TXT, make_shapes, write_txt
from tests.test_segment import segmenter

LENGTHS = [60, 45, 52, 31]


@pytest.fixture
def dataset(tmp_path: Path) -> ShapeNetPart:
    shapes = {name: make_shapes(i, 9, LENGTHS) for i, name in enumerate(("train", "val", "test"))}
    for _, _, _, ids in shapes["train"][:3]:
        ids[ids == ids.max()] = ids.min()  # one shape of each category lacks its last part
    write_txt(tmp_path / TXT, shapes)
    return ShapeNetPart(tmp_path, split="train")


def network(dataset: ShapeNetPart, **spec: object) -> EASegmenter:
    names, parts = dataset.part_names, dataset.parts
    shares = min_part_fractions(dataset.part_label, dataset.category, parts, len(names))
    known = DataSpec(
        names,
        num_points=64,
        category_names=dataset.category_names,
        parts=parts,
        min_part_fraction=shares,
    )
    return segmenter(spec=replace(known, **spec))


def evaluate(model: EASegmenter, dataset: ShapeNetPart, copies: int) -> SegmentationReport:
    return evaluate_segmenter(
        model,
        dataset,
        selection="",
        votes=0,
        batch_size=4,
        device=torch.device("cpu"),
        tta_copies=copies,
    )


def test_postprocessed_figures_are_those_of_the_labels_that_segment_gives(
    dataset: ShapeNetPart,
) -> None:
    model = network(dataset)
    assert sum(share > 0 for share in model.data_spec.min_part_fraction) == len(dataset.parts)
    values = []
    for place in range(len(dataset)):
        sample = dataset[place]
        category = int(sample["category"])
        xyz = normalize_unit_sphere(sample["xyz"][None])
        labels = label_points(model, xyz, category=category).labels
        ious = []
        for part in dataset.parts[category]:
            given, true = labels == part, sample["part_label"] == part
            union = int((given | true).sum())
            ious.append(int((given & true).sum()) / union if union else 1.0)
        values.append(sum(ious) / len(ious))
    report = evaluate(model, dataset, copies=0)
    assert report.postprocessed_instance_miou == pytest.approx(sum(values) / len(values), abs=1e-6)
    assert report.postprocessed_instance_miou != report.instance_miou
    assert report.tta_instance_miou is None
    assert report.tta_category_miou is None


def test_one_copy_is_the_cloud_itself_and_more_repeat(dataset: ShapeNetPart) -> None:
    model = network(dataset)
    one = evaluate(model, dataset, copies=1)
    assert one.tta_instance_miou == one.postprocessed_instance_miou
    assert one.tta_category_miou == one.postprocessed_category_miou
    several, again = (evaluate(model, dataset, copies=4) for _ in range(2))
    assert several.tta_instance_miou == again.tta_instance_miou
    assert several.tta_instance_miou != several.postprocessed_instance_miou


def test_nothing_is_postprocessed_without_min_part_fraction(dataset: ShapeNetPart) -> None:
    report = evaluate(network(dataset, min_part_fraction=()), dataset, copies=2)
    assert report.postprocessed_instance_miou is None
    assert report.tta_instance_miou is None


def test_a_network_in_a_mirror_gives_the_mean_with_its_mirror_image(dataset: ShapeNetPart) -> None:
    # Of two copies the second is mirrored exactly: swapping both changes nothing.
    model = network(dataset)
    mirrored = ShapeNetPart(dataset.folder, split="train")
    mirrored.xyz = mirrored.xyz * torch.tensor([-1.0, 1.0, 1.0])
    one, other = (evaluate(model, data, copies=2) for data in (dataset, mirrored))
    assert one.tta_instance_miou == pytest.approx(other.tta_instance_miou, abs=1e-6)
    assert one.postprocessed_instance_miou != other.postprocessed_instance_miou
