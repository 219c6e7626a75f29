"""Train a transformer with self-attention, replace it by external attention, fine-tune, compare.

    python -m scripts.research.replace_attention             # about 18 minutes on one core
    python -m scripts.research.replace_attention --epochs 2  # a look

The classifier is torch's TransformerEncoder over 64 patches of clouds of 512 generated points.
Fine-tuning takes a tenth of the epochs, once from memories drawn at random and once from memories
calibrated on the training set. Weights are those of the last epoch; val is printed on the way and
the test split is evaluated at the end.
"""

import argparse
import copy
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud.datasets import ProceduralShapes
from ea_pointcloud.nn import PatchEmbedding, Replacement, initialise_memories, replace_attention
from ea_pointcloud.ops import PyramidLevel, build_pyramid

POINTS, PATCHES, NEIGHBORS = 512, 64, 32
CHANNELS, HEADS, LAYERS = 96, 4, 3
SHAPES = {"train": 3360, "val": 280, "test": 420}
TRAINING = {"rate": 1e-3, "batch": 32}
FINE_TUNING = {"rate": 2e-3, "batch": 16}  # chosen on val
ROUNDS = 9  # of timing


class TokenClassifier(nn.Module):
    """Patches of a cloud as tokens, torch's encoder over them, mean and maximum, class scores."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = PatchEmbedding(0, (48, 96), CHANNELS)
        self.position = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, CHANNELS))
        layer = nn.TransformerEncoderLayer(
            CHANNELS, HEADS, 2 * CHANNELS, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, LAYERS, norm=nn.LayerNorm(CHANNELS), enable_nested_tensor=False
        )
        self.head = nn.Linear(2 * CHANNELS, num_classes)

    def forward(self, xyz: Tensor, level: PyramidLevel) -> Tensor:
        """(B, classes) scores of clouds (B, N, 3) with their patches."""
        tokens = self.encoder(self.patches(xyz, level) + self.position(level.xyz))
        return self.head(torch.cat([tokens.mean(1), tokens.amax(1)], dim=-1))


class Split:
    """Clouds of a split with their labels, and patches found once."""

    def __init__(self, name: str) -> None:
        shapes = ProceduralShapes(name, num_points=POINTS, num_shapes=SHAPES[name])
        self.num_classes = len(shapes.class_names)
        self.xyz, self.label = shapes.xyz, shapes.label
        self.level = build_pyramid(self.xyz, [PATCHES], NEIGHBORS)[0]

    def clouds(self, rows: Tensor, scale: Tensor | None = None) -> tuple[Tensor, PyramidLevel]:
        """The model's inputs for some clouds, stretched by ``scale`` (b, 1, 3)."""
        level = PyramidLevel(*(part[rows] for part in self.level))
        if scale is None:
            return self.xyz[rows], level
        return self.xyz[rows] * scale, level._replace(xyz=level.xyz * scale)

    def batches(self) -> list[Tensor]:
        """Rows of the split, in order."""
        return list(torch.arange(len(self.label)).split(32))


def train(
    model: nn.Module,
    data: dict[str, Split],
    epochs: int,
    *,
    rate: float,
    batch: int,
    seed: int,
) -> None:
    """AdamW with a short warm-up and a cosine to zero; prints accuracies on val."""
    generator = torch.Generator().manual_seed(seed)
    split = data["train"]
    steps = epochs * -(-len(split.label) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=0.1
    )
    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(len(split.label), generator=generator).split(batch):
            scale = 2 / 3 + 5 / 6 * torch.rand(len(rows), 1, 3, generator=generator)
            loss = F.cross_entropy(
                model(*split.clouds(rows, scale)), split.label[rows], label_smoothing=0.1
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        say(f"  epoch {epoch + 1:2d} of {epochs}: val accuracy {accuracy(model, data['val']):.3f}")


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Overall accuracy."""
    model.eval()
    preds = [model(*split.clouds(rows)).argmax(-1) for rows in split.batches()]
    return float((torch.cat(preds) == split.label).float().mean())


@torch.no_grad()
def attention_ms(report: Replacement, num_tokens: int) -> tuple[float, float]:
    """Median milliseconds of an attention at ``num_tokens`` tokens, before and after."""
    swap = report.swaps[0]
    x = torch.randn(1, num_tokens, CHANNELS, generator=torch.Generator().manual_seed(0))
    modules = (swap.original.eval(), swap.replacement.eval())
    measured: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for module, times in zip(modules, measured, strict=True):
            started = time.perf_counter()
            module(x, x, x, need_weights=False)
            if number:  # the first warms up
                times.append(1e3 * (time.perf_counter() - started))
    return median(measured[0]), median(measured[1])


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Print what was replaced, and accuracies before and after."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40, help="of the original (40)")
    parser.add_argument("--memory-size", type=int, default=64, help="slots of a head (64)")
    parser.add_argument("--norm", choices=("double", "softmax"), default="double")
    parser.add_argument("--tokens", type=int, default=4096, help="of the costs compared (4096)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="keep the original's weights here")
    parser.add_argument("--load", type=Path, help="original's weights, instead of training it")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    data = {name: Split(name) for name in ("train", "val", "test")}
    fine_tuning = max(1, options.epochs // 10)

    say(f"original, {options.epochs} epochs")
    models = {"original": TokenClassifier(data["train"].num_classes)}
    if options.load:
        models["original"].load_state_dict(torch.load(options.load, weights_only=True))
    else:
        train(models["original"], data, options.epochs, **TRAINING, seed=options.seed)
    if options.save:
        torch.save(models["original"].state_dict(), options.save)
    for start in ("drawn", "calibrated"):
        model = copy.deepcopy(models["original"])
        report = replace_attention(
            model, options.memory_size, norm=options.norm, num_tokens=options.tokens
        )
        if start == "calibrated":
            split = data["train"]
            initialise_memories(model, report, (split.clouds(rows) for rows in split.batches()[:8]))
        models[f"replaced, memories {start}"] = copy.deepcopy(model)
        say(f"memories {start}: val accuracy {accuracy(model, data['val']):.3f} untouched")
        train(model, data, fine_tuning, **FINE_TUNING, seed=options.seed + 1)
        models[f"replaced, memories {start}, fine-tuned"] = model

    say(f"\n{report}")
    before, after = attention_ms(report, options.tokens)
    costs = report.macs()
    say(
        f"\nattention at {options.tokens:,} tokens: {costs[0] / costs[1]:.1f} times fewer MACs; "
        f"{before:.1f} ms -> {after:.1f} ms, {before / after:.1f} times less time "
        f"({torch.get_num_threads()} threads)"
    )
    say(f"\n{'test accuracy, ' + str(len(data['test'].label)) + ' shapes':<52}parameters")
    for name, model in models.items():
        size = sum(parameter.numel() for parameter in model.parameters())
        say(f"{accuracy(model, data['test']):.4f}  {name:<44}{size:,}")
    say(f"\nseed {options.seed}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
