"""Selecting the smallest of many keys, for both searches.

A candidate is a key, the bit pattern of its squared distance above its index, so that one integer
comparison is that of (distance, index).
"""

import numpy as np

from ea_pointcloud.ops._cpu._cloud import LEAF
from ea_pointcloud.ops._cpu._kernel import (
    ABOVE,
    INFINITY,
    bits,
    kernel,
    lowest_bit,
    num_bits,
    within,
)

# Every key of a valid point lies below it.
LAST_KEY = (INFINITY + 1) << 32
# Counting the smaller keys of each key is faster up to this number of them, sorting above.
COUNTED = 192


@kernel
def make_key(distance, index):
    """(distance, index) as one integer."""
    return (np.int64(distance) << 32) | np.int64(index)


@kernel
def measure(planes, leaf, x, y, z, sq_bits, row):
    """Bit patterns of the squared distances from a query to a leaf; NaN in the padding."""
    for n in range(LEAF):
        dx, dy, dz = x - planes[0, leaf, n], y - planes[1, leaf, n], z - planes[2, leaf, n]
        sq_bits[row, n] = bits(dx * dx + dy * dy + dz * dz)


@kernel
def sufficient(k):
    """The number of candidates that suffices for k: a closer cut would cost more steps."""
    return k + k // 4 + 4


@kernel
def column_rows(k, leaves):
    """Rows of 64 columns for :func:`first_candidates`: few of k points share a column."""
    return min(leaves, (4 * k + LEAF - 1) // LEAF)


@kernel
def _cut(minima, rows, k):
    """A distance that at least k of the minima do not exceed, and few more."""
    low = high = minima[0, 0]
    for row in range(rows):
        for n in range(LEAF):
            low = min(low, minima[row, n])
            high = max(high, minima[row, n])
    low, high = low - np.int32(1), min(high, np.int32(INFINITY))
    while high - low > 1:
        middle = low + (high - low) // np.int32(2)
        count = 0
        for row in range(rows):
            count += num_bits(within(minima, row, middle))
        if count < k:
            low = middle
        else:
            high = middle
            if count <= sufficient(k):
                break
    return high


@kernel
def gather_keys(sq_bits, row, limit, index, leaf, keys, count):
    """Append the keys of a leaf's points within ``limit`` to keys[:count]; returns the number."""
    mask = within(sq_bits, row, limit)
    found = num_bits(mask)
    # Fours are easier to predict than the end itself; what is written past it is overwritten.
    for start in range(0, found, 4):
        for j in range(4):
            n = lowest_bit(mask) & np.uint64(LEAF - 1)
            mask &= mask - np.uint64(1)
            keys[count + start + j] = make_key(sq_bits[row, n], index[leaf, n])
    return count + found


@kernel
def first_candidates(planes, index, first, last, x, y, z, k, sq_bits, minima, keys):
    """Collect keys from leaves first..last, all of the k nearest and few more; returns how many.

    Points whose positions differ by a multiple of the number of columns share a column. If k
    columns have their smallest distance within the cut, then at least k points lie within it.
    """
    rows = column_rows(k, last - first)
    for row in range(rows):
        for n in range(LEAF):
            minima[row, n] = INFINITY + 1
    row = 0
    for leaf in range(first, last):
        measure(planes, leaf, x, y, z, sq_bits, leaf - first)
        for n in range(LEAF):
            minima[row, n] = min(minima[row, n], sq_bits[leaf - first, n])
        row = row + 1 if row + 1 < rows else 0
    cut = _cut(minima, rows, k)
    count = 0
    for leaf in range(first, last):
        count = gather_keys(sq_bits, leaf - first, cut, index, leaf, keys, count)
    return count


@kernel
def shrink(keys, count, k):
    """Drop all but the k smallest of keys[:count] and few more; returns how many stay."""
    if count <= sufficient(k):
        return count
    low = high = keys[0]
    for i in range(count):
        low = min(low, keys[i])
        high = max(high, keys[i])
    low -= 1
    while high - low > 1:
        middle = low + (high - low) // 2
        below = 0
        for i in range(count):
            below += np.int64(keys[i] <= middle)
        if below < k:
            low = middle
        else:
            high = middle
            if below <= sufficient(k):
                break
    kept = 0
    for i in range(count):
        key = keys[i]
        keys[kept] = key
        kept += key <= high
    return kept


@kernel
def _sort(keys, count):
    """Shell's sort of keys[:count]; np.sort takes longer to compile than all the rest."""
    stride = 1
    while 3 * stride < count:
        stride = 3 * stride + 1
    while stride > 0:
        for i in range(stride, count):
            key = keys[i]
            while i >= stride and keys[i - stride] > key:
                keys[i] = keys[i - stride]
                i -= stride
            keys[i] = key
        stride //= 3


@kernel
def sort_keys(keys, count, table, ordered, size):
    """Write the ``size`` smallest of keys[:count] to ``ordered``, ascending."""
    if count > COUNTED:
        _sort(keys, count)
        for rank in range(size):
            ordered[rank] = keys[rank]
        return
    rows = (count + LEAF - 1) // LEAF
    distances = table.reshape(-1)
    for i in range(count):
        distances[i] = np.int32(keys[i] >> 32)
    for i in range(count, rows * LEAF):
        distances[i] = ABOVE
    for rank in range(size):
        ordered[rank] = LAST_KEY
    for i in range(count):
        key = keys[i]
        rank = 0
        for row in range(rows):
            rank += num_bits(within(table, row, distances[i] - np.int32(1)))
        # Equal distances start at the same position, where the lower index goes first.
        while rank < size and ordered[rank] != LAST_KEY:
            key, ordered[rank] = max(key, ordered[rank]), min(key, ordered[rank])
            rank += 1
        if rank < size:
            ordered[rank] = key


@kernel
def largest(keys, count):
    """The largest of keys[:count]."""
    key = keys[0]
    for i in range(count):
        key = max(key, keys[i])
    return key
