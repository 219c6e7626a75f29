"""Layers on point features: attention, normalisation, and the blocks of the networks."""

from ea_pointcloud.nn.attention import (
    ExternalAttention,
    MultiHeadExternalAttention,
    SelfAttention,
)
from ea_pointcloud.nn.blocks import AttentionBlock, NeighborEmbedding
from ea_pointcloud.nn.norm import LinearNorm, PointBatchNorm

__all__ = [
    "AttentionBlock",
    "ExternalAttention",
    "LinearNorm",
    "MultiHeadExternalAttention",
    "NeighborEmbedding",
    "PointBatchNorm",
    "SelfAttention",
]
