"""Embeddings as points on a plane, and what their neighbourhoods tell."""

from shardmill.projection.neighbours import same_class_rate
from shardmill.projection.pca import Basis
from shardmill.projection.pca import fit_basis as fit_pca
from shardmill.projection.scatter import draw_scatter
from shardmill.projection.umap_map import UmapBasis
from shardmill.projection.umap_map import fit_basis as fit_umap

__all__ = ["Basis", "UmapBasis", "draw_scatter", "fit_pca", "fit_umap", "same_class_rate"]
