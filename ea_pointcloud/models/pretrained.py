"""Weights on disk and on the Hugging Face hub: safetensors beside a JSON that explains them.

A folder of weights holds ``model.safetensors`` and ``config.json`` (architecture, configuration,
class names, and the form of the input), and ``calibration.safetensors`` where a classifier was
calibrated; perhaps ``embedding.safetensors``, in which few-shot classifiers compare clouds; those
that come with the package (``weights/``) also a card. Nothing in it is pickled, so loading runs no
code.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ea_pointcloud._checks import check_choice
from ea_pointcloud._files import read_json_object, write_whole
from ea_pointcloud.descriptors.channels import feature_channels
from ea_pointcloud.models.metadata import (
    CALIBRATION_FILE,
    EMBEDDING_FILE,
    Calibration,
    DataSpec,
    load_calibration,
    load_embedding,
)
from ea_pointcloud.models.stored import check_settings, check_stored, check_values

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_FILES = [WEIGHTS_FILE, CONFIG_FILE, CALIBRATION_FILE, EMBEDDING_FILE]
FORMAT_VERSION = 1
DEFAULT_CLASSIFIER = "eagraph-tiny-modelnet40"
DEFAULT_SEGMENTER = "eagraph-tiny-psb"
SHIPPED_FOLDER = Path(str(resources.files("ea_pointcloud"))) / "weights"


class PretrainedModel(nn.Module):
    """A network that saves itself with its configuration and comes back from one folder.

    Subclasses set ``config_class`` and take ``(config, data_spec)``. ``calibration`` and
    ``embedding``, see :func:`~ea_pointcloud.models.metadata.load_embedding`, belong to the weights
    as they are: whoever changes them sets both again.
    """

    config_class: ClassVar[Any]
    config: Any
    data_spec: DataSpec
    calibration: Calibration | None = None
    embedding: dict[str, Tensor] | None = None
    feature_mean: Tensor | None  # (F,) where features are scaled
    feature_std: Tensor | None

    def _set_spec(self, spec: DataSpec) -> None:
        """Take a description of the data, and check that the network reads its features."""
        self.data_spec = spec
        count = feature_channels(spec.features)  # 0 also where they are not specified
        if spec.features and self.config.feature_channels != count:
            raise ValueError(
                f"feature_channels must be {count} as data_spec says the features are "
                f"{', '.join(spec.features)}, got {self.config.feature_channels}"
            )
        for name in ("feature_mean", "feature_std"):
            values = getattr(spec, name)
            tensor = torch.tensor(values, dtype=torch.float32) if values else None
            self.register_buffer(name, tensor, persistent=False)

    def scale_features(self, features: Tensor) -> Tensor:
        """Features (B, N, F) in their own units, standardised as ``data_spec`` says."""
        if self.feature_mean is None or self.feature_std is None:
            return features
        if features.shape[-1] != len(self.feature_mean):
            return features  # an error where they meet the coordinates
        return (features - self.feature_mean) / self.feature_std

    @property
    def embedding_channels(self) -> int:
        """C of the features (B, C) that the detector of a calibration reads."""
        raise NotImplementedError

    def auxiliary_loss(self) -> Tensor | None:
        """What the last forward pass in training adds to the loss, returned once; usually None."""
        return None

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the weights and their description to ``folder``; a failure leaves it as it was.

        An existing folder of weights is replaced; any other existing folder is an error.

        Args:
            folder: where to.
            dtype: that the parameters are stored in, their own if omitted. Loading gives those of
                a new network, float32, whatever they were stored in.

        Raises:
            FileExistsError: if ``folder`` is something else.
            ValueError: if ``dtype`` cannot hold the parameters.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        if folder.exists() and not _replaceable(folder):
            raise FileExistsError(
                f"{folder} exists and is not a folder of weights; choose another one for them"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = folder.parent / f".{folder.name}-{os.getpid()}"
        staging.mkdir()
        try:
            state = self.state_dict() if dtype is None else rounded_state(self, dtype)
            tensors = {name: value.contiguous() for name, value in state.items()}
            save_file(tensors, staging / WEIGHTS_FILE)
            if self.calibration is not None:
                self.calibration.save_tensors(staging)
            self.save_embedding(staging)
            write_whole(staging / CONFIG_FILE, json.dumps(self._description(), indent=2) + "\n")
            if not folder.exists():
                staging.replace(folder)
                return
            # A folder cannot be replaced in one step: the old one waits aside until the new stands.
            old = staging.with_name(f"{staging.name}-old")
            folder.replace(old)
            try:
                staging.replace(folder)
            except BaseException:
                old.replace(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def save_embedding(self, folder: Path) -> None:
        """Write ``embedding`` to a folder of these weights, if there is one."""
        from safetensors.torch import save_file

        if self.embedding is not None:
            # The directions are most of it, and rounding turns them by 1e-4.
            stored = {**self.embedding, "directions": self.embedding["directions"].half()}
            save_file(stored, folder / EMBEDDING_FILE)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, revision: str | None = None) -> Self:
        """Load a model, in evaluation mode and on the CPU.

        Args:
            name_or_path: a folder written by :meth:`save_pretrained`, a name of
                :func:`~ea_pointcloud.models.list_pretrained`, or ``"user/name"`` on the Hugging
                Face hub.
            revision: branch, tag or commit on the hub.

        Raises:
            FileNotFoundError: if there is no such folder or it holds no weights.
            ValueError: if the files do not belong to this class or to each other.
        """
        from safetensors.torch import load_file

        folder = resolve_weights(name_or_path, revision=revision)
        description = read_description(folder)
        if description["architecture"] != cls.__name__:
            raise ValueError(
                f"{folder / CONFIG_FILE} describes {description['architecture']}, "
                f"not {cls.__name__}; load it with {description['architecture']}.from_pretrained"
            )
        for section, kind in (("config", cls.config_class), ("data", DataSpec)):
            unknown = set(description[section]) - {field.name for field in fields(kind)}
            if unknown:
                raise ValueError(
                    f"{folder / CONFIG_FILE} has unknown settings {sorted(unknown)}; "
                    "it was written by a newer version, upgrade ea-pointcloud"
                )
        if not (folder / WEIGHTS_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}; copy the folder again")
        try:
            config = cls.config_class(**description["config"])
            data_spec = DataSpec(**description["data"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG_FILE}: {error}; copy the folder again") from error
        try:
            check_stored(folder / WEIGHTS_FILE, lambda: cls(config, data_spec))
            model = cls(config, data_spec)
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
            check_values(model.state_dict())
        except Exception as error:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} does not fit its {CONFIG_FILE} ({error}); "
                "copy the folder again"
            ) from error
        if description.get("calibration") is not None:
            model.calibration = load_calibration(
                folder, description["calibration"], model.embedding_channels
            )
        model.embedding = load_embedding(folder)
        return model.eval()

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the folder of :meth:`save_pretrained` to the Hugging Face hub; returns its URL."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "weights")
            api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "weights")
        return str(url)

    def _description(self) -> dict[str, Any]:
        description = {
            "format_version": FORMAT_VERSION,
            "architecture": type(self).__name__,
            "config": asdict(self.config),
            "data": asdict(self.data_spec),
        }
        if self.calibration is not None:
            description["calibration"] = self.calibration.description()
        return description


def load_model(name_or_path: str | Path, *, revision: str | None = None) -> PretrainedModel:
    """Load trained weights of any architecture; see :meth:`PretrainedModel.from_pretrained`."""
    folder = resolve_weights(name_or_path, revision=revision)
    networks = {each.__name__: each for each in _networks(PretrainedModel)}
    name = read_description(folder)["architecture"]
    check_choice(f"architecture in {folder / CONFIG_FILE}", name, networks)
    return networks[name].from_pretrained(folder)


def _networks(kind: type[PretrainedModel]) -> Iterator[type[PretrainedModel]]:
    """The networks that derive from ``kind``; importing ``ea_pointcloud.models`` defines ours."""
    for each in kind.__subclasses__():
        if "config_class" in vars(each):
            yield each
        yield from _networks(each)


def _replaceable(folder: Path) -> bool:
    """Whether ``folder`` is empty or holds weights of ours and nothing else."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    try:
        read_description(folder)
    except (ValueError, OSError):
        return False
    return names <= set(_FILES)


def resolve_weights(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of weights: itself, ``best`` in a run folder, shipped, or a download.

    Raises:
        FileNotFoundError: if nothing is found.
    """
    path = Path(name_or_path)
    for folder in (path, path / "best"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if path.exists():
        raise FileNotFoundError(
            f"{path} holds no trained weights (no {CONFIG_FILE}, no best/{CONFIG_FILE}); "
            "give a folder written by save_pretrained or a run folder of 'ea-pointcloud train'"
        )
    name = str(name_or_path)
    if name in list_pretrained():
        return SHIPPED_FOLDER / name
    # A name whose first part is a folder here is a mistyped path: never look for it on the hub.
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or path.parent.is_dir():
        raise FileNotFoundError(
            f"no folder {path}; give a folder of weights, a run folder, or USER/NAME on the hub, "
            f"or weights that come with the package: {', '.join(list_pretrained())}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"no folder {path}, and {name} could not be downloaded from the hub "
            f"({str(error).splitlines()[0]})"
        ) from error


def read_description(folder: Path) -> dict[str, Any]:
    """The checked content of a weights folder's ``config.json``.

    Raises:
        ValueError: if it is not one of ours or from a newer version.
    """
    path = folder / CONFIG_FILE
    description = read_json_object(path, "copy the folder again")
    missing = {"format_version", "architecture", "config", "data"} - set(description)
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}; it was not written by ea-pointcloud")
    for section, kind in (("format_version", int), ("config", dict), ("data", dict)):
        if not isinstance(description[section], kind):
            raise ValueError(
                f"{path}: {section} must be {kind.__name__}, got "
                f"{repr(description[section])[:100]}; "
                "copy the folder again"
            )
    if description["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {description['format_version']}, this version reads up to "
            f"{FORMAT_VERSION}; upgrade ea-pointcloud"
        )
    try:
        for section in ("config", "data"):
            check_settings(description[section])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; copy the folder again") from error
    return description


def list_pretrained() -> list[str]:
    """The names of the weights that come with the package, for ``from_pretrained``."""
    return sorted(path.parent.name for path in SHIPPED_FOLDER.glob("[!.]*/config.json"))


def rounded_state(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of a network with its parameters in another dtype.

    Buffers stay as they are: they are few, and the variances of rarely used channels are smaller
    than half precision can tell from 0.

    Args:
        model: not altered.
        dtype: floating, e.g. ``torch.float16``.

    Raises:
        ValueError: if a parameter would lose more than rounding does, because its values are too
            large or too small for ``dtype``; names it.
    """
    state = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        wide = parameter.detach()
        rounded = wide.to(dtype)
        lost = (rounded.to(wide.dtype) - wide).norm()
        if not bool(lost <= torch.finfo(dtype).eps * wide.norm()):
            smallest, largest = wide.abs().min(), wide.abs().max()
            raise ValueError(
                f"{name} must keep its values as {dtype}, got magnitudes from {smallest:.3g} to "
                f"{largest:.3g}; store the weights as they are"
            )
        state[name] = rounded
    return state
