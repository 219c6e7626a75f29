"""Weights on disk and on the Hugging Face hub: safetensors beside a JSON that explains them.

A folder of weights holds ``model.safetensors`` and ``config.json`` (architecture, configuration,
class names, and the form of the input), and ``calibration.safetensors`` where a classifier was
calibrated; those that come with the package (``models/shipped.py``) also a card. Nothing in it is
pickled, so loading runs no code.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud._files import write_whole
from ea_pointcloud.augment.transforms import AXES, MIRRORING, POINT_CHOICES
from ea_pointcloud.descriptors import DESCRIPTORS
from ea_pointcloud.models.calibration import CALIBRATION_FILE, Calibration, load_calibration
from ea_pointcloud.models.shipped import SHIPPED_FOLDER, list_pretrained, rounded_state

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_FILES = [WEIGHTS_FILE, CONFIG_FILE, CALIBRATION_FILE]
FORMAT_VERSION = 1
NORMALIZATIONS = ("unit_sphere",)
# What a network may be given beside coordinates -> channels.
FEATURES = {"none": 0, "normals": 3} | {
    name: channels for name, (_, channels) in DESCRIPTORS.items()
}


@dataclass(frozen=True)
class DataSpec:
    """What the numbers going into and coming out of a model mean.

    Args:
        class_names: in the order of the logits; of a segmenter the names of the parts.
        up_axis: ``"x"``, ``"y"`` or ``"z"``, up in the training clouds.
        mirroring: of the training files: ``"none"``, they were right-handed; ``"undone"``, they
            were mirror images and x was negated; ``"kept"``, the network was trained on mirror
            images and sees any other cloud mirrored.
        normalization: ``"unit_sphere"``: mean at the origin, farthest point at distance 1.
        num_points: points a cloud was reduced to in training.
        point_choice: how: ``"first"``, ``"random"`` or ``"fps"``.
        category_names: of a segmenter, the categories of shapes it was trained on.
        parts: of a segmenter, the part ids (places in ``class_names``) of each category.
        features: what points carry beside coordinates: ``"none"``, ``"normals"``, or what is found
            from the coordinates, ``"local_shape"``, ``"surface_shape"`` or ``"whole_shape"``, see
            :func:`~ea_pointcloud.descriptors.whole_shape`.
        least_share: of a segmenter, how small each part that a shape may lack was in training, see
            :func:`~ea_pointcloud.models.part_labels.least_shares`; () keeps every part.
    """

    class_names: tuple[str, ...]
    up_axis: str = "y"
    mirroring: str = "none"
    normalization: str = "unit_sphere"
    num_points: int = 1024
    point_choice: str = "random"
    category_names: tuple[str, ...] = ()
    parts: tuple[tuple[int, ...], ...] = ()
    features: str = "none"
    least_share: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON) become tuples."""
        for name in ("class_names", "category_names"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other, got {values}")
        object.__setattr__(self, "parts", tuple(tuple(ids) for ids in self.parts))
        if len(self.parts) != len(self.category_names):
            raise ValueError(
                f"parts must have an entry for each of the {len(self.category_names)} "
                f"category_names, got {len(self.parts)}"
            )
        for category, ids in zip(self.category_names, self.parts, strict=True):
            if not all(0 <= part < len(self.class_names) for part in ids):
                raise ValueError(
                    f"parts of {category} must be places in the {len(self.class_names)} "
                    f"class_names, got {ids}"
                )
        object.__setattr__(self, "least_share", tuple(self.least_share))
        if self.least_share and (
            len(self.least_share) != len(self.class_names)
            or not all(0 <= share <= 1 for share in self.least_share)
        ):
            raise ValueError(
                f"least_share must be a share in 0..1 for each of the {len(self.class_names)} "
                f"class_names, or empty, got {self.least_share}"
            )
        check_choice("up_axis", self.up_axis, AXES)
        check_choice("mirroring", self.mirroring, MIRRORING)
        check_choice("features", self.features, FEATURES)
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        check_choice("point_choice", self.point_choice, POINT_CHOICES)
        check_count("num_points", self.num_points)

    @classmethod
    def unnamed(cls, num_classes: int, num_categories: int = 0) -> Self:
        """Placeholder names ``class_0``, ``category_0``, ...; every category has every part."""
        return cls(
            tuple(f"class_{index}" for index in range(num_classes)),
            category_names=tuple(f"category_{index}" for index in range(num_categories)),
            parts=(tuple(range(num_classes)),) * num_categories,
        )


class PretrainedModel(nn.Module):
    """A network that saves itself with its configuration and comes back from one folder.

    Subclasses set ``config_class`` and take ``(config, data_spec)``. ``calibration`` belongs to the
    weights as they are: whoever changes them sets it anew.
    """

    config_class: ClassVar[Any]
    config: Any
    data_spec: DataSpec
    calibration: Calibration | None = None

    def auxiliary_loss(self) -> Tensor | None:
        """What the last forward pass in training adds to the loss, given once; mostly nothing."""
        return None

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the weights and their description to ``folder``; a failure leaves it as it was.

        An existing folder of weights is replaced; any other existing folder is an error.

        Args:
            folder: where to.
            dtype: that the parameters are stored in, their own without it. Loading gives those of
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
            model = cls(config, DataSpec(**description["data"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG_FILE}: {error}; copy the folder again") from error
        try:
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except Exception as error:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} does not fit its {CONFIG_FILE} ({error}); "
                "copy the folder again"
            ) from error
        if description.get("calibration") is not None:
            model.calibration = load_calibration(folder, description["calibration"])
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
    # A name whose first part is a folder here is a mistyped path: never ask strangers for it.
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
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy the folder again") from error
    missing = {"format_version", "architecture", "config", "data"} - set(description)
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}; it was not written by ea-pointcloud")
    for section, kind in (("format_version", int), ("config", dict), ("data", dict)):
        if not isinstance(description[section], kind):
            raise ValueError(
                f"{path}: {section} must be {kind.__name__}, got {description[section]!r}; "
                "copy the folder again"
            )
    if description["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {description['format_version']}, this version reads up to "
            f"{FORMAT_VERSION}; upgrade ea-pointcloud"
        )
    return description
