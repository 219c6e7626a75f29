"""The category of a segmented object: by name, or the one whose parts are the most probable."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ea_pointcloud.inference.classify import Candidate, Classification
from ea_pointcloud.inference.preprocess import preference
from ea_pointcloud.models import DataSpec, Segmenter
from ea_pointcloud.models.base_segmenter import Embedding

NEXT = 3  # candidates that are kept
_SURE, _LIKELY, _FAR = 0.99, 0.9, 0.7


def category_index(spec: DataSpec, category: str, what: str) -> int:
    """The index of a category, written in whatever case, among those of the weights.

    Raises:
        ValueError: if it is unknown or has no parts; ``what`` is its name in the message.
    """
    if not spec.category_names:
        raise ValueError(f"{what} is {category!r}, but these weights have no categories")
    known = {name.casefold(): index for index, name in enumerate(spec.category_names)}
    index = known.get(category.casefold())
    if index is None:
        raise ValueError(
            f"{what} must be one of {', '.join(spec.category_names)}, got {category!r}"
        )
    if not spec.parts[index]:
        raise ValueError(f"{what} is {category!r}, of which these weights have no parts")
    return index


def class_as_category(spec: DataSpec, found: Classification, least: float) -> int | None:
    """The category that a classifier's class is; None where it is none, or does not count.

    Args:
        spec: of the segmenter.
        found: by the classifier.
        least: see ``min_class_prob`` of :meth:`Predictor.segment`.
    """
    if least > 0 and (found.warning is not None or found.prob < least):
        return None
    known = {name.casefold(): index for index, name in enumerate(spec.category_names)}
    index = known.get(found.label.casefold())
    return index if index is not None and spec.parts[index] else None


def other_class(spec: DataSpec, found: Classification, ood_score: float | None) -> str | None:
    """What an object looks like to a classifier, in words, where that is no category.

    It has to be sure, or likely where the segmenter too finds the cloud far from training. So 3 of
    the 152 test shapes of the labelled Princeton benchmark get a wrong warning.
    """
    names = {name.casefold() for name in spec.category_names}
    far = ood_score is not None and ood_score >= _FAR
    if found.label.casefold() in names or found.prob < (_LIKELY if far else _SURE):
        return None
    return f"looks like {found.label} ({found.prob:.0%}), of which there are no parts"


@torch.inference_mode()
def category_scores(model: Segmenter, embedding: Embedding) -> Tensor:
    """(categories,) how probable the own parts of each are, of a network conditioned on them.

    Conditioned on a wrong category, a network still gives some points parts of the right one. So
    the category is chosen whose own parts are the most probable: correct for 32 of the 38 val
    shapes of the labelled Princeton benchmark, in 19 categories. The confidence of points finds 19.
    The backbone has run already; the head runs once for each category.
    """
    own = []
    for index, ids in enumerate(model.data_spec.parts):
        probs = point_logits(model, embedding, index).softmax(-1)
        own.append(probs[:, list(ids)].sum(-1).mean())
    return torch.stack(own)


def best_category(model: Segmenter, embedding: Embedding) -> int:
    """The index of the category whose parts are the most probable."""
    return int(category_scores(model, embedding).argmax())


def point_logits(model: Segmenter, embedding: Embedding, category: int | None) -> Tensor:
    """(N, P) calibrated logits of the points of one cloud."""
    condition = None
    if model.config.num_categories and category is not None:
        condition = torch.tensor([category], device=embedding.pooled.device)
    logits = model.label(embedding, condition)[0].float()
    return logits / (1.0 if model.calibration is None else model.calibration.temperature)


def candidates_of(scores: Tensor | None, names: Sequence[str]) -> tuple[Candidate, ...]:
    """The most probable categories, the best first; none where it was given."""
    if scores is None:
        return ()
    values, order = scores.sort(descending=True, stable=True)
    pairs = zip(order[:NEXT].tolist(), values[:NEXT].tolist(), strict=True)
    return tuple(Candidate(str(names[index]), value) for index, value in pairs)


def margin_of(candidates: Sequence[Candidate]) -> float | None:
    """By how much the first is preferred to the next, see ``preference``; None of fewer than two.

    That is counted in what each lacks of probability 1: networks that are conditioned on the
    category give nearly all of it to the parts of any.
    """
    if len(candidates) < 2:
        return None
    lacking = [max(0.0, 1 - each.prob) for each in candidates]
    return preference(torch.tensor(lacking, dtype=torch.float64))[1]
