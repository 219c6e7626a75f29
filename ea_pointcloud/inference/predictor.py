"""The Predictor: files or arrays in, classes or parts out."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import Unpack

from ea_pointcloud._checks import check_choice, check_count, check_fraction
from ea_pointcloud._device import resolve_device
from ea_pointcloud.descriptors.channels import rotate_points
from ea_pointcloud.inference.adapt_bn import adapt_batch_norm, check_enough
from ea_pointcloud.inference.category import (
    NEXT,
    candidates_of,
    category_index,
    class_as_category,
    margin_of,
    other_class,
)
from ea_pointcloud.inference.classify import (
    Classification,
    classify_inputs,
    embed_clouds,
    pose_clouds,
)
from ea_pointcloud.inference.preprocess import (
    AUTO,
    CloudLike,
    ModelInput,
    as_cloud,
    listed,
    preprocess,
)
from ea_pointcloud.inference.segment import Segmentation, segment_points
from ea_pointcloud.io import Cloud
from ea_pointcloud.models import Classifier, Segmenter, load_model
from ea_pointcloud.models.pretrained import DEFAULT_CLASSIFIER
from ea_pointcloud.nn.fuse_bn import fuse_batch_norm
from ea_pointcloud.ops.frames import AXES, to_y_up

if TYPE_CHECKING:
    from ea_pointcloud.inference.examples import Examples
    from ea_pointcloud.inference.support_report import SupportReport

PRECISIONS = ("float32", "bfloat16")
_Kind = TypeVar("_Kind")


class _ClassifyOptions(TypedDict, total=False):
    up: str
    topk: int
    tta_rotations: int
    remove_outliers: bool
    columns: str | Sequence[str] | None


class _SegmentOptions(TypedDict, total=False):
    up: str
    category: str | None
    classifier: "Predictor | None"
    min_class_prob: float
    tta_rotations: int
    remove_outliers: bool
    columns: str | Sequence[str] | None


class Predictor:
    """Classify or segment clouds of any size, in any position and scale, from files or arrays.

    Up axis, centring, scaling and the choice of points are those of training. The same input gives
    the same result, whatever else is in the batch. Batch normalisations are fused into the layers
    before them, in a copy: later changes of ``model`` need a new predictor.

    Args:
        model: a trained classifier or segmenter.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: of the layers; ``"bfloat16"`` is faster where the processor has it, and slower
            elsewhere. Coordinates and normalisations stay in float32.

    Attributes:
        support: of a result of :meth:`with_support`, what leaving out each example shows.

    Raises:
        ValueError: if the model was trained with another axis up than y, there is no such device,
            or the precision is unknown.
    """

    def __init__(
        self,
        model: Classifier | Segmenter,
        device: str | torch.device = "auto",
        *,
        precision: str = "float32",
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        if model.data_spec.up_axis != "y":
            raise ValueError(f"the model must be one with y up, got {model.data_spec.up_axis} up")
        self.device = resolve_device(device)
        self.model = model.to(self.device).eval()
        self.precision = precision
        self.support: SupportReport | None = None
        self._fused = fuse_batch_norm(self.model)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_CLASSIFIER,
        device: str | torch.device = "auto",
        *,
        precision: str = "float32",
    ) -> "Predictor":
        """Load weights from a folder or run folder, by name (``list_pretrained()``), or the hub."""
        model = load_model(str(name_or_path))
        assert isinstance(model, (Classifier, Segmenter))
        return cls(model, device, precision=precision)

    @overload
    def classify(
        self, clouds: CloudLike | ModelInput, **options: Unpack[_ClassifyOptions]
    ) -> Classification: ...

    @overload
    def classify(
        self, clouds: Sequence[CloudLike | ModelInput], **options: Unpack[_ClassifyOptions]
    ) -> list[Classification]: ...

    def classify(
        self,
        clouds: CloudLike | ModelInput | Sequence[CloudLike | ModelInput],
        *,
        up: str = "y",
        topk: int = 3,
        tta_rotations: int = 1,
        remove_outliers: bool = False,
        columns: str | Sequence[str] | None = None,
    ) -> Classification | list[Classification]:
        """Classify one cloud, or each cloud of a list.

        Args:
            clouds: whatever :func:`~ea_pointcloud.inference.preprocess.as_cloud` takes: a path, a
                :class:`~ea_pointcloud.io.Cloud`, an array or tensor, an object of Open3D, trimesh
                or PyTorch Geometric; or a result of :meth:`preprocess`, where ``up`` and
                ``remove_outliers`` were settled. Several are a list of these, or (B, N, 3).
            up: the axis that is up in them, ``"x"``, ``"y"`` or ``"z"``, or ``"auto"``: the one
                that makes the cloud the most like those of training.
            topk: candidates kept, >= 1; at most the number of classes come back.
            tta_rotations: rotations about the up axis whose probabilities are averaged, >= 1.
            remove_outliers: leave out statistical outliers first.
            columns: what the columns of files and arrays (N, C) are, as ``"x,y,z,nx,ny,nz"``, see
                :func:`~ea_pointcloud.read_cloud`.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file or array holds no usable points, or the weights are a segmenter's.
        """
        model = self._classifier()
        check_count("topk", topk)
        check_count("tta_rotations", tta_rotations)
        options = {"up": up, "remove_outliers": remove_outliers, "columns": columns}
        inputs, several = self._inputs(clouds, **options)
        with self._autocast():
            results = classify_inputs(model, inputs, topk=topk, tta_rotations=tta_rotations)
        return results if several else results[0]

    def with_support(
        self,
        examples: "Examples",
        *,
        up: str = "y",
        remove_outliers: bool = False,
        rotations: int = 1,
        partial_views: int = 0,
    ) -> "Predictor":
        """A predictor of classes of one's own, from a few examples of each and without training.

        The head is fitted in closed form to what :meth:`embed` gives the examples. What it can be
        expected to do is in ``support`` of the result, whose ``model.save_pretrained(folder)``
        writes ordinary weights. This predictor stays as it is.

        Args:
            examples: class -> clouds, or the folder of ``CLASS/FILE``.
            up: the axis that is up in them, ``"x"``, ``"y"`` or ``"z"``, or ``"auto"``.
            remove_outliers: leave out statistical outliers first.
            rotations: of each example about the up axis, >= 1; above 1 for clouds that face
                anywhere.
            partial_views: views of each example from one side that are added, for such scans.

        Raises:
            FileNotFoundError: if the folder is missing.
            ValueError: if it is laid out otherwise, a cloud cannot be used, there are fewer than
                two classes, or one cloud has two of them.
        """
        from ea_pointcloud.inference.examples import fit_examples

        self.check_classify()
        assert isinstance(self.model, Classifier)
        network, report = fit_examples(
            self.model, examples, up=up, remove_outliers=remove_outliers, rotations=rotations,
            partial_views=partial_views,
        )  # fmt: skip
        result = Predictor(network, self.device, precision=self.precision)
        result.support = report
        return result

    def embed(
        self,
        clouds: CloudLike | ModelInput | Sequence[CloudLike | ModelInput],
        *,
        up: str = "y",
        remove_outliers: bool = False,
    ) -> NDArray[np.float32]:
        """Vectors in which similar clouds are near: (C,) of one cloud, (B, C) of a list.

        They have length 1: compare them by their dot product, or Euclidean distance. They are the
        input of the last layer joined with the pooled tokens, standardised and whitened within the
        classes of training, see :class:`~ea_pointcloud.nn.UnitEmbedding`, and the mean over the
        cloud and its mirror images; of weights without ``embedding.safetensors`` the input of the
        last layer alone.

        Args:
            clouds: as of :meth:`classify`, like the options.
            up: the axis that is up in them.
            remove_outliers: leave out statistical outliers first.
        """
        self.check_classify()
        inputs, several = self._inputs(clouds, up=up, remove_outliers=remove_outliers)
        with self._autocast():
            features, _ = embed_clouds(self._embedder, pose_clouds(self._classifier(), inputs))
        rows = F.normalize(features, dim=-1).numpy()
        return rows if several else rows[0]

    @cached_property
    def _embedder(self) -> Classifier:
        model = self._classifier()
        if model.config.few_shot_rank or model.embedding is None:
            return model
        from ea_pointcloud.inference.few_shot import few_shot_network, stored_embedding

        assert isinstance(self.model, Classifier)
        names = self.model.data_spec.class_names
        return fuse_batch_norm(few_shot_network(self.model, stored_embedding(self.model), names))

    def preprocess(
        self,
        cloud: CloudLike,
        *,
        up: str = "y",
        remove_outliers: bool = False,
        columns: str | Sequence[str] | None = None,
    ) -> ModelInput:
        """See :func:`ea_pointcloud.inference.preprocess.preprocess`, which needs no model."""
        spec = self.model.data_spec
        return preprocess(
            as_cloud(cloud, spec, columns), spec, up=up, remove_outliers=remove_outliers
        )

    def _inputs(self, clouds: Any, **options: Any) -> tuple[list[ModelInput], bool]:
        """Preprocessed clouds, and whether they were several."""
        each, several = listed(clouds)
        inputs = [
            cloud if isinstance(cloud, ModelInput) else self.preprocess(cloud, **options)
            for cloud in each
        ]
        return inputs, several

    def adapt(
        self,
        clouds: Sequence[CloudLike],
        *,
        up: str = "y",
        remove_outliers: bool = False,
        weight: float = 1.0,
    ) -> "Predictor":
        """A predictor for clouds of a sensor that was not in training.

        Batch-norm adaptation, see :func:`~ea_pointcloud.inference.adapt_bn.adapt_batch_norm`; no
        labels are needed. This predictor stays as it is; the new one has no OOD score.

        Args:
            clouds: at least 16, in the mixture of classes that is going to be classified.
            up: the axis that is up in them, ``"x"``, ``"y"`` or ``"z"``.
            remove_outliers: leave out statistical outliers first.
            weight: of the statistics of these clouds against training's, 0 < weight <= 1.

        Raises:
            ValueError: as :meth:`classify`, or if there are too few clouds.
        """
        check_choice("up", up, AXES)
        self.check_classify()
        check_enough(len(clouds))
        assert isinstance(self.model, Classifier)
        options = {"up": up, "remove_outliers": remove_outliers}
        names = self.model.data_spec.features
        posed = [
            rotate_points(
                self.preprocess(cloud, **options).points, names, partial(to_y_up, up_axis=up)
            )
            for cloud in listed(clouds)[0]
        ]
        lengths = torch.tensor([len(points) for points in posed])
        points = pad_sequence(posed, batch_first=True).to(self.device)
        mask = torch.arange(points.shape[1]) < lengths[:, None]
        adapted = adapt_batch_norm(
            self.model,
            points[..., :3],
            mask.to(self.device),
            features=points[..., 3:] if names else None,
            weight=weight,
        )
        return Predictor(adapted, self.device, precision=self.precision)

    @overload
    def segment(self, clouds: CloudLike, **options: Unpack[_SegmentOptions]) -> Segmentation: ...

    @overload
    def segment(
        self, clouds: Sequence[CloudLike], **options: Unpack[_SegmentOptions]
    ) -> list[Segmentation]: ...

    def segment(
        self,
        clouds: CloudLike | Sequence[CloudLike],
        *,
        up: str = "y",
        category: str | None = None,
        classifier: "Predictor | None" = None,
        min_class_prob: float = 0.0,
        tta_rotations: int = 1,
        remove_outliers: bool = False,
        columns: str | Sequence[str] | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Label the part of every point of one cloud, or of each cloud of a list.

        Labels are chosen among the parts of the object's category. If omitted, it is the category
        whose parts are the most probable over all points; a network that is conditioned on the
        category tries each. For which points are seen, and postprocessing, see
        :func:`~ea_pointcloud.inference.segment.label_points`.

        Args:
            clouds: as of :meth:`classify`. Weights trained with normals or other channels need
                them. A mesh is labelled at points that are drawn from it.
            up: the axis that is up in them, ``"x"``, ``"y"`` or ``"z"``, or ``"auto"``: the one
                that the classifier finds or, without one, under which the parts are the most
                certain.
            category: of all these clouds, one of the model's, in upper or lower case.
            classifier: finds the category of each cloud, where its class is one of the model's.
            min_class_prob: of a class that counts, in 0..1; above 0 none counts of a cloud that is
                out of the classifier's distribution.
            tta_rotations: rotations about the up axis whose probabilities are averaged, >= 1.
            remove_outliers: leave out statistical outliers; they get the label of the nearest
                point that is left, at confidence 0.
            columns: see :meth:`classify`.

        Raises:
            ValueError: as :meth:`classify`, or if the category is unknown or comes from two places.
        """
        check_choice("up", up, (*AXES, AUTO))
        check_count("tta_rotations", tta_rotations)
        check_fraction("min_class_prob", min_class_prob)
        self.check_segment(category=category, classifier=classifier)
        options = {"up": up, "tta_rotations": tta_rotations, "remove_outliers": remove_outliers}
        each, several = listed(clouds)
        spec = self.model.data_spec
        results = [
            self._segment_one(
                as_cloud(cloud, spec, columns), category, classifier, min_class_prob, **options
            )
            for cloud in each
        ]
        return results if several else results[0]

    def check_classify(self) -> None:
        """Raise ValueError if the weights are a segmenter's."""
        self._classifier()

    def check_segment(
        self, *, category: str | None = None, classifier: "Predictor | None" = None
    ) -> None:
        """Raise ValueError for what :meth:`segment` refuses whatever the cloud."""
        spec = self._segmenter().data_spec
        if category is not None and classifier is not None:
            raise ValueError("category and classifier both name the category; give one of them")
        if category is not None:
            category_index(spec, category, "category")
        elif classifier is not None:
            classifier.check_classify()

    def __call__(self, clouds: Any, **options: Any) -> Any:
        """:meth:`classify`, or of a segmenter's weights :meth:`segment`."""
        predict = self.classify if isinstance(self.model, Classifier) else self.segment
        return predict(clouds, **options)

    def to(self, device: str | torch.device) -> "Predictor":
        """Move this predictor to a device, as a module; returns it."""
        self.device = resolve_device(device)
        self.model.to(self.device)
        self._fused.to(self.device)
        self.__dict__.pop("_embedder", None)
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, or parts, in the order of the network's outputs."""
        return self.model.data_spec.class_names

    def __repr__(self) -> str:
        """The network, its classes or parts, and the device."""
        name, count = type(self.model).__name__, len(self.model.data_spec.class_names)
        what = "classes" if isinstance(self.model, Classifier) else "parts"
        return f"Predictor({name}, {count} {what}, {self.device})"

    def _autocast(self) -> torch.autocast:
        lower = self.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=lower)

    def _classifier(self) -> Classifier:
        remedy = "labels points; use segment, or give the weights of a classifier"
        return self._network(Classifier, remedy)

    def _segmenter(self) -> Segmenter:
        remedy = "classifies whole clouds; use classify, or give the weights of a segmenter"
        return self._network(Segmenter, remedy)

    def _network(self, kind: type[_Kind], remedy: str) -> _Kind:
        if not isinstance(self._fused, kind):
            raise ValueError(f"these weights are of {type(self.model).__name__}, which {remedy}")
        return self._fused

    def _segment_one(
        self,
        cloud: Cloud | NDArray[np.floating],
        category: str | None,
        classifier: "Predictor | None",
        min_class_prob: float,
        up: str,
        **options: Any,
    ) -> Segmentation:
        model, spec = self._segmenter(), self.model.data_spec
        index, source, named, other = None, "network", None, None
        if category is not None:
            index, source = category_index(spec, category, "category"), "given"
        elif classifier is not None:
            named = classifier.classify(cloud, up=up, topk=NEXT, **options)
            index = class_as_category(spec, named, min_class_prob)
            up = named.up
        if named is not None and index is not None:
            source = "classifier"
        with self._autocast():
            result = segment_points(model, cloud, up=up, category=index, **options)
        found = result.found
        own, warning = candidates_of(found.scores, spec.category_names), result.warning
        if named is not None and source == "classifier":
            own, warning = named.top, named.warning
        elif named is not None and not (min_class_prob and named.warning):
            other = other_class(spec, named, result.ood_score)
        return Segmentation(
            labels=found.labels.cpu().numpy(),
            confidence=found.confidence.cpu().numpy(),
            category=None if found.category is None else spec.category_names[found.category],
            category_from=source,
            names=spec.class_names,
            up=result.up,
            up_margin=result.margin if named is None else named.up_margin,
            warning="; ".join(filter(None, (warning, other))) or None,
            ood_score=result.ood_score,
            categories=own,
            category_margin=margin_of(own),
        )
