"""Corruptions that move every point: rotation, shear, scale and smooth distortion."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ea_pointcloud.robustness._clouds import Clouds, Draws

_GRID = 5  # control points along an edge of the cube from -1 to 1
_RBF_RADIUS = 0.5  # of the splines
_EXACT = "donot_use_mm_for_euclid_dist"


def rotation(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``rotation``: about x, y, z in turn, by the severity's angle and either sign."""
    degrees = (2.5, 5, 7.5, 10, 15)[severity - 1]
    batch = len(clouds.xyz)
    size = draws.uniform(batch, 3, low=degrees - 2.5, high=degrees + 2.5).deg2rad()
    rotations = _rotations(size * draws.sign(batch, 3))
    return clouds.moved(clouds.xyz @ rotations[0] @ rotations[1] @ rotations[2])


def rotate(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet-C ``rotate``: about z, y, x in turn, each by up to 6 degrees times the severity."""
    limit = math.radians(6 * severity)
    rotations = _rotations(draws.uniform(len(clouds.xyz), 3, low=-limit, high=limit))
    return clouds.moved(clouds.xyz @ rotations[2] @ rotations[1] @ rotations[0])


def shear(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``shear``: a part of each of the other two is added to x and z, y stays."""
    size = 0.05 * severity
    batch = len(clouds.xyz)
    factor = draws.uniform(batch, 4, low=size - 0.05, high=size + 0.05) * draws.sign(batch, 4)
    x, y, z = clouds.xyz.unbind(-1)
    a, b, c, d = factor[..., None].unbind(1)  # (B, 1) each
    return clouds.moved(torch.stack([x + a * y + b * z, y, z + c * x + d * y], dim=-1))


def scale(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet-C ``scale``: each axis by its own factor from U(1 / s, s)."""
    most = (1.6, 1.7, 1.8, 1.9, 2.0)[severity - 1]
    factor = draws.uniform(len(clouds.xyz), 1, 3, low=1 / most, high=most)
    return clouds.moved(clouds.xyz * factor)


def distortion(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``distortion``: free-form deformation by a lattice of 5 x 5 x 5 points.

    Each is moved along each axis by up to 0.1 times the severity of the cube's edge, which is 2.

    Reference:
        Sederberg and Parry, Free-form deformation of solid geometric models, SIGGRAPH 1986.
    """
    reach = 2 * 0.1 * severity
    shift = draws.uniform(len(clouds.xyz), _GRID**3, 3, low=-reach, high=reach)
    at = ((clouds.xyz + 1) / 2).clamp(0, 1)[..., None]  # (B, N, 3, 1)
    power = torch.arange(_GRID, device=at.device)
    binomial = torch.tensor([math.comb(_GRID - 1, i) for i in range(_GRID)], device=at.device)
    bernstein = binomial * at**power * (1 - at) ** (_GRID - 1 - power)  # (B, N, 3, 5)
    x, y, z = bernstein.unbind(2)
    weight = torch.einsum("bni,bnj,bnk->bnijk", x, y, z).flatten(2)  # (B, N, 125)
    return clouds.moved(clouds.xyz + weight @ shift)


def distortion_rbf(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``distortion_rbf``: multiquadric splines through moved control points."""
    return _splines(clouds, severity, draws, inverse=False)


def distortion_rbf_inv(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``distortion_rbf_inv``: the same with inverse multiquadric splines."""
    return _splines(clouds, severity, draws, inverse=True)


def _splines(clouds: Clouds, severity: int, draws: Draws, *, inverse: bool) -> Clouds:
    """Each of 5 x 5 x 5 control points moves by 0.025 times the severity; splines follow it."""
    xyz = clouds.xyz
    shape = (len(xyz), _GRID**3)
    azimuth = draws.uniform(*shape, low=-math.pi, high=math.pi)
    polar = draws.uniform(*shape, low=-math.pi, high=math.pi)
    direction = torch.stack(
        [azimuth.cos() * polar.sin(), azimuth.sin() * polar.sin(), polar.cos()], dim=-1
    )
    control, solution = _spline_system(inverse)
    moved = 0.025 * severity * direction.double()
    weight = (solution.to(xyz.device) @ moved).to(xyz.dtype)  # (B, 129, 3)
    control = control.to(xyz).expand(len(xyz), -1, -1)
    distance = torch.cdist(xyz, control, compute_mode=_EXACT)  # (B, N, 125)
    basis = torch.cat([_basis(distance, inverse), torch.ones_like(xyz[..., :1]), xyz], dim=-1)
    return clouds.moved(xyz + basis @ weight)


@lru_cache(maxsize=2)
def _spline_system(inverse: bool) -> tuple[Tensor, Tensor]:
    """Control points (125, 3), and (129, 125) from their shifts to the weights of the splines.

    The last four weights are those of 1, x, y, z.
    """
    line = torch.linspace(-1, 1, _GRID, dtype=torch.float64)
    control = torch.cartesian_prod(line, line, line)
    affine = torch.cat([torch.ones_like(control[:, :1]), control], dim=1)  # (125, 4)
    distance = torch.cdist(control, control, compute_mode=_EXACT)
    top = torch.cat([_basis(distance, inverse), affine], dim=1)
    bottom = torch.cat([affine.T, affine.new_zeros(4, 4)], dim=1)
    return control, torch.linalg.inv(torch.cat([top, bottom]))[:, : len(control)]


def _basis(distance: Tensor, inverse: bool) -> Tensor:
    root = (distance.square() + _RBF_RADIUS**2).sqrt()
    return 1 / root if inverse else root


def _rotations(angle: Tensor) -> list[Tensor]:
    """(B, 3, 3) about x, about y and about z, for rows of points; ``angle`` (B, 3) in radians."""
    cos, sin = angle.cos(), angle.sin()
    rotations = []
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        matrix = torch.zeros(len(angle), 3, 3, device=angle.device, dtype=angle.dtype)
        matrix[:, axis, axis] = 1
        matrix[:, first, first] = matrix[:, second, second] = cos[:, axis]
        matrix[:, first, second], matrix[:, second, first] = sin[:, axis], -sin[:, axis]
        rotations.append(matrix)
    return rotations
