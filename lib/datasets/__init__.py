"""A data set's name, or a file of cells, in; cells × genes with labels and a card out (AnnData).

Read: catalogue (:func:`load`, the data sets by name), downloads (fetched once, verified), formats (how each published
file is laid out), h5ad (a file of the reader's own: which matrix, which gene names), scale (counts or logarithms, told
from the values), checks (what is refused, and why), stored (files that stay on the disk and are read in blocks).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["catalogue", "checks", "downloads", "formats", "h5ad", "scale", "stored"], {"catalogue": ["load"]}
)
