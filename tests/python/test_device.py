"""What a GPU changes: results stay there and go in again from there. On the stand-in (the target inset_python_standin): INSET_PYTHON_STANDIN names the
folder of its module."""
import os

import numpy
import pytest
import scripts

import inset

pytestmark = pytest.mark.skipif("INSET_PYTHON_STANDIN" not in os.environ, reason="INSET_PYTHON_STANDIN is not set")
PROMPT, OTHER = [5, 9, 2, 7], [5, 9, 3, 7]


@pytest.fixture(scope="module")
def model():
    return inset.Model(scripts.FIXTURES / "gpt2", device="cuda")


class Other:
    """Somebody else's array on the GPU."""

    def __init__(self, value):
        self.value = value

    def __dlpack__(self, **options):
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.value.__dlpack_device__()


def test_out_and_in(model):
    with model.trace([PROMPT]):
        x = model.transformer.h[1].output.save()
        clean = model.output.logits.save()
    assert x.__dlpack_device__() == (2, 0) and "dltensor" in repr(x.__dlpack__())
    for source in (x, Other(x), x.numpy()):
        with model.trace([OTHER]) as tracer:
            model.transformer.h[1].output[:] = source
            patched = model.output.logits.save()
            assert "transformer.h.1.output" in tracer.script()
        assert numpy.array_equal(patched.numpy(), clean.numpy())


def test_values_outlive_their_model():
    model = inset.Model(scripts.FIXTURES / "gpt2", device="cuda")
    with model.trace([PROMPT]):
        x = model.transformer.h[1].output.save()
    numbers, capsule = x.numpy().copy(), x.__dlpack__()
    assert numpy.array_equal(x.numpy(), numbers)
    del x, model
    assert "dltensor" in repr(capsule)


def test_another_device(model):
    class Elsewhere(Other):
        def __dlpack__(self, **options):
            raise BufferError("on another device")

    with model.trace([PROMPT]):
        x = model.output.logits.save()
    with pytest.raises(inset.errors.TypeError):
        with model.trace([PROMPT]):
            model.output.logits[:] = Elsewhere(x)
