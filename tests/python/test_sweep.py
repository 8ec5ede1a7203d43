"""Sweeps, attribution and circuits from Python, beside transformers' and PyTorch's numbers (tests/sweep_cases.py, tests/make_edges.py)."""
import numpy
import pytest
import scripts

import inset

CLEAN, CORRUPT = [[5, 17, 42, 8, 33, 21], [1, 2, 3, 4]], [[5, 18, 42, 8, 33, 20], [1, 7, 3, 5]]
EDGES_CLEAN, EDGES_CORRUPT = [[3, 7, 11, 2, 5, 9], [8, 1, 4, 2, 6, 13]], [[3, 7, 20, 2, 8, 9], [8, 5, 4, 2, 6, 13]]


@pytest.fixture(scope="module")
def model():
    return inset.Model(scripts.FIXTURES / "gpt2", device="cpu")


def close(got, want, tolerance=1e-5):
    assert got.shape == want.shape and (numpy.isnan(got) == numpy.isnan(want)).all()
    there = ~numpy.isnan(want)
    assert numpy.abs(got[there] - want[there]).max() <= tolerance * (1 + numpy.abs(want[there]).max())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_beside_transformers(name):
    model = inset.Model(scripts.FIXTURES / name, device="cpu")
    held = 0
    for case, want in scripts.read(scripts.FIXTURES / "sweeps" / f"{name}.safetensors").items():
        site, axes, source = (case.split(" ") + ["", ""])[:3]
        if source not in ("clean", "zero"):
            continue
        by = axes.replace("head", "key_value_head") if name == "llama" and site in ("k", "v", "rot_k") else axes
        r = model.sweep(CLEAN, CORRUPT, patch=site, by=by.split(","), metric=("logit_diff", 11, 12), source=None if source == "clean" else source, progress=False)
        close(numpy.transpose(r.values, (0,) + tuple(1 + r.dims.index({"position": "destination"}.get(d, d) if "destination" in r.dims else d)
                                                     for d in by.split(","))), want, 1e-4)
        held += 1
    assert held > 4


def test_is_the_loop(model):
    """A sweep is a loop of invokes."""
    with model.trace() as tracer:
        with tracer.invoke(CLEAN[0]):
            source = [b.input for b in model.transformer.h]
        out = []
        for layer, block in enumerate(model.transformer.h):
            for p in range(6):
                with tracer.invoke(CORRUPT[0]):
                    block.input[:, p] = source[layer][:, p]
                    out.append(model.output.logits[0, -1].logit_diff(11, 12).save())
    r = model.sweep(CLEAN[0], CORRUPT[0], patch="resid_pre", metric="logit_diff:11,12", progress=False)
    close(r.mean, numpy.array([float(x) for x in out]).reshape(3, 6))
    assert r.dims == ("layer", "position") and r.coords["position"] == list(range(6)) and r.shape == (3, 6)
    assert numpy.array_equal(numpy.asarray(r), r.mean) and "resid_pre" in repr(r)
    some = model.sweep(CLEAN[0], CORRUPT[0], patch="resid_pre", metric="logit_diff:11,12", layers=range(1, 3), positions=slice(-3, None), progress=False)
    close(some.mean, r.mean[1:, 3:])


def test_results(model, tmp_path):
    several = model.sweep(CLEAN, CORRUPT, patch=["resid_pre", "z"], metric=["logit_diff:11,12", "kl"], progress=False)
    assert [(r.site, r.metric) for r in several] == [("resid_pre", "logit_diff:11,12"), ("resid_pre", "kl"), ("z", "logit_diff:11,12"), ("z", "kl")]
    r = several[0]
    r.save(tmp_path / "sweep.safetensors")
    close(scripts.read(tmp_path / "sweep.safetensors")["resid_pre.logit_diff:11,12"], r.values)
    pandas = pytest.importorskip("pandas")
    table = r.to_pandas()
    assert isinstance(table, pandas.DataFrame) and len(table) == r.mean.size and table.index.names == ["layer", "position"]
    pytest.importorskip("xarray")
    assert r.to_xarray()["values"].dims == ("pair", "layer", "position")
    pytest.importorskip("matplotlib").use("Agg")
    assert r.plot().get_xlabel() == "position" and "<svg" in r._repr_svg_() and several[3].plot() is not None


def test_attribution(model):
    nodes = model.attribute(CLEAN, CORRUPT, patch="resid_pre", metric="logit_diff:11,12", progress=False)
    points, rank = nodes.verify(5)
    exact = model.sweep(CLEAN, CORRUPT, patch="resid_pre", metric="logit_diff:11,12", progress=False)
    base = numpy.nanmean(exact.corrupt)
    for _, at, score, real in points:
        assert abs(score - nodes.mean[at["layer"], at["position"]]) < 1e-5
        there = ~numpy.isnan(exact.values[:, at["layer"], at["position"]])
        assert abs(real - (exact.mean[at["layer"], at["position"]] - exact.corrupt[there].mean())) < 1e-4 * (1 + abs(base))
    assert -1 <= rank <= 1


def test_edges():
    model = inset.Model(scripts.FIXTURES / "gpt2", device="cpu")
    want = scripts.read(scripts.FIXTURES / "edges" / "gpt2.safetensors")
    e = model.attribute(EDGES_CLEAN, EDGES_CORRUPT, edges=True, metric="logit_diff:3,7", progress=False, per_pair=True)
    assert e.values.shape == want["scores"].shape
    assert numpy.linalg.norm(e.values - want["scores"]) < 1e-4 * numpy.linalg.norm(want["scores"])
    assert numpy.allclose(e.per_pair.mean(0), e.values, atol=1e-6)
    found, rank = e.verify(12)
    assert len(found) == 12 and e.top(1)[0][:2] == found[0][:2]
    assert e.circuit(1.0) == pytest.approx(float(e.corrupt.mean()), rel=1e-5) and e.circuit(0) == pytest.approx(float(e.clean.mean()), rel=1e-5)
    assert e.circuit(5, ablation="zero") != e.circuit(5)
    (path, effect), = e.patch(f"{found[0][0]}->{found[0][1]}")
    assert effect == pytest.approx(found[0][3], rel=1e-5) and path
    with pytest.raises(inset.errors.ValueError, match="share"):
        e.circuit(1.5)
    with pytest.raises(inset.errors.ValueError):
        e.patch("a0.h0->a9.h9")


@pytest.mark.parametrize("error, part, options", [
    (inset.errors.UnknownSiteError, "resid_pree", {"patch": "resid_pree"}),
    (inset.errors.ValueError, "no axis 'layers'", {"by": "layers"}),
    (inset.errors.ValueError, "is no metric", {"metric": "logit_dif:1,2"}),
    (inset.errors.ValueError, "6 tokens, the corrupt one 2", {"corrupt": [[1, 2]]}),
])
def test_refused(model, error, part, options):
    given = {"patch": "resid_pre", "metric": "logit_diff:11,12", "corrupt": CORRUPT[0], **options}
    with pytest.raises(error, match=part):
        model.sweep(CLEAN[0], progress=False, **given)


def test_interrupted(model, tmp_path):
    """Ctrl-C between chunks leaves what is done in the state file, and resume goes on."""
    state = str(tmp_path / "state")
    from inset import sweep as module

    class Bar:
        def update(self, n):
            raise KeyboardInterrupt

        def close(self):
            pass
    real, module._progress = module._progress, lambda *a: Bar()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.sweep(CLEAN, CORRUPT, patch="resid_pre", metric="kl", state=state, memory=60000)
    finally:
        module._progress = real
    r = model.sweep(CLEAN, CORRUPT, patch="resid_pre", metric="kl", state=state, memory=60000, resume=True, progress=False)
    plain = model.sweep(CLEAN, CORRUPT, patch="resid_pre", metric="kl", progress=False)
    assert r._made.progress()["restored"] > 0
    close(r.values, plain.values, 1e-4)


def test_helpers_and_streamed_weights():
    """Models on other devices take chunks of the same sweep, and weights that come and go give the same bits."""
    given = dict(patch="resid_pre,z", metric=("logit_diff", 11, 12), memory=100000, progress=False)
    clean, corrupt = [[5, 17, 42, 8, i] for i in range(12)], [[5, 18, 42, 8, i] for i in range(12)]
    model, *others = (inset.Model(scripts.FIXTURES / "gpt2", device="cpu") for _ in range(3))
    alone = model.sweep(clean, corrupt, helpers=others[:1], **given)
    for r, s in zip(alone, model.sweep(clean, corrupt, helpers=others, **given)):
        assert numpy.array_equal(r.values, s.values)
    plain = model.sweep(clean, corrupt, **given)
    assert all(numpy.allclose(r.values, s.values, atol=1e-4) for r, s in zip(alone, plain))
    little = inset.Model(scripts.FIXTURES / "gpt2", device="cpu", weight_memory=60000)
    assert all(numpy.array_equal(r.values, s.values) for r, s in zip(plain, little.sweep(clean, corrupt, **given)))
    a, b = (m.attribute(clean, corrupt, helpers=h, patch="z", metric=("logit", 7), progress=False) for m, h in ((model, others), (little, [model])))
    assert numpy.array_equal(a.values, b.values)
    with pytest.raises(inset.errors.UsageError, match="a context and a model of its own"):
        model.sweep(clean, corrupt, helpers=[model], **given)
    with pytest.raises(inset.errors.UsageError, match="not the same sweep"):
        model.sweep(clean, corrupt, helpers=[inset.Model(scripts.FIXTURES / "llama", device="cpu")], **given)
    with pytest.raises(inset.errors.UsageError, match="not of edges"):
        model.attribute(clean, corrupt, helpers=others, edges=True, metric=("logit", 7))
    with pytest.raises(inset.errors.MemoryError, match="GB are needed"):
        inset.Model(scripts.FIXTURES / "gpt2", device="cpu", weight_memory=5000)
