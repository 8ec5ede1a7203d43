"""Functions of whole rows, products, comparisons and weights in Python, beside PyTorch and nnsight."""
import numpy
import pytest
import scripts

import inset
from inset import errors

torch = pytest.importorskip("torch")

PROMPTS = [[3, 7, 11, 2], [5, 1, 8, 9]]
CASES = {
    "sum": lambda x: x.sum(-1),
    "sum all": lambda x: x.sum(),
    "mean": lambda x: x.mean(dim=(0, 1), keepdim=True),
    "amax": lambda x: torch.amax(x, dim=1),
    "amin": lambda x: x.amin(-1, keepdim=True),
    "norm": lambda x: x.norm(dim=-1),
    "norm all": lambda x: torch.norm(x),
    "vector norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "softmax": lambda x: torch.nn.functional.softmax(x, dim=1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "topk": lambda x: torch.topk(x, 3).values,
    "topk indices": lambda x: x.topk(2, dim=1)[1],
    "argmax": lambda x: x.argmax(-1),
    "where": lambda x: torch.where(x > 0.1, x, -x),
    "where method": lambda x: x.where(x <= 0, 1.5),
    "compare": lambda x: (x >= x[:, :1]).sum(),
    "comparison": lambda x: torch.lt(x, 0) == (x < 0),
    "none": lambda x: x[:, None, :2] - x[:, :, None][:, :2],
    "unsqueeze": lambda x: x.unsqueeze(1) * 2,
    "transpose": lambda x: x.transpose(0, 1),
    "turned": lambda x: x.mT @ x,
    "matmul": lambda x: torch.matmul(x, MATRIX),
    "right": lambda x: x[0, 0] @ MATRIX,
    "linear": lambda x: torch.nn.functional.linear(x, MATRIX.T, torch.arange(5.0)),
    "projection": lambda x: x - (x @ DIRECTION)[..., None] * DIRECTION,
    "sae": lambda x: torch.relu((x - DIRECTION) @ MATRIX + 0.5) @ MATRIX.T,
    "values": lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x,
}
MATRIX = torch.randn(28, 5, generator=torch.Generator().manual_seed(0))
DIRECTION = torch.randn(28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return inset.Model(scripts.FIXTURES / "gpt2", device="cpu")


@pytest.fixture(scope="module")
def residual(model):
    with model.trace(PROMPTS):
        x = model.transformer.h[0].output.save()
    return x.torch().clone()


@pytest.mark.parametrize("name", CASES)
def test_equals_pytorch(model, residual, name):
    with model.trace(PROMPTS):
        got = CASES[name](model.transformer.h[0].output).save()
    want = CASES[name](residual)
    assert got.torch().dtype == want.dtype and tuple(got.shape) == tuple(want.shape)
    assert torch.allclose(got.torch(), want, rtol=1e-5, atol=1e-5), name


def test_saved_values_are_arrays_again(model):
    with model.trace(PROMPTS):
        x = model.transformer.h[0].output.save()
    assert torch.equal(x.sum(-1), x.torch().sum(-1)) and torch.equal(x > 0, x.torch() > 0)
    assert torch.equal(x.topk(2).indices, x.torch().topk(2).indices) and (x @ MATRIX).shape == (2, 4, 5)


def test_weights(model):
    import safetensors.torch
    weights = safetensors.torch.load_file(scripts.FIXTURES / "gpt2" / "model.safetensors")
    find = lambda name: next(v for k, v in weights.items() if k.endswith(name))
    with model.trace(PROMPTS):
        x = model.transformer.h[0].output
        row = model.transformer.wte.weight[7].save()
        bias = model.transformer.h[1].mlp.c_fc.bias.save()
        column = model.transformer.h[1].mlp.c_fc.weight[:, 3].save()
        lens = (x @ model.transformer.wte.weight.T).save()
        kept = x.save()
    assert torch.equal(row.torch(), find("wte.weight")[7]) and torch.equal(bias.torch(), find("h.1.mlp.c_fc.bias"))
    assert torch.equal(column.torch(), find("h.1.mlp.c_fc.weight")[:, 3])
    assert torch.allclose(lens.torch(), kept.torch() @ find("wte.weight").T, atol=1e-5)


def test_a_large_matrix_goes_in_once(model):
    large = torch.randn(28, 400)
    with model.trace() as tracer:
        for token in range(4):
            with tracer.invoke([[3, token]]):
                (model.transformer.h[0].output @ large).save()
                if token == 2:
                    large += 1                            # as it is from here on
    with model.trace([[3, 3]]):
        x = (model.transformer.h[0].output @ large).save()
        y = (model.transformer.h[0].output @ (large - 1)).save()
    with model.trace() as tracer:
        saved = []
        for change in (False, True):
            with tracer.invoke([[3, 3]]):
                saved.append((model.transformer.h[0].output @ large).save())
            large -= 1
    assert torch.allclose(saved[0].torch(), x.torch(), atol=1e-5) and torch.allclose(saved[1].torch(), y.torch(), atol=1e-5)


@pytest.mark.parametrize("of", [torch.tensor, numpy.array])
def test_a_loop_of_one_array_computes_its_rows_once(model, of):
    direction, rows = of([0.5] * 28), []
    for n in (1, 6):
        with model.trace() as tracer:
            for i in range(n):
                with tracer.invoke([PROMPTS[0]]):
                    model.transformer.h[0].output += direction
                    model.lm_head.output[:, -1].save()
        rows.append(tracer.statistics["rows"])
    assert rows[0] == rows[1]
    with model.trace() as tracer:                         # changed between two lines: two arrays
        made = []
        for i in range(2):
            with tracer.invoke([PROMPTS[0]]):
                made.append((model.transformer.h[0].output * direction).save())
            direction[0] += 1
    assert not torch.equal(made[0].torch(), made[1].torch())


def test_gradients(model):
    with model.trace(PROMPTS):
        x = model.transformer.h[0].output
        m = (torch.softmax(x[0] @ MATRIX, -1) * torch.arange(5.0)).sum() + x.norm()
        with m.backward():
            gradient = x.grad.save()
        kept = x.save()
    leaf = kept.torch().clone().requires_grad_(True)
    ((torch.softmax(leaf[0] @ MATRIX, -1) * torch.arange(5.0)).sum() + leaf.norm()).backward()
    assert torch.allclose(gradient.torch(), leaf.grad, atol=1e-5)


def test_equals_nnsight(model):
    nnsight = pytest.importorskip("nnsight")
    transformers = pytest.importorskip("transformers")
    theirs = nnsight.NNsight(transformers.AutoModelForCausalLM.from_pretrained(scripts.FIXTURES / "gpt2", attn_implementation="eager"))
    with theirs.trace(torch.tensor(PROMPTS)):
        x = theirs.transformer.h[0].output
        x[:, -1] -= (x[:, -1] @ DIRECTION)[..., None] * DIRECTION
        f = torch.relu(x @ MATRIX)
        theirs.transformer.h[1].output[:, 0] += torch.where(f > 0.2, f, 0.0)[:, 0] @ MATRIX.T
        want = theirs.lm_head.output.save()
    with model.trace(PROMPTS):
        x = model.transformer.h[0].output
        x[:, -1] -= (x[:, -1] @ DIRECTION)[..., None] * DIRECTION
        f = torch.relu(x @ MATRIX)
        model.transformer.h[1].output[:, 0] += torch.where(f > 0.2, f, 0.0)[:, 0] @ MATRIX.T
        got = model.lm_head.output.save()
    assert torch.allclose(got.torch(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("line, error, words", [
    (lambda x: x.sum(5), errors.IndexError, "dimension 5"),
    (lambda x: x.norm(-1), errors.ValueError, "norm(dim=-1)"),
    (lambda x: x.topk(99), errors.ValueError, "topk(99)"),
    (lambda x: x @ numpy.zeros((3, 4), "f4"), errors.ShapeError, "'@'"),
    (lambda x: x @ numpy.zeros((28, 4)), errors.TypeError, "float64"),
    (lambda x: torch.where(x, x, 0), errors.TypeError, "torch.bool"),
    (lambda x: x.softmax(), errors.ValueError, "softmax(-1)"),
    (lambda x: torch.cumsum(x, 0), errors.TypeError, "cumsum"),
    (lambda x: x.sum(dtype=torch.float32), errors.TypeError, "dtype"),
    (lambda x: x[[0, 1], None], errors.IndexError, "None"),
])
def test_refusals(model, line, error, words):
    with pytest.raises(error, match=".*") as refused:
        with model.trace(PROMPTS):
            line(model.transformer.h[0].output)
    assert words in str(refused.value)


def test_a_weight_cannot_be_set(model):
    with pytest.raises(errors.TypeError, match="weights can be read and not set"):
        with model.trace(PROMPTS):
            model.transformer.wte.weight[0] = 0
    with pytest.raises(errors.UnknownSiteError, match="has no weight 'weight'"):
        with model.trace(PROMPTS):
            model.transformer.h[0].mlp.weight
