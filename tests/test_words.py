"""The field's terms, in names and in prose alike: old words do not come back."""

import ast
import re
from pathlib import Path

import pytest

from ea_pointcloud.training.recipe_keys import Recipe

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("ea_pointcloud/**/*.py"), *ROOT.glob("scripts/**/*.py")])
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/guides/*.md"),
        *ROOT.glob("scripts/**/*.j2"),
        *ROOT.glob("ea_pointcloud/weights/*/README.md"),
        *ROOT.glob("ea_pointcloud/recipes/*.yaml"),
        *ROOT.glob("ea_pointcloud/**/*.j2"),
    ]
)

# What it was called -> what it is called.
NAMES = {
    "defects|spoiled|stray": "corruption, outlier_ratio, corruption_prob",
    "wolf|warp": "pointwolf_prob, elastic",
    "Mix|share_of|mixing": "MixUp, CutMix, lam",
    "Prepared|prepare_clouds": "preprocess, ModelInput",
    "least_share|refined": "min_part_fraction, postprocessed",
    "Familiarity|unfamiliar|is_unusual|unlike": "MahalanobisDetector, ood_score, is_ood",
    "Separation": "OODMetrics",
    "measures|_evaluating": "one evaluation module a subject",
    "survival|Watch|explained": "fault_tolerance, PreemptionGuard",
    "sharing|Share|leads": "sharding, Shard, is_rank_zero",
    "speed|insight|folded": "precision, ema, explain, fuse_bn",
    "every_point|the_graph|graph_of": "knn_graph, neighbor_idx",
    "shipped|shipping": "pretrained, publish",
    "start_from": "load_matching_weights",
    "Trunk": "Backbone, encode, decode",
    "over_points|max_of_points|NeighborMax": "slot_lse, gather_max, MaxEdgeConv",
    "local_shape|surface_shape|whole_shape|geodesic_spread|ring_features|facing": (
        "eigen_features, average_geodesic_distance, orientation"
    ),
    "seeker": "query",
    "resident|epoch_batches|point_choice": "in_memory, min_batches_per_epoch, sampling",
    "denoise": "remove_outliers",
    "Answers|Observer|Look|Place|Painted|Strip": (
        "Predictions, hook, AttentionView, Progress, ColoredCloud, LegendBox"
    ),
}
PHRASES = (
    "spoiled|unfamiliar|familiarity|unlike anything|taken for|told (the|each)|so many|anew|"
    "surer than|share right|stray points?|manieth|without it"
)


def names(path: Path) -> set[str]:
    """Everything that a file defines or takes: modules, classes, functions, arguments, fields."""
    found = {path.stem}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.arg | ast.keyword):
            found.add(node.arg or "")
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


@pytest.mark.parametrize(("old", "new"), NAMES.items())
def test_names_are_those_of_the_field(old: str, new: str) -> None:
    left = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in FILES
        for name in sorted(names(path))
        if re.fullmatch(rf"_?(?:{old})", name)
    ]
    assert not left, f"write {new}"


def test_recipe_keys_are_those_of_the_field() -> None:
    gone = {"stray", "view", "cut", "drop", "spoiled", "wolf", "warp", "resident", "copies"}
    keys = set(vars(Recipe().augment)) | set(vars(Recipe().data)) | set(vars(Recipe().eval))
    assert not keys & gone


def test_prose_is_that_of_the_field() -> None:
    left = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES + PAGES
        if path.name not in ("CHANGELOG.md", "EXPERIMENTS.md")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(rf"\b({PHRASES})\b", line, re.IGNORECASE)
    ]
    assert not left
