"""Tidy tables in; figures of one style out, each written with the table behind it.

Read: marks (sizes, colours, what a point, a diamond and a cross stand for, legends, a figure written), then panels (each a
function of axes and a table). All of it is called by the folder's name: ``plots.style()``.
"""

import lazy_loader

_FUNCTIONS = {
    "marks": "INK PALETTE crosses estimates folder label legend means mm percent rows runs save style",
    "panels": "METRICS by_row claim compare confusion curves differences dots epoch_rules factorial masked_task recall "
    "reliability shares unknown",
}
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, list(_FUNCTIONS), {module: names.split() for module, names in _FUNCTIONS.items()}
)
