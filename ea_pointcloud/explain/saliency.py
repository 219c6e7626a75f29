"""Influence of single points on a classifier: gradients, and the points that win the pooling."""

import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice, check_no_empty_cloud, check_range, check_xyz
from ea_pointcloud.models import Classifier
from ea_pointcloud.nn import evaluating

METHODS = ("gradient", "input_x_gradient")


def saliency(
    model: Classifier,
    xyz: Tensor,
    features: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    target: int | None = None,
    method: str = "gradient",
) -> Tensor:
    """Change of a class's logit if a point moved, with the grouping of the points fixed.

    Args:
        model: a classifier.
        xyz: (B, N, 3) as the network expects, on its device.
        features: (B, N, F) where the network was trained with some.
        mask: (B, N) bool, True = real point.
        target: index of the class in ``class_names``; each cloud's most probable if omitted.
        method: ``"gradient"``, the length of the logit's gradient at each point; or
            ``"input_x_gradient"``, the scalar product of that gradient with the coordinates:
            positive where moving the point away from the centre raises the logit.

    Returns:
        (B, N) in the dtype of the weights, zero at padded points and at those that no layer reads.

    Raises:
        ValueError: if the network is no classifier, or there is no such class or method.

    Reference:
        Simonyan et al., Deep inside convolutional networks, 2013, arXiv 1312.6034 (gradient);
        Shrikumar et al., Not just a black box, 2016, arXiv 1605.01713 (input x gradient).
    """
    _check(model, xyz, mask)
    check_choice("method", method, METHODS)
    if target is not None:
        check_range("target", target, 0, model.config.num_classes - 1, "num_classes-1")
    with evaluating(model), torch.enable_grad():
        xyz = xyz.detach().requires_grad_()
        logits = model(xyz, features, mask=mask)
        classes = logits.argmax(-1) if target is None else logits.new_full(logits.shape[:1], target)
        chosen = logits.gather(1, classes.long()[:, None])
        # Of the coordinates alone: the gradients of the weights stay as they are.
        (gradient,) = torch.autograd.grad(chosen.sum(), xyz)
    if method == "gradient":
        values = torch.linalg.norm(gradient, dim=-1)
    else:
        values = (gradient * xyz.detach()).sum(-1)
    return values if mask is None else values.masked_fill(~mask, 0.0)


@torch.no_grad()
def critical_points(
    model: Classifier,
    xyz: Tensor,
    features: Tensor | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Count the channels of the pooled feature that each point wins: the critical points are > 0.

    The tokens that are pooled are the centres of the last grouping, which are points of the cloud,
    each for its surroundings. Counted is the maximum alone, also where the network pools by mean or
    by the largest quarter as well. Ties go to the centre sampled first. Arguments as in
    :func:`saliency`.

    Returns:
        (B, N) int64, of sum C for C pooled channels.

    Raises:
        ValueError: if the network is no classifier.

    Reference:
        Qi et al., PointNet, CVPR 2017, section 4.3 (critical point sets).
    """
    _check(model, xyz, mask)
    with evaluating(model):
        pyramid = model.build_pyramid(xyz, mask)
        scaled = None if features is None else model.scale_features(features)
        tokens = model.encoder(xyz, scaled, mask=mask, pyramid=pyramid)  # (B, S, C)
    centers = pyramid[0].center  # (B, S) indices into the points of the cloud
    for level in pyramid[1:]:
        centers = centers.gather(1, level.center)
    winner = centers.gather(1, tokens.argmax(1))  # (B, C)
    counts = torch.zeros(xyz.shape[:2], dtype=torch.long, device=xyz.device)
    return counts.scatter_add_(1, winner, torch.ones_like(winner))


def _check(model: Classifier, xyz: Tensor, mask: Tensor | None) -> None:
    if not isinstance(model, Classifier):
        raise ValueError(
            f"model must be a classifier, got {type(model).__name__}, which has no single "
            "result for a cloud; give the weights of a classifier"
        )
    check_xyz("xyz", xyz)
    check_no_empty_cloud(mask)
