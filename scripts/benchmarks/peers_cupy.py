"""The classic kernel of farthest point sampling on CUDA, compiled through CuPy."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scripts.benchmarks.cases import Case, Inputs

# The structure of the kernels that compiled extensions have carried since PointNet++: one block of
# 512 threads a cloud, distances in global memory, a tree reduction in shared memory for each pick.
CLASSIC_FPS = r"""
extern "C" __global__ void classic_fps(const float* __restrict__ xyz, float* __restrict__ closest,
                                       long long* __restrict__ idx, int num_points,
                                       int num_samples) {
    __shared__ float best[512];
    __shared__ int place[512];
    const int thread = threadIdx.x;
    xyz += (size_t)blockIdx.x * num_points * 3;
    closest += (size_t)blockIdx.x * num_points;
    idx += (size_t)blockIdx.x * num_samples;
    for (int i = thread; i < num_points; i += 512) closest[i] = 1e38f;
    int last = 0;
    if (thread == 0) idx[0] = 0;
    for (int pick = 1; pick < num_samples; ++pick) {
        const float x = xyz[3 * last], y = xyz[3 * last + 1], z = xyz[3 * last + 2];
        float farthest = -1.0f;
        int at = 0;
        for (int i = thread; i < num_points; i += 512) {
            const float dx = xyz[3 * i] - x, dy = xyz[3 * i + 1] - y, dz = xyz[3 * i + 2] - z;
            const float d = fminf(dx * dx + dy * dy + dz * dz, closest[i]);
            closest[i] = d;
            if (d > farthest) { farthest = d; at = i; }
        }
        best[thread] = farthest;
        place[thread] = at;
        __syncthreads();
        for (int half = 256; half > 0; half >>= 1) {
            if (thread < half && best[thread + half] > best[thread]) {
                best[thread] = best[thread + half];
                place[thread] = place[thread + half];
            }
            __syncthreads();
        }
        last = place[0];
        if (thread == 0) idx[pick] = last;
        __syncthreads();
    }
}
"""


def classic_fps(case: Case, inputs: Inputs, cupy: ModuleType) -> dict[str, Callable[[], Any]]:
    """Farthest point sampling by :data:`CLASSIC_FPS`, on torch's current stream."""
    kernel = cupy.RawKernel(CLASSIC_FPS, "classic_fps")
    xyz = inputs.points

    def sample() -> Tensor:
        closest = torch.empty(xyz.shape[:2], device=xyz.device)
        idx = torch.empty(case.batch, case.num_queries, dtype=torch.long, device=xyz.device)
        sizes = cupy.int32(case.num_points), cupy.int32(case.num_queries)
        pointers = (tensor.data_ptr() for tensor in (xyz, closest, idx))
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            kernel((case.batch,), (512,), (*pointers, *sizes))
        return idx

    return {"": sample}
