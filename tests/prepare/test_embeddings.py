"""Gene embeddings: gene2vec read from its text file, the stand-in from co-expression."""

import numpy as np
import pytest

from lib.errors import DataError
from lib.prepare import embeddings
from lib.prepare.embeddings import coexpression, gene2vec
from lib.prepare.tokens import tokenize


def cosine(a, b):
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def test_coexpression_is_deterministic_and_of_the_given_cells(cells):
    """The same cells give the same numbers whatever the random state and the cells left out; others do not."""
    tokens = tokenize(cells)
    train = np.arange(0, 700, 2)
    first = coexpression(tokens[train], 32)
    np.random.seed(99)
    state = np.random.get_state()[1].copy()
    spoiled = tokens.copy()
    spoiled[1::2] = 5
    np.testing.assert_array_equal(coexpression(spoiled[train], 32), first)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert not np.allclose(coexpression(tokens[1::2], 32), first, atol=0.05)
    assert first.shape == (765, 32) and first.dtype == np.float32 and np.isfinite(first).all()
    assert first.std() == pytest.approx(0.3, rel=1e-3)


def test_coexpressed_genes_are_near(cells):
    """Gene pairs most correlated in the other half of the cells lie nearer than random pairs; so do known pairs."""
    tokens = tokenize(cells)
    embedding = coexpression(tokens[::2], 32)
    other = cells.X[1::2].toarray()
    common = np.flatnonzero((other > 0).mean(0) > 0.03)
    correlation = np.corrcoef(other[:, common].T)
    i, j = np.triu_indices(len(common), 1)
    near = np.argsort(correlation[i, j])[-200:]
    rest = np.random.default_rng(0).choice(len(i), 2000, replace=False)
    similarity = cosine(embedding[common[i]], embedding[common[j]])
    assert np.median(similarity[near]) > np.median(similarity[rest]) + 0.2
    row = {gene: n for n, gene in enumerate(cells.var_names)}
    for a, b in [("CD79A", "CD79B"), ("GNLY", "NKG7"), ("LYZ", "S100A9"), ("CD3D", "CD3E")]:
        pair = cosine(embedding[[row[a]]], embedding[[row[b]]])[0]
        assert pair > np.quantile(similarity[rest], 0.75), (a, b)


def test_coexpression_wider_than_the_genes():
    """An embedding wider than the number of genes is filled with zeros."""
    tokens = np.random.default_rng(0).integers(0, 3, (40, 9), dtype=np.uint8)
    embedding = coexpression(tokens, 20)
    assert embedding.shape == (8, 20) and np.isfinite(embedding).all() and not embedding[:, 8:].any()


def test_coexpression_without_any_is_refused():
    """Cells in which no two genes are detected together have nothing to embed."""
    with pytest.raises(DataError, match="co-expression"):
        coexpression(np.eye(5, 6, dtype=np.uint8), 4)


def gene2vec_file(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("header", ["", "3 2\n"], ids=["no header", "header"])
@pytest.mark.parametrize("gap", [" ", "\t"], ids=["blank", "tab"])
def test_gene2vec_comes_in_the_order_of_the_vocabulary(tmp_path, header, gap):
    """Rows follow the vocabulary; genes the file lacks are zero and reported; word2vec's header is skipped."""
    lines = "".join(gap.join(line) + "\n" for line in [("B", "3", "4.5"), ("A", "1", "-2e-1"), ("OTHER", "9", "9")])
    embedding, missing = gene2vec(gene2vec_file(tmp_path / "g2v.txt", header + lines), ["A", "NONE", "B"])
    np.testing.assert_array_equal(embedding, np.array([[1, -0.2], [0, 0], [3, 4.5]], np.float32))
    assert missing == ["NONE"] and embedding.dtype == np.float32


def test_gene2vec_passes_over_blank_lines(tmp_path):
    """A blank line, as editors leave at the end of a file, is no gene."""
    embedding, missing = gene2vec(gene2vec_file(tmp_path / "g2v.txt", "A 1 2\n\nB 3 4\n\n"), ["A", "B"])
    np.testing.assert_array_equal(embedding, [[1, 2], [3, 4]])
    assert missing == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("A 1 2\nB 3 x\n", "Line 2 .*g2v.txt.*'B 3 x"),
        ("A 1 2\nB 3\n", "Line 2 .*g2v.txt.*1 numbers.*2"),
        ("A 1 2\nB 3 4 5\n", "Line 2 .*g2v.txt.*3 numbers.*2"),
        ("A 1 2\nB 3 nan\n", "Line 2 .*g2v.txt"),
        ("X 1 2\nY 3 4\n", "none of the 2 genes"),
        ("", "none of the 2 genes"),
        (None, "No gene2vec file.*g2v.txt.*where to get it"),
    ],
    ids=["word", "short", "long", "nan", "other genes", "empty", "missing"],
)
def test_gene2vec_refuses(tmp_path, text, message):
    """A malformed line is refused with its number; so is a file without the genes, and none."""
    path = tmp_path / "g2v.txt" if text is None else gene2vec_file(tmp_path / "g2v.txt", text)
    with pytest.raises(DataError, match=message):
        gene2vec(path, ["A", "B"])


def test_gene2vec_is_read_once_and_missing_genes_are_said(place, capsys):
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    lines = [" ".join([name, *map(str, row)]) for name, row in zip(["B", "A", "C", "X"], vectors)]
    (place[0] / "gene2vec_dim_200_iter_9.txt").write_text("\n".join(lines))
    found = embeddings.kept_gene2vec(["A", "LOST", "B"])
    assert np.allclose(found, [vectors[1], np.zeros(5), vectors[0]]) and "lacks 1 of 3 genes (LOST" in capsys.readouterr().out
    [stored] = (place[0].parent / "gene2vec").glob("*.npy")
    assert np.array_equal(embeddings.kept_gene2vec(["A", "LOST", "B"]), np.load(stored))
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the sign or the size of a number: nothing else shows it
    assert np.array_equal(embeddings.kept_gene2vec(["A", "LOST", "B"]), found)
    (place[0] / "gene2vec_dim_200_iter_9.txt").write_text("A 1 2\nB 3 4\n")  # another file: not the stored one
    assert np.array_equal(embeddings.kept_gene2vec(["A", "LOST", "B"]), [[1, 2], [0, 0], [3, 4]])
