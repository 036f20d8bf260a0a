"""The model and how it learns: tokens (cells, genes + 1) in, logits out. Needs torch and no scanpy.

Read: model (:class:`ScBert`), classifier (:class:`CellTypeClassifier`), attention (its arithmetic: FAVOR+ with a stabiliser
for each cell), features (of chunks of tokens), blocks (a Performer block in chunks of tokens), zeros (its first, for cells
mostly of zeros), fused (the same compiled), arithmetic (fp32 or bf16, compiled or not), checkpoints (read safely), rules
(when training ends), training (one loop that resumes bit for bit), ranks (the same by several processes), pretrain (the
masked task), frozen (blocks that do not learn, computed once), finetune (cell types).
"""

import lazy_loader

MODULES = "arithmetic attention blocks checkpoints classifier features finetune frozen fused model pretrain"
MODULES += " ranks rules training zeros"
NAMES = {"model": ["ScBert", "ScBertConfig"], "classifier": ["CellTypeClassifier"]}
NAMES |= {"pretrain": ["mask_tokens"], "finetune": ["learning_rate"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, MODULES.split(), NAMES)
