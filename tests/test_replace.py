"""External attention in place of self-attention: interfaces, report, calibration, images."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ea_pointcloud.nn import (
    ExternalAttention,
    ExternalMultiheadAttention,
    ExternalTokenAttention,
    initialise_memories,
    replace_attention,
)
from ea_pointcloud.nn.memory_init import k_means
from tests.oracles import seeded

C, HEADS = 16, 4
PADDED = torch.arange(12) >= torch.tensor([[12], [7], [1]])  # (3, 12), True = padding


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=seeded(), dtype=torch.float64).to(dtype)


def encoder(
    *, batch_first: bool = True, norm_first: bool = False, layers: int = 2
) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        C, HEADS, 2 * C, dropout=0.0, batch_first=batch_first, norm_first=norm_first
    )
    nested = batch_first and not norm_first  # torch warns where it cannot
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=nested)


class Attention(nn.Module):
    """Built and called like timm's ``Attention``."""

    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(0.25)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = self.q_norm(qkv[0]), self.k_norm(qkv[1]), qkv[2]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=is_causal)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class Vision(nn.Module):
    """A small ViT: patches of an image, one block of attention, mean, class scores."""

    def __init__(self, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, C, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(16, C))
        self.norms = nn.ModuleList(nn.LayerNorm(C) for _ in range(3))
        self.attention = Attention(C, HEADS, qk_norm=qk_norm)
        self.mlp = nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C))
        self.head = nn.Linear(C, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.position
        x = x + self.attention(self.norms[0](x))
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


# --- the unit


def two_steps(unit: ExternalMultiheadAttention, tokens: Tensor) -> Tensor:
    """Softmax over the tokens, then L1 over the slots, head by head."""
    heads = []
    width = C // HEADS
    for h in range(HEADS):
        rows = slice(h * width, (h + 1) * width)
        query = tokens @ unit.input.weight[rows].T + unit.input.bias[rows]
        attention = (query @ unit.key_memory[h].T).softmax(dim=1)  # over the tokens
        attention = attention / attention.sum(dim=2, keepdim=True)  # over the slots
        heads.append(attention @ unit.value_memory[h])
    return torch.cat(heads, dim=-1) @ unit.output.weight.T + unit.output.bias


def test_each_head_is_external_attention_with_memories_of_its_own() -> None:
    unit = ExternalMultiheadAttention(C, heads=HEADS, memory_size=5, batch_first=True).double()
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.normal_(std=0.5)
    tokens = draw(3, 12, C, dtype=torch.float64)
    out, weights = unit(tokens, tokens, tokens)
    torch.testing.assert_close(out, two_steps(unit, tokens), atol=1e-12, rtol=1e-12)
    assert weights is None
    attention = unit.attention_map(tokens)
    assert attention.shape == (3, 12, HEADS, 5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 12, HEADS).double())
    mixed = torch.einsum("bnhm,hmd->bnhd", attention, unit.value_memory)
    torch.testing.assert_close(unit.output(mixed.flatten(2)), out)


def test_layouts_agree() -> None:
    first = ExternalMultiheadAttention(C, heads=HEADS, memory_size=5, batch_first=True)
    second = ExternalMultiheadAttention(C, heads=HEADS, memory_size=5)
    second.load_state_dict(first.state_dict())
    tokens, turned = draw(3, 12, C), draw(3, 12, C).transpose(0, 1)
    expected, _ = first(tokens, tokens, tokens)
    torch.testing.assert_close(second(turned, turned, turned)[0].transpose(0, 1), expected)
    for unit in (first, second):  # batch_first says nothing about unbatched tokens
        one = tokens[0]
        torch.testing.assert_close(unit(one, one, one)[0], expected[0])
        masked, _ = unit(one, one, one, PADDED[1])
        cropped = one[:7]
        torch.testing.assert_close(masked[:7], unit(cropped, cropped, cropped)[0])
    images = ExternalTokenAttention(C, heads=HEADS, memory_size=5)
    images.load_state_dict(first.state_dict())
    torch.testing.assert_close(images(tokens.view(3, 3, 4, C)).flatten(1, 2), expected)


@pytest.mark.parametrize("form", ["bool", "float"])
def test_padding_masks_of_torch(form: str) -> None:
    unit = ExternalMultiheadAttention(C, heads=HEADS, memory_size=5, batch_first=True)
    tokens = draw(3, 12, C)
    mask = PADDED if form == "bool" else torch.zeros(3, 12).masked_fill(PADDED, -torch.inf)
    tokens[PADDED] = torch.nan  # padding that would show
    masked, _ = unit(tokens, tokens, tokens, mask)
    for b, length in enumerate((12, 7, 1)):
        one = tokens[b, :length]
        torch.testing.assert_close(masked[b, :length], unit(one, one, one)[0])


def test_what_it_cannot_express_is_an_error() -> None:
    unit = ExternalMultiheadAttention(C, heads=HEADS, batch_first=True)
    x = draw(3, 12, C)
    with pytest.raises(ValueError, match=r"must be one tensor: .* cross-attention; leave this"):
        unit(x, x.clone(), x)
    with pytest.raises(ValueError, match=r"need_weights must be False: .* attention_map\(\)"):
        unit(x, x, x, need_weights=True)
    for masked in ({"attn_mask": torch.zeros(12, 12)}, {"is_causal": True}):
        with pytest.raises(
            ValueError, match=r"attn_mask must be None and is_causal False: .*skip="
        ):
            unit(x, x, x, **masked)
        with pytest.raises(
            ValueError, match=r"attn_mask must be None and is_causal False: .*skip="
        ):
            ExternalTokenAttention(C, heads=HEADS)(x, **masked)
    with pytest.raises(ValueError, match=r"must have shape \(B, N\) = \(3, 12\), got \(3, 11\)"):
        unit(x, x, x, PADDED[:, :11])
    with pytest.raises(ValueError, match=r"must hold 0 for a real and -inf for a padded token"):
        unit(x, x, x, torch.full((3, 12), -1.0))
    with pytest.raises(ValueError, match=r"\(B, N, C\) or \(N, C\) with C=16, got \(3, 12, 8\)"):
        unit(*[torch.zeros(3, 12, 8)] * 3)
    with pytest.raises(ValueError, match=r"x must have shape \(B, N, C\) or .*, got \(12, 16\)"):
        ExternalTokenAttention(C, heads=HEADS)(torch.zeros(12, C))
    with pytest.raises(ValueError, match=r"channels must be a multiple of heads=3, got 16"):
        ExternalTokenAttention(C, heads=3)


# --- torch's transformer layers


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_the_encoder_uses_the_replacement_in_evaluation(
    batch_first: bool, norm_first: bool, padded: bool
) -> None:
    model = encoder(batch_first=batch_first, norm_first=norm_first)
    replace_attention(model, 5)
    x = draw(3, 12, C)
    mask = PADDED if padded else None
    given = x if batch_first else x.transpose(0, 1)
    expected = x
    for layer in model.layers:

        def attend(tokens: Tensor, layer: nn.Module = layer) -> Tensor:
            return layer.self_attn.attend(tokens, None if mask is None else ~mask)

        if norm_first:
            expected = expected + attend(layer.norm1(expected))
            inner = layer.linear1(layer.norm2(expected)).relu()
            expected = expected + layer.linear2(inner)
        else:
            expected = layer.norm1(expected + attend(expected))
            expected = layer.norm2(expected + layer.linear2(layer.linear1(expected).relu()))
    real = slice(None) if mask is None else ~mask
    for training in (True, False):  # evaluation without gradients is where torch fuses
        model.train(training)
        with torch.set_grad_enabled(training):
            out = model(given, src_key_padding_mask=mask)
        out = out if batch_first else out.transpose(0, 1)
        torch.testing.assert_close(out[real], expected[real])
    if batch_first and not padded:
        torch.testing.assert_close(model(x[0]), expected[0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_an_error() -> None:
    model = encoder()
    replace_attention(model.layers, 5)  # the encoder itself is out of sight
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"use_nested_tensor = False on the TransformerEncoder"),
    ):
        model.eval()(draw(3, 12, C), src_key_padding_mask=PADDED)
    assert model(draw(3, 12, C), src_key_padding_mask=PADDED).shape == (3, 12, C)  # with gradients


def test_the_decoder_keeps_its_cross_attention() -> None:
    model = nn.Transformer(
        C, HEADS, 1, 1, 2 * C, dropout=0.0, batch_first=True, device="cpu"
    ).eval()
    report = replace_attention(model, 5)
    paths = [path for swap in report.swaps for path in swap.paths]
    assert paths == ["encoder.layers.0.self_attn", "decoder.layers.0.self_attn"]
    assert report.left == {"decoder.layers.0.multihead_attn": "cross-attention"}
    x, target = draw(3, 12, C), draw(3, 5, C)
    assert model(x, target).shape == (3, 5, C)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    with pytest.raises(ValueError, match=r"attn_mask must be None .* skip="):
        model(x, target, tgt_mask=causal)


# --- replacing


def test_the_report_counts() -> None:
    model = encoder(batch_first=False, layers=3)
    before = sum(parameter.numel() for parameter in model.parameters())
    report = replace_attention(model, 5, skip=["layers.1.*"], num_tokens=32)
    after = sum(parameter.numel() for parameter in model.parameters())
    assert report.parameters[1] - report.parameters[0] == after - before
    assert report.parameters[0] == 2 * (4 * C * C + 4 * C)
    assert report.left == {"layers.1.self_attn": "named in skip"}
    assert type(model.layers[1].self_attn) is nn.MultiheadAttention
    counted = []
    x = draw(32, 1, C)
    for swap in report.swaps:
        for module, options in ((swap.original, {"need_weights": True}), (swap.replacement, {})):
            with FlopCounterMode(display=False) as counter:
                module(x, x, x, **options)
            counted.append(counter.get_total_flops() // 2)
    assert counted == [*report.swaps[0].macs(32), *report.swaps[1].macs(32)]
    assert report.macs() == (counted[0] + counted[2], counted[1] + counted[3])
    lines = str(report).splitlines()
    assert lines[0].split() == [
        "attention", "was", "C", "heads", "slots", "parameters", "MACs,", "N=32",
    ]  # fmt: skip
    assert lines[1].split()[:5] == ["layers.0.self_attn", "MultiheadAttention", "16", "4", "5"]
    assert lines[-2].split()[0] == "all"
    assert f"{report.macs()[0]:,} -> {report.macs()[1]:,}" in lines[-2]
    assert lines[-1] == "left: layers.1.self_attn: named in skip"


def test_a_replacement_is_as_its_original() -> None:
    model = encoder(batch_first=False).double()
    model.layers[0].self_attn.eval().requires_grad_(False)
    original = model.layers[0].self_attn
    replace_attention(model, 5)
    for layer, training in zip(model.layers, (False, True), strict=True):
        unit = layer.self_attn
        assert not unit.batch_first
        assert unit.training == training
        assert {one.dtype for one in unit.parameters()} == {torch.float64}
        # What was taken over stays frozen, the memories have to learn.
        assert unit.input.weight.requires_grad == unit.output.bias.requires_grad == training
        assert unit.key_memory.requires_grad
    unit = model.layers[0].self_attn
    assert torch.equal(unit.input.weight, original.in_proj_weight[:C])
    assert torch.equal(unit.input.bias, original.in_proj_bias[:C])
    assert torch.equal(unit.output.weight, original.out_proj.weight)
    with torch.no_grad():
        unit.input.weight.zero_()  # a copy
    assert original.in_proj_weight[:C].abs().min() > 0


def test_a_replacement_stays_on_the_device() -> None:
    report = replace_attention(encoder().to("meta"), 5)
    assert {p.device.type for s in report.swaps for p in s.replacement.parameters()} == {"meta"}


def test_weights_load_into_another_replaced_model() -> None:
    model, other = encoder(), encoder()
    for one in (model, other):
        replace_attention(one, 5, norm="softmax")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(draw(3, 12, C)), model.eval()(draw(3, 12, C)))


def test_a_shared_attention_stays_shared() -> None:
    attention = nn.MultiheadAttention(C, HEADS)
    model = nn.ModuleDict({"one": attention, "two": attention})
    report = replace_attention(model, 5)
    assert model["one"] is model["two"]
    assert [swap.paths for swap in report.swaps] == [("one", "two")]
    assert "one = two" in str(report)


class Biased(nn.MultiheadAttention):
    pass


def parts(**given: nn.Module | Tensor) -> Attention:
    module = Attention(C, HEADS)
    for name, part in given.items():
        setattr(module, name, part)
    return module


def called_with_a_bias() -> nn.Module:
    class Other(Attention):
        def forward(self, x: Tensor, rel_pos_bias: Tensor) -> Tensor:
            return super().forward(x) + rel_pos_bias

    Other.__name__ = "Attention"
    return Other(C, HEADS)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.MultiheadAttention(C, HEADS, kdim=8), "cross-attention"),
        (Biased(C, HEADS), "Biased may do other things than torch.nn.MultiheadAttention"),
        (nn.MultiheadAttention(C, HEADS, add_bias_kv=True), "adds keys of its own"),
        (nn.MultiheadAttention(C, HEADS, add_zero_attn=True), "adds keys of its own"),
        (parts(gate=nn.Linear(C, C)), "has more than timm's Attention: gate"),
        (parts(table=nn.Parameter(torch.zeros(3))), "has more than timm's Attention: table"),
        (parts(qkv=nn.Conv1d(C, 3 * C, 1)), "has no linear qkv and proj"),
        (parts(proj=nn.Linear(C, 8)), "its heads are wider or narrower than its tokens"),
        (parts(num_heads=torch.tensor(4)), "has no num_heads"),
        (parts(norm=nn.LayerNorm(C)), r"normalises what it attended to \(scale_norm\)"),
        (called_with_a_bias(), "is called with rel_pos_bias"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_left_says_why(module: nn.Module, why: str) -> None:
    model = nn.Sequential(module)
    with pytest.raises(ValueError, match=rf"Sequential has no self-attention .*\(0: .*{why}"):
        replace_attention(model)
    assert model[0] is module


def test_an_attention_that_wraps_torchs_is_none_itself() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(C, HEADS)

    Wrapper.__name__ = "Attention"
    report = replace_attention(Wrapper(), 5)
    assert [swap.paths for swap in report.swaps] == [("inner",)]
    assert report.left == {}


def test_wrong_arguments_change_nothing() -> None:
    model = encoder()
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match="memory_size must be at least 1, got 0"):
        replace_attention(model, 0)
    with pytest.raises(ValueError, match="num_tokens must be at least 1, got 0"):
        replace_attention(model, num_tokens=0)
    with pytest.raises(ValueError, match="norm must be one of 'double', 'softmax', got 'l1'"):
        replace_attention(model, norm="l1")
    with pytest.raises(
        ValueError, match=r"'decoder\.\*' matches no .* are: layers.0.self_attn, la"
    ):
        replace_attention(model, skip=["decoder.*"])
    with pytest.raises(ValueError, match=r"\(layers.0.self_attn: named in skip; layers.1"):
        replace_attention(model, skip=["*"])
    with pytest.raises(ValueError, match=r"model is itself a MultiheadAttention.*hand in"):
        replace_attention(nn.MultiheadAttention(C, HEADS))
    with pytest.raises(ValueError, match=r"Linear has no self-attention .*\(none found\)"):
        replace_attention(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"Attention has no .*\(itself: is called with rel_pos_b"):
        replace_attention(called_with_a_bias())
    assert dict(model.named_modules()) == before
    assert model.use_nested_tensor


# --- timm


def test_an_attention_built_like_timms_is_replaced() -> None:
    model = Vision()
    report = replace_attention(model, 5)
    unit = model.attention
    assert isinstance(unit, ExternalTokenAttention)
    assert unit.dropout.p == 0.25
    assert unit.input.bias is None  # qkv had none
    assert unit.output.bias is not None
    assert [swap.kind for swap in report.swaps] == ["Attention"]
    assert model(draw(2, 1, 16, 16)).shape == (2, 4)


def test_models_of_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=2, num_classes=4, global_pool="avg"
    ).eval()
    originals = [block.attn for block in model.blocks]
    report = replace_attention(model, 8)
    assert [swap.paths for swap in report.swaps] == [("blocks.0.attn",), ("blocks.1.attn",)]
    images = draw(2, 3, 64, 64)
    assert model(images).isfinite().all()
    initialise_memories(model, report, [images, draw(2, 3, 64, 64).flip(-1)])
    tokens = draw(2, 17, 192)
    for block, original in zip(model.blocks, originals, strict=True):
        assert block.attn(tokens).shape == original(tokens).shape


# --- calibration


def repeated(channels: int = C) -> Tensor:
    """(1, 24, C) tokens of five kinds, the first the most frequent."""
    kinds = torch.randn(5, channels, generator=seeded())
    return kinds[torch.arange(24).square() % 5 * (torch.arange(24) % 3 > 0)][None].clone()


@pytest.mark.parametrize("qk_norm", [False, True])
def test_calibrated_on_few_kinds_of_tokens_it_is_the_original(qk_norm: bool) -> None:
    # Attention to the centres of clusters, weighted by their size, is attention to all tokens
    # where the clusters have no extent.
    tokens = repeated()
    num_kinds = len(tokens[0].unique(dim=0))
    for original in (
        nn.MultiheadAttention(C, HEADS, batch_first=True),
        parts(**{name: nn.LayerNorm(4) for name in ("q_norm", "k_norm") if qk_norm}).eval(),
    ):
        model = nn.ModuleList([original])
        torch_like = isinstance(original, nn.MultiheadAttention)

        def run(tokens: Tensor, model: nn.Module = model, torch_like: bool = torch_like) -> Tensor:
            return model[0](tokens, tokens, tokens)[0] if torch_like else model[0](tokens)

        model.forward = run
        expected = run(tokens)
        report = replace_attention(model, num_kinds, norm="softmax")
        assert (run(tokens) - expected).norm() > 0.1 * expected.norm()
        initialise_memories(model, report, [tokens])
        torch.testing.assert_close(run(tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["double", "softmax"])
def test_calibrated_starts_nearer_to_the_original(norm: str) -> None:
    model = encoder(layers=1).eval()
    # Tokens of a few places with some spread, as the features of a trained network.
    places = 2 * draw(6, C)
    tokens = places[torch.randint(6, (8, 20), generator=seeded())] + 0.3 * draw(8, 20, C)
    original = copy.deepcopy(model)(tokens)
    report = replace_attention(model, 8, norm=norm)
    drawn = (model(tokens) - original).norm()
    initialise_memories(model, report, [tokens])
    assert (model(tokens) - original).norm() < 0.5 * drawn


def test_calibration_leaves_the_model_as_it_was_but_for_the_memories() -> None:
    model = encoder()
    model.layers[0].eval()
    report = replace_attention(model, 5, norm="softmax")
    modes = [module.training for module in model.modules()]
    state = {name: one.clone() for name, one in model.state_dict().items()}
    other = copy.deepcopy(model)
    batches = [
        draw(3, 12, C), (draw(3, 12, C), None, PADDED), {"src": draw(3, 12, C)}
    ]  # fmt: skip
    initialise_memories(model, report, batches)
    assert [module.training for module in model.modules()] == modes
    assert all(
        one.self_attn is two.replacement
        for one, two in zip(model.layers, report.swaps, strict=True)
    )
    assert not any(swap.original._forward_pre_hooks for swap in report.swaps)
    changed = {n for n, one in model.state_dict().items() if not torch.equal(one, state[n])}
    names = ("key_memory", "value_memory", "key_bias")
    assert changed == {f"layers.{i}.self_attn.{name}" for i in (0, 1) for name in names}
    initialise_memories(other, report, batches)  # a copy, and the same choice again
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    initialise_memories(
        other, report, batches, max_tokens=20, generator=torch.Generator().manual_seed(1)
    )
    assert not torch.equal(
        other.layers[0].self_attn.key_memory, model.layers[0].self_attn.key_memory
    )


def test_calibration_sees_real_tokens_only() -> None:
    model = encoder(layers=1)
    attention = model.layers[0].self_attn
    x = draw(3, 12, C)
    real = x[~PADDED]
    keys = F.linear(real, attention.in_proj_weight, attention.in_proj_bias)[:, C : 2 * C]
    report = replace_attention(model, len(real))  # a slot for each token
    found = []
    for padding in (1e3, -7.0):
        initialise_memories(
            model, report, [(x.masked_fill(PADDED[..., None], padding), None, PADDED)]
        )
        unit = model.layers[0].self_attn
        found.append((unit.key_memory.clone(), unit.value_memory.clone()))
    memory = found[0][0] * 2  # logits are scaled by the root of the width of a head, 4
    for h, expected in enumerate(keys.unflatten(-1, (HEADS, -1)).unbind(1)):
        order, other = memory[h, :, 0].argsort(), expected[:, 0].argsort()
        torch.testing.assert_close(memory[h, order], expected[other])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_calibration_errors() -> None:
    model = encoder()
    report = replace_attention(model, 64)
    units = [layer.self_attn for layer in model.layers]
    state = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"memory_size=64 real tokens for layers.0.*, got 36; hand"
    ):
        initialise_memories(model, report, [draw(3, 12, C)])
    with pytest.raises(ValueError, match=r"max_tokens must be at least 1, got 0"):
        initialise_memories(model, report, [draw(3, 12, C)], max_tokens=0)
    with pytest.raises(TypeError):  # what the model itself raises goes through
        initialise_memories(model, report, [{"nonsense": draw(3, 12, C)}])
    assert [layer.self_attn for layer in model.layers] == units
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
    with pytest.raises(
        ValueError, match=r"ExternalMultiheadAttention at 'layers.0.*, got Multihead"
    ):
        initialise_memories(encoder(), report, [draw(3, 12, C)])

    class Crossing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(C, HEADS)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x + 1, x + 1)[0]

    crossing = Crossing()
    report = replace_attention(crossing, 5)
    with pytest.raises(ValueError, match=r"called with query, key and value that differ.*skip="):
        initialise_memories(crossing, report, [draw(3, 12, C)])


def test_k_means_of_separate_clusters() -> None:
    places = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    points = torch.stack([places.repeat(20, 1) + 0.1 * draw(60, 2), 5 * draw(60, 2)])
    centers, nearest = k_means(points, 3, seeded())
    order = nearest[0, :3]
    assert order.sort().values.tolist() == [0, 1, 2]
    assert torch.equal(nearest[0], order.repeat(20))
    for h in range(2):
        distance = (points[h, :, None] - centers[h]).square().sum(-1)
        assert torch.equal(distance.argmin(1), nearest[h])
        for m in range(3):
            members = points[h, nearest[h] == m]
            torch.testing.assert_close(centers[h, m], members.mean(0), atol=1e-5, rtol=1e-5)


def test_k_means_of_equal_points() -> None:
    centers, nearest = k_means(torch.ones(1, 9, 2), 4, seeded())
    assert torch.equal(centers, torch.ones(1, 4, 2))
    assert (nearest == nearest[0, 0]).all()


# --- the paper's claim, in small


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count, 1, 16, 16) stripes in four directions with noise, and which."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 4
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    waves = torch.stack([x, y, x + y, x - y])[label]
    phase = 6.3 * torch.rand(count, 1, 1, generator=generator)
    noise = 0.4 * torch.randn(count, 16, 16, generator=generator)
    return (torch.sin(1.2 * waves + phase) + noise)[:, None], label


def train(model: nn.Module, steps: int, rate: float) -> None:
    x, label = images(128, seed=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), label).backward()
        optimiser.step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    x, label = images(200, seed=2)
    return float((model.eval()(x).argmax(-1) == label).float().mean())


@pytest.mark.parametrize("norm", ["double", "softmax"])
def test_a_small_vision_transformer_goes_on_instead_of_starting_again(norm: str) -> None:
    model = Vision()
    train(model, 60, 1e-2)
    original = accuracy(model)
    assert original > 0.95
    report = replace_attention(model, 16, norm=norm)
    drawn = copy.deepcopy(model)
    initialise_memories(model, report, [images(128, seed=1)[0]])
    untouched = accuracy(model)
    assert untouched > accuracy(drawn) + 0.2
    train(model, 6, 1e-3)
    assert accuracy(model) > original - 0.03


# --- image features


def official_image_unit(unit: ExternalAttention, x: Tensor) -> Tensor:
    """The head's unit of EANet on (B, C, height, width), with 2-D convolutions, as defined."""
    x_in = x
    x = F.conv2d(x, unit.input.weight[..., None, None], unit.input.bias)
    b, c, h, w = x.shape
    x = x.view(b, c, h * w)
    attention = F.conv1d(x, unit.key_memory[..., None])  # (B, M, N)
    attention = F.softmax(attention, dim=-1)
    attention = attention / (1e-9 + attention.sum(dim=1, keepdim=True))
    x = F.conv1d(attention, unit.value_memory.T[..., None]).view(b, c, h, w)
    x = F.conv2d(x, unit.output.weight[..., None, None])
    norm = nn.BatchNorm2d(c, dtype=x.dtype)
    norm.load_state_dict(unit.norm.state_dict())
    return F.relu(norm.train(unit.training)(x) + x_in)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-8)])
def test_the_image_unit_of_the_official_code(
    training: bool, dtype: torch.dtype, atol: float
) -> None:
    unit = ExternalAttention(12, memory_size=7).to(dtype).train(training)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.normal_(std=0.3)
        unit.norm.running_mean.normal_()
        unit.norm.running_var.uniform_(0.5, 2.0)
    image = draw(2, 9, 5, 12, dtype=dtype)  # (B, height, width, C)
    expected = official_image_unit(unit, image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    out = unit(image.flatten(1, 2)).view(image.shape)
    torch.testing.assert_close(out, expected, atol=atol, rtol=0)
