"""The operators of the package in ONNX: the same integers as all other implementations.

Written in onnxscript, in the opset that torch's exporter builds in. A file knows no padding, and
coordinates have to be finite.
"""

# The annotations of onnxscript describe graphs, not what is passed around in Python.
# pyright: reportArgumentType=false, reportReturnType=false, reportGeneralTypeIssues=false
# pyright: reportOptionalIterable=false

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import FLOAT, INT64, graph, script
from onnxscript import opset18 as op

OPSET = 18  # of torch's own translations


@script()
def pick_in_turn(
    xyz: FLOAT[None, None, 3], num_samples: INT64[1], start: INT64[None]
) -> INT64[None, None]:
    """(B, N, 3), how many, (B,) -> (B, S), as ``farthest_point_sample``."""
    planes = op.Transpose(xyz, perm=[0, 2, 1])
    one = op.Constant(value_ints=[1])
    num_points = op.Shape(planes, start=2, end=3)
    nothing = op.Constant(value_float=float("inf"))
    farthest = op.Expand(nothing, op.Concat(op.Shape(start), num_points, axis=0))  # (B, N)
    first = op.Unsqueeze(start, one)  # (B, 1)
    picked = op.Expand(op.Constant(value_float=-1.0), op.Shape(first))

    @graph()
    def pick(farthest_before, last, step):
        where = op.Expand(op.Unsqueeze(last, one), op.Constant(value_ints=[1, 3, 1]))
        offset = op.Sub(planes, op.GatherElements(planes, where, axis=2))  # (B, 3, N)
        dx, dy, dz = op.Split(op.Mul(offset, offset), num_outputs=3, axis=1)
        sq_dist = op.Squeeze(op.Add(op.Add(dx, dy), dz), one)
        nearer = op.Min(farthest_before, sq_dist)
        farthest_after = op.ScatterElements(nearer, last, picked, axis=1)
        following = op.ArgMax(farthest_after, axis=1, keepdims=1)  # the first of equal maxima
        return farthest_after, following, op.Squeeze(last, one)

    rounds = op.Squeeze(op.Min(num_samples, num_points))
    steps = op.Range(op.Constant(value_int=0), rounds, op.Constant(value_int=1))
    _, _, order = op.Scan(
        farthest, first, steps, body=pick, num_scan_inputs=1, scan_output_axes=[1]
    )
    # Where there are fewer points than samples, the order repeats.
    index = op.Range(op.Constant(value_int=0), op.Squeeze(num_samples), op.Constant(value_int=1))
    return op.Gather(order, op.Mod(index, rounds), axis=1)


@script()
def nearest(
    query: FLOAT[None, None, 3], points: FLOAT[None, None, 3], k: INT64[1]
) -> tuple[FLOAT[None, None, None], INT64[None, None, None]]:
    """(B, S, 3), (B, N, 3), how many -> (B, S, K) squared distances and indices, as ``knn``."""
    planes = op.Unsqueeze(op.Transpose(points, perm=[0, 2, 1]), op.Constant(value_ints=[1]))
    offset = op.Sub(op.Unsqueeze(query, op.Constant(value_ints=[3])), planes)  # (B, S, 3, N)
    dx, dy, dz = op.Split(op.Mul(offset, offset), num_outputs=3, axis=2)
    sq_dist = op.Squeeze(op.Add(op.Add(dx, dy), dz), op.Constant(value_ints=[2]))
    there = op.Min(k, op.Shape(points, start=1, end=2))
    # Sorted, ties to the lowest index first, as the standard defines TopK.
    value, idx = op.TopK(sq_dist, there, axis=2, largest=0, sorted=1)
    # Where there are fewer points than neighbours, the nearest repeats.
    index = op.Range(op.Constant(value_int=0), op.Squeeze(k), op.Constant(value_int=1))
    index = op.Where(op.Less(index, there), index, op.Sub(index, index))
    return op.Gather(value, index, axis=2), op.Gather(idx, index, axis=2)


def _farthest_point_sample(xyz: Any, num_samples: Any, lengths: Any, start: Any) -> Any:
    _refuse_padding(lengths)
    return pick_in_turn(xyz, _count(num_samples), start)


def _knn(query: Any, points: Any, k: Any, lengths: Any) -> Any:
    _refuse_padding(lengths)
    return nearest(query, points, _count(k))


def _gather(features: Any, idx: Any, offset: Any) -> Any:
    rows = op.GatherND(features, op.Unsqueeze(idx, op.Constant(value_ints=[3])), batch_dims=1)
    if offset is None:
        return rows
    return op.Add(rows, op.Unsqueeze(offset, op.Constant(value_ints=[2])))


def _interpolate(features: Any, idx: Any, weight: Any) -> Any:
    weighted = op.Mul(
        _gather(features, idx, None), op.Unsqueeze(weight, op.Constant(value_ints=[3]))
    )
    return op.ReduceSum(weighted, op.Constant(value_ints=[2]), keepdims=0)


def _count(value: Any) -> Any:
    """A count as (1,), constant or computed when the file runs."""
    if isinstance(value, int):
        return op.Constant(value_ints=[value])
    return op.Reshape(value, op.Constant(value_ints=[1]))


def _refuse_padding(lengths: Any) -> None:
    if lengths is not None:
        raise ValueError("lengths cannot be exported; export the network without a mask")


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What torch's exporter writes for each operator that a network uses."""
    operators = torch.ops.ea_pointcloud
    return {
        operators.farthest_point_sample.default: _farthest_point_sample,
        operators.knn.default: _knn,
        operators.gather.default: _gather,
        operators.interpolate.default: _interpolate,
    }
