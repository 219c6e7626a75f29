"""The sections of a recipe about clouds: the data set and its augmentation."""

from dataclasses import dataclass, field, fields
from typing import Any

from ea_pointcloud._checks import (
    check_at_least,
    check_choice,
    check_fraction,
    check_positive,
    check_probability,
    check_range,
)
from ea_pointcloud.augment.cutmix import CutMix
from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.datasets.axes import MIRRORED
from ea_pointcloud.descriptors.channels import parse_features
from ea_pointcloud.ops.frames import AXES
from ea_pointcloud.ops.sampling import SAMPLINGS

OWN_FILES = ("folder", "parts")  # data sets that are files of the user


@dataclass
class DataRecipe:
    """Which data set, which of its points, and how it is read.

    Args:
        dataset: kind of data set: ``"modelnet"`` (its HDF5 layout), ``"shapenetpart"`` (part
            labels), ``"folder"`` (classes of your own), ``"parts"`` (clouds of your own with a
            label for each point), ``"procedural"`` (generated) or ``"pyg"`` (what
            a data set of PyTorch Geometric has stored, see
            :func:`~ea_pointcloud.datasets.pyg_source.open_pyg`).
        root: folder of data sets; if omitted ``$EA_POINTCLOUD_DATA``, then ``./data``. With
            ``folder``, ``parts`` and ``pyg`` the data set itself.
        name: the set in that folder, as in ``NAME_ply_hdf5_2048``.
        num_points: points of each cloud that the network sees.
        sampling: how they are chosen: ``"first"``, ``"random"``, or ``"fps"`` (farthest point
            sampling). The last two are drawn again for every training batch, ``"fps"`` from a
            random half of the stored points; held-out clouds always keep the same points.
        train_split: ``"train"``, or ``"trainval"`` to train on val too, for a last run after
            everything was chosen: nothing is selected then, the last epoch counts.
        val_fraction: fraction of each class of the training split that is set apart as val.
        shapes: numbers of generated shapes to train, validate and test on (``procedural``).
        features: what points carry beside coordinates: a list of channels that all files have,
            ``"normals"``, ``"colors"``, ``"intensity"``, ``"confidence"`` or any other name in the
            files; or when parts are learned one descriptor, computed from the coordinates:
            ``"eigen_features"``, ``"surface_features"`` or ``"shape_features"``. Channels with a
            unit of their own are standardised by their mean and deviation in training.
        columns: what the columns of tables are, as ``"x,y,z,_,label"`` or ``"NAME=x,..."``, see
            :func:`~ea_pointcloud.read_cloud` (``folder`` and ``parts``).
        up: axis that is up in the files, ``"x"``, ``"y"`` or ``"z"`` (own files and ``pyg``).
        stored_points: points kept of each file (own files and ``pyg``).
        skip_bad: leave out files that cannot be read, instead of stopping (own files: ``folder``
            and ``parts``).
        drop_invalid: leave out points that are not finite; by default in ``.pcd`` files only (own
            files).
        mirrored: whether the files are mirror images, whose x is negated when they are read:
            ``true``, ``false``, or ``auto``, which recognises the published clouds of ModelNet40,
            see :func:`~ea_pointcloud.datasets.axes.find_mirroring` (``modelnet``, ``folder`` and
            ``pyg``). What was done is stored with the weights.
        classes: classes to take (``modelnet`` and ``folder``); all of them if empty.
        in_memory: hold the clouds in memory (``true``), read them out of core (``false``, only
            ``modelnet``), or decide by the available memory (``auto``).
        buffer_mb: memory of the shuffle buffer when clouds are read out of core, see
            :class:`~ea_pointcloud.datasets.OutOfCoreLoader`.
        workers: processes that read ahead when clouds are read out of core; chosen if ``null``.
    """

    dataset: str = "modelnet"
    root: str | None = None
    name: str = "modelnet40"
    num_points: int = 1024
    sampling: str = "first"
    train_split: str = "train"
    val_fraction: float = 0.1
    shapes: list[int] = field(default_factory=lambda: [1680, 280, 420])
    features: Any = field(default_factory=list)
    columns: str | None = None
    up: str = "y"
    stored_points: int = 2048
    skip_bad: bool = False
    drop_invalid: bool | None = None
    classes: list[str] = field(default_factory=list)
    mirrored: bool | str = "auto"
    in_memory: bool | str = "auto"
    buffer_mb: int = 256
    workers: int | None = None

    def __post_init__(self) -> None:
        """Check the values that can be checked without the other sections."""
        check_choice("data.train_split", self.train_split, ("train", "trainval"))
        if self.train_split == "trainval" and self.dataset not in ("modelnet", "shapenetpart"):
            raise ValueError(
                "data.train_split=trainval needs a set whose val part is cut from its training "
                f"split (modelnet, shapenetpart), got data.dataset={self.dataset}"
            )
        check_at_least("data.num_points", self.num_points, 1)
        check_choice("data.sampling", self.sampling, SAMPLINGS)
        if self.dataset == "procedural" and self.sampling != "first":
            raise ValueError(
                "data.sampling must be 'first' with the procedural set, whose points are drawn at "
                f"random when it is made, got {self.sampling!r}"
            )
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"data.val_fraction must be between 0 and 1, got {self.val_fraction}")
        if len(self.shapes) != 3 or min(self.shapes) < 1:
            raise ValueError(
                f"data.shapes must be three counts (train, val, test), got {self.shapes}"
            )
        self.features = list(parse_features("data.features", self.features))
        self._check_own_files()
        if self.columns is not None and self.dataset not in OWN_FILES:
            raise ValueError(
                f"data.columns is for own files, data.dataset={' or '.join(OWN_FILES)}, got "
                f"{self.dataset}; leave it out"
            )
        self._check_memory()

    def _check_own_files(self) -> None:
        if self.dataset in (*OWN_FILES, "pyg"):
            check_at_least("data.stored_points", self.stored_points, 1)
            check_choice("data.up", self.up, AXES)
            if self.root is None:
                content = {
                    "folder": "folder that holds the class folders",
                    "parts": "folder of your labelled clouds",
                }
                what = content.get(self.dataset, "root of the PyG data set")
                raise ValueError(f"data.root must be set to the {what}")
        if self.dataset in OWN_FILES:
            stored = self.stored_points
            check_range("data.num_points", self.num_points, 1, stored, "data.stored_points")
        check_choice("data.mirrored", self.mirrored, MIRRORED)
        if self.mirrored != "auto" and self.dataset not in ("modelnet", "folder", "pyg"):
            raise ValueError(
                "data.mirrored belongs to data.dataset=modelnet, folder or pyg, got "
                f"{self.mirrored} with {self.dataset}; leave it out"
            )

    def _check_memory(self) -> None:
        check_choice("data.in_memory", self.in_memory, ("auto", True, False))
        if self.in_memory is False and self.dataset != "modelnet":
            raise ValueError(
                "data.in_memory=false needs data.dataset=modelnet, which is read out of core, got "
                f"{self.dataset}; 'ea-pointcloud data prepare' makes such files of a folder of "
                "classes"
            )
        if self.classes:
            check_choice("data.dataset with data.classes", self.dataset, ("modelnet", "folder"))
            if self.in_memory is False or len(set(self.classes)) < 2:
                raise ValueError(
                    "data.classes must name two classes or more, of clouds that are held in "
                    f"memory, got {self.classes} and data.in_memory={self.in_memory}"
                )
        check_at_least("data.buffer_mb", self.buffer_mb, 1)
        if self.workers is not None:
            check_at_least("data.workers", self.workers, 0)


@dataclass
class AugmentRecipe:
    """Random changes of the training clouds; ``Augmentation`` applies them, in this order.

    Args:
        offline_copies: copies of each shape made before training by ``elastic`` and ``scale``,
            with descriptors of their own; an epoch goes through all of them, and batches are not
            deformed again. See
            :func:`~ea_pointcloud.datasets.offline_augmentation.augment_offline`.
        elastic: strength of a smooth deformation.
        rotation: ``"none"``, ``"up"`` (about the up axis), ``"tilt"`` (at most 30 degrees about any
            axis) or ``"any"`` (uniform over SO(3)).
        rotation_prob: fraction of the clouds that are rotated.
        mirror: mirror half of the clouds in an upright plane.
        scale: lowest and highest factor, drawn for each axis.
        shift: largest shift along an axis.
        jitter: standard deviation of the noise on each coordinate, cut off at five times that.
        outlier_ratio: largest fraction of points that become outliers.
        partial_view_prob: fraction of the clouds that become partial views, seen from one side.
        crop_ratio: largest fraction of points cropped beyond a random plane.
        point_dropout: largest fraction of points in point dropout.
        corruption_prob: fraction of the clouds to which ``outlier_ratio``, ``partial_view_prob``,
            ``crop_ratio`` and ``point_dropout`` apply.
        cutmix_prob: fraction of a classifier's clouds that are mixed with another cloud of the
            batch, see :class:`~ea_pointcloud.augment.CutMix`. Mixed clouds lose points after that.
        cutmix_beta: parameter of the Beta distribution of CutMix's ``lam``.
        normalize: centre and scale a classifier's clouds to the unit sphere after all that, as in
            inference, where outliers and missing points move and scale the rest. A shift has no
            effect then, and a scale only as far as it differs by axis.
    """

    offline_copies: int = 0
    elastic: float = 0.0
    rotation: str = "none"
    rotation_prob: float = 1.0
    mirror: bool = False
    scale: list[float] = field(default_factory=lambda: [0.6667, 1.5])
    shift: float = 0.2
    jitter: float = 0.0
    outlier_ratio: float = 0.0
    partial_view_prob: float = 0.0
    crop_ratio: float = 0.0
    point_dropout: float = 0.0
    corruption_prob: float = 1.0
    cutmix_prob: float = 0.0
    cutmix_beta: float = 1.0
    normalize: bool = False

    def __post_init__(self) -> None:
        """Check the values that can be checked without the other sections."""
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"augment.scale must be [low, high], 0 < low, got {self.scale}")
        for name in ("offline_copies", "elastic", "shift", "jitter"):
            check_at_least(f"augment.{name}", getattr(self, name), 0)
        for name in ("outlier_ratio", "crop_ratio", "point_dropout"):
            check_fraction(f"augment.{name}", getattr(self, name))
        for name in ("partial_view_prob", "corruption_prob", "cutmix_prob"):
            check_probability(f"augment.{name}", getattr(self, name))
        check_positive("augment.cutmix_beta", self.cutmix_beta)
        self.augmentation()  # checks the rotation

    def augmentation(self) -> Augmentation:
        """The augmentation of training clouds, after their points were sampled."""
        values = {each.name: getattr(self, each.name) for each in fields(Augmentation)}
        low, high = self.scale
        values["scale"] = low, high
        if self.offline_copies:
            values["elastic"] = 0.0
        return Augmentation(**values)

    def cutmix(self) -> CutMix | None:
        """CutMix of the clouds of a batch, or None."""
        return CutMix(self.cutmix_prob, self.cutmix_beta) if self.cutmix_prob else None
