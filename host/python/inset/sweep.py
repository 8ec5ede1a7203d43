"""Sweeps, attribution of places and edges, circuits: the command line's options as keywords."""
import os

from . import _inset, errors
from .result import EdgeResult, Result


def _progress(progress, total, unit):
    """Something with update(n) and close(): tqdm's bar, or nothing where it is not wanted or not there."""
    if progress:
        try:
            from tqdm.auto import tqdm
            return tqdm(total=total, unit=unit)
        except ImportError:
            pass

    class Nothing:
        def update(self, n):
            pass

        def close(self):
            pass
    return Nothing()


def follow(made, total, unit, progress):
    """Steps what was made to its end, under a bar of `total`, the progress's word for all there is."""
    bar = _progress(progress, made.progress()[total], unit)
    done = 0
    try:
        while not made.done:
            made.step()
            now = made.progress()["done"]
            bar.update(now - done)
            done = now
    finally:
        bar.close()


def _range(given):
    """3, "4:9", slice(4, 9), range(4, 9) -> as the command line has it."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, slice):
        return ":".join("" if x is None else str(x) for x in ((given.start, given.stop) if given.step is None else (given.start, given.stop, given.step)))
    if isinstance(given, range):
        return f"{given.start}:{given.stop}" + (f":{given.step}" if given.step != 1 else "")
    return str(int(given))


class Sweeping:
    """What a Model has of sweeps; see Model."""

    def _prompts(self, given, what):
        """Lists of ids, and the same as labels: a text, a list of texts, ids, a list of ids, a file's name (FILE.npy, FILE.safetensors:NAME, FILE.json,
        FILE.jsonl)."""
        if given is None or (isinstance(given, str) and (given.endswith((".npy", ".json", ".jsonl")) or ".safetensors:" in given)):
            return given
        kind, ids = self._input(given)
        if kind != "tokens":
            raise errors.TypeError(f"{what}: texts or token ids were expected, found numbers")
        return ids

    def _metric_text(self, metric):
        """"logit_diff: Mary, John", ("logit_diff", " Mary", " John"), "kl" -> with ids."""
        if not isinstance(metric, str):
            name, *answers = metric
            return name + (":" + ",".join("+".join(map(str, self._answer(a))) for a in answers) if answers else "")
        name, colon, rest = metric.partition(":")
        rest, at, position = rest.rpartition("@") if "@" in rest else (rest, "", "")
        if not colon or all(c.isdigit() or c in "+,-" for c in rest) or rest.endswith(".npy") or ".safetensors:" in rest:
            return metric
        answers = [[self._answer(word) for word in _words(a)] for a in rest.split(",")]
        return name + ":" + ",".join("+".join(str(i) for ids in a for i in ids) for a in answers) + at + position

    def _options(self, clean, corrupt, metric, by, **more):
        metrics = [metric] if isinstance(metric, (str, tuple)) else list(metric)
        given = {"clean": self._prompts(clean, "clean"), "corrupt": self._prompts(corrupt, "corrupt"), "metrics": [self._metric_text(m) for m in metrics],
                 "by": ",".join(by) if isinstance(by, (list, tuple)) else by}
        for name in ("layers", "positions", "heads", "features"):
            given[name] = _range(more.pop(name, None))
        patch = more.pop("patch", None)
        given["patch"] = ",".join(patch) if isinstance(patch, (list, tuple)) else patch
        given.update({name: os.fspath(x) if isinstance(x, os.PathLike) else x for name, x in more.items()})
        return given

    def _labels(self, given):
        """Pieces of the first prompt, for axes of positions."""
        return [self.text.piece(i) for i in given[0]] if isinstance(given, list) and len({len(p) for p in given}) == 1 else None

    def sweep(self, clean, corrupt=None, *, patch, metric, by=None, layers=None, positions=None, heads=None, features=None, source=None, direction=None,
              seed=0, memory=0, no_share=False, state=None, resume=False, helpers=(), progress=True):
        """Activation patching over a grid: for every pair of prompts, every site and every point of the axes one run in which the values there come from
        somewhere else. All of it is planned as one program.

        clean, corrupt: a text, a list of texts (a pair each), ids, lists of ids. patch: "resid_pre,z", ["resid_pre"], ... (resid_pre, resid_mid, resid_post,
        attn_out, mlp_out, pre, up, post, z, q, k, v, pattern, scores, ..., or the features of an SAE, "features:sae.safetensors@resid_pre.8"). metric:
        "logit_diff: Mary, John", ("logit_diff", 11, 12), "kl", or a list of these. by: axes, "layer,position". layers, positions, heads, features: ranges
        (a slice, a range, "4:9", 3). source: None (the other run's value), "zero", "mean:PROMPTS", "resample", a file. direction: "denoise" (the corrupt
        run is patched) or "noise". state, resume: a file that keeps what is done. helpers: the same model opened on other devices (inset.Model(..., device="cuda:1"), ...), which
        run parts of it at the same time; leave them alone meanwhile.

        Returns a Result, or a list of one a site and metric where there are several. Ctrl-C stops between chunks; with `state` nothing done is lost.
        """
        given = self._options(clean, corrupt, metric, by, patch=patch, layers=layers, positions=positions, heads=heads, features=features, source=source,
                              direction=direction, seed=seed, memory=memory, no_share=no_share, state=state, resume=resume)
        return self._finish(_inset.sweep(self._m, given, False, [h._m for h in helpers]), given, progress)

    def attribute(self, clean, corrupt=None, *, metric, patch=None, edges=False, by=None, layers=None, positions=None, heads=None, features=None,
                  source=None, direction=None, steps=0, ends=False, star=False, qk=False, graddrop=False, relp=False, rules=None, per_pair=False, seed=0,
                  memory=0, no_share=False, state=None, resume=False, helpers=(), progress=True):
        """What each patch of such a sweep would do, estimated from gradients (attribution patching); with steps integrated gradients. edges=True: scores of
        all edges of the model's graph (EAP; with steps EAP-IG), an EdgeResult.

        ends: the mean of both runs' gradients. star: AtP*; qk, graddrop: its parts. relp, rules: relevance patching. Else as sweep.
        """
        given = self._options(clean, corrupt, metric, by, patch=patch, layers=layers, positions=positions, heads=heads, features=features, source=source,
                              direction=direction, seed=seed, memory=memory, no_share=no_share, state=state, resume=resume, steps=steps, ends=ends,
                              qk=qk or star, graddrop=graddrop or star, rules=rules or ("relp" if relp else None))
        if not edges:
            return self._finish(_inset.sweep(self._m, given, True, [h._m for h in helpers]), given, progress)
        if helpers:
            raise errors.UsageError("helpers take parts of sweeps and of attributions of places, not of edges")
        made = _inset.edges(self._m, given, per_pair)
        bar = _progress(progress, None, "step")
        try:
            while not made.done:
                made.step()
                bar.update(1)
        finally:
            bar.close()
        results = [EdgeResult(made, made.result(i)) for i in range(len(given["metrics"]))]
        return results[0] if len(results) == 1 else results

    def _finish(self, made, given, progress):
        follow(made, "patches", "patch", progress)
        labels = self._labels(given["clean"])
        results = [Result(made, made.result(i), labels) for i in range(made.count)]
        return results[0] if len(results) == 1 else results


def _words(text):
    """"Mary+ Mary" -> the words of a set."""
    return [word.strip('"') if '"' in word else word for word in text.split("+")]
