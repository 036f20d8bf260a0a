"""Gene embeddings: gene2vec from its text file, or an offline stand-in from the training cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from lib import settings
from lib.datasets import downloads
from lib.errors import DataError
from lib.files import digest, fingerprint, replacing, seal, sealed
from lib.settings import cache


def gene2vec(path: str | Path, genes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Read gene2vec's text file in the order of the vocabulary.

    Parameters
    ----------
    path : str or path
        One gene a line: its symbol and 200 numbers, separated by blanks or tabs.
    genes : sequence of str

    Returns
    -------
    embedding : float32 array, (genes, 200)
        Zero rows for genes that the file lacks.
    missing : list of str

    References
    ----------
    Du et al., BMC Genomics 20, 82 (2019), doi 10.1186/s12864-018-5370-x.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"No gene2vec file at {path}. data/README.md says where to get it.")
    wanted, found, width = set(genes), {}, None
    if len(wanted) != len(genes):
        raise DataError("The gene vocabulary names a gene twice; each gene has one row of the embedding.")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            gene, *values = line.split()
            if number == 1 and len(values) == 1:
                continue  # word2vec's header: number of genes and width
            try:
                vector = np.array(values, np.float32)
            except ValueError:
                vector = np.array([np.nan])
            if not np.isfinite(vector).all():
                raise DataError(f"Line {number} of {path} is not a gene followed by finite numbers: {line[:60]!r}.")
            width = width or len(vector)
            if len(vector) != width:
                raise DataError(f"Line {number} of {path} has {len(vector)} numbers, the lines before {width}.")
            if gene in wanted:
                found[gene] = vector
    if not found:
        raise DataError(f"{path} holds none of the {len(wanted)} genes of the vocabulary: is it the right file?")
    nothing = np.zeros(width, np.float32)
    return np.array([found.get(gene, nothing) for gene in genes]), [gene for gene in genes if gene not in found]


def coexpression(tokens, dim: int, seed: int = 0, scale: float = 0.3) -> np.ndarray:
    """A gene embedding from co-expression, for where gene2vec cannot be had.

    It has gene2vec's meaning (genes used in the same contexts lie close) and is computed from the training cells
    alone: truncated SVD of the positive pointwise mutual information of two genes being detected together.

    Parameters
    ----------
    tokens : uint8 array or CSR matrix, (cells, genes + 1)
        Of the training cells only, with the closing token.
    dim : int
        Width of the embedding.
    seed : int
        Of the randomised SVD.
    scale : float
        Standard deviation over all entries of the result; gene2vec's own is of this size.

    Returns
    -------
    float32 array, (genes, dim)

    References
    ----------
    Levy & Goldberg, NeurIPS 2014 (word2vec as factorisation of mutual information).
    """
    detected = (sp.csr_matrix(tokens)[:, :-1].toarray() > 0).astype(np.float64)  # (cells, genes)
    together = detected.T @ detected / len(detected)  # (genes, genes), share of cells
    alone = np.diag(together)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(together / np.outer(alone, alone))
    information = np.where(np.isfinite(information), np.maximum(information, 0), 0)
    np.fill_diagonal(information, 0)
    rank = min(dim, len(alone) - 1)
    u, s, _ = randomized_svd(information, rank, n_iter=4, random_state=seed)
    vectors = np.zeros((len(alone), dim), np.float32)
    vectors[:, :rank] = u * np.sqrt(s)
    spread = vectors.std()
    if spread == 0:
        raise DataError("No two genes are ever detected together: there is no co-expression to embed.")
    return vectors * np.float32(scale / spread)


def random(genes: int, dim: int, seed: int = 0, scale: float = 0.3) -> np.ndarray:
    """Random vectors, (genes, dim): they tell genes apart and say nothing about them. ``scale`` as in the others."""
    return np.random.default_rng(seed).normal(0, scale, (genes, dim)).astype(np.float32)


def reduce(vectors: np.ndarray, dim: int) -> np.ndarray:
    """The first ``dim`` principal axes of an embedding (genes, width), for models narrower than gene2vec."""
    if dim > vectors.shape[1]:
        raise DataError(f"The gene embedding is {vectors.shape[1]} wide, the model {dim}: it cannot be widened.")
    if dim == vectors.shape[1]:
        return vectors
    _, _, axes = np.linalg.svd(vectors, full_matrices=False)
    return (vectors @ axes[:dim].T).astype(np.float32)


def gene2vec_path() -> Path:
    """Where gene2vec's text file is: the folder of downloads, or ``data/cache`` itself (data/README.md)."""
    name = downloads.registry()["gene2vec"]["file"]
    return next((path for path in (settings.downloads() / name, cache() / name) if path.exists()), settings.downloads() / name)


def kept_gene2vec(genes: Sequence[str], chosen: str | None = None) -> np.ndarray:
    """gene2vec in the order of the vocabulary (genes, 200); the text is read once for each vocabulary.

    Parameters
    ----------
    genes : sequence of str
    chosen : str, optional
        What :func:`choose` said of the file: another one is refused.

    Returns
    -------
    float32 array, (genes, 200)
        Zero rows for genes that gene2vec lacks; their number is reported.
    """
    text = gene2vec_path()
    found = digest(text) if text.is_file() else ""
    if chosen and found and found[:16] != chosen:
        raise DataError(f"{text} is another file than when the profile was loaded. Load the profile again.")
    key = fingerprint("\n".join([found, digest(__file__), *map(str, genes)]))
    path = cache() / "gene2vec" / f"{key}.npy"
    if sealed(path):
        return np.load(path, allow_pickle=False)
    vectors, missing = gene2vec(text, [str(gene) for gene in genes])
    if missing:
        print(f"gene2vec lacks {len(missing)} of {len(genes)} genes ({', '.join(missing[:5])} …): they get zeros.")
    with replacing(path) as temporary:
        np.save(temporary, vectors)
    seal(path)
    return vectors


def choose(kind: str) -> dict[str, str]:
    """Which gene embedding: ``auto`` is gene2vec where its file is, else the stand-in from the training cells.

    Returns
    -------
    dict
        Entries of a profile: ``gene_embedding``, and of gene2vec's file (downloaded if asked for by name) the fingerprint.
    """
    path = gene2vec_path()
    if kind == "auto":
        kind = "gene2vec" if path.exists() else "coexpression"
    if kind == "gene2vec":
        return {"gene_embedding": kind, "gene2vec": digest(path if path.exists() else downloads.fetch("gene2vec"))[:16]}
    if kind != "coexpression":
        raise DataError(f"gene_embedding is {kind!r}; it is one of auto, gene2vec, coexpression.")
    return {"gene_embedding": kind}
