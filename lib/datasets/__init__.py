"""A data set's name, or a file of cells, in; cells × genes with labels and a card out (AnnData).

Read: catalogue (:func:`load`, the data sets by name), downloads (fetched once, verified), formats (how each published file
is laid out), stored and streamed (files that stay on the disk and are read in blocks). A file of the reader's own: reading
(the way through the rest), opening (what a file is), causes (why a part cannot be read), h5ad (AnnData in HDF5 or zarr),
tables (its tables), foreign and texts (other formats), held (what a file holds, read in parts), matrices (which is taken),
scale and multiples (counts or logarithms, told from the values), library (the cells' totals), genes (which columns are
genes, their symbols), checks (what is refused), candidates (columns that could
hold the cell types, in words).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    (
        "candidates catalogue causes checks downloads foreign formats genes h5ad held library matrices multiples opening "
        "reading scale stored streamed tables texts"
    ).split(),
    {"catalogue": ["load"]},
)
