"""What recording is: values before and behind their trace, setting in place and not, errors that say what to write, memory and threads."""
import faulthandler
import gc
import os
import threading
import time

import numpy
import pytest
import scripts

import inset

PROMPT, OTHER = [5, 9, 2, 7], [5, 9, 3, 7]


@pytest.fixture(scope="module")
def model():
    return inset.Model(scripts.FIXTURES / "gpt2", device="cpu")


def logits(model, change=None):
    with model.trace([PROMPT]):
        if change:
            change(model.transformer.h)
        out = model.output.logits.save()
    return out.numpy()


# ---- values


def test_before_and_behind(model):
    with model.trace([PROMPT]) as tracer:
        x = model.transformer.h[1].output
        y = (x[:, 1:] * 2).save()
        assert x.shape == (1, 4, 28) and y.shape == (1, 3, 28) and x.dtype == "f32" and x.ndim == 3 and len(x) == 1
        assert "recorded" in repr(x)
        kept = x.save()
        assert kept is x
    assert tracer.statistics["rows"] > 0
    assert isinstance(x.numpy(), numpy.ndarray) and x.shape == (1, 4, 28) and not x.numpy().flags.writeable
    assert numpy.allclose(2 * numpy.asarray(x)[:, 1:], y)
    assert numpy.from_dlpack(x).shape == (1, 4, 28)
    assert float(x[0, 0, 0]) == x.numpy()[0, 0, 0] and (x == x).all() and len(list(x)) == 1
    assert numpy.allclose(numpy.asarray(x + y[:, :1]), x.numpy() + y.numpy()[:, :1])


def test_modules_applied(model):
    with model.trace([PROMPT]) as tracer:
        hidden = [block.output for block in model.transformer.h]
        lens = inset.save([model.lm_head(model.transformer.ln_f(x[:, -1])) for x in hidden])
        out = model.output.logits[:, -1].save()
        script = tracer.script()
    assert numpy.array_equal(lens[-1], out) and lens[0].shape == (1, 61) and "lm_head(" in script
    assert tracer.statistics["rows"] == logits_and_lens_rows(model)
    with pytest.raises(inset.errors.TypeError, match="transformer.ln_f, lm_head"):
        with model.trace([PROMPT]):
            model.transformer.wte(model.transformer.h[0].output)
    with model.trace([PROMPT]):
        again = model.transformer.h[1](model.transformer.h[0].output).save()
        kept = model.transformer.h[1].output.save()
    assert numpy.array_equal(again, kept)
    with pytest.raises(inset.errors.ShapeError, match="rows of 28"):
        with model.trace([PROMPT]):
            model.lm_head(model.output.logits)


def logits_and_lens_rows(model):
    """The lens of a block is one row at the norm and one at the head; that of the last block none."""
    with model.trace([PROMPT]) as tracer:
        model.output.logits[:, -1].save()
    return tracer.statistics["rows"] + 2 * (len(model.transformer.h) - 1)


def test_functions(model):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    with model.trace([PROMPT]) as tracer:
        x = model.transformer.h[1].output
        kept = x.save()
        made = inset.save({"relu": x.relu(), "exp": (x * 0.5).exp(), "abs": abs(x), "gelu": F.gelu(x), "tanh gelu": F.gelu(x, approximate="tanh"),
                           "torch": torch.sigmoid(x), "clamp": x.clamp(-0.5, 1), "min": torch.clamp(x, min=0), "silu": F.silu(x[:, 1]),
                           "half": x.half().float(), "log": torch.log(x.abs() + 1)})
        script = tracer.script()
    x = kept.torch()
    want = {"relu": x.relu(), "exp": (x * 0.5).exp(), "abs": abs(x), "gelu": F.gelu(x), "tanh gelu": F.gelu(x, approximate="tanh"),
            "torch": torch.sigmoid(x), "clamp": x.clamp(-0.5, 1), "min": torch.clamp(x, min=0), "silu": F.silu(x[:, 1]),
            "half": x.half().float(), "log": torch.log(x.abs() + 1)}
    for name, value in want.items():
        assert torch.allclose(made[name].torch(), value, atol=2e-6, rtol=1e-5), name
    with model.trace([PROMPT]):
        ids = model.transformer.wte.input.clamp(5, 8).save()
    assert ids.dtype == "i64" and ids.numpy().tolist() == [[5, 8, 5, 7]]
    assert ".clamp(-0.5, 1)" in script and ".gelu_tanh()" in script and torch.equal(kept.relu(), want["relu"])
    with pytest.raises(inset.errors.TypeError, match="cumsum.*clamp, exp"):
        with model.trace([PROMPT]):
            torch.cumsum(model.output.logits, -1)
    with pytest.raises(inset.errors.TypeError, match="bounds|number"):
        with model.trace([PROMPT]):
            x = model.transformer.h[1].output
            x.clamp(x, 1)


def test_cache(model):
    with model.trace([PROMPT]) as tracer:
        cache = tracer.cache()
        late = model.output.logits.save()
    assert len(cache) > 30 and list(cache)[:1] == ["transformer.wte"] and "h.1.mlp" in " ".join(cache)
    assert numpy.array_equal(cache["lm_head"].output, late) and cache["transformer.h.1"].output.shape == (1, 4, 28)
    with model.trace() as tracer:
        with tracer.invoke([PROMPT]):
            blocks = tracer.cache(modules=list(model.transformer.h), include_inputs=True)
            model.transformer.h[1].output[:, 2] = 0
            model.transformer.h[2].mlp.skip(model.transformer.h[2].mlp.input)
            mlps = tracer.cache(modules="transformer.h.*.mlp")
            inner = tracer.cache(["transformer.h[2].mlp.c_fc", "model.transformer.h[0].mlp.c_fc"])
        with tracer.invoke([OTHER]):
            other = tracer.cache([model.transformer.h[0]])
            tracer.stop()
    assert list(blocks) == [f"transformer.h.{i}" for i in range(3)] and not blocks["transformer.h.1"].output[:, 2].any()
    assert numpy.array_equal(blocks["transformer.h.2"].inputs, blocks["transformer.h.1"].output)
    assert list(mlps) == [f"transformer.h.{i}.mlp" for i in range(3)] and list(inner) == ["transformer.h.0.mlp.c_fc"]
    assert len(other) == 0  # it stops before
    with model.trace([PROMPT]) as tracer:  # and gradients, which end the invoke; a lens beside them
        cache = tracer.cache(model.transformer.h[1])
        x = model.transformer.h[1].output
        lens = model.lm_head(model.transformer.ln_f(x)).save()
        with model.output.logits[0, -1].logit_diff(3, 5).backward():
            g = x.grad.save()
    assert cache["transformer.h.1"].output.shape == g.shape == (1, 4, 28) and numpy.any(numpy.asarray(g)) and lens.shape == (1, 4, 61)
    with pytest.raises(inset.errors.UnknownSiteError, match="no module of the model is called 'transformer.x'"):
        with model.trace([PROMPT]) as tracer:
            tracer.cache("transformer.x")


def test_output_0_of_a_tuple(model):
    with pytest.raises(inset.errors.IndexError, match=r"output\[:, 1\].*output\[0, :, 1\]"):
        with model.trace([PROMPT]):
            model.transformer.h[1].output[0][:, 1] = 0
    with model.trace([PROMPT]):
        first = model.transformer.h[1].output[0].save()
        mlp = model.transformer.h[1].mlp
    assert first.shape == (4, 28) and mlp is not None


def test_lists_and_dicts(model):
    with model.trace([PROMPT]):
        blocks = inset.save([b.output for b in model.transformer.h])
        kept = inset.save({"logits": model.output.logits})
    assert len(blocks) == len(model.transformer.h) and kept["logits"].shape == (1, 4, 61)


def test_ragged(model):
    with model.trace([[1, 2, 3], [4, 5]]):
        x = model.transformer.h[0].output.save()
        assert x.shape == (2, (3, 2), 28)
    assert x.shape == (2, 3, 28) and not x.numpy()[1, 2].any()


@pytest.mark.parametrize("look", [bool, float, int, lambda x: x > "word", lambda x: x.numpy(), lambda x: numpy.asarray(x), lambda x: x.median(),
                                  lambda x: x.torch()])
def test_no_numbers_yet(model, look):
    with pytest.raises(inset.errors.UsageError, match="[Ss]ave it"):
        with model.trace([PROMPT]):
            look(model.transformer.h[0].output)


def test_not_saved(model):
    with model.trace([PROMPT]):
        x = model.transformer.h[0].output
        model.output.logits.save()
    with pytest.raises(inset.errors.UsageError, match="[Ss]ave"):
        x.numpy()
    with pytest.raises(inset.errors.UsageError):
        x.save()
    with pytest.raises(inset.errors.UsageError):
        x[0] = 1
    with pytest.raises(inset.errors.UsageError, match="a trace that is over"):
        x.logit(3)


# ---- setting


def test_in_place(model):
    def by_parts(h):
        x = h[1].output
        x[:, 2] = x[:, 2] + 3

    def added(h):
        h[1].output[:, 2] += 3

    def whole(h):
        h[1].output += numpy.array([0, 0, 3, 0], dtype=numpy.float32)[:, None]

    def replaced(h):
        h[1].output = h[1].output + numpy.array([0, 0, 3, 0], dtype=numpy.float32)[:, None]
    want = logits(model, by_parts)
    assert not numpy.allclose(want, logits(model))
    for change in (added, whole, replaced):
        assert numpy.allclose(logits(model, change), want, atol=1e-5)


def test_lists_are_copies(model):
    def part(h):
        h[0].output[:, [0, 2]] += 1

    def one_by_one(h):
        h[0].output[:, 0] += 1
        h[0].output[:, 2] += 1

    def lost(h):
        x = h[0].output[:, [0, 2]]
        x += 1
    assert numpy.allclose(logits(model, part), logits(model, one_by_one), atol=1e-5)
    assert numpy.array_equal(logits(model, lost), logits(model))


def test_same_place_of_another_invoke(model):
    """What another invoke has there is another value, though it has the same name."""
    with model.trace() as tracer:
        with tracer.invoke([OTHER]):
            x = model.transformer.h[1].output
            want = model.output.logits[:, -1].save()
        with tracer.invoke([PROMPT]):
            model.transformer.h[1].output = x
            got = model.output.logits[:, -1].save()
    assert numpy.allclose(got, want, atol=1e-5)


def test_sources(model):
    row = numpy.arange(28, dtype=numpy.float32)
    want = logits(model, lambda h: h[0].output.__setitem__((slice(None), 1), row))
    assert numpy.array_equal(want, logits(model, lambda h: h[0].output.__setitem__((slice(None), 1), row.tolist())))
    with model.trace([PROMPT]):
        x = model.transformer.h[0].output
        x[:, 1] = row
        kept = x[:, 1].save()
    assert numpy.array_equal(want, logits(model, lambda h: h[0].output.__setitem__((slice(None), 1), kept)))  # of a trace before
    with pytest.raises(inset.errors.TypeError, match="array was expected"):
        logits(model, lambda h: h[0].output.__setitem__(0, "x"))


def test_torch():
    torch = pytest.importorskip("torch")
    model = inset.Model(scripts.FIXTURES / "gpt2_bf16", device="cpu")
    with model.trace(torch.tensor([PROMPT])):
        model.transformer.h[0].output[:, 1] = torch.ones(28, dtype=torch.bfloat16, requires_grad=True)
        x = model.transformer.h[0].output.save()
        y = model.output.logits[0, -1].save()
        with pytest.raises(inset.errors.TypeError, match="cumsum"):
            torch.cumsum(x, -1)
    assert x.torch().dtype == torch.bfloat16 and x.numpy().dtype == numpy.float32 and bool((x.torch()[:, 1] == 1).all())
    assert torch.softmax(y, -1).shape == (61,) and int(y.argmax()) == int(y.numpy().argmax())
    assert torch.from_dlpack(x).dtype == torch.bfloat16


def test_skip_and_stop(model):
    with model.trace([PROMPT]) as tracer:
        y = model.transformer.h[0].output.save()
        model.transformer.h[1].skip(y)
        x = model.transformer.h[1].output.save()
        tracer.stop()
    assert numpy.array_equal(x, y)


def test_rows():
    model = inset.Model(scripts.FIXTURES / "notebook", device="cpu")
    with model.trace([[1, 2, 3, 4, 5]]):
        x = model.layer1.output.save()
    assert x.shape == (1, 10)


def test_memory_and_sharing(model):
    def run(**options):
        with model.trace(**options) as tracer:
            with tracer.invoke(PROMPT):
                x = model.transformer.h[1].output
            out = []
            for p in range(4):
                with tracer.invoke(OTHER):
                    model.transformer.h[1].output[:, p] = x[:, p]
                    out.append(model.output.logits[0, -1].logit_diff(3, 5).save())
        return [float(v) for v in out], tracer.statistics
    plain, shared = run()
    alone, unshared = run(no_share=True)
    chunks, _ = run(memory=20000)
    assert numpy.allclose(plain, alone, atol=1e-5) and numpy.allclose(plain, chunks, atol=1e-5) and shared["rows"] < unshared["rows"]
    with pytest.raises(MemoryError):
        run(memory=100)


def test_explained(model):
    with model.trace([PROMPT], explain=True) as tracer:
        with pytest.raises(inset.errors.UsageError, match="planned when"):
            tracer.statistics
        model.output.logits.save()
    assert "lm_head" in tracer.plan.explanation()


def test_script_of_arrays(model):
    """A small array stands in the script as it was; a large one is not kept, and asked for by its file."""
    row = numpy.ones(28, dtype=numpy.float32)
    with model.trace([PROMPT]) as tracer:
        model.transformer.h[0].output[:, 1] = row
        row[:] = 7
        assert "[1.0, 1.0" in tracer.script() and "7.0" not in tracer.script()
    for array in (numpy.ones((1, 4, 28), dtype=numpy.float32), numpy.ones((80, 80))):
        with model.trace([PROMPT]) as tracer:
            tracer.tensor(array)
            with pytest.raises(inset.errors.UsageError, match="from a file"):
                tracer.script()
    wide = inset.Model(scripts.FIXTURES / "gpt2", device="cpu")
    with wide.trace([[k % 61 for k in range(16)] for _ in range(12)]) as tracer:
        wide.transformer.h[0].output[:] = numpy.ones((12, 16, 28), dtype=numpy.float32)
        with pytest.raises(inset.errors.UsageError, match="more than 4096"):
            tracer.script()


def test_scan(model):
    with model.scan([PROMPT]):
        x = model.transformer.h[0].attn.pattern.save()
        assert x.shape == (1, 4, 4, 4)
    with pytest.raises(inset.errors.UsageError):
        x.numpy()


# ---- errors


@pytest.mark.parametrize("error, part, wrong", [
    (inset.errors.UnknownSiteError, "did you mean output", lambda m: m.transformer.h[1].outptu),
    (inset.errors.UnknownSiteError, "there is", lambda m: m.transformer.h[1].attn.zz),
    (AttributeError, "transformer", lambda m: m.transfomer),
    (IndexError, "range", lambda m: m.transformer.h[9]),
    (inset.errors.IndexError, "index 9 is out of bounds", lambda m: m.transformer.h[1].output[:, 9]),
    (inset.errors.TypeError, "an index is made of", lambda m: m.transformer.h[1].output["a"]),
    (inset.errors.ShapeError, "does not broadcast", lambda m: m.transformer.h[1].output.__setitem__((slice(None), 1), [1.0, 2.0])),
    (inset.errors.UnknownSiteError, "mlp", lambda m: setattr(m.transformer.h[1], "mpl", 1)),
])
def test_refused(model, error, part, wrong):
    with pytest.raises(error, match=part):
        with model.trace([PROMPT]):
            wrong(model)
    assert logits(model).shape == (1, 4, 61)  # nothing of it is left


def test_order(model):
    with pytest.raises(inset.errors.OutOfOrderError, match="ask for transformer.h.0.output first"):
        with model.trace([PROMPT]):
            model.transformer.h[1].output.save()
            model.transformer.h[0].output.save()


def test_outside(model):
    with pytest.raises(inset.errors.UsageError, match="with model.trace"):
        model.transformer.h[0].output
    with pytest.raises(inset.errors.UsageError, match="invokes"):
        with model.trace([PROMPT]):
            with model.trace([PROMPT]):
                pass
    with pytest.raises(inset.errors.IndexError):
        with model.trace([[1, 2, 100000]]):
            pass
    with pytest.raises(inset.errors.TypeError, match="an input is"):
        with model.trace(3.5):
            pass
    with pytest.raises(ZeroDivisionError):
        with model.trace([PROMPT]):
            1 / 0
    assert logits(model).shape == (1, 4, 61)


def test_no_model():
    with pytest.raises(inset.errors.FileError, match="neither a folder"):
        inset.Model("no/such/model")
    with pytest.raises(inset.errors.UsageError):
        inset.Model(scripts.FIXTURES / "gpt2", device="gpu")


# ---- lives


def test_arrays_outlive_all():
    model = inset.Model(scripts.FIXTURES / "gpt2", device="cpu")
    with model.trace([PROMPT]):
        x = model.transformer.h[0].output.save()
        y = model.transformer.h[1].output
    array, again = x.numpy(), x.numpy().copy()
    del model, x
    gc.collect()
    assert numpy.array_equal(array, again)
    del y
    gc.collect()
    assert numpy.array_equal(array, again)


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_flat(model):
    def some():
        for _ in range(500):
            with model.trace([PROMPT]):
                model.transformer.h[0].output[:, 1] = 0
                model.output.logits[:, -1].save()
        for _ in range(200):
            with pytest.raises(inset.InsetError):
                with model.trace([PROMPT]):
                    model.transformer.h[0].output[:, 9]
        gc.collect()
    some()
    before = resident()
    some()
    some()
    assert resident() - before < 1 << 20


def test_threads():
    found, want = {}, None

    def work(k):
        own = inset.Model(scripts.FIXTURES / "gpt2", device="cpu")
        found[k] = [logits(own) for _ in range(20)]
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    want = found[0][0]
    assert len(found) == 4 and all(numpy.array_equal(x, want) for xs in found.values() for x in xs)


def test_values_dropped_while_another_thread_records(model):
    """Who holds the model's lock runs Python code, which gives the GIL to a thread that frees a trace of the same model."""
    converting, dropped = threading.Event(), threading.Event()
    with model.trace([PROMPT]):
        old = [model.transformer.h[0].output.save()]

    class Slow:
        def __array__(self, dtype=None, copy=None):
            converting.set()
            time.sleep(0.2)
            return numpy.ones(28, dtype=numpy.float32)

    def drop():
        converting.wait(10)
        old.clear()
        dropped.set()
    faulthandler.dump_traceback_later(30, exit=True)  # a deadlock would hold the GIL for ever
    try:
        thread = threading.Thread(target=drop)
        thread.start()
        with model.trace([PROMPT]):
            model.transformer.h[0].output[:, 1] = Slow()
            x = model.transformer.h[0].output[:, 1].save()
        thread.join()
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert dropped.is_set() and (x.numpy() == 1).all()


def test_finds_cuda_of_pip(tmp_path, monkeypatch):
    """pip's nvidia packages keep their libraries where no loader looks: their folders are named to the device, unless the user named some."""
    folders = [tmp_path / "nvidia" / name / "lib" for name in ("cublas", "cudnn")]
    for folder in folders:
        folder.mkdir(parents=True)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setenv("INSET_CUDA_LIBRARIES", "")              # so that it is put back
    monkeypatch.delenv("INSET_CUDA_LIBRARIES")
    inset.model._find_cuda("cpu")
    assert "INSET_CUDA_LIBRARIES" not in os.environ
    inset.model._find_cuda(None)
    assert os.environ["INSET_CUDA_LIBRARIES"].split(":") == [str(f) for f in folders]
    monkeypatch.setenv("INSET_CUDA_LIBRARIES", "/mine")
    inset.model._find_cuda("cuda")
    assert os.environ["INSET_CUDA_LIBRARIES"] == "/mine"
