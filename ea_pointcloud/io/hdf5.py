"""HDF5: clouds as named datasets at the root of a file."""

import io
from pathlib import Path

from ea_pointcloud.io.arrays import points_from_arrays
from ea_pointcloud.io.common import CloudFileError, Columns, Points


def read_hdf5(path: Path, index: int | None) -> Points:
    """Read the datasets of :func:`points_from_arrays`; of several clouds only number ``index``.

    For the guarded process alone: a damaged file can take the HDF5 library down.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            items = {str(name): file.get(name) for name in file}
            # One without a shape holds nothing, not even zero rows.
            arrays = {
                name: item
                for name, item in items.items()
                if isinstance(item, h5py.Dataset) and item.shape is not None
            }
            return points_from_arrays(path, arrays, index)
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CloudFileError(
            f"{path.name}: damaged or not an HDF5 file ({error}); copy it again"
        ) from error


def encode_hdf5(columns: Columns) -> bytes:
    """All parts, each a dataset of its own."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return buffer.getvalue()
