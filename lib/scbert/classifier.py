"""scBERT with a head for cell types in place of the one for masked tokens."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from lib.errors import DataError
from lib.scbert.model import ScBert


class CellTypeClassifier(ScBert):
    """scBERT with the classification head: tokens (cells, genes + 1) to logits (cells, classes)."""

    def _head(self, config):
        return ClassificationHead(config.dim, config.genes + 1, config.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (cells, genes + 1) to logits (cells, classes)."""
        return self.classify(self.states(tokens), tokens)

    def classify(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states (cells, places, dim) of these tokens to logits (cells, classes)."""
        if tokens.shape[1] != self.config.genes + 1:
            raise DataError(f"Cells have {tokens.shape[1] - 1} genes, the head was made for {self.config.genes}.")
        return self.to_out(self.spread(self.to_out.squeeze(self.norm(states)), tokens))

    @classmethod
    def from_pretrained(cls, model: ScBert, classes: int) -> CellTypeClassifier:
        """Put a new head on a copy of a pre-trained :class:`ScBert`."""
        embedding = None if model.gene_embedding is None else model.gene_embedding[:-1].cpu().numpy()
        classifier = cls(replace(model.config, classes=classes), embedding)
        trunk = {name: value for name, value in model.state_dict().items() if not name.startswith("to_out.")}
        missing, unexpected = classifier.load_state_dict(trunk, strict=False)
        assert not unexpected and all(name.startswith("to_out.") for name in missing)
        return classifier

    @staticmethod
    def _head_genes(state):
        return state["to_out.fc1.weight"].shape[1] - 1

    @classmethod
    def _head_sizes(cls, config, state, path):
        if "to_out.fc3.weight" not in state:
            raise DataError(f"{path} has no classification head. Read a pre-trained checkpoint with ScBert.")
        return replace(config, genes=cls._head_genes(state), classes=state["to_out.fc3.weight"].shape[0])


class ClassificationHead(nn.Module):
    """One number per gene, then three linear layers."""

    def __init__(self, dim, tokens, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, (1, dim))
        self.fc1 = nn.Linear(tokens, 512)
        self.fc2 = nn.Linear(512, 128)
        self.fc3 = nn.Linear(128, classes)

    def squeeze(self, x: Tensor) -> Tensor:
        """Hidden states (cells, places, dim) to one number for each, (cells, places)."""
        # The convolution covers the whole width, so it is a product with its only kernel, and faster as one.
        return nn.functional.linear(x, self.conv1.weight.flatten(1), self.conv1.bias).squeeze(2).relu()

    def forward(self, x: Tensor) -> Tensor:
        """One number per gene (cells, genes + 1) to logits (cells, classes)."""
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())
