"""The first block without gradient looks up what zeros do: the same numbers, never stale, never with gradient."""

import numpy as np
import pytest
import torch

from lib.scbert import fused, zeros
from lib.scbert.model import ScBert, ScBertConfig


def made(genes=150, stabiliser="cell"):
    torch.manual_seed(0)
    config = ScBertConfig(dim=104, depth=2, heads=2, dim_head=16, features=44, stabiliser=stabiliser, genes=genes)
    return ScBert(config, 0.3 * np.random.RandomState(0).randn(genes, 104).astype(np.float32)).eval()


def some_tokens(share=0.1, cells=3, genes=150):
    rng = np.random.RandomState(1)
    return torch.as_tensor(np.where(rng.rand(cells, genes + 1) < share, rng.randint(1, 7, (cells, genes + 1)), 0))


def both(model, tokens):
    """Logits as they come, and computed in full, which is what happens with gradient."""
    with torch.no_grad():
        found = model(tokens)
    return found, model(tokens).detach()


def agree(model, tokens, tolerance=2e-6):
    found, full = both(model, tokens)
    assert not torch.equal(found, full)  # it was used
    return float((found - full).norm() / full.norm()) < tolerance


@pytest.mark.parametrize("use", [None, False], ids=["compiled if it can be", "PyTorch"])
@pytest.mark.parametrize("stabiliser", ["cell", "head", "batch"])
def test_equals_the_whole_block(use, stabiliser):
    model = made(stabiliser=stabiliser)
    for attention, _ in model.performer.net.layers:
        attention.fn.fast_attention.compiled = use
    assert agree(model, some_tokens())
    assert agree(model, some_tokens(cells=1))
    found, full = both(model, some_tokens(0.0))  # nothing but zeros
    assert float((found - full).norm() / full.norm()) < 2e-6


def test_many_nonzero_genes_are_computed_in_full():
    assert torch.equal(*both(made(), some_tokens(0.5)))


def test_one_zero_that_outweighs_all_is_not_subtracted():
    """A gene whose zero makes up nearly all of the sums, and which is not zero in a cell: round-off would be left."""
    tokens, model = some_tokens(), made()
    tokens[0, 7] = 3
    with torch.no_grad():
        model.performer.net.layers[0][0].fn.to_k.weight *= 30
    found, full = both(model, tokens)
    assert float((found - full).norm() / full.norm()) < 1e-5


def test_nothing_is_stale():
    """After new features, an optimiser's step, other weights, and another dtype or arithmetic."""
    tokens, model = some_tokens(), made()
    assert agree(model, tokens)
    for attention, _ in model.performer.net.layers:
        attention.fn.fast_attention.redraw_projection_matrix("cpu")
    assert agree(model, tokens)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    model(tokens).square().sum().backward()
    optimizer.step()
    assert agree(model, tokens)
    model.load_state_dict({name: 0.9 * value for name, value in made().state_dict().items()})
    assert agree(model, tokens)
    model.token_emb.weight.data[0] += 1  # which no counter of versions notices
    assert agree(model, tokens)
    assert agree(model.double(), tokens, 1e-12)
    assert agree(model.float(), tokens)
    for attention, _ in model.performer.net.layers:
        attention.fn.fast_attention.compiled = False
    assert agree(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found, full = both(model, tokens)
    assert float((found - full).float().norm() / full.float().norm()) < 1e-2


def test_gradients_and_small_models_do_not_use_it():
    model, tokens = made(), some_tokens()
    model(tokens).sum().backward()
    assert model not in zeros.KEPT and model.token_emb.weight.grad[0].any()
    small = ScBert(ScBertConfig(genes=150, dim=32, depth=2, heads=2, dim_head=16, features=44), np.ones((150, 32), np.float32))
    assert torch.equal(*both(small.eval(), tokens)) and small not in zeros.KEPT
    assert fused.SMALL == 100
