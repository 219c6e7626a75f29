"""Layers, each against a literal re-implementation of the code it follows."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ea_pointcloud.nn import (
    AttentionBlock,
    ExternalAttention,
    LinearNorm,
    MemoryPooling,
    MultiHeadExternalAttention,
    NeighborEmbedding,
    PointBatchNorm,
    PointwiseResidual,
    SelfAttention,
)
from ea_pointcloud.nn.blocks import ATTENTION
from ea_pointcloud.ops import (
    PyramidLevel,
    build_pyramid,
    external_attention,
    farthest_point_sample,
    gather_points,
    knn,
)
from tests.oracles import cloud, randomise, seeded

# Ten real points each, so that both clouds weigh the same in batch statistics.
MASK = torch.zeros(2, 16, dtype=torch.bool)
MASK[0, :10] = True
MASK[1, [0, 2, 3, 5, 7, 8, 10, 12, 13, 15]] = True


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeded(), dtype=dtype)


def channels_first_norm(norm: PointBatchNorm) -> nn.BatchNorm1d:
    """torch's own batch normalisation for (B, C, N) with the same state."""
    own = nn.BatchNorm1d(norm.num_features).to(norm.weight.dtype)
    own.load_state_dict(norm.state_dict())
    return own.train(norm.training)


# --- external attention


def official_unit(unit: ExternalAttention, features: Tensor) -> Tensor:
    """MenghaoGuo/EANet model_torch.py, line by line, with 1x1 convolutions on (B, C, N)."""
    norm = channels_first_norm(unit.norm)
    x = features.transpose(1, 2)
    identity = x
    x = F.conv1d(x, unit.input.weight[..., None], unit.input.bias)
    attention = F.conv1d(x, unit.key_memory[..., None])  # (B, M, N)
    attention = F.softmax(attention, dim=-1)
    attention = attention / (1e-9 + attention.sum(dim=1, keepdim=True))
    x = F.conv1d(attention, unit.value_memory.T[..., None])
    x = norm(F.conv1d(x, unit.output.weight[..., None]))
    return F.relu(x + identity).transpose(1, 2)


@pytest.mark.parametrize("training", [False, True])
def test_external_attention_is_the_official_unit(training: bool) -> None:
    unit = randomise(ExternalAttention(12, memory_size=7)).double().train(training)
    features = draw(3, 20, 12)
    expected = official_unit(unit, features)
    torch.testing.assert_close(unit(features), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("build", [ExternalAttention, MultiHeadExternalAttention])
def test_memories_start_equal_and_are_independent(build: Callable[..., nn.Module]) -> None:
    # The official code shares their storage through .data, which is not meant to be copied.
    layer = build(16)
    assert torch.equal(layer.key_memory, layer.value_memory)
    assert layer.key_memory.data_ptr() != layer.value_memory.data_ptr()
    before = layer.value_memory.detach().clone()
    with torch.no_grad():
        layer.key_memory.add_(1.0)
    assert torch.equal(layer.value_memory, before)
    assert {"key_memory", "value_memory"} <= dict(layer.named_parameters()).keys()


def test_external_attention_starts_as_published() -> None:
    # A 1x1 convolution from c_in to c_out is drawn with variance 2 / c_out.
    unit = ExternalAttention(256, memory_size=64)
    for tensor, fan_out in (
        (unit.key_memory, 64),
        (unit.input.weight, 256),
        (unit.output.weight, 256),
    ):
        assert float(tensor.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert abs(float(tensor.detach().mean())) < 0.01
    assert unit.key_memory.shape == (64, 256)
    assert (unit.input.bias == 0).all()
    assert unit.output.bias is None


def test_multihead_starts_as_its_table() -> None:
    layer = MultiHeadExternalAttention(128, heads=4, norm="softmax")
    for tensor, fan_out in (
        (layer.key_memory, 64),
        (layer.input.weight, 512),
        (layer.output.weight, 128),
    ):
        assert float(tensor.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    for bias in (layer.input.bias, layer.output.bias, layer.value_bias, layer.key_bias):
        assert (bias == 0).all()


def official_multihead(layer: MultiHeadExternalAttention, features: Tensor, heads: int) -> Tensor:
    """EAMLP's multi_head_attention_torch.py, line by line (dropout aside)."""
    batch, num_points, channels = features.shape
    x = F.linear(features, layer.input.weight, layer.input.bias)
    x = x.view(batch, num_points, 4 * heads, channels // heads).permute(0, 2, 1, 3)
    # Its key memory has a bias, which the softmax over the points cancels: any value will do.
    attention = F.linear(x, layer.key_memory, torch.full((len(layer.key_memory),), 0.7).to(x))
    attention = attention.softmax(dim=-2)
    attention = attention / (1e-9 + attention.sum(dim=-1, keepdim=True))
    x = F.linear(attention, layer.value_memory.T, layer.value_bias)
    x = x.permute(0, 2, 1, 3).reshape(batch, num_points, 4 * channels)
    return F.linear(x, layer.output.weight, layer.output.bias)


@pytest.mark.parametrize("heads", [1, 3])
def test_multihead_is_the_official_layer(heads: int) -> None:
    layer = randomise(MultiHeadExternalAttention(12, heads=heads, memory_size=7)).double()
    features = draw(2, 20, 12)
    assert layer.key_memory.shape == (7, 12 // heads)  # one pair, shared by the heads
    assert layer.key_bias is None
    expected = official_multihead(layer, features, heads)
    torch.testing.assert_close(layer(features), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("memory_size", [1, 16, 64])
@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("expansion", [1, 4])
def test_multihead_by_its_definition(heads: int, memory_size: int, expansion: int) -> None:
    layer = MultiHeadExternalAttention(
        16, heads=heads, memory_size=memory_size, expansion=expansion
    )
    randomise(layer).double()
    width = 16 // heads
    expanded = draw(2, 10, 16) @ layer.input.weight.T + layer.input.bias
    attended = []
    for cloud_rows in expanded:
        mixed = []
        for rows in cloud_rows.split(width, dim=-1):  # one head after the other, (N, C / H)
            logits = rows @ layer.key_memory.T  # (N, M)
            over_points = logits.exp() / logits.exp().sum(0)  # each slot sums to 1
            weights = over_points / over_points.sum(1, keepdim=True)  # then each point
            mixed.append(weights @ layer.value_memory + layer.value_bias)
        assert len(mixed) == expansion * heads
        attended.append(torch.cat(mixed, dim=-1))
    expected = torch.stack(attended) @ layer.output.weight.T + layer.output.bias
    torch.testing.assert_close(layer(draw(2, 10, 16)), expected, atol=1e-10, rtol=1e-10)
    assert sum(p.numel() for p in layer.parameters()) == (
        (16 + 1) * 16 * expansion  # into the heads
        + 2 * memory_size * width + width  # memories shared by all heads, and the bias of one
        + (16 * expansion + 1) * 16  # out of them
    )  # fmt: skip


def test_the_published_multihead_layer_is_the_default() -> None:
    layer = MultiHeadExternalAttention(256)
    assert layer.input.out_features == layer.output.in_features == 4 * 256
    assert layer.key_memory.shape == layer.value_memory.shape == (64, 256 // 8)
    assert layer.queries(torch.zeros(1, 5, 256)).shape == (1, 5, 4 * 8, 256 // 8)


def test_multihead_with_a_single_softmax_uses_its_key_bias() -> None:
    layer = randomise(MultiHeadExternalAttention(8, heads=2, memory_size=5, norm="softmax"))
    features = draw(2, 20, 8, dtype=torch.float32)
    heads = layer.input(features).view(2, 20, 8, 4)
    attention = F.linear(heads, layer.key_memory, layer.key_bias).softmax(-1)
    mixed = attention @ layer.value_memory + layer.value_bias
    torch.testing.assert_close(layer(features), layer.output(mixed.flatten(2)))


@pytest.mark.parametrize("build", [ExternalAttention, MultiHeadExternalAttention])
@pytest.mark.parametrize("norm", ["double", "softmax"])
def test_streamed_layers_equal_whole_ones(build: Callable[..., nn.Module], norm: str) -> None:
    layer = randomise(build(16, norm=norm)).double().eval()
    features = draw(2, 16, 16)
    for mask in (None, MASK):
        whole, pieces = layer(features, mask), layer(features, mask, chunk=5)
        torch.testing.assert_close(pieces, whole, atol=1e-12, rtol=0)


# --- self and offset attention


def official_self_attention(layer: SelfAttention, features: Tensor) -> Tensor:
    """PCT_Pytorch's SA_Layer (and its plain form), line by line, on (B, C, N)."""
    norm = channels_first_norm(layer.norm)
    x = features.transpose(1, 2)
    x_q = F.conv1d(x, layer.query_key.weight[..., None]).permute(0, 2, 1)
    x_k = F.conv1d(x, layer.query_key.weight[..., None])
    x_v = F.conv1d(x, layer.value.weight[..., None], layer.value.bias)
    energy = torch.bmm(x_q, x_k)
    attention = torch.softmax(energy, dim=-1)
    attention = attention / (1e-9 + attention.sum(dim=1, keepdim=True))
    x_r = torch.bmm(x_v, attention)
    update = x - x_r if layer.offset else x_r
    x_r = F.relu(norm(F.conv1d(update, layer.output.weight[..., None], layer.output.bias)))
    return (x + x_r).transpose(1, 2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("offset", [False, True])
def test_self_attention_is_that_of_pct(offset: bool, training: bool) -> None:
    layer = randomise(SelfAttention(12, offset=offset)).double().train(training)
    features = draw(3, 20, 12)
    assert layer.query_key.weight.shape == (3, 12)  # shared, C / 4
    expected = official_self_attention(layer, features)
    # Energies are normalised in float32.
    torch.testing.assert_close(layer(features), expected, atol=1e-5, rtol=1e-5)


# --- dynamic external attention


@pytest.mark.parametrize("heads", [0, 2])
def test_dynamic_layers_are_the_published_ones_with_dynamic_values(heads: int) -> None:
    if heads:
        layer = MultiHeadExternalAttention(12, heads=heads, memory_size=7, dynamic=True)
    else:
        layer = ExternalAttention(12, memory_size=7, dynamic=True)
    layer = randomise(layer).double().eval()
    features = draw(2, 20, 12)
    queries = layer.queries(features)
    attended = external_attention(queries, layer.key_memory, layer.value_memory, dynamic=True)
    if heads:
        expected = layer.output((attended + layer.value_bias).flatten(2))
    else:
        expected = F.relu(features + layer.norm(layer.output(attended)))
    torch.testing.assert_close(layer(features), expected)
    published = type(layer)(12, memory_size=7, **({"heads": heads} if heads else {})).double()
    published.load_state_dict(layer.state_dict())  # the same parameters
    assert not torch.allclose(published.eval()(features), expected)


@pytest.mark.parametrize("heads", [0, 2])
def test_dynamic_attention_is_linear_in_the_number_of_points(heads: int) -> None:
    kind = "multihead_dynamic_external" if heads else "dynamic_external"
    block = AttentionBlock(16, attention=kind, memory_size=8, heads=2).eval()
    operations = []
    for count in (100, 1000, 10_000):
        features = torch.zeros(1, count, 16)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            block(features, features)
        operations.append(counter.get_total_flops())
    assert operations[1] == 10 * operations[0]
    assert operations[2] == 100 * operations[0]


def test_dynamic_attention_needs_the_double_norm() -> None:
    for build in (ExternalAttention, MultiHeadExternalAttention):
        with pytest.raises(ValueError, match="norm must be 'double' with dynamic=True"):
            build(16, norm="softmax", dynamic=True)


# --- every attention


def block_of(attention: str, norm: str = "double") -> AttentionBlock:
    return AttentionBlock(16, attention=attention, memory_size=8, heads=4, norm=norm)


@pytest.mark.parametrize("attention", ATTENTION)
def test_attention_follows_a_permutation_of_the_points(attention: str) -> None:
    block = randomise(block_of(attention)).double().eval()
    features, position = draw(2, 16, 16), 0.1 * draw(2, 16, 16)
    order = torch.randperm(16, generator=seeded())
    permuted = block(features[:, order], position[:, order])
    torch.testing.assert_close(permuted, block(features, position)[:, order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_position_embedding_is_added_to_the_input(attention: str) -> None:
    block = randomise(block_of(attention)).eval()
    features, position = draw(2, 16, 16).float(), draw(2, 16, 16).float() * 0.3
    expected = block(features + position, torch.zeros_like(position))
    torch.testing.assert_close(block(features, position), expected)


def test_without_attention_no_point_learns_of_another() -> None:
    block = randomise(block_of("none")).eval()
    features, position = draw(2, 16, 16).float(), draw(2, 16, 16).float() * 0.3
    alone = [block(features[:, [i]], position[:, [i]]) for i in range(16)]
    torch.testing.assert_close(block(features, position), torch.cat(alone, dim=1))
    assert block.slot_state(features, position) is None


def test_the_control_is_external_attention_with_a_relu_for_memories() -> None:
    control, external = PointwiseResidual(16), ExternalAttention(16)
    external.load_state_dict(control.state_dict(), strict=False)
    features = draw(2, 16, 16).float()
    hidden = external.queries(features).relu()
    expected = F.relu(features + external.norm(external.output(hidden)))
    torch.testing.assert_close(control(features), expected)
    wide = PointwiseResidual(512)
    for layer in (wide.input, wide.output):
        assert abs(float(layer.weight.detach().std()) - (2 / 512) ** 0.5) < 1e-3


def test_the_multihead_block_closes_its_residual() -> None:
    block = randomise(block_of("multihead_external")).eval()
    features, position = draw(2, 16, 16).float(), draw(2, 16, 16).float() * 0.3
    summed = features + position
    norm = channels_first_norm(block.outer_norm)
    attended = norm(block.attention(summed).transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(block(features, position), F.relu(summed + attended))


# --- variants of the dynamic form


FORMS = ["skip", "gate", "project", "norm", "skip+gate+project+norm"]


def dynamic_by_hand(layer: MultiHeadExternalAttention, features: Tensor) -> Tensor:
    """One head after the other, with the (N, M) weights written out."""
    form, heads = layer.form, []
    for query in layer.queries(features).unbind(2):
        logits = query @ layer.key_memory.T
        over_points = logits.softmax(1)  # (B, N, M)
        if form.project is None:
            gathered = over_points.transpose(1, 2) @ query
        else:
            gathered = over_points.transpose(1, 2) @ form.project(query)
        if form.norm is not None:
            gathered = form.norm(gathered)
        weights = over_points / over_points.sum(-1, keepdim=True)
        out = weights @ (layer.value_memory + gathered)
        if form.gate is not None:
            out = out * form.gate(query).sigmoid()
        heads.append(out + query.relu() if form.skip else out)
    return layer.output((torch.stack(heads, dim=2) + layer.value_bias).flatten(2))


@pytest.mark.parametrize("form", FORMS)
def test_a_variant_of_the_dynamic_form_is_its_formula(form: str) -> None:
    layer = MultiHeadExternalAttention(16, heads=4, memory_size=5, dynamic=True, dynamic_form=form)
    layer, features = randomise(layer).double(), draw(2, 16, 16)
    torch.testing.assert_close(layer(features), dynamic_by_hand(layer, features))
    torch.testing.assert_close(layer(features, chunk=5), layer(features))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attention", ["dynamic_external", "multihead_dynamic_external"])
def test_a_variant_in_chunks_and_with_padding(attention: str, form: str) -> None:
    block = AttentionBlock(16, attention=attention, memory_size=5, heads=4, dynamic_form=form)
    block = randomise(block).double().eval()
    features, position = draw(2, 16, 16), 0.1 * draw(2, 16, 16)
    whole = block(features, position, MASK)
    rows = [slice(0, 9), slice(9, 16)]
    one, two = (block.slot_state(features[:, r], position[:, r], MASK[:, r]) for r in rows)
    state = one.merge(two)
    chunks = [block(features[:, r], position[:, r], MASK[:, r], state=state) for r in rows]
    torch.testing.assert_close(torch.cat(chunks, dim=1)[MASK], whole[MASK])
    for cloud_features, cloud_position, mask, row in zip(
        features, position, MASK, whole, strict=True
    ):
        alone = block(cloud_features[None, mask], cloud_position[None, mask])[0]
        torch.testing.assert_close(row[mask], alone)


def test_projected_content_starts_as_the_plain_form() -> None:
    layers = []
    for form in ("plain", "project"):
        torch.manual_seed(0)
        layers.append(ExternalAttention(16, memory_size=5, dynamic=True, dynamic_form=form))
    features = draw(2, 16, 16).float()
    torch.testing.assert_close(layers[0](features), layers[1](features))
    assert set(layers[1].state_dict()) - set(layers[0].state_dict()) == {"form.project.weight"}


@pytest.mark.parametrize("build", [ExternalAttention, MultiHeadExternalAttention])
def test_the_initial_scale_of_the_memories(build: Callable[..., nn.Module]) -> None:
    layer = build(256, memory_std=0.03)
    assert float(layer.key_memory.detach().std()) == pytest.approx(0.03, rel=0.1)
    assert torch.equal(layer.key_memory, layer.value_memory)


def test_wrong_variants() -> None:
    with pytest.raises(ValueError, match=r"dynamic_form must be one of 'plain', 'skip', .*'skp'"):
        ExternalAttention(16, dynamic=True, dynamic_form="norm+skp")
    with pytest.raises(ValueError, match="must be 'plain' without dynamic attention, got 'skip'"):
        AttentionBlock(16, attention="external", dynamic_form="skip")


# --- neighbour embedding


def grouped(
    embedding: NeighborEmbedding, xyz: Tensor, features: Tensor, lengths: Tensor | None
) -> Tensor:
    """PCT's grouping as written: pairs first, then two 1x1 convolutions and the maximum."""
    batch, num_points = xyz.shape[:2]
    norms = [channels_first_norm(norm) for norm in (embedding.pair_norm, embedding.mix_norm)]
    start = []
    for b in range(batch):
        real = xyz[b, : num_points if lengths is None else lengths[b]]
        start.append(int(real.norm(dim=-1).argmax()))
    center = farthest_point_sample(xyz, 20, lengths=lengths, start=torch.tensor(start))
    k = min(12, num_points)
    _, neighbor = knn(gather_points(xyz, center), xyz, k, lengths=lengths)
    own = gather_points(features, center)[:, :, None].expand(-1, -1, k, -1)
    pairs = torch.cat([gather_points(features, neighbor) - own, own], dim=-1)  # (B, S, K, 2C)
    x = pairs.flatten(0, 1).transpose(1, 2)  # (B S, 2C, K)
    for linear, norm in zip((embedding.pair, embedding.mix), norms, strict=True):
        x = F.relu(norm(F.conv1d(x, linear.weight[..., None])))
    return x.amax(-1).view(batch, 20, -1)


def level_of(xyz: Tensor, lengths: Tensor | None = None) -> PyramidLevel:
    return build_pyramid(xyz, [20], 12, lengths=lengths)[0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([60, 9])])
def test_neighbor_embedding_equals_the_grouped_form(lengths: Tensor | None, training: bool) -> None:
    embedding = randomise(NeighborEmbedding(6, 10)).train(training)
    xyz = cloud("surface", 60, batch=2)
    features = draw(2, 60, 6).float()
    expected = grouped(embedding, xyz, features, lengths)
    out = embedding(features, level_of(xyz, lengths))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_neighbor_embedding_trains_as_the_grouped_form() -> None:
    embedding = NeighborEmbedding(6, 10).double()
    xyz, features = cloud("surface", 60, batch=2), draw(2, 60, 6).requires_grad_()
    weights = [features, *(p for p in embedding.parameters() if p.ndim > 1)]
    expected = torch.autograd.grad(grouped(embedding, xyz, features, None).square().sum(), weights)
    out = torch.autograd.grad(embedding(features, level_of(xyz)).square().sum(), weights)
    for one, other in zip(out, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("num_points", [1, 3])
def test_neighbor_embedding_of_small_clouds(num_points: int) -> None:
    embedding = NeighborEmbedding(6, 10).eval()
    xyz, features = cloud("surface", num_points), draw(1, num_points, 6).float()
    out = embedding(features, level_of(xyz))
    assert out.shape == (1, 20, 10)
    # The order of the centres repeats.
    torch.testing.assert_close(out[:, num_points:], out[:, : 20 - num_points])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_neighbor_embedding_runs_under_autocast(dtype: torch.dtype) -> None:
    embedding = NeighborEmbedding(6, 10)
    xyz, features = cloud("surface", 60, batch=2), draw(2, 60, 6).float()
    exact_level = level_of(xyz)
    exact = copy.deepcopy(embedding)(features, exact_level)
    with torch.autocast("cpu", dtype=dtype):
        level = level_of(xyz)
        out = embedding(features, level)
    for one, other in zip(level, exact_level, strict=True):
        assert torch.equal(one, other)  # the choice of points does not round
    assert (out.float() - exact).abs().mean() < 0.05


# --- normalisation


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(3, 20, 5), (3, 4, 6, 5), (3, 5)])
def test_point_batch_norm_equals_torch(shape: tuple[int, ...], training: bool) -> None:
    norm = randomise(PointBatchNorm(5)).train(training)
    own = channels_first_norm(norm)
    features = draw(*shape).float()
    expected = own(features.reshape(-1, 5)).view(shape)
    torch.testing.assert_close(norm(features), expected)
    for (name, one), two in zip(norm.named_buffers(), own.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


def test_point_batch_norm_does_not_see_padding() -> None:
    norm = randomise(PointBatchNorm(5))
    own = channels_first_norm(norm)
    features = draw(2, 16, 5).float().masked_fill(~MASK[..., None], float("nan"))
    out = norm(features, MASK)
    torch.testing.assert_close(out[MASK], own(features[MASK]))
    torch.testing.assert_close(norm.running_var, own.running_var)
    assert out.isfinite().all()


def test_point_batch_norm_of_a_single_row_in_training() -> None:
    # torch fails here; this uses the running statistics, as its docstring says, and keeps them.
    norm = randomise(PointBatchNorm(5)).train()
    features = draw(1, 5).float()
    own, before = channels_first_norm(norm).eval(), norm.running_mean.clone()
    torch.testing.assert_close(norm(features), own(features))
    assert torch.equal(norm.running_mean, before)
    assert norm(features[None]).shape == (1, 1, 5)


def test_point_batch_norm_of_a_single_real_row_in_training() -> None:
    norm = randomise(PointBatchNorm(5)).train()
    own = channels_first_norm(norm).eval()
    features, mask = draw(1, 4, 5).float(), torch.tensor([[False, True, False, False]])
    torch.testing.assert_close(norm(features, mask)[0, 1], own(features[0])[1])


def test_point_batch_norm_wrong_mask() -> None:
    norm, features = PointBatchNorm(5), draw(2, 16, 5).float()
    with pytest.raises(ValueError, match=r"mask must have shape \(B, N\) = \(2, 16\)"):
        norm(features, MASK[:, :10])
    with pytest.raises(TypeError, match="mask must be bool with True for a real point"):
        norm(features, MASK.float())


def test_linear_norm_is_its_three_parts() -> None:
    layer = randomise(LinearNorm(4, 5, activation=nn.LeakyReLU(0.2), bias=True)).eval()
    features = draw(2, 16, 4).float()
    own = channels_first_norm(layer.norm)
    x = own(F.conv1d(features.transpose(1, 2), layer.linear.weight[..., None], layer.linear.bias))
    torch.testing.assert_close(layer(features), F.leaky_relu(x, 0.2).transpose(1, 2))


def test_linear_norm_defaults() -> None:
    layer = LinearNorm(4, 5)
    assert layer.linear.bias is None
    assert repr(layer) == "LinearNorm(4, 5, ReLU)"
    assert (layer(draw(2, 16, 4).float(), MASK) >= 0).all()


# --- errors


@pytest.mark.parametrize("build", [ExternalAttention, MultiHeadExternalAttention])
def test_wrong_numbers_of_external_attention(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="memory_size must be at least 1, got 0"):
        build(16, memory_size=0)
    with pytest.raises(ValueError, match="norm must be one of 'double', 'softmax', got 'l1'"):
        build(16, norm="l1")


def test_wrong_numbers_of_multihead() -> None:
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        MultiHeadExternalAttention(16, heads=0)
    with pytest.raises(ValueError, match="expansion must be at least 1, got 0"):
        MultiHeadExternalAttention(16, expansion=0)
    with pytest.raises(ValueError, match="channels must be a multiple of heads=3, got 16"):
        MultiHeadExternalAttention(16, heads=3)


def test_wrong_channels_of_self_attention() -> None:
    with pytest.raises(ValueError, match="channels must be a multiple of 4, got 6"):
        SelfAttention(6)


def test_wrong_attention() -> None:
    words = r"attention must be one of 'external', .*'self', 'offset', 'none', got 'ea'"
    with pytest.raises(ValueError, match=words):
        AttentionBlock(16, attention="ea")


@pytest.mark.parametrize("attention", ATTENTION)
def test_wrong_inputs_of_attention(attention: str) -> None:
    layer = block_of(attention).attention
    with pytest.raises(ValueError, match=r"features must have shape \(B, N, C\), got \(16, 16\)"):
        layer(torch.zeros(16, 16))
    with pytest.raises(
        ValueError, match=r"mask must have shape \(B, N\) = \(2, 16\), got \(2, 3\)"
    ):
        layer(torch.zeros(2, 16, 16), torch.ones(2, 3).bool())
    with pytest.raises(TypeError, match="mask must be bool with True for a real point"):
        layer(torch.zeros(2, 16, 16), torch.ones(2, 16))


# --- memory pooling


def test_memory_pooling_is_what_each_slot_attends_to() -> None:
    layer = MemoryPooling(12, slots=5, slot_channels=3).double()
    features = draw(2, 20, 12)
    weights = (features @ layer.key_memory.T).softmax(1)  # (B, N, M)
    expected = layer.slot(torch.einsum("bnm,bnc->bmc", weights, features)).flatten(1)
    out = layer(features)
    assert out.shape == (2, 15)
    torch.testing.assert_close(out, expected)
    order = torch.randperm(20, generator=seeded())
    torch.testing.assert_close(layer(features[:, order]), expected)


@pytest.mark.parametrize("padding", [0.0, -float("inf"), float("nan")])
def test_memory_pooling_does_not_see_padding(padding: float) -> None:
    layer = MemoryPooling(12, slots=5).double()
    features = draw(2, 16, 12).masked_fill(~MASK[..., None], padding)
    out = layer(features, MASK)
    alone = [layer(one[None, real])[0] for one, real in zip(features, MASK, strict=True)]
    torch.testing.assert_close(out, torch.stack(alone))
    gradient = torch.autograd.grad(out.sum(), layer.parameters())
    assert all(one.isfinite().all() for one in gradient)


def test_memory_pooling_starts_as_its_table() -> None:
    layer = MemoryPooling(256, slots=64)
    assert float(layer.key_memory.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.03)
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        MemoryPooling(12, slots=0)
