"""The attention: equal to performer-pytorch, equal to the written formula, and blind to the other cells of a batch."""

import math

import numpy as np
import pytest
import torch
from performer_pytorch import PerformerLM
from performer_pytorch.performer_pytorch import FastAttention

from lib.scbert.attention import favor_attention
from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.model import ScBert, ScBertConfig

GENES = 24
TINY = {"genes": GENES, "dim": 20, "depth": 2, "heads": 2, "dim_head": 8, "features": 20}
WIDE = {"genes": GENES, "depth": 2}  # the paper's widths: 10 heads of 64, 266 features


def qkv(dtype=torch.float32, cells=3, heads=2, tokens=9, dim=8):
    return [2 * torch.randn(cells, heads, tokens, dim, dtype=dtype) for _ in range(3)]


def scbert(stabiliser="cell", embedded=True, sizes=TINY):
    """A model whose weights are all random, norms and biases too, with keys large enough for the ε to matter."""
    config = ScBertConfig(**sizes, stabiliser=stabiliser)
    model = ScBert(config, 0.3 * torch.randn(GENES, config.dim).numpy() if embedded else None).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.1 * torch.randn_like(weight))
            if "to_k" in name or "to_q" in name:
                weight.mul_(3)
    return model


def cells_of(count=4):
    tokens = torch.randint(0, 6, (count, GENES + 1)) * (torch.rand(count, GENES + 1) < 0.6)
    tokens[:, -1] = 0
    return tokens


# An independent implementation of the formula: float64, one cell, one head, one query at a time, all weights formed.


def explicit_attention(q, k, v, projection, shifts=None):
    """Attention weights φ(q)·φ(k), normalised; ``shifts``: the constants of queries and keys, when not their maxima."""
    root = math.sqrt(q.shape[-1])
    out = np.empty_like(v)
    for cell in range(len(q)):
        dash_k = np.einsum("hnd,md->hnm", k[cell], projection) / math.sqrt(root)
        c_k = dash_k.max() if shifts is None else shifts[1][cell]
        for head in range(q.shape[1]):
            size_k = (k[cell, head] ** 2).sum(1, keepdims=True) / (2 * root)
            phi_k = np.exp(dash_k[head] - size_k - c_k) + 1e-4
            for i, query in enumerate(q[cell, head]):
                dash_q = projection @ query / math.sqrt(root)
                c_q = dash_q.max() if shifts is None else shifts[0][cell, head, i]
                phi_q = np.exp(dash_q - query @ query / (2 * root) - c_q) + 1e-4
                weights = phi_k @ phi_q
                out[cell, head, i] = weights @ v[cell, head] / weights.sum()
    return out


def explicit_logits(model, tokens):
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    heads, erf = model.config.heads, np.vectorize(math.erf)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def layer_norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["token_emb.weight"][tokens.numpy()] + w.get("gene_embedding", 0)
    for layer in range(model.config.depth):
        attention, feed_forward = f"performer.net.layers.{layer}.0", f"performer.net.layers.{layer}.1"
        y = layer_norm(x, f"{attention}.norm")
        q, k, v = (np.stack(np.split(linear(y, f"{attention}.fn.to_{name}"), heads, axis=-1), axis=1) for name in "qkv")
        y = explicit_attention(q, k, v, w[f"{attention}.fn.fast_attention.projection_matrix"])
        x = x + linear(np.concatenate(list(y.transpose(1, 0, 2, 3)), axis=-1), f"{attention}.fn.to_out")
        y = linear(layer_norm(x, f"{feed_forward}.norm"), f"{feed_forward}.fn.fn.w1")
        x = x + linear(y * (1 + erf(y / math.sqrt(2))) / 2, f"{feed_forward}.fn.fn.w2")
    return linear(layer_norm(x, "norm"), "to_out")


def test_head_is_performer_pytorch_attention():
    """With ``head``, the attention is performer-pytorch's own FastAttention on the same projection."""
    theirs = FastAttention(8, nb_features=20)
    q, k, v = qkv()
    ours = favor_attention(q, k, v, theirs.projection_matrix, "head")
    torch.testing.assert_close(ours, theirs(q, k, v), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [TINY, WIDE], ids=["tiny", "paper width"])
def test_head_is_performer_pytorch_model(sizes):
    """With ``head``, the whole model is performer-pytorch's PerformerLM with the same weights."""
    model = scbert("head", sizes=sizes)
    c = model.config
    theirs = PerformerLM(
        num_tokens=7,
        max_seq_len=GENES + 1,
        dim=c.dim,
        depth=c.depth,
        heads=c.heads,
        dim_head=c.dim_head,
        nb_features=c.features,
        rotary_position_emb=False,
        attn_out_bias=True,
        qkv_bias=False,
    ).eval()
    weights = model.state_dict()
    weights["pos_emb.emb.weight"] = weights.pop("gene_embedding")
    second_copy = "performer.proj_updater.instance."
    weights |= {name.replace("performer.net.", second_copy): weights[name] for name in list(weights) if "net." in name}
    theirs.load_state_dict(weights, strict=True)
    tokens = cells_of()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)


def test_cell_is_the_formula():
    """With ``cell``, the attention equals the explicit sum over all pairs, in double precision to 1e-10."""
    q, k, v = qkv(torch.float64)
    projection = torch.randn(20, 8, dtype=torch.float64)
    ours = favor_attention(q, k, v, projection, "cell").numpy()
    theirs = explicit_attention(q.numpy(), k.numpy(), v.numpy(), projection.numpy())
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)
    assert np.abs(favor_attention(q, k, v, projection, "head").numpy() - theirs).max() > 1e-6  # the test can tell


@pytest.mark.parametrize("sizes", [TINY, WIDE], ids=["tiny", "paper width"])
@pytest.mark.parametrize("embedded", [True, False], ids=["gene embedding", "none"])
def test_model_is_the_formula(sizes, embedded):
    """The whole model equals the explicit forward pass: 1e-10 in double precision, 1e-5 in single."""
    model, tokens = scbert(embedded=embedded, sizes=sizes), cells_of(2)
    with torch.no_grad():
        single, double = model(tokens).numpy(), model.double()(tokens).numpy()
    expected = explicit_logits(model, tokens)
    assert expected.shape == (2, GENES + 1, 7) and expected.std() > 0.1
    np.testing.assert_allclose(double, expected, rtol=1e-10, atol=1e-10)
    assert np.abs(single - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_cell_does_not_depend_on_its_batch():
    """With ``cell`` a cell's logits are those it has alone, and those of ``batch`` run one cell at a time."""
    tokens, model = cells_of(), scbert().double()
    one_at_a_time = scbert("batch").double()
    one_at_a_time.load_state_dict(model.state_dict())
    with torch.no_grad():
        together = model(tokens)
        alone = torch.cat([model(cell[None]) for cell in tokens])
        batch_alone = torch.cat([one_at_a_time(cell[None]) for cell in tokens])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(together, batch_alone, rtol=0, atol=1e-12)


def test_batch_depends_on_the_batch():
    """With ``batch``, scBERT's own choice, a cell's logits change with the cells beside it."""
    tokens, model = cells_of(), scbert("batch").double()
    with torch.no_grad():
        change = model(tokens)[0] - model(tokens[:1])[0]
        others = model(tokens[[0, 2, 3]])[0] - model(tokens[[0, 1]])[0]
    assert max(change.abs().max(), others.abs().max()) > 1e-6


def test_permutation_equivariance():
    """Without a gene embedding, permuting the genes permutes the logits; with one, it does not."""
    tokens, order = cells_of(), torch.randperm(GENES + 1)
    with torch.no_grad():
        for embedded in (False, True):
            model = scbert(embedded=embedded).double()
            difference = (model(tokens[:, order]) - model(tokens)[:, order]).abs().max()
            assert difference > 1e-3 if embedded else difference < 1e-12


def test_genes_of_one_bin_share_one_state():
    """Without a gene embedding, all genes in one bin have one hidden state: as many states as bins in the cell."""
    tokens = cells_of()
    with torch.no_grad():
        bare, embedded = scbert(embedded=False).double().hidden(tokens), scbert().double().hidden(tokens)
    for cell, states, others in zip(tokens, bare, embedded):
        for token in cell.unique():
            group = states[cell == token]
            assert (group - group[0]).abs().max() < 1e-12
            assert (others[cell == token] - others[cell == token][0]).abs().max() > 1e-3 or len(group) == 1
        assert len(states.mul(1e9).round().unique(dim=0)) == len(cell.unique())


def test_gradients_by_differences():
    """Autograd's gradients are the central differences of the formula with its stabilisers held constant."""
    q, k, v = qkv(torch.float64, cells=2, tokens=4, dim=4)
    projection, weights = torch.randn(6, 4, dtype=torch.float64), torch.randn(2, 2, 4, 4, dtype=torch.float64).numpy()
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    (favor_attention(*inputs, projection) * torch.from_numpy(weights)).sum().backward()

    arrays, p = [x.numpy() for x in (q, k, v)], projection.numpy()
    shifts = (
        (np.einsum("bhnd,md->bhnm", arrays[0], p) / 4**0.25).max(-1),
        (np.einsum("bhnd,md->bhnm", arrays[1], p) / 4**0.25).max((1, 2, 3)),
    )
    for which, x in enumerate(inputs):
        for place in np.ndindex(*x.shape):
            values = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in arrays]
                moved[which][place] += step
                values.append((explicit_attention(*moved, p, shifts) * weights).sum())
            assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(x.grad[place]), rel=1e-5, abs=1e-7)


def test_large_inputs_stay_finite():
    """No overflow where the exponentials would: keys and queries with norms in the hundreds."""
    q, k, v = (100 * x for x in qkv())
    for stabiliser in ("cell", "head", "batch"):
        assert favor_attention(q, k, v, torch.randn(20, 8), stabiliser).isfinite().all()


def test_bf16_autocast_is_close():
    """Under bf16 autocast the logits are bf16 and near those in fp32."""
    model, tokens = scbert(), cells_of(2)
    with torch.no_grad():
        exact = model(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(tokens)
    assert rough.dtype == torch.bfloat16
    assert 0 < (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_unknown_stabiliser_is_refused():
    """A misspelt stabiliser is refused by name."""
    with pytest.raises(ValueError, match="'heads'.*head"):
        ScBert(ScBertConfig(**TINY, stabiliser="heads"))


def both_ways(classifier):
    """A model without gene embedding, and one with an embedding of zeros, which computes every gene for itself."""
    kind = CellTypeClassifier if classifier else ScBert
    config = ScBertConfig(genes=40, dim=12, depth=2, heads=2, dim_head=6, features=15, classes=3)
    torch.manual_seed(1)
    collapsed = kind(config).double()
    whole = kind(config, np.zeros((40, 12))).double()
    whole.load_state_dict(collapsed.state_dict(), strict=False)
    tokens = torch.randint(0, 7, (5, 41))
    tokens[0, :30], tokens[1] = 0, tokens[1].clamp(max=2)  # token values that do not occur in a cell
    return collapsed, whole, tokens


@pytest.mark.parametrize("classifier", [False, True], ids=["masked head", "classifier"])
@pytest.mark.parametrize("stabiliser", ["cell", "head", "batch"])
def test_collapse_is_exact(classifier, stabiliser):
    """Attention over the distinct tokens with multiplicities: logits and gradients of the full computation."""
    collapsed, whole, tokens = both_ways(classifier)
    for model in (collapsed, whole):
        for attention, _ in model.performer.net.layers:
            attention.fn.fast_attention.stabiliser = stabiliser
    assert torch.allclose(collapsed(tokens), whole(tokens), atol=1e-10)
    for model in (collapsed, whole):
        model(tokens).square().sum().backward()
    reference = dict(whole.named_parameters())
    for name, parameter in collapsed.named_parameters():
        assert torch.allclose(parameter.grad, reference[name].grad, rtol=1e-7, atol=1e-9), name


def test_chunks_change_nothing(monkeypatch):
    """Tokens taken 64 at a time give what one chunk gives, values and gradients."""
    from lib.scbert import attention, features

    q, k, v = (torch.randn(2, 2, 300, 8, dtype=torch.double, requires_grad=True) for _ in range(3))
    projection = torch.randn(20, 8, dtype=torch.double)
    results = []
    for chunk in (2**30, 1):
        monkeypatch.setitem(features.CHUNK, "cpu", chunk)
        out = attention.favor_attention(q, k, v, projection)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    for one, many in zip(*results):
        assert torch.allclose(one, many, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_extreme_queries_and_keys_stay_finite(size):
    """Norms far from those of a trained model neither overflow nor lose the answer: fp32 equals float64."""
    q, k, v = (size * torch.randn(1, 2, 50, 64, dtype=torch.double) for _ in range(3))
    projection = 8 * torch.nn.functional.normalize(torch.randn(30, 64, dtype=torch.double), dim=1)
    exact = favor_attention(q, k, v, projection)
    single = favor_attention(q.float(), k.float(), v.float(), projection.float())
    assert torch.isfinite(single).all()
    assert (single - exact).abs().max() <= 1e-4 * exact.abs().max()
