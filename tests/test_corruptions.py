"""The corruptions themselves: what they do to clouds, and what they leave alone."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from ea_pointcloud.datasets import ProceduralShapes
from ea_pointcloud.ops import knn
from ea_pointcloud.robustness import (
    CORRUPTIONS,
    MODELNET40_C,
    MODELNET_C,
    corrupt,
    scan_mesh,
    visible_points,
)
from ea_pointcloud.robustness._clouds import Clouds, Draws

NAMES = list(CORRUPTIONS)
POINTS = 1024


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def dense() -> Tensor:
    """Ten objects of 2,048 points in the unit sphere."""
    return ProceduralShapes("test", num_shapes=10, num_points=2 * POINTS).xyz


@pytest.fixture(scope="module")
def clouds(dense: Tensor) -> Tensor:
    return dense[:, :POINTS]


def given(name: str, dense: Tensor) -> Tensor:
    """As many points as a corruption is to be given for 1,024 of other ones."""
    return dense[:, : POINTS * CORRUPTIONS[name].oversampling]


def applied(xyz: Tensor, name: str, severity: int) -> Tensor:
    """The corruption alone, as many points as before, without what follows it."""
    whole = Clouds(xyz, torch.ones(xyz.shape[:2], dtype=torch.bool))
    return CORRUPTIONS[name].apply(whole, severity, Draws(xyz, seeded())).xyz


def test_the_published_names() -> None:
    assert len(MODELNET40_C) == 15
    assert list(MODELNET_C) == [
        "scale", "jitter", "rotate", "dropout_global", "dropout_local", "add_global", "add_local",
    ]  # fmt: skip
    assert set(CORRUPTIONS) == set(MODELNET40_C) | set(MODELNET_C)


@pytest.mark.parametrize("name", NAMES)
def test_severity_0_changes_nothing(name: str, clouds: Tensor) -> None:
    mask = torch.rand(clouds.shape[:2], generator=seeded()) < 0.9
    assert torch.equal(corrupt(clouds, name, 0)[0], clouds)
    assert corrupt(clouds, name, 0)[1] is None
    assert corrupt(clouds, name, 0, mask=mask)[1] is mask


# Points left of 1,024 (2,048 where half are chosen), by the published definitions.
COUNTS = {
    "density_inc": [1024] * 5,
    "density": [949, 874, 799, 724, 649],
    "cutout": [964, 934, 874, 814, 724],
    "impulse": [1024] * 5,
    "upsampling": [1228, 1280, 1365, 1536, 2048],
    "background": [1046, 1049, 1053, 1058, 1075],
    "dropout_global": [768, 640, 512, 384, 256],
    "dropout_local": [924, 824, 724, 624, 524],
    "add_global": [1034, 1044, 1054, 1064, 1074],
    "add_local": [1124, 1224, 1324, 1424, 1524],
}


@pytest.mark.parametrize("name", NAMES)
def test_counts_frames_and_repetition(name: str, dense: Tensor) -> None:
    xyz = given(name, dense)[:2]
    before = xyz.clone()
    for severity in (1, 2, 3, 4, 5):
        out, mask = corrupt(xyz, name, severity, generator=seeded(severity))
        again, mask_again = corrupt(xyz, name, severity, generator=seeded(severity))
        assert torch.equal(out, again)
        real = torch.ones(out.shape[:2], dtype=torch.bool) if mask is None else mask
        assert torch.equal(real, torch.ones_like(real) if mask_again is None else mask_again)
        assert out.isfinite().all()
        lengths = real.sum(1)
        assert out.shape[1] == lengths.max()
        assert torch.equal(real, torch.arange(out.shape[1]) < lengths[:, None])  # real ones first
        assert (out[~real] == 0).all()
        if CORRUPTIONS[name].graded:
            assert lengths.tolist() == [COUNTS.get(name, [POINTS] * 5)[severity - 1]] * 2
        else:
            assert (lengths > 20).all()
            assert (lengths <= POINTS * (0.75 if name == "lidar" else 1)).all()
        for cloud, own in zip(out, real, strict=True):
            points = cloud[own]
            if CORRUPTIONS[name].frame == "box":
                low, high = points.amin(0), points.amax(0)
                assert (low + high).abs().max() < 1e-5
                assert (high - low).max() == pytest.approx(2, abs=1e-5)
            elif CORRUPTIONS[name].frame == "sphere":
                assert points.mean(0).abs().max() < 1e-5
                assert points.norm(dim=1).max() == pytest.approx(1, abs=1e-5)
    assert torch.equal(xyz, before)
    other, _ = corrupt(xyz, name, 3, generator=seeded(9))
    assert other.shape != out.shape or not torch.equal(other, out)


def chamfer(xyz: Tensor, corrupted: Clouds) -> float:
    """Mean distance to the nearest point of the other cloud, both ways."""
    there = knn(xyz, corrupted.xyz, 1, lengths=corrupted.lengths)[0].sqrt()
    back = knn(corrupted.xyz, xyz, 1)[0].sqrt()[..., 0]
    return float(there.mean() + back[corrupted.mask].mean())


# What density_inc leaves is as near to the clean cloud at any severity; it is told below.
GRADED = [name for name in NAMES if CORRUPTIONS[name].graded and name != "density_inc"]


@pytest.mark.parametrize("name", GRADED)
def test_a_higher_severity_is_farther_from_the_clean_cloud(name: str, dense: Tensor) -> None:
    """By the Chamfer distance before the renormalisation, mean of 10 objects."""
    xyz = given(name, dense)
    whole = Clouds(xyz, torch.ones(xyz.shape[:2], dtype=torch.bool))
    distances = [
        chamfer(xyz, CORRUPTIONS[name].apply(whole, each, Draws(xyz, seeded())).compact())
        for each in (1, 2, 3, 4, 5)
    ]
    assert distances[0] > 1e-4
    assert all(low < high for low, high in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("name", NAMES)
def test_neither_padding_nor_other_clouds_matter(name: str, dense: Tensor) -> None:
    xyz = given(name, dense)[:2].clone()
    mask = torch.rand(xyz.shape[:2], generator=seeded()) < 0.8
    out, real = corrupt(xyz, name, 4, mask=mask, generator=seeded())
    assert real is None or real.shape == out.shape[:2]
    xyz[~mask] = torch.nan
    again, real_again = corrupt(xyz, name, 4, mask=mask, generator=seeded())
    assert torch.equal(out, again)
    xyz[1] = dense[5, : xyz.shape[1]]
    other, real_other = corrupt(xyz, name, 4, mask=mask, generator=seeded())
    first = [
        rows[0] if own is None else rows[0][own[0]]
        for rows, own in ((again, real_again), (other, real_other))
    ]
    assert torch.equal(*first)
    assert not torch.equal(other[1], again[1][: other.shape[1]])


@pytest.mark.parametrize("name", NAMES)
def test_a_few_points_are_enough(name: str, dense: Tensor) -> None:
    for count in (1, 5, 40):
        out, mask = corrupt(dense[:2, :count], name, 5, generator=seeded())
        assert out.isfinite().all()
        assert mask is None or mask.any(1).all()


def test_points_of_a_line_hide_nothing() -> None:
    line = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    assert visible_points(line[None], torch.tensor([[0.0, 0.0, 3.0]])).all()


def test_double_precision_is_kept(clouds: Tensor) -> None:
    for name in NAMES:
        assert corrupt(clouds[:1, :64].double(), name, 2)[0].dtype == torch.float64


def test_noise_is_as_large_as_defined(clouds: Tensor) -> None:
    for severity in (1, 5):
        shift = applied(clouds, "uniform", severity) - clouds
        assert 0.0099 * severity < float(shift.abs().max()) <= 0.01 * severity + 1e-6
        std = float((applied(clouds, "jitter", severity) - clouds).std())
        assert std == pytest.approx(0.01 * severity, rel=0.02)
        shift = applied(clouds, "impulse", severity) - clouds
        hit = (shift != 0).any(-1)
        assert hit.sum(1).tolist() == [POINTS // {1: 30, 5: 10}[severity]] * len(clouds)
        assert torch.allclose(shift[hit].abs(), torch.tensor(0.1), atol=1e-6)
    shift = applied(clouds, "gaussian", 5) - clouds
    assert float(shift.std()) == pytest.approx(0.03, rel=0.03)
    assert float(applied(clouds * 1.2, "gaussian", 5).abs().max()) == 1
    copies = applied(clouds, "upsampling", 5)[:, POINTS:]
    sq_dist, _ = knn(copies, clouds, 1)
    assert 0.05 < float(sq_dist.sqrt().max()) <= 0.05 * math.sqrt(3)
    added = applied(clouds, "background", 5)[:, POINTS:]
    assert float(added.abs().max()) == pytest.approx(1, abs=0.02)
    assert float(added.norm(dim=-1).max()) > 1.2  # the cube, not the ball
    assert float(applied(clouds, "add_global", 5)[:, POINTS:].norm(dim=-1).max()) <= 1
    assert float(applied(clouds, "add_local", 5)[:, POINTS:].norm(dim=-1).max()) <= 1


def test_turns_are_rotations_by_small_angles(clouds: Tensor) -> None:
    basis = torch.eye(3, dtype=torch.float64).expand(2000, 3, 3)
    for name, severity, low, high in (
        ("rotation", 1, 0.0, 5 * math.sqrt(3) * 1.05),
        ("rotation", 5, 12.5, 17.5 * math.sqrt(3) * 1.05),
        ("rotate", 5, 0.0, 30 * math.sqrt(3) * 1.05),
    ):
        matrices = applied(basis, name, severity)
        assert torch.allclose(matrices @ matrices.mT, basis, atol=1e-12)
        assert (torch.linalg.det(matrices) > 0).all()
        trace = matrices.diagonal(dim1=1, dim2=2).sum(1)
        angle = ((trace - 1) / 2).clamp(-1, 1).acos().rad2deg()
        assert low - 1e-6 <= float(angle.min())
        assert float(angle.max()) <= high
        assert float(angle.max()) > 0.8 * high


def test_shear_leaves_the_height_and_stretch_the_axes(clouds: Tensor) -> None:
    sheared = applied(clouds, "shear", 4)
    assert torch.equal(sheared[..., 1], clouds[..., 1])
    basis = torch.eye(3, dtype=torch.float64).expand(500, 3, 3)
    share = (applied(basis, "shear", 4) - basis)[:, [0, 1, 1, 2], [2, 0, 2, 0]].abs()
    assert float(share.min()) >= 0.15
    assert 0.249 < float(share.max()) <= 0.25
    factor = applied(basis, "scale", 5)
    assert (factor[:, ~torch.eye(3, dtype=torch.bool)] == 0).all()
    size = factor.diagonal(dim1=1, dim2=2)
    assert 0.5 <= float(size.min()) < 0.52
    assert 1.98 < float(size.max()) <= 2


def test_free_form_deformation_is_that_of_bernstein() -> None:
    """The same sum, written as a loop over the lattice."""
    xyz = torch.rand(1, 4, 3, generator=seeded(), dtype=torch.float64) * 2 - 1
    shift = Draws(xyz, seeded()).uniform(1, 125, 3, low=-0.6, high=0.6).view(5, 5, 5, 3)
    expected = xyz.clone()
    for point in range(4):
        t = (xyz[0, point] + 1) / 2
        for place in itertools.product(range(5), repeat=3):
            weight = math.prod(
                math.comb(4, i) * float(t[axis]) ** i * (1 - float(t[axis])) ** (4 - i)
                for axis, i in enumerate(place)
            )
            expected[0, point] += weight * shift[place]
    assert torch.allclose(applied(xyz, "distortion", 3), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["distortion_rbf", "distortion_rbf_inv"])
def test_splines_go_through_the_moved_control_points(name: str) -> None:
    line = torch.linspace(-1, 1, 5)
    control = torch.cartesian_prod(line, line, line)[None]
    shift = applied(control, name, 4) - control
    assert torch.allclose(shift.norm(dim=-1), torch.tensor(0.1), atol=1e-4)
    assert float(shift.mean(1).norm()) < 0.05  # in every direction


def test_holes_are_holes(clouds: Tensor) -> None:
    """What is lost lies together: all of it within the ball of as many nearest points."""
    for name, size, lost in (("cutout", 30, 60), ("dropout_local", 100, 100)):
        out, _ = corrupt(clouds, name, 1, generator=seeded())
        for cloud, kept in zip(clouds, out, strict=True):
            gone = (cloud[:, None] != kept).any(-1).all(1)
            assert gone.sum() == lost
            near = knn(cloud[gone][None], cloud[gone][None], 10)[0][0].sqrt()
            usual = knn(cloud[None], cloud[None], 10)[0][0].sqrt()
            assert near.mean() < 1.6 * usual.mean(), (name, size)


def test_half_the_points_but_some_places_as_dense_as_before(dense: Tensor) -> None:
    out, mask = corrupt(dense, "density_inc", 2, generator=seeded())
    assert mask is None
    for cloud, kept in zip(dense, out, strict=True):
        clusters, others = kept[:200], kept[200:]
        assert (cloud[:, None] == clusters).all(-1).any(0).all()
        assert len(clusters.unique(dim=0)) == 200
        assert not (others[:, None] == clusters).all(-1).any()
        assert len(others.unique(dim=0)) < len(others)  # drawn with repetition


def test_density_stays_in_more_places(dense: Tensor) -> None:
    """By the share of points whose eighth neighbour is as near as it was, mean of 10 objects."""
    shares = []
    for severity in (1, 2, 3, 4, 5):
        out, _ = corrupt(dense, "density_inc", severity, generator=seeded())
        now, before = (knn(out, points, 9)[0][..., -1] for points in (out, dense))
        shares.append(float((now <= before).float().mean()))
    assert all(low + 0.02 < high for low, high in itertools.pairwise(shares)), shares


def sphere(count: int) -> Tensor:
    xyz = torch.randn(1, count, 3, generator=seeded())
    return xyz / xyz.norm(dim=-1, keepdim=True)


def test_what_a_camera_sees_of_a_sphere() -> None:
    """From distance 3 the cap of all points whose cosine to the camera exceeds 1/3."""
    xyz = sphere(2048)
    camera = torch.tensor([[0.0, 0.0, 3.0]])
    seen = visible_points(xyz, camera)[0]
    cosine = xyz[0, :, 2]
    assert seen[cosine > 0.4].float().mean() > 0.98
    assert seen[cosine < 0.2].float().mean() < 0.02
    mask = torch.arange(2048)[None] % 2 == 0
    assert not visible_points(xyz, camera, mask)[0, 1::2].any()


@pytest.mark.parametrize("name", ["occlusion", "lidar"])
def test_severities_are_sides(name: str) -> None:
    """A fifth of the circle each, from above, a LiDAR at 22.5 degrees and a camera at 30 to 60."""
    xyz = sphere(2048).expand(8, -1, -1)
    whole = Clouds(xyz, torch.ones(xyz.shape[:2], dtype=torch.bool))
    for severity in (1, 2, 3, 4, 5):
        seen = CORRUPTIONS[name].apply(whole, severity, Draws(xyz, seeded(severity)))
        side = (seen.xyz * seen.mask[..., None]).sum(1)
        turn = torch.atan2(side[:, 0], side[:, 2]) - 2 * math.pi * severity / 5
        turn = (turn + math.pi) % (2 * math.pi) - math.pi
        assert float(turn.abs().max()) < math.pi / 5 + 0.15
        assert float(turn.max() - turn.min()) > 0.3
        elevation = torch.atan2(side[:, 1], side[:, [0, 2]].norm(dim=-1)).rad2deg()
        low, high = (30, 60) if name == "occlusion" else (22.5, 22.5)
        assert low - 5 < float(elevation.min())
        assert float(elevation.max()) < high + 5


def cube() -> tuple[Tensor, Tensor]:
    """A cube of edge 4 around (5, 5, 5)."""
    corners = torch.cartesian_prod(*[torch.tensor([3.0, 7.0])] * 3)
    faces = [[0, 1, 3], [0, 3, 2], [4, 5, 7], [4, 7, 6], [0, 1, 5], [0, 5, 4],
             [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 3, 7], [1, 7, 5]]  # fmt: skip
    return corners, torch.tensor(faces)


def test_rays_meet_the_sides_of_a_mesh_that_face_the_sensor() -> None:
    vertices, faces = cube()
    # Severity 5 looks from +z, give or take 36 degrees, and from above.
    seen = scan_mesh(vertices, faces, "occlusion", 5, num_points=600, generator=seeded())
    assert seen.shape == (600, 3)
    assert torch.allclose(seen.abs().amax(1), torch.ones(600), atol=4e-3)
    assert (seen[:, 2] > 0.99).sum() > 100
    assert (seen[:, 1] > 0.99).sum() > 100
    assert not ((seen[:, 2] < -0.99) & (seen[:, 1] < 0.99)).any()
    again = scan_mesh(vertices, faces, "occlusion", 5, num_points=600, generator=seeded())
    assert torch.equal(seen, again)


def test_a_lidar_hits_a_mesh_in_rings() -> None:
    vertices, faces = cube()
    seen = scan_mesh(vertices, faces, "lidar", 5, num_points=1000, generator=seeded())
    assert seen.shape == (750, 3)
    azimuth = float(Draws(vertices, seeded()).uniform(1, low=-math.pi / 5, high=math.pi / 5))
    tilt = math.radians(22.5)
    sensor = 5 * torch.tensor(
        [math.cos(tilt) * math.sin(azimuth), math.sin(tilt), math.cos(tilt) * math.cos(azimuth)]
    )
    offset = seen - sensor
    angle = torch.acos(offset[:, 1] / offset.norm(dim=1)).rad2deg()
    place = angle - angle.min()
    assert (place - place.round()).abs().max() < 1e-2  # a degree apart
    assert 10 < len(place.round().unique()) < 40


def test_a_generator_on_the_cpu_is_enough(clouds: Tensor) -> None:
    draws = Draws(clouds.to("meta"), seeded())
    assert draws.source.type == "cpu"
    assert draws.uniform(2, 3).device.type == "meta"


def test_what_a_caller_can_get_wrong(clouds: Tensor) -> None:
    with pytest.raises(ValueError, match=r"name must be one of 'occlusion', .* got 'fog'"):
        corrupt(clouds, "fog", 1)
    with pytest.raises(ValueError, match=r"severity must be between 0 and 5, got 6"):
        corrupt(clouds, "shear", 6)
    with pytest.raises(ValueError, match=r"xyz must have shape \(B, N, 3\).* add a batch axis"):
        corrupt(clouds[0], "shear", 1)
    empty = torch.zeros(clouds.shape[:2], dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mask must keep a point of each cloud"):
        corrupt(clouds, "shear", 1, mask=empty)
    vertices, faces = cube()
    with pytest.raises(ValueError, match=r"name must be one of 'occlusion', 'lidar', got 'shear'"):
        scan_mesh(vertices, faces, "shear", 1)
    with pytest.raises(ValueError, match=r"severity must be between 1 and 5, got 0"):
        scan_mesh(vertices, faces, "lidar", 0)
    with pytest.raises(ValueError, match=r"no ray hits the mesh; is it thinner than a pixel"):
        scan_mesh(vertices, faces[:0], "lidar", 1)
