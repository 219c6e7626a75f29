"""External attention in kernels, where these serve it.

That is on CUDA from compute capability 8.0, for memories of up to 32,768 values and 256 slots in
one dtype up to float32 (of 128 channels at most, where it may not take TF32). The kernels read the
features twice and write once, and never store the (N, M) weights.
"""

import torch
from torch import Tensor

from ea_pointcloud._device import tf32_allowed
from ea_pointcloud.ops import _backend

# Where the kernels gain: beyond, each program would read a tile of points more than four times, and
# without tensor cores the products alone take longer than all the memory traffic that is saved.
_KERNEL_SLOTS = 256
_KERNEL_VALUES = 32768  # of a memory, 64 x 512
_KERNEL_EXACT_CHANNELS = 128


def attend_in_kernels(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    mask: Tensor | None,
    norm: str,
    key_bias: Tensor | None,
    lse: Tensor | None,
) -> Tensor | None:
    """``external_attention`` of checked arguments; None where no kernel serves it."""
    if torch.compiler.is_exporting() or not _backend.has_attention(features.device):
        return None
    dtype = _common_dtype(features, key_memory, value_memory, key_bias)
    if dtype is None or not _kernels_serve(key_memory, dtype) or not features.numel():
        return None
    by_head = features if features.ndim == 4 else features[:, :, None]  # (B, N, H, C)
    shape = (len(features), by_head.shape[2], len(key_memory))
    if norm == "softmax":  # the double normalisation that subtracts nothing
        lse = features.new_zeros(shape, dtype=torch.float32)
    elif lse is not None:
        lse = lse.float().expand(len(features), *lse.shape[1:]).reshape(shape)
    out, _ = torch.ops.ea_pointcloud.attend(
        by_head.to(dtype),
        key_memory.to(dtype),
        value_memory.to(dtype),
        None if key_bias is None else key_bias.to(dtype),
        mask,
        lse,
    )
    return out.reshape(features.shape).to(features.dtype)


def _common_dtype(features: Tensor, *memories: Tensor | None) -> torch.dtype | None:
    """What the products run in, or None where plain PyTorch has to report the mismatch."""
    dtypes = {tensor.dtype for tensor in (features, *memories) if tensor is not None}
    device = features.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in dtypes:
        return torch.get_autocast_dtype(device)
    return features.dtype if len(dtypes) == 1 else None


def _kernels_serve(key_memory: Tensor, dtype: torch.dtype) -> bool:
    slots, channels = key_memory.shape
    if dtype == torch.float32:
        fits = channels <= _KERNEL_EXACT_CHANNELS or tf32_allowed()
    else:
        fits = dtype in (torch.float16, torch.bfloat16)
    return fits and 0 < slots <= _KERNEL_SLOTS and 0 < slots * channels <= _KERNEL_VALUES
