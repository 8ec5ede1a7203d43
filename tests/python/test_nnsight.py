"""The same lines in nnsight and here, in one process: the cells of nnsight's notebook "Setting", and what its own tests and tutorials do. Skipped where
nnsight is not installed. nnsight reads a block's source, so each situation is a text that both compile."""
import linecache

import numpy
import pytest
import scripts

import inset

torch = pytest.importorskip("torch")
nnsight = pytest.importorskip("nnsight")
transformers = pytest.importorskip("transformers")

A, B = [[5, 9, 2, 7]], [[5, 9, 3, 7]]
SAVE = {"inset": inset.save, "nnsight": nnsight.save}
BATCH = [[5, 9, 2, 7], [1, 2, 3, 4]]


def execute(text, names, who):
    file = f"<{who}-{abs(hash(text))}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), names)
    return names


def numbers(x):
    if isinstance(x, (list, tuple)):
        return [numbers(y) for y in x]
    return numpy.asarray(x.detach() if isinstance(x, torch.Tensor) else x, dtype=numpy.float64)


def same(a, b):
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a.shape == b.shape and numpy.linalg.norm(a - b) <= 1e-5 * max(numpy.linalg.norm(b), 1e-3)


@pytest.fixture(scope="module")
def pair():
    folder = scripts.FIXTURES / "gpt2"
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(i): i for i in range(61)}, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", padding_side="left")
    theirs = nnsight.LanguageModel(transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval(), tokenizer=tokenizer)
    return inset.Model(folder, device="cpu"), theirs


def check(pair, text):
    found = [execute(text, {"model": m, "save": SAVE[who], "torch": torch, "A": torch.tensor(A), "B": torch.tensor(B), "BATCH": torch.tensor(BATCH)}, who)["out"]
             for m, who in zip(pair, ("inset", "nnsight"))]
    assert same(numbers(found[0]), numbers(found[1])), text


# ---- the notebook: a model of two linear layers

CELLS = {
    "in place": """
with model.trace(INPUT):
    model.layer1.output[:] = 0
    out = save([model.layer1.output, model.layer2.output])
""",
    "what was before": """
with model.trace(INPUT):
    before = model.layer1.output.clone().save()
    model.layer1.output[:, 3:] = 1
    out = save([before, model.layer1.output, model.layer2.output])
""",
    "not in place": """
with model.trace(INPUT):
    model.layer1.output = model.layer1.output * 2 + 1
    out = save([model.layer2.input, model.layer2.output])
""",
    "the next layer's input": """
with model.trace(INPUT):
    x = model.layer1.output
    model.layer2.input = x * 0.5
    out = save([x, model.layer2.output])
""",
}


@pytest.mark.parametrize("cell", CELLS)
def test_notebook(cell):
    from collections import OrderedDict
    folder = scripts.FIXTURES / "notebook"
    weights = scripts.read(folder / "model.safetensors")
    net = torch.nn.Sequential(OrderedDict((name, torch.nn.Linear(*reversed(weights[f"{name}.weight"].shape))) for name in ("layer1", "layer2")))
    net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    given = torch.rand(1, 5, generator=torch.Generator().manual_seed(0))
    found = [execute(CELLS[cell], {"model": m, "save": SAVE[who], "INPUT": given}, who)["out"]
             for m, who in ((inset.Model(folder, device="cpu"), "inset"), (nnsight.NNsight(net), "nnsight"))]
    assert same(numbers(found[0]), numbers(found[1]))


def test_notebook_out_of_order():
    model = inset.Model(scripts.FIXTURES / "notebook", device="cpu")
    with pytest.raises(inset.errors.OutOfOrderError, match="layer1"):
        with model.trace([[1, 2, 3, 4, 5]]):
            model.layer2.output.save()
            model.layer1.output = 0 * model.layer1.output


# ---- situations

BLOCK = "model.transformer.h"
SITUATIONS = {
    "read an output": "out = model.transformer.h[1].output.save()",
    "read an input": "out = model.transformer.h[1].mlp.input.save()",
    "read by position": "out = model.transformer.h[1].output[:, -1].save()",
    "read a head's columns": "out = model.transformer.h[1].attn.c_proj.input[:, :, 7:14].save()",
    "several reads in order": "a = model.transformer.h[0].output.save()\n    b = model.transformer.h[2].output.save()\n    out = save([a, b])",
    "a list of all blocks": "out = save([block.output for block in model.transformer.h])",
    "zero an MLP": "model.transformer.h[0].mlp.output[:] = 0\n    out = model.lm_head.output.save()",
    "zero one position": "model.transformer.h[0].mlp.output[:, 2] = 0\n    out = model.lm_head.output.save()",
    "zero a head": "model.transformer.h[1].attn.c_proj.input[:, :, 14:21] = 0\n    out = model.lm_head.output.save()",
    "add in place": "model.transformer.h[0].output[:, 1] += 2\n    out = model.lm_head.output.save()",
    "add a vector": "model.transformer.h[1].output[:, -1] += torch.arange(28.0) / 10\n    out = model.lm_head.output.save()",
    "multiply": "model.transformer.h[0].mlp.output[:] = model.transformer.h[0].mlp.output * 3\n    out = model.lm_head.output.save()",
    "not in place": "model.transformer.h[0].mlp.output = model.transformer.h[0].mlp.output * 3\n    out = model.lm_head.output.save()",
    "replace by a tensor": "model.transformer.h[0].mlp.output = torch.ones(1, 4, 28)\n    out = model.lm_head.output.save()",
    "set an input": "model.transformer.h[1].mlp.input[:, 0] = 1\n    out = model.lm_head.output.save()",
    "replace an input": "model.transformer.h[1].mlp.input = model.transformer.h[1].mlp.input / 2\n    out = model.lm_head.output.save()",
    "swap positions": "x = model.transformer.h[0].output.clone()\n    model.transformer.h[0].output[:, 1] = x[:, 2]\n"
                      "    model.transformer.h[0].output[:, 2] = x[:, 1]\n    out = model.lm_head.output.save()",
    "a clone keeps what was": "x = model.transformer.h[0].output.clone().save()\n    model.transformer.h[0].output[:] = 0\n    out = x",
    "a reference does not": "x = model.transformer.h[0].output.save()\n    x[:, 1] = 5\n    out = save([x, model.lm_head.output])",
    "an earlier layer's value later": "x = model.transformer.h[0].output\n    model.transformer.h[2].output[:] = x\n    out = model.lm_head.output.save()",
    "arithmetic of two layers": "x = model.transformer.h[0].output\n    y = model.transformer.h[1].output\n    out = ((x + y) * 0.5 - x / 4).save()",
    "embeddings": "model.transformer.wte.output[:, 0] = 0\n    out = model.lm_head.output.save()",
    "layer norm": "model.transformer.ln_f.output[:, :, 0] = 0\n    out = model.lm_head.output[:, -1].save()",
    "many sets in a loop": "for layer in range(3):\n        for p in range(4):\n            model.transformer.h[layer].output[:, p, layer] = p\n"
                           "    out = model.lm_head.output.save()",
    "slices with steps": "model.transformer.h[0].output[:, ::2, 3:20:4] = 1\n    out = model.lm_head.output.save()",
    "lists of indices": "model.transformer.h[0].output[:, [0, 3], :5] = -1\n    out = model.lm_head.output.save()",
    "ellipsis": "model.transformer.h[0].output[..., 5] = 2\n    out = model.lm_head.output[..., -1, :].save()",
    "skip a module": "x = model.transformer.h[0].output\n    model.transformer.h[1].skip(x)\n    out = model.lm_head.output.save()",
}


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("given", ["A", "BATCH"])
def test_situation(pair, name, given):
    text = SITUATIONS[name]
    if given == "BATCH" and "torch.ones" in text:
        text = text.replace("ones(1", "ones(2")
    check(pair, f"with model.trace({given}):\n    {text}\n")


INVOKES = {
    "patch": """
with model.trace() as tracer:
    barrier = tracer.barrier(2)
    with tracer.invoke(A):
        clean = model.transformer.h[1].output[:, 2]
        barrier()
    with tracer.invoke(B):
        barrier()
        model.transformer.h[1].output[:, 2] = clean
        out = model.lm_head.output.save()
""",
    "layers in a loop": """
with model.trace() as tracer:
    out = save(list())
    for layer in range(3):
        with tracer.invoke(A):
            model.transformer.h[layer].mlp.output[:] = 0
            out.append(model.lm_head.output[:, -1].save())
""",
    "steering by a difference": """
with model.trace() as tracer:
    with tracer.invoke(A):
        a = model.transformer.h[0].output
    with tracer.invoke(B):
        b = model.transformer.h[0].output
    with tracer.invoke(BATCH):
        model.transformer.h[0].output[:] = model.transformer.h[0].output + 2 * (a - b)
        out = model.lm_head.output.save()
""",
}


@pytest.mark.parametrize("name", INVOKES)
def test_invokes(pair, name):
    check(pair, INVOKES[name])


EDITS = {
    "in place": """
with model.edit(inplace=True):
    model.transformer.h[1].output[:, 1] = 2.0
with model.trace(A):
    a = model.transformer.h[1].output.clone().save()
    model.transformer.h[1].output[:, 1] += 1
    b = model.lm_head.output.save()
""",
    "two, the older first": """
with model.edit(inplace=True):
    model.transformer.h[1].output[:, 1] = 2.0
with model.edit(inplace=True):
    model.transformer.h[1].output[:, 1] *= 3.0
with model.trace(B):
    a = model.transformer.h[1].output.save()
    b = model.lm_head.output.save()
""",
    "a value of it set later": """
with model.edit(inplace=True):
    early = model.transformer.h[0].output
    model.transformer.h[2].output[:, 1] = early[:, 0] * 2
with model.trace(A):
    a = model.transformer.h[1].output.save()
    b = model.lm_head.output.save()
""",
    "several invokes": """
with model.edit(inplace=True):
    model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * 0.5 + 1
with model.trace() as tracer:
    with tracer.invoke(A):
        a = model.lm_head.output.save()
    with tracer.invoke(B):
        b = model.lm_head.output.save()
""",
    "a tensor": """
ones = torch.ones(28)
with model.edit(inplace=True):
    model.transformer.h[0].output[:, 2] += ones
with model.trace(A):
    a = model.transformer.h[0].output.save()
with model.trace(B):
    b = model.lm_head.output.save()
""",
}


@pytest.mark.parametrize("name", EDITS)
def test_edits(pair, name):
    cleared = "model.clear_edits()\nwith model.trace(A):\n    c = model.lm_head.output.save()\nout = [a, b, c]\n"
    check(pair, EDITS[name] + cleared)


def test_two_traces(pair):
    """A saved value is a tensor in the next trace."""
    found = []
    for model in pair:
        with model.trace(torch.tensor(A)):
            x = model.transformer.h[0].output.save()
        with model.trace(torch.tensor(B)):
            model.transformer.h[0].output[:, 1] = x[:, 1]
            out = model.lm_head.output.save()
        found.append(numbers(out))
    assert same(*found)


def test_gradients(pair):
    ours, theirs = pair
    with ours.trace(A):
        x = ours.transformer.h[1].output
        m = ours.output.logits[0, -1].logit_diff(3, 5)
        with m.backward():
            g = x.grad.save()
    for p in theirs.parameters():
        p.requires_grad_(False)
    with theirs.trace(torch.tensor(A)):
        theirs.transformer.wte.output.requires_grad_(True)
        y = theirs.transformer.h[1].output
        last = theirs.lm_head.output[0, -1]
        with (last[3] - last[5]).backward():
            h = y.grad.save()
    assert same(numbers(g), numbers(h))


def test_early_stop(pair):
    found = []
    for model in pair:
        with model.trace(torch.tensor(A)) as tracer:
            x = model.transformer.h[0].output.save()
            tracer.stop()
        found.append(numbers(x))
    assert same(*found)
