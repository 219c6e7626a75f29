"""Name the class of a cloud with an exported network: numpy and onnxruntime, nothing else.

python scripts/onnx_example.py shapes.onnx chair.off z     # the axis that is up in the file
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

UP = {"x": ((1, -1), (0, 1), (2, 1)), "y": ((0, 1), (1, 1), (2, 1)), "z": ((0, -1), (2, 1), (1, 1))}


def read(path: Path, count: int = 4096) -> np.ndarray:
    """(N, 3) points of a text file or .npy, or drawn by area from the triangles of an .off."""
    if path.suffix == ".npy":
        return np.load(path)[:, :3].astype(np.float64)
    if path.suffix != ".off":
        return np.loadtxt(path, ndmin=2)[:, :3]
    words = path.read_text().replace("OFF", "", 1).split()
    vertices, faces = int(words[0]), int(words[1])
    corners = np.array(words[3 : 3 + 3 * vertices], float).reshape(-1, 3)
    rows = np.array(words[3 + 3 * vertices :][: 4 * faces], int).reshape(-1, 4)
    a, b, c = (corners[rows[:, column]] for column in (1, 2, 3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(area), count, p=area / area.sum())
    u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    return (1 - u) * a[chosen] + u * (1 - v) * b[chosen] + u * v * c[chosen]


def main(model: str, file: str, up: str = "y") -> None:
    """Preprocess the points as the file says, and print the three most probable classes."""
    session = onnxruntime.InferenceSession(model)
    about = json.loads(session.get_modelmeta().custom_metadata_map["ea_pointcloud"])
    if about["task"] != "classification" or len(about["inputs"]) > 1 or about["up_axis"] != "y":
        sys.exit(f"{model} is not a classifier of points with y up, which this example is for")
    xyz = read(Path(file))
    xyz = np.stack([sign * xyz[:, axis] for axis, sign in UP[up]], axis=1)
    xyz -= xyz.mean(0)  # before float32, which large coordinates do not fit into
    if not about["normalized_inside"]:
        xyz /= np.linalg.norm(xyz, axis=1).max()
    if not about["dynamic_points"]:
        short = len(xyz) < about["num_points"]
        xyz = np.random.default_rng(0).choice(xyz, about["num_points"], replace=short)
    (probs,) = session.run(["probs"], {"xyz": xyz[None].astype(np.float32)})
    for label in probs[0].argsort()[::-1][:3]:
        print(f"{about['class_names'][label]:20} {probs[0, label]:.3f}")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
