"""The paper's own numbers, beside ours.

Read: published (every run that the authors printed), scorecard (their claims asked of our runs, each pair judged once; each
number with ours and a verdict), findings and full_size (what our tables say) in sentences, errata (their statistics computed
again, and what in them to beware of).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["errata", "findings", "full_size", "published", "scorecard", "sentences"]
)
