"""Write three files as a user would have them: a PLY cloud, an OFF mesh, a NPY array."""

import sys
from pathlib import Path

import numpy as np
import torch

from ea_pointcloud.datasets.procedural import generate_mesh
from ea_pointcloud.io import Cloud, write_cloud, write_mesh
from ea_pointcloud.ops import sample_surface


def main(folder: Path) -> None:
    """Draw objects from a seed that no split of the data set uses, in units of their own."""
    generator = torch.Generator().manual_seed(20261122)
    for name, unit, offset in (("airplane.ply", 12.0, 500.0), ("car.npy", 0.1, 0.0)):
        mesh = generate_mesh(name.split(".")[0], generator)
        points, _ = sample_surface(mesh.vertices, mesh.faces, 4000, generator=generator)
        xyz = points.numpy() * unit
        if name.endswith(".npy"):
            np.save(folder / name, xyz)
        else:
            cloud = Cloud(xyz, center=np.full(3, offset))
            write_cloud(folder / name, cloud, overwrite=True)
    mesh = generate_mesh("chair", generator)
    x, y, z = mesh.vertices.unbind(-1)
    z_up = torch.stack([-x, z, y], dim=-1) * 45.0  # as OFF files mostly are
    write_mesh(folder / "chair.off", z_up, mesh.faces, overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
