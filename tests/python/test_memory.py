"""Models in memory: a transformers model's own tensors give what its folder gives; and long calls that stop."""
import _thread
import signal
import threading
import time

import numpy
import pytest
import scripts

import inset

PROMPT, OTHER = [5, 9, 2, 7], [5, 9, 3, 7]
FAMILIES = ("gpt2", "gpt2_bf16", "gpt_neox", "llama_bf16", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "mixtral", "gpt_oss", "bert")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def loaded(transformers, family):
    kind = transformers.BertForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    return kind.from_pretrained(scripts.FIXTURES / family)


@pytest.mark.parametrize("family", FAMILIES)
def test_like_the_folder(transformers, family):
    outputs = []
    for source in (scripts.FIXTURES / family, loaded(transformers, family)):
        model = inset.Model(source, device="cpu")
        with model.trace([PROMPT]):
            outputs.append(model.output.logits.save())
        what = {"patch": "z"} if family == "bert" else {"edges": True}                 # edges read weights once more; BERT has none
        edges = model.attribute(PROMPT, OTHER, metric="logit_diff:3,5", progress=False, **what)
        outputs.append(edges.values)
    assert numpy.array_equal(outputs[0], outputs[2]) and outputs[0].dtype == outputs[2].dtype
    assert numpy.array_equal(outputs[1], outputs[3])


def test_tensors_of_one_ones_own(transformers):
    import torch
    theirs = loaded(transformers, "llama_bf16")
    plain = inset.Model(theirs, device="cpu")
    wide = inset.Model(theirs, device="cpu", dtype="f32")
    with torch.no_grad():  # transposed views and halves: not dense, another type
        theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.t().contiguous().t())
    turned = inset.Model(theirs, device="cpu")
    found = []
    for model in (plain, turned, wide):
        with model.trace([PROMPT]):
            found.append(model.output.logits.save())
    assert numpy.array_equal(found[0], found[1]) and wide.dtype == "f32"
    assert numpy.allclose(found[0], found[2], atol=0.05)


def test_refusals(transformers):
    import torch
    with pytest.raises(inset.errors.TypeError, match="Linear has weights and no config"):
        inset.Model(torch.nn.Linear(2, 2))
    theirs = loaded(transformers, "gpt2")
    with pytest.raises(inset.errors.ValueError, match="meta device"):
        inset.Model(theirs.to("meta"), device="cpu")
    with pytest.raises(inset.errors.FileError, match="missing: .*lm_head|missing"):
        inset.Model(loaded(transformers, "llama_bf16").model, device="cpu")


# ---- long calls


@pytest.fixture(scope="module")
def model():
    return inset.Model(scripts.FIXTURES / "gpt2", device="cpu")


def long_trace(model, seconds):
    """Runs for some seconds, whatever the machine."""
    repeats = 200
    while True:
        start = time.perf_counter()
        with model.trace() as tracer:
            for i in range(repeats):
                with tracer.invoke([[(i + j) % 61 for j in range(12)] for _ in range(8)]):
                    model.transformer.h[0].output[:, 0, i % 28] = i
                    out = model.output.logits[:, -1].save()
        if time.perf_counter() - start > seconds:
            return out
        repeats *= 4


def test_ctrl_c(model):
    """Between launches, not only between calls."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            long_trace(model, 30)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    with model.trace([PROMPT]):
        out = model.output.logits.save()
    assert out.shape == (1, 4, 61)


def test_watch(model):
    seen = []
    with model.watch(lambda doing, done, total: seen.append((doing, done, total))):
        long_trace(model, 0.5)
    assert {doing for doing, _, _ in seen} <= {"planning", "running"} and seen and all(0 <= done < total for _, done, total in seen)
    count = len(seen)
    long_trace(model, 0.3)
    assert len(seen) == count

    def enough(doing, done, total):
        raise LookupError("enough")
    with pytest.raises(LookupError, match="enough"):
        with model.watch(enough):
            long_trace(model, 30)
    with model.trace([PROMPT]):
        assert model.output.logits.save().shape == (1, 4, 61)


def test_session(model):
    with model.session():
        with model.trace([PROMPT]):
            clean = model.transformer.h[1].output.save()
        with model.trace([OTHER]):
            model.transformer.h[1].output = clean
            patched = model.output.logits.save()
        with model.trace([PROMPT]):
            logits = model.output.logits.save()
    assert numpy.array_equal(patched, logits)
