"""model.cache: what sites hold for many prompts, in files, beside traces of the same prompts."""
import json

import numpy
import pytest
import scripts
from safetensors.numpy import load_file

import inset


@pytest.fixture(scope="module")
def model():
    return inset.Model(scripts.FIXTURES / "gpt2", device="cpu")


def prompts_of(seed, n):
    r = numpy.random.default_rng(seed)
    return [r.integers(0, 61, int(r.integers(1, 9))).tolist() for _ in range(n)]


def rows_of(folder, name):
    index = json.loads((folder / "cache.json").read_text())
    assert index["complete"]
    return numpy.concatenate([load_file(folder / shard["file"])[name] for shard in index["shards"]])


def test_is_the_trace(model, tmp_path):
    prompts = prompts_of(1, 30)
    folder = model.cache(prompts, sites=["resid_post", "z", "transformer.h[1].mlp.*"], out=tmp_path / "kept", layers=[0, 2], positions=[0, -1],
                         shard_bytes=20000, progress=False)
    prompt, position, token = (rows_of(folder, n) for n in ("prompt", "position", "token"))
    assert list(zip(prompt, position)) == [(i, p) for i, x in enumerate(prompts) for p in sorted({0, len(x) - 1})]
    assert token.tolist() == [prompts[i][p] for i, p in zip(prompt, position)]
    for i, ids in enumerate(prompts):
        with model.trace(ids):
            z = model.transformer.h[2].attn.z.save()
            last = model.transformer.h[2].output.save()
        for name, x in (("z.2", z), ("resid_post.2", last)):
            got = rows_of(folder, name)[prompt == i]
            assert numpy.abs(got - x.numpy()[0, position[prompt == i]]).max() < 1e-4
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert rows_of(folder, "transformer.h.1.mlp.pre").shape == (len(prompt), 112)


def test_goes_on(model, tmp_path):
    prompts = prompts_of(2, 20)
    whole = model.cache(prompts, sites="resid_pre", out=tmp_path / "whole", shard_bytes=8000, progress=False)
    shards = sorted(whole.glob("*.safetensors"))
    before = [x.read_bytes() for x in shards]
    shards[1].unlink()
    assert model.cache(prompts, sites="resid_pre", out=whole, shard_bytes=8000) == whole
    assert len(shards) > 2 and [x.read_bytes() for x in shards] == before
    with pytest.raises(inset.errors.ValueError, match="was begun with other settings"):
        model.cache(prompts, sites="resid_pre,z", out=whole, shard_bytes=8000, progress=False)


def test_refusals(model, tmp_path):
    with pytest.raises(inset.errors.UnknownSiteError, match="resid_post"):
        model.cache([[1, 2]], sites="resid_pots", out=tmp_path / "none", progress=False)
    with pytest.raises(inset.errors.FileError):
        model.cache([[1, 2]], sites="z", out=tmp_path / "none" / "none", progress=False)
    with pytest.raises(inset.errors.IndexError, match="vocabulary"):
        model.cache([[1, 61]], sites="z", out=tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_files(model, tmp_path):
    (tmp_path / "p.jsonl").write_text("[1, 2, 3]\n[4]\n")
    folder = model.cache(str(tmp_path / "p.jsonl"), sites="mlp_out", positions=slice(-1, None), dtype="f16", out=str(tmp_path / "kept"), progress=False)
    assert rows_of(folder, "mlp_out.1").dtype == numpy.float16 and rows_of(folder, "token").tolist() == [3, 4]
