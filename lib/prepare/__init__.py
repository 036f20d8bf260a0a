"""Cells as the models are fed them, made once: AnnData in, normalised values and tokens out.

Read: preprocess (align, normalise: :func:`prepare`), tokens (bin, held sparse: :func:`tokenize`), splits
(:func:`holdout`, :func:`few_shot`: one draw, shared by every model), embeddings (gene2vec or a stand-in), screen (which
cells of a file count), selection (a profile's cells and genes), cells (these, stored under their hash), corpus (cells to
pre-train on), shards (its tokens, memory-mapped).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["cells", "corpus", "embeddings", "preprocess", "screen", "selection", "shards", "splits", "tokens"],
    {"preprocess": ["prepare"], "splits": ["few_shot", "holdout"], "tokens": ["sparse_tokens", "tokenize"]},
)
