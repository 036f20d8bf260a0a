"""Which columns could hold cell types, and which one is meant by a name that is not there."""

import numpy as np
import pandas as pd
import pytest

from lib.datasets import candidates

N = 60
OBS = pd.DataFrame(
    {
        "barcode": [f"c{i}" for i in range(N)],
        "library_size": np.arange(N) % 3,
        "total": np.arange(N) % 5 / 7,
        "plate": ["one"] * N,
        "is_doublet": np.arange(N) % 2 == 0,
        "louvain": np.arange(N) % 4,
        "donor": list("pqr") * (N // 3),
        "Final.Annotation": pd.Categorical(["B", "T", "T"] * (N // 3)),
    }
)


def test_columns_that_could_be_labels():
    """Those with several values of several cells each: names before numbers, those called so first."""
    assert candidates.could_be_labels(OBS) == ["Final.Annotation", "donor", "louvain"]
    assert candidates.told(OBS, ["Final.Annotation", "louvain"]) == "Final.Annotation (2: T, …), louvain (4: 0, …)"


def test_many_columns_are_not_all_named():
    many = pd.DataFrame({f"kind{k:02d}": ["B", "T"] * 20 for k in range(11)})
    assert candidates.told(many, candidates.could_be_labels(many)).endswith("kind07 (2: B, …) and 3 more")


@pytest.mark.parametrize(
    "name, names, found",
    [
        ("cell_type", ["donor", "celltype_fine"], "celltype_fine"),
        ("CELL TYPE", ["cell_type", "cell_type_2"], "cell_type"),
        ("labels", ["bulk_labels", "donor"], "bulk_labels"),
        ("anotation", ["annotation"], "annotation"),
        ("cell_type", ["sample", "leiden"], None),
        ("cell_type", [], None),
    ],
)
def test_the_column_that_is_meant(name, names, found):
    assert candidates.meant(name, names) == found


@pytest.mark.parametrize(
    "columns, said",
    [
        (
            ["plate", "Final.Annotation"],
            r"Columns that could be: Final.Annotation \(2: T, …\). Name .*-p label Final.Annotation$",
        ),
        (["plate", "total"], "Its columns: plate, total; none could be cell types.* -p labels TABLE$"),
        ([], "Its columns: none. .* -p labels TABLE$"),
    ],
)
def test_a_label_column_that_is_missing(columns, said):
    """What there is instead, and a line to paste."""
    with pytest.raises(candidates.DataError, match=f"^x.h5ad has no label column 'kind'.*{said}"):
        raise candidates.missing(OBS[columns], "kind", "x.h5ad")
