"""Few-shot classifiers: a closed-form head on the embedding of a trained encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.inference.calibration import calibrate_temperature
from ea_pointcloud.models import Calibration, Classifier, MahalanobisDetector
from ea_pointcloud.models.head import JoinInput, embedding_inputs
from ea_pointcloud.nn import UnitEmbedding

RANK = 128  # whitened directions
_FEW = 2  # examples of a class up to which the nearest class mean is taken
_PENALTIES = (0.1, 0.3, 1.0)  # of ridge regression, for unit vectors and a mean weight of 1
_SHARPNESS = 10.0  # scale of all logits, so that their temperature is about 1
# Where no example can be left out. The best for one example of each of PSB's 19 categories: 0.98.
_TEMPERATURE = 1.0
_FEWEST_DISTANCES = 10
_THRESHOLD = 0.9


@dataclass(frozen=True, eq=False)
class FewShotHead:
    """A linear head on an embedding, and what it gives examples that were left out of its fit.

    Args:
        method: how it was fitted, in words.
        weight: (K, C) float32 of the logits.
        temperature: that fits the logits of examples that were left out.
        tested: (n,) bool, examples that were left out in turn: those of classes with others.
        logits: (n, K) of each example, left out; of no meaning where it was not ``tested``.
        distances: (n,) to the nearest class mean, likewise.
        class_means: (K, C).
    """

    method: str
    weight: Tensor
    temperature: float
    tested: Tensor
    logits: Tensor
    distances: Tensor
    class_means: Tensor

    def calibration(self) -> Calibration:
        """For the weights; without a detector where there are too few examples for one."""
        detector = None
        if int(self.tested.sum()) >= _FEWEST_DISTANCES:
            distances = self.distances[self.tested].sort().values
            detector = MahalanobisDetector(self.class_means, None, distances, _THRESHOLD)
        return Calibration(self.temperature, detector)


def fit_head(
    embedded: Tensor, label: Tensor, group: Tensor | None = None, *, method: str = "auto"
) -> FewShotHead:
    """Fit a head to embedded examples.

    Up to two examples a class (the median) the logits are cosines of the class means, beyond that a
    ridge regression, whose penalty is the one that makes the classes of examples that are left out
    the most probable. Classes weigh equally.

    Args:
        embedded: (n, C) unit vectors.
        label: (n,) int64 classes 0..K-1, each with at least one example.
        group: (n,) int64, the same number for copies of one example, which are left out together.
        method: ``"auto"``, ``"mean"``, or ``"ridge"``.
    """
    rows, classes = embedded.double(), F.one_hot(label).double()
    group = torch.arange(len(label)) if group is None else group
    counts = torch.tensor([len(group[label == each].unique()) for each in range(classes.shape[1])])
    tested = counts[label] > 1
    if method == "mean" or (method == "auto" and int(counts.median()) <= _FEW):
        candidates = [_class_means(rows, classes, group)]
    else:
        candidates = [_ridge(rows, classes, group, penalty) for penalty in _PENALTIES]
    best: tuple[float, float, _Fit] | None = None
    for fit in candidates:
        if not bool(tested.any()):
            best = (0.0, _TEMPERATURE, fit)
            break
        temperature = calibrate_temperature(fit.left_out[tested], label[tested])
        loss = float(F.cross_entropy(fit.left_out[tested] / temperature, label[tested]))
        if best is None or loss < best[0]:
            best = (loss, temperature, fit)
    assert best is not None
    means, distances = _distances(rows, label, group)
    _, temperature, chosen = best
    return FewShotHead(
        chosen.method, chosen.weight.float(), temperature, tested, chosen.left_out.float(),
        distances.float(), means.float(),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Fit:
    method: str
    weight: Tensor  # (K, C)
    left_out: Tensor  # (n, K) logits of each example, left out


def _class_means(rows: Tensor, classes: Tensor, group: Tensor) -> _Fit:
    """Cosines of the class means."""
    total = classes.T @ rows  # (K, C), as good as the means for a direction
    left_out = torch.empty_like(classes)
    for copies in _copies(group):
        without = F.normalize(total - classes[copies].T @ rows[copies], dim=-1)
        left_out[copies] = rows[copies] @ without.T
    weight = F.normalize(total, dim=-1)
    return _Fit("nearest class mean", _SHARPNESS * weight, _SHARPNESS * left_out)


def _ridge(rows: Tensor, classes: Tensor, group: Tensor, penalty: float) -> _Fit:
    """Ridge regression of +-1, of examples weighted so that classes weigh equally, in the dual."""
    count, number = classes.shape
    target = classes - 1 / number
    weight = classes @ (count / (number * classes.sum(0)))  # (n,), mean 1
    gram = rows @ rows.T
    inverse = torch.linalg.inv(gram + torch.diag(penalty / weight))
    hat = gram @ inverse
    fitted = hat @ target
    left_out = torch.empty_like(fitted)
    for copies in _copies(group):
        # y - what a fit to the others predicts = (I - H)^-1 (y - fit), H of the copies alone
        own = torch.eye(len(copies), dtype=hat.dtype) - hat[copies][:, copies]
        left_out[copies] = target[copies] - torch.linalg.solve(own, target[copies] - fitted[copies])
    name = f"ridge regression, penalty {penalty:g}"
    return _Fit(name, _SHARPNESS * (inverse @ target).T @ rows, _SHARPNESS * left_out)


def _distances(rows: Tensor, label: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Class means (K, C), and distances (n,) to the nearest, of others where it is its own."""
    classes = F.one_hot(label).double()
    total, counts = classes.T @ rows, classes.sum(0)
    distances = torch.empty(len(rows), dtype=rows.dtype)
    for copies in _copies(group):
        own = classes[copies]
        without = (total - own.T @ rows[copies]) / (counts - own.sum(0)).clamp_min(1)[:, None]
        distances[copies] = torch.cdist(rows[copies], without).amin(1)
    return total / counts[:, None], distances


def _copies(group: Tensor) -> list[Tensor]:
    return [(group == each).nonzero()[:, 0] for each in group.unique()]


@torch.inference_mode()
def embedding_of(model: Classifier, clouds: Sequence[Tensor]) -> UnitEmbedding:
    """The embedding of a network: its own, that of its weights, or else fitted to examples.

    Examples give means and deviations alone: whitened by their own covariance, those left out would
    no longer be new (accuracy 1.00 where queries had 0.85).

    Args:
        model: in evaluation mode.
        clouds: examples, each (n, 3 + F) float32, posed as the model expects.
    """
    if model.config.few_shot_rank:
        own = model.head[-2]
        assert isinstance(own, UnitEmbedding)
        return own
    if model.embedding is not None:
        return stored_embedding(model)
    device = next(model.parameters()).device
    inputs = []
    for cloud in clouds:
        points = cloud[None].to(device)
        features = points[..., 3:] if points.shape[-1] > 3 else None
        inputs.append(embedding_inputs(model, model.pooled(points[..., :3], features)))
    return UnitEmbedding.fit(torch.cat(inputs).float().cpu(), torch.arange(len(inputs)), 1)


def stored_embedding(model: Classifier) -> UnitEmbedding:
    """The embedding that lies beside the weights of ``model``."""
    assert model.embedding is not None
    stored = UnitEmbedding(*reversed(model.embedding["directions"].shape))
    stored.load_state_dict(model.embedding)
    return stored


def few_shot_network(
    model: Classifier, embedding: UnitEmbedding, class_names: Sequence[str]
) -> Classifier:
    """A copy of a network with the head of a few-shot classifier, whose logits are all 0.

    Args:
        model: any classifier.
        embedding: of its own pooled features.
        class_names: of the new head.

    Raises:
        ValueError: if the embedding is of another network.
    """
    rank = len(embedding.gain)
    config = replace(model.config, num_classes=len(class_names), few_shot_rank=rank)
    spec = replace(model.data_spec, class_names=tuple(class_names))
    new = type(model)(config, spec)  # pyright: ignore[reportCallIssue]
    encoder = {name: value for name, value in model.state_dict().items()
               if not name.startswith("head.")}  # fmt: skip
    new.load_state_dict(encoder, strict=False)
    layers = list(new.head.children())
    if isinstance(layers[0], JoinInput) and not model.config.few_shot_rank:
        layers = list(layers[0].children())
    for own, trained in zip(layers, model.head[:-1].children(), strict=False):
        own.load_state_dict(trained.state_dict())
    expected, given = new.head[-2].get_buffer("mean").shape, embedding.mean.shape
    if expected != given:
        raise ValueError(
            f"the embedding of these weights must have {expected[0]} channels, got {given[0]}; "
            "copy the folder again"
        )
    new.head[-2].load_state_dict(embedding.state_dict())
    for parameter in new.head[-1].parameters():
        torch.nn.init.zeros_(parameter)
    return new.eval().to(next(model.parameters()).device)
