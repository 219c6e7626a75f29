"""Weights folders from elsewhere: nothing is built or allocated before it is known to fit."""

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ea_pointcloud.cli._common import JsonRows
from ea_pointcloud.models import create_model, load_model
from ea_pointcloud.models.metadata import Calibration, MahalanobisDetector


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of an untrained network, calibrated."""
    model = create_model("eamlp_classifier_small", num_classes=4, depth=2)
    width = model.embedding_channels
    detector = MahalanobisDetector(torch.ones(4, width), torch.eye(width), torch.arange(5.0))
    model.calibration = Calibration(1.0, detector)
    model.save_pretrained(tmp_path / "weights")
    load_model(str(tmp_path / "weights"))
    return tmp_path / "weights"


def change(folder: Path, section: str, name: str, value: Any) -> None:
    path = folder / "config.json"
    description = json.loads(path.read_text())
    description[section][name] = value
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("config", "depth", 10**9),
        ("config", "depth", 60_000),
        ("config", "channels", 60_000),
        ("config", "depth", -1),
        ("config", "depth", "3"),
        ("config", "num_classes", 10**12),
        ("config", "head_channels", [10**9]),
        ("config", "head_channels", [8] * 5_000),
        ("data", "num_points", 10**12),
        ("data", "class_names", [1, 2, 3, 4]),
        ("data", "class_names", 5),
        ("calibration", "temperature", 1e-320),
        ("calibration", "temperature", 1e300),
        ("calibration", "temperature", float("nan")),
        ("calibration", "temperature", None),
        ("calibration", "threshold", float("nan")),
        ("calibration", "threshold", "x"),
    ],
)
def test_settings_are_checked_first(weights: Path, section: str, name: str, value: Any) -> None:
    change(weights, section, name, value)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=r"copy the folder again|unknown settings"):
        load_model(str(weights))
    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("text", ["5", "[]", "null", '"x"', "{", "[" * 100_000, "\x00", '{"a": 1}'])
def test_a_description_that_is_none(weights: Path, text: str) -> None:
    (weights / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(str(weights))


def first(state: dict[str, torch.Tensor], ending: str) -> str:
    return next(name for name in state if name.endswith(ending))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("ending", ["weight", "running_var"])
def test_values_that_are_not_finite(weights: Path, value: float, ending: str) -> None:
    path = weights / "model.safetensors"
    state = load_file(path)
    name = first(state, ending)
    state[name].view(-1)[-1] = value
    save_file(state, path)
    with pytest.raises(ValueError, match=f"{name} has values that are NaN or infinite"):
        load_model(str(weights))


def test_tensors_of_another_kind(weights: Path) -> None:
    path = weights / "model.safetensors"
    sound = load_file(path)
    name = first(sound, "weight")
    for kind in (torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn):
        save_file({**sound, name: sound[name].to(kind)}, path)
        with pytest.raises(ValueError, match=rf"{name} must hold torch\.float32"):
            load_model(str(weights))
    save_file({**sound, name: sound[name][:1].clone()}, path)
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        load_model(str(weights))
    save_file({**sound, "more": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has an unknown 'more'"):
        load_model(str(weights))
    variance = first(sound, "running_var")
    save_file({**sound, variance: -torch.ones_like(sound[variance])}, path)
    with pytest.raises(ValueError, match=f"{variance} has a negative variance"):
        load_model(str(weights))
    save_file({each: value.half() for each, value in sound.items() if value.is_floating_point()}
              | {each: value for each, value in sound.items() if not value.is_floating_point()},
              path)  # fmt: skip
    load_model(str(weights))


def test_a_detector_that_does_not_fit(weights: Path) -> None:
    path = weights / "calibration.safetensors"
    sound = load_file(path)
    for changes in (
        {"whitening": torch.eye(3)},
        {"distances": torch.zeros(0)},
        {"whitening": torch.eye(8), "class_means": torch.ones(4, 8)},
        {"whitening": sound["whitening"].double()},
        {"class_means": torch.full_like(sound["class_means"], float("nan"))},
        {"more": torch.zeros(1)},
    ):
        save_file({**sound, **changes}, path)
        with pytest.raises(ValueError, match=r"the calibration in .* is damaged"):
            load_model(str(weights))


def test_json_is_always_json(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonRows() as rows:
        rows.add({"prob": float("nan"), "top": [{"prob": float("inf")}], "label": "\x1b[2J"})
    (row,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert row == {"prob": None, "top": [{"prob": None}], "label": "\x1b[2J"}
