"""HDF5: clouds as named datasets at the root of a file or in a group."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ea_pointcloud.io.arrays import NAMES, points_from_arrays
from ea_pointcloud.io.common import DAMAGED, CloudFileError, Columns, Options, Points, listing

DEEPEST = 8  # group in groups


def read_hdf5(path: Path, options: Options) -> Points:
    """Read the datasets of :func:`points_from_arrays`; of several clouds only one.

    They are looked for at the root, and where that has none in the only group that has some.
    Nothing is read from other files, to which links, external and virtual datasets point.

    For the guarded process alone: a damaged file can take the HDF5 library down.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            groups = dict(_groups(path, file, "", DEEPEST))
            held = [name for name, arrays in groups.items() if _has_coordinates(arrays)]
            if len(held) > 1 and "" not in held:
                raise CloudFileError(
                    f"{path.name}: its groups {listing(held)} hold a cloud each; save each of "
                    "them in a file of its own"
                )
            arrays = groups["" if "" in held or not held else held[0]]
            if not held and len(groups) > 1:  # an error, which lists what there is
                arrays = {f"{group}/{name}".strip("/"): array for group, found in groups.items()
                          for name, array in found.items()}  # fmt: skip
            return points_from_arrays(path, arrays, options)
    except CloudFileError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CloudFileError(
            f"{path.name}: damaged or not an HDF5 file ({str(error)[:100]}); {DAMAGED}"
        ) from error


def _has_coordinates(arrays: dict[str, Any]) -> bool:
    names = {name.lower() for name in arrays}
    return bool(names & set(NAMES["xyz"])) or names >= {"x", "y", "z"}


def _groups(path: Path, group: Any, name: str, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each group with its datasets, outer ones first."""
    import h5py

    arrays, inner = {}, []
    for key in group:
        if isinstance(group.get(key, getlink=True), h5py.ExternalLink):
            raise _elsewhere(path, key)
        item = group.get(key)
        # A soft link may lead through an external one that lies deeper than what is listed.
        if item is not None and item.file.filename != group.file.filename:
            raise _elsewhere(path, key)
        # A dataset without a shape holds nothing, not even zero rows.
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            if item.is_virtual or item.external:
                raise _elsewhere(path, key)
            arrays[str(key)] = item
        elif isinstance(item, h5py.Group) and depth > 0:
            inner.append((str(key), item))
    yield name, arrays
    for key, item in inner:
        yield from _groups(path, item, f"{name}/{key}".strip("/"), depth - 1)


def _elsewhere(path: Path, name: str) -> CloudFileError:
    return CloudFileError(
        f"{path.name}: {name!r} is in another file, which is not read; copy it into this one"
    )


def encode_hdf5(columns: Columns) -> bytes:
    """All parts, each a dataset of its own."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in columns.items():
            file[name.replace("/", "_")] = values
    return buffer.getvalue()
