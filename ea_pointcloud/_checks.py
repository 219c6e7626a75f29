"""Argument checks shared by the package; the wording of the errors lives here and nowhere else."""

import os
from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor


def values_readable(tensor: Tensor) -> bool:
    """Whether a check may look at the values of ``tensor``.

    Reading a device tensor would stall its stream, and a traced one has no values; there the
    caller vouches for them. ``EA_POINTCLOUD_CHECK_VALUES=1`` in the environment has device tensors
    read too: an index out of range would silently read another cloud there.
    """
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type == "cpu" or os.environ.get("EA_POINTCLOUD_CHECK_VALUES") == "1"


def check_xyz(name: str, xyz: Tensor, letters: str = "(B, N, 3)") -> None:
    """Raise unless ``xyz`` is a floating point tensor of shape ``letters`` with N >= 1."""
    if not isinstance(xyz, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(xyz).__name__}; convert with torch.as_tensor"
        )
    if xyz.ndim == 2 and xyz.shape[-1] == 3:
        raise ValueError(
            f"{name} must have shape {letters}, got {tuple(xyz.shape)}; "
            f"add a batch axis with {name}[None]"
        )
    if xyz.ndim != 3 or xyz.shape[-1] != 3:
        raise ValueError(f"{name} must have shape {letters}, got {tuple(xyz.shape)}")
    if not xyz.is_floating_point():
        raise TypeError(
            f"{name} must be floating point, got {xyz.dtype}; convert with {name}.float()"
        )
    if xyz.shape[1] == 0:
        raise ValueError(
            f"{name} has no points (shape {tuple(xyz.shape)}); drop empty clouds first"
        )


def check_features(name: str, features: Tensor, like: Tensor | None = None) -> None:
    """Raise unless ``features`` is (B, N, C), with the B and N of ``like`` where one is given."""
    if not isinstance(features, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(features).__name__}; use torch.as_tensor"
        )
    if features.ndim != 3:
        raise ValueError(f"{name} must have shape (B, N, C), got {tuple(features.shape)}")
    if like is not None and features.shape[:2] != like.shape[:2]:
        raise ValueError(
            f"{name} must have B, N = {tuple(like.shape[:2])} as the points, "
            f"got {tuple(features.shape[:2])}"
        )


def check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    """Raise unless ``tensor`` is on the device of ``like``."""
    if tensor.device != like.device:
        raise ValueError(
            f"{name} must be on {like.device} as the points, got {tensor.device}; use .to()"
        )


def check_pair(query: Tensor, points: Tensor) -> None:
    """Raise unless ``query`` (B, S, 3) and ``points`` (B, N, 3) belong together."""
    check_xyz("query", query, "(B, S, 3)")
    check_xyz("points", points)
    if query.shape[0] != points.shape[0]:
        raise ValueError(
            f"query and points must have the same B, got {query.shape[0]} and {points.shape[0]}"
        )
    if query.device != points.device:
        raise ValueError(
            f"query and points must be on one device, got {query.device} and {points.device}; "
            "move one with .to()"
        )


def check_lengths(lengths: Tensor | None, xyz: Tensor) -> None:
    """Raise unless ``lengths`` is (B,) integers in 1..N; the values are read on the CPU only."""
    if lengths is None:
        return
    batch, num_points = xyz.shape[:2]
    if lengths.shape != (batch,):
        raise ValueError(f"lengths must have shape (B,) = ({batch},), got {tuple(lengths.shape)}")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be integers, got {lengths.dtype}; convert with .long()")
    check_device("lengths", lengths, xyz)
    if values_readable(lengths) and not bool(((lengths >= 1) & (lengths <= num_points)).all()):
        raise ValueError(
            f"lengths must be between 1 and N={num_points}, got {lengths.tolist()}; "
            "drop empty clouds first"
        )


def check_mask(mask: Tensor | None, features: Tensor) -> None:
    """Raise unless ``mask`` is (B, N) bool for ``features`` (B, N, ...)."""
    if mask is None:
        return
    if mask.shape != features.shape[:2]:
        raise ValueError(
            f"mask must have shape (B, N) = {tuple(features.shape[:2])}, got {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool with True for a real point, got {mask.dtype}")


def real_points(mask: Tensor | None, features: Tensor) -> Tensor:
    """The checked ``mask`` (B, N) of ``features`` (B, N, ...); all points are real without one."""
    check_mask(mask, features)
    if mask is None:
        return torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    return mask


def check_no_empty_cloud(mask: Tensor | None) -> None:
    """Raise where a cloud has no real point; the values are read on the CPU only."""
    if mask is not None and values_readable(mask) and not bool(mask.any(1).all()):
        raise ValueError("mask must keep a point of each cloud; drop empty clouds first")


def check_range(name: str, value: int, low: int, high: int, high_name: str = "") -> None:
    """Raise unless ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not low <= value <= high:
        limit = f"{high_name}={high}" if high_name else str(high)
        raise ValueError(f"{name} must be between {low} and {limit}, got {value}")


def check_count(name: str, value: int, low: int = 1) -> None:
    """Raise unless ``value`` is an int of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    check_at_least(name, value, low)


def check_at_least(name: str, value: float, low: float) -> None:
    """Raise unless ``value >= low``."""
    if not value >= low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def check_fraction(name: str, value: float) -> None:
    """Raise unless ``0 <= value < 1``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Raise unless ``value`` is above 0 and at most 1."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}")


def check_probability(name: str, value: float) -> None:
    """Raise unless ``0 <= value <= 1``."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be at least 0 and at most 1, got {value}")


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value > 0``."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless ``value`` is one of ``choices``; the message lists them."""
    known: Sequence[object] = list(choices)
    if value not in known:
        listed = ", ".join(repr(choice) for choice in known)
        raise ValueError(f"{name} must be one of {listed}, got {value!r:.100}")
