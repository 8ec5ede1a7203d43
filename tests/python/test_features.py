"""Sweeps and attributions over an autoencoder's features in every family: what the same lines give one by one, and autograd's chain rule by hand."""
import struct
import json

import numpy
import pytest
import scripts

import inset

BLOCKS = {"gpt2": "transformer.h", "gpt2_bf16": "transformer.h", "gpt_neox": "gpt_neox.layers", "llama": "model.layers", "qwen3": "model.layers",
          "gemma2": "model.layers", "olmo2": "model.layers", "phi3": "model.layers"}
FEATURES = 12


def write(path, tensors):
    header, data = {}, b""
    for name, x in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def module_of(model, path):
    for name in path.split("."):
        model = getattr(model, name)
    return model


@pytest.fixture
def sae(request, tmp_path):
    def make(width, seed):
        g = numpy.random.default_rng(seed)
        t = {"W_enc": g.normal(size=(width, FEATURES)) / width ** 0.5, "b_enc": g.normal(size=FEATURES) * 0.2, "W_dec": g.normal(size=(FEATURES, width)) * 0.3,
             "b_dec": g.normal(size=width) * 0.1}
        t = {name: x.astype("float32") for name, x in t.items()}
        write(tmp_path / "sae.safetensors", t)
        return str(tmp_path / "sae.safetensors"), t
    return make


@pytest.mark.parametrize("name", BLOCKS)
def test_is_the_lines(name, sae):
    model = inset.Model(scripts.FIXTURES / name, device="cpu")
    block = module_of(model, BLOCKS[name])[1]
    clean, corrupt = [5, 9, 4, 8, 3], [5, 9, 7, 8, 2]
    with model.trace() as tracer:
        with tracer.invoke(clean):
            kept = block.output.float().save()
        with tracer.invoke(corrupt):
            base = block.output.float().save()
    x, y = numpy.asarray(base)[0], numpy.asarray(kept)[0]
    path, t = sae(x.shape[-1], sum(map(ord, name)))
    f, other = (numpy.maximum((v - t["b_dec"]) @ t["W_enc"] + t["b_enc"], 0) for v in (x, y))
    metric = ("logit_diff", 3, 1)
    r = model.sweep(clean, corrupt, patch=f"features:{path}@resid_post.1", metric=metric, progress=False)
    estimate = model.attribute(clean, corrupt, patch=f"features:{path}@resid_post.1", metric=metric, progress=False)
    assert r.dims == ("position", "feature") and r.site == "features@resid_post.1" and r.coords["feature"] == list(range(FEATURES))
    with model.trace() as tracer:
        made = []
        for p in range(5):
            for i in range(FEATURES):
                with tracer.invoke(corrupt):
                    out = block.output
                    out[:, p] = out[:, p].float() + tracer.tensor((other[p, i] - f[p, i]) * t["W_dec"][i])
                    made.append(model.output.logits[0, -1].logit_diff(3, 1).save())
    want = numpy.array([float(m) for m in made]).reshape(5, FEATURES)
    tolerance = 5e-2 if "bf16" in name else 2e-5
    assert numpy.abs(r.mean - want).max() <= tolerance * (1 + numpy.abs(want).max())
    with model.trace() as tracer:
        with tracer.invoke(corrupt):
            out = block.output
            m = model.output.logits[0, -1].logit_diff(3, 1)
            with m.backward():
                g = out.grad.float().save()
    score = (other - f) * (numpy.asarray(g)[0] @ t["W_dec"].T)
    assert numpy.abs(estimate.mean - score).max() <= tolerance * (1 + numpy.abs(score).max())
    assert numpy.abs(score).max() > 1e-3 and numpy.abs(want - r.corrupt[0]).max() > 1e-3


def test_refused(sae):
    model = inset.Model(scripts.FIXTURES / "gpt2", device="cpu")
    path, _ = sae(28, 1)
    with pytest.raises(inset.errors.ValueError, match="chooses none of the 12 features"):
        model.sweep([5, 6], [5, 7], patch=f"features:{path}@resid_pre.1", metric="logit_diff:11,12", features="12:", progress=False)
    r = model.sweep([5, 6], [5, 7], patch=f"features:{path}@resid_pre.1", metric="logit_diff:11,12", features=range(2, 8, 2), progress=False)
    assert r.coords["feature"] == [2, 4, 6]
