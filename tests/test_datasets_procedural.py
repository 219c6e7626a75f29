import pytest
import torch
from torch import Tensor

from ea_pointcloud.datasets.procedural import (
    CATEGORIES,
    CATEGORY_PARTS,
    PART_NAMES,
    ProceduralShapes,
    generate_mesh,
)


@pytest.fixture(scope="module")
def train() -> ProceduralShapes:
    return ProceduralShapes()


@pytest.fixture(scope="module")
def small() -> ProceduralShapes:
    return ProceduralShapes(num_shapes=28, num_points=128)


def equal(a: ProceduralShapes, b: ProceduralShapes) -> bool:
    return torch.equal(a.xyz, b.xyz) and torch.equal(a.part_label, b.part_label)


def test_tables_agree():
    assert len(CATEGORIES) == 14
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert list(CATEGORY_PARTS) == list(CATEGORIES)
    assert [part for parts in CATEGORY_PARTS.values() for part in parts] == list(
        range(len(PART_NAMES))
    )
    for category, parts in CATEGORY_PARTS.items():
        assert {PART_NAMES[part].split("/")[0] for part in parts} == {category}


def test_shapes_dtypes_and_names(small: ProceduralShapes):
    assert small.xyz.shape == (28, 128, 3)
    assert small.xyz.dtype == torch.float32
    assert small.label.shape == (28,)
    assert small.label.dtype == torch.int64
    assert small.part_label.shape == (28, 128)
    assert small.part_label.dtype == torch.int64
    assert small.class_names == CATEGORIES
    assert small.part_names == PART_NAMES
    assert small.category_parts == CATEGORY_PARTS
    assert dict(zip(small.category_names, small.parts, strict=True)) == CATEGORY_PARTS
    assert small.up_axis == "y"
    assert small.split == "train"
    assert len(small) == 28
    assert repr(small) == "ProceduralShapes('train', num_shapes=28, num_points=128, seed=0)"


@pytest.mark.parametrize(("split", "size"), [("val", 280), ("test", 420)])
def test_default_sizes(split: str, size: int):
    data = ProceduralShapes(split, num_points=8)
    assert len(data) == size
    assert data.label.bincount().tolist() == [size // 14] * 14


def test_classes_are_balanced(train: ProceduralShapes):
    assert len(train) == 1680
    assert train.label.bincount().tolist() == [120] * 14


def test_indexing(small: ProceduralShapes):
    one = small[3]
    assert {key: tuple(value.shape) for key, value in one.items()} == {
        "xyz": (128, 3),
        "label": (),
        "part_label": (128,),
        "category": (),
        "mask": (128,),
    }
    for index in ([3, 5], torch.tensor([3, 5])):
        batch = small[index]
        assert batch["xyz"].shape == (2, 128, 3)
        assert batch["label"].tolist() == [3, 5]
        assert torch.equal(batch["part_label"][0], one["part_label"])
        assert torch.equal(batch["category"], batch["label"])
        assert batch["mask"].shape == (2, 128)
        assert batch["mask"].all()


def test_same_seed_same_data(small: ProceduralShapes):
    assert equal(small, ProceduralShapes(num_shapes=28, num_points=128))


def test_seeds_and_splits_differ(small: ProceduralShapes):
    others = [
        ProceduralShapes(split, num_shapes=28, num_points=128, seed=seed)
        for split, seed in (("train", 1), ("val", 0), ("test", 0))
    ]
    for i, a in enumerate([small, *others]):
        for b in others[i:]:
            # Shape by shape: no object of one stream occurs in the other.
            assert (a.xyz != b.xyz).flatten(1).any(dim=1).all()
            first, second = a.mesh(0).vertices, b.mesh(0).vertices
            assert first.shape != second.shape or not torch.equal(first, second)


def test_fewer_shapes_are_a_prefix(small: ProceduralShapes):
    fewer = ProceduralShapes(num_shapes=10, num_points=128)
    assert torch.equal(fewer.xyz, small.xyz[:10])
    assert torch.equal(fewer.part_label, small.part_label[:10])


def test_number_of_points_does_not_change_the_object(small: ProceduralShapes):
    dense = ProceduralShapes(num_shapes=28, num_points=2048)
    for index in range(28):
        assert torch.equal(dense.mesh(index).vertices, small.mesh(index).vertices)
        assert torch.equal(dense.mesh(index).faces, small.mesh(index).faces)
    # Same object and same view: every point of the coarse cloud lies near the dense one.
    gap = torch.cdist(small.xyz, dense.xyz).amin(dim=2)
    assert float(gap.mean()) < 0.1


def test_global_state_is_left_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    ProceduralShapes(num_shapes=14, num_points=16).mesh(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_clouds_are_centred_in_the_unit_sphere(train: ProceduralShapes):
    assert torch.isfinite(train.xyz).all()
    assert float(train.xyz.mean(dim=1).abs().max()) < 1e-5
    radius = train.xyz.norm(dim=2).amax(dim=1)
    torch.testing.assert_close(radius, torch.ones(1680), atol=1e-5, rtol=0)


def test_no_point_occurs_twice(train: ProceduralShapes):
    for xyz in train.xyz[:140]:
        assert len(xyz.unique(dim=0)) == 1024


def test_parts_belong_to_the_category_and_all_occur(train: ProceduralShapes):
    for label, category in enumerate(CATEGORIES):
        seen = train.part_label[train.label == label].unique().tolist()
        assert seen == list(CATEGORY_PARTS[category])


def test_one_point():
    assert ProceduralShapes(num_shapes=1, num_points=1).xyz.tolist() == [[[0.0, 0.0, 0.0]]]


@pytest.mark.parametrize("category", CATEGORIES)
def test_meshes_are_sound(category: str):
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        mesh = generate_mesh(category, generator)
        assert mesh.vertices.dtype == torch.float32
        assert mesh.faces.dtype == mesh.face_part.dtype == torch.int64
        assert torch.isfinite(mesh.vertices).all()
        assert int(mesh.faces.min()) == 0
        assert int(mesh.faces.max()) == len(mesh.vertices) - 1
        assert mesh.face_part.shape == (len(mesh.faces),)
        a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
        area = torch.linalg.cross(b - a, c - a).norm(dim=1)
        per_part = torch.zeros(len(PART_NAMES)).double().index_add_(0, mesh.face_part, area)
        used = mesh.face_part.unique()
        assert set(used.tolist()) <= set(CATEGORY_PARTS[category])
        assert (per_part[used] > 0).all()


@pytest.mark.parametrize("category", CATEGORIES)
def test_faces_look_outwards(category: str):
    # Divergence theorem: a closed surface facing outwards encloses a positive volume, whatever
    # the origin, and every primitive is closed.
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        mesh = generate_mesh(category, generator)
        a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
        volume = (a * torch.linalg.cross(b, c)).sum(dim=1) / 6
        closed = torch.linalg.cross(b - a, c - a).sum(dim=0)
        torch.testing.assert_close(closed, torch.zeros(3).double(), atol=1e-4, rtol=0)
        for part in mesh.face_part.unique():
            assert float(volume[mesh.face_part == part].sum()) > 0


def histograms(data: ProceduralShapes) -> Tensor:
    first, second = torch.randint(1024, (2, 2048), generator=torch.Generator().manual_seed(0))
    values = (
        ((data.xyz[:, first] - data.xyz[:, second]).norm(dim=2), 0.0, 2.0),  # D2
        (data.xyz[..., 1], -1.0, 1.0),  # height
        (data.xyz[..., ::2].norm(dim=2), 0.0, 1.0),  # radius around the up axis
    )
    rows = []
    for value, low, high in values:
        bins = ((value - low) / (high - low) * 64).long().clamp_(0, 63)
        share = torch.full_like(value, 1 / value.shape[1])
        rows.append(torch.zeros(len(value), 64).scatter_add_(1, bins, share))
    return torch.cat(rows, dim=1)


def test_global_statistics_do_not_give_the_class_away(train: ProceduralShapes):
    # Osada et al. 2002: a set that shape histograms solve would tell nothing about a network.
    # About 77 % is measured; chance is 7 %.
    test = ProceduralShapes("test")
    distance = torch.cdist(histograms(test), histograms(train), p=1)
    accuracy = (train.label[distance.argmin(dim=1)] == test.label).float().mean()
    assert 0.5 < float(accuracy) < 0.85


def test_unknown_split():
    message = "split must be one of 'train', 'val', 'test', got 'validation'"
    with pytest.raises(ValueError, match=message):
        ProceduralShapes("validation")


def test_numbers_below_one():
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        ProceduralShapes(num_points=0)
    with pytest.raises(ValueError, match="num_shapes must be at least 1, got 0"):
        ProceduralShapes(num_shapes=0)


def test_unknown_category():
    with pytest.raises(ValueError, match=r"category must be one of 'airplane', .*, got 'piano'"):
        generate_mesh("piano", torch.Generator())


def test_mesh_index_outside(small: ProceduralShapes):
    with pytest.raises(ValueError, match="index must be between 0 and n-1=27, got 28"):
        small.mesh(28)
