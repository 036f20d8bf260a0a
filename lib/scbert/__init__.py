"""The model and how it learns: tokens (cells, genes + 1) in, logits out. Needs torch and no scanpy.

Read: model (:class:`ScBert`, :class:`CellTypeClassifier`), attention (its arithmetic: FAVOR+ with a stabiliser for each
cell), blocks (a Performer block in chunks of tokens), checkpoints (read safely), rules (when training ends),
training (one loop that resumes bit for bit), ranks (the same by several processes), pretrain (the masked task), frozen
(blocks that do not learn, computed once), finetune (cell types).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["attention", "blocks", "checkpoints", "finetune", "frozen", "model", "pretrain", "ranks", "rules", "training"],
    {"model": ["CellTypeClassifier", "ScBert", "ScBertConfig"], "pretrain": ["mask_tokens"], "finetune": ["learning_rate"]},
)
