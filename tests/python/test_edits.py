"""Edits from Python: of a model, for all later traces, and of a trace, for its later invokes. (Beside nnsight's: test_nnsight.py; as scripts:
test_scripts.py.)"""
import gc

import numpy
import pytest
import scripts

import inset

PROMPT = [5, 9, 2, 7]


@pytest.fixture
def model():
    return inset.Model(scripts.FIXTURES / "gpt2", device="cpu")


def block(model, number=1):
    with model.trace([PROMPT]):
        x = model.transformer.h[number].output.save()
    return x.numpy()


def test_of_a_model(model):
    plain = block(model)
    with model.edit() as edited:
        assert edited is model
        model.transformer.h[1].output[:, 1] = 3
        model.transformer.h[1].output[:, 2] = numpy.arange(28)
    with model.edit(inplace=True):
        model.transformer.h[1].output[:, 1] += [0.5] * 28
    assert model.edits == ["sets transformer.h.1.output", "sets transformer.h.1.output"]
    x = block(model)
    assert (x[0, 1] == 3.5).all() and (x[0, 2] == numpy.arange(28)).all() and numpy.allclose(x[0, [0, 3]], plain[0, [0, 3]], atol=1e-5)
    model.clear_edits()
    assert model.edits == [] and numpy.array_equal(block(model), plain)


def test_a_value_of_an_earlier_trace(model):
    with model.trace([PROMPT]):
        x = model.transformer.h[0].output.save()
    with model.edit():
        model.transformer.h[1].output[:] = x
    want = x.numpy().copy()
    del x
    gc.collect()
    assert numpy.allclose(block(model), want)


def test_a_copy_is_one(model):
    """numpy.array() of a saved value does not keep its plan."""
    with model.trace([PROMPT]):
        x = model.transformer.h[0].output.save()
    copy = numpy.array(x)
    assert copy.flags.owndata and copy.flags.writeable and numpy.array_equal(copy, x.numpy())


def test_of_a_trace(model):
    with model.trace() as tracer:
        with tracer.invoke([PROMPT]):
            source = model.transformer.h[0].output
            plain = model.transformer.h[1].output.save()
        with tracer.edit():
            model.transformer.h[1].output[:, 0] = source[:, 3]
            model.transformer.h[1].output *= 2
        with tracer.invoke([PROMPT]):
            x = model.transformer.h[1].output.save()
            y = (source[:, 3] * 2).save()
        tracer.clear_edits()
        with tracer.invoke([PROMPT]):
            z = model.transformer.h[1].output.save()
    assert numpy.allclose(x.numpy()[:, 0], y.numpy()) and numpy.allclose(x.numpy()[:, 1:], 2 * plain.numpy()[:, 1:])
    assert numpy.allclose(z.numpy(), plain.numpy(), atol=1e-5)
    assert model.edits == []


def test_as_a_script(model):
    """What tracer.script() says of an edited trace runs on a model without the edit."""
    with model.edit():
        model.transformer.h[0].output[:, 0] = model.transformer.h[0].mlp.output[:, 1] + 1
    with model.trace([PROMPT]) as tracer:
        x = model.lm_head.output.save()
    text = tracer.script()
    assert text.startswith("with edit():\n")
    model.clear_edits()
    names = scripts.run(model, text, None)
    assert numpy.allclose(names["tracer"]._saved[0].load(), x.numpy(), atol=1e-5)


def test_gradients(model):
    def gradient(edited):
        with model.trace([PROMPT]):
            x = model.transformer.h[0].output
            if not edited:
                model.transformer.h[1].output[:, 1] = x[:, 0] * 3
            m = model.lm_head.output[0, -1].logit_diff(3, 4)
            with m.backward():
                g = x.grad.save()
        return g.numpy()
    want = gradient(False)
    with model.edit():
        model.transformer.h[1].output[:, 1] = model.transformer.h[0].output[:, 0] * 3
    assert numpy.array_equal(gradient(True), want)


def test_cache(model):
    with model.edit():
        model.transformer.h[1].output[:] = 2
    with model.trace([PROMPT]) as tracer:
        cache = tracer.cache()
    assert (cache["transformer.h.1"].output.numpy() == 2).all()
    assert not (cache["transformer.h.0"].output.numpy() == 2).any()


def test_an_error_in_the_block_is_no_edit(model):
    with pytest.raises(ZeroDivisionError), model.edit():
        model.transformer.h[1].output[:] = 0
        1 / 0
    assert model.edits == []
    with pytest.raises(inset.errors.OutOfOrderError), model.edit():
        model.transformer.h[1].output[:] = 0
        model.transformer.h[0].output[:] = 0
    assert model.edits == [] and block(model).any()


def test_refusals(model):
    with pytest.raises(inset.errors.UsageError, match="no edited copies"):
        model.edit(inplace=False)
    with pytest.raises(inset.errors.SyntaxError, match="a save belongs in an invoke"), model.edit():
        model.transformer.h[1].output.save()
    with pytest.raises(inset.errors.UsageError, match="a shape only where"), model.edit():
        model.transformer.h[1].output.shape
    with model.trace([PROMPT]):
        with pytest.raises(inset.errors.UsageError, match="a trace of this model is open"), model.edit():
            pass
    with model.edit():
        with pytest.raises(inset.errors.UsageError, match="open already"), model.trace([PROMPT]):
            pass
        kept = model.transformer.h[1].output
    with model.trace([PROMPT]), pytest.raises(inset.errors.InsetError):
        model.transformer.h[2].output[:] = kept
    model.clear_edits()
    with model.edit():
        model.transformer.h[1].output[:, 7] = 0
    with pytest.raises(inset.errors.IndexError, match="repeated in invoke 1"), model.trace([PROMPT]):
        model.lm_head.output.save()
    with pytest.raises(inset.errors.UsageError, match="the model has edits"):
        model.sweep([PROMPT], [[5, 9, 3, 7]], patch="z", metric="logit:3")
