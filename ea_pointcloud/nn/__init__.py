"""Layers on point features: attention, normalisation, and the blocks of the networks."""

from ea_pointcloud.nn.attention import (
    ExternalAttention,
    MultiHeadExternalAttention,
)
from ea_pointcloud.nn.blocks import AttentionBlock, EdgeConv, MaxEdgeConv, NeighborEmbedding
from ea_pointcloud.nn.compared import PointwiseResidual, SelfAttention
from ea_pointcloud.nn.drop_in import ExternalMultiheadAttention, ExternalTokenAttention
from ea_pointcloud.nn.memory_init import evaluating, initialise_memories
from ea_pointcloud.nn.memory_pooling import MemoryPooling
from ea_pointcloud.nn.mlp import DropPath, EAMLPBlock, PatchEmbedding
from ea_pointcloud.nn.norm import LinearNorm, PointBatchNorm
from ea_pointcloud.nn.replace import Replacement, Swap, replace_attention
from ea_pointcloud.nn.transform_net import TransformNet
from ea_pointcloud.nn.unit_embedding import UnitEmbedding

__all__ = [
    "AttentionBlock",
    "DropPath",
    "EAMLPBlock",
    "EdgeConv",
    "ExternalAttention",
    "ExternalMultiheadAttention",
    "ExternalTokenAttention",
    "LinearNorm",
    "MaxEdgeConv",
    "MemoryPooling",
    "MultiHeadExternalAttention",
    "NeighborEmbedding",
    "PatchEmbedding",
    "PointBatchNorm",
    "PointwiseResidual",
    "Replacement",
    "SelfAttention",
    "Swap",
    "TransformNet",
    "UnitEmbedding",
    "evaluating",
    "initialise_memories",
    "replace_attention",
]
