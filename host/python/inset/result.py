"""Results: numbers with names."""
import numpy

from . import errors

NAMES_PLACES = ("position", "destination")


class Result:
    """One site and one metric of a sweep or an attribution.

    values [pair, *dims]; mean [*dims]; normalised and normalised_mean, likewise, (value - corrupt) / (clean - corrupt); clean, corrupt [pair], the metric of
    the two runs; dims: the axes' names; coords: {axis: labels}. NaN where a prompt has no such place.
    """

    def __init__(self, made, r, pieces=None):
        self._made = made
        self.site, self.metric = r["site"], r["metric"]
        self.dims = tuple(name for name, _ in r["axes"])
        self.coords = {name: list(labels) for name, labels in r["axes"]}
        for name in ("values", "mean", "normalised", "normalised_mean", "clean", "corrupt"):
            setattr(self, name, r[name])
        self._pieces = pieces

    @property
    def shape(self):
        return self.mean.shape

    def __array__(self, dtype=None, copy=None):
        return self.mean if dtype is None else self.mean.astype(dtype)

    def labels(self, dim):
        """What an axis shows at its places: words where they are known, else numbers."""
        if dim in NAMES_PLACES and self._pieces and all(-len(self._pieces) <= p < len(self._pieces) for p in self.coords[dim]):
            return [f"{p}: {self._pieces[p]}" for p in self.coords[dim]]
        return [str(x) for x in self.coords[dim]]

    def to_pandas(self):
        """A table with a row a point: the axes, mean and normalised."""
        import pandas
        index = pandas.MultiIndex.from_product([self.coords[d] for d in self.dims], names=self.dims) if self.dims else None
        return pandas.DataFrame({"mean": numpy.ravel(self.mean), "normalised": numpy.ravel(self.normalised_mean)}, index=index)

    def to_xarray(self):
        import xarray
        dims, coords = ("pair",) + self.dims, {d: self.coords[d] for d in self.dims}
        return xarray.Dataset({"values": (dims, self.values), "normalised": (dims, self.normalised), "clean": ("pair", self.clean),
                               "corrupt": ("pair", self.corrupt)}, coords=coords, attrs={"site": self.site, "metric": self.metric})

    def _map(self, normalised):
        """Two axes to be drawn, and the numbers; more than two: by the largest in size of the rest."""
        numbers = self.normalised_mean if normalised else self.mean
        dims = list(self.dims)
        while numbers.ndim > 2:
            at = numpy.nanargmax(numpy.abs(numbers), axis=0, keepdims=True)
            numbers = numpy.take_along_axis(numbers, at, 0)[0]
            dims.pop(0)
        return dims, numbers

    def plot(self, normalised=None, ax=None):
        """A heat map by matplotlib, words on its axes; returns the axes. normalised: on the scale 0 (corrupt) to 1 (clean); None: where there is one."""
        import matplotlib.pyplot
        if normalised is None:
            normalised = bool(numpy.isfinite(self.normalised_mean).any())
        dims, numbers = self._map(normalised)
        grid = numpy.atleast_2d(numbers)
        ax = ax or matplotlib.pyplot.subplots(figsize=(max(4, 0.4 * grid.shape[1] + 2), max(2, 0.3 * grid.shape[0] + 1)))[1]
        most = numpy.nanmax(numpy.abs(grid)) or 1
        image = ax.imshow(grid, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        ax.figure.colorbar(image, ax=ax)
        ax.set_title(f"{self.site}: {self.metric}" + (" (normalised)" if normalised else ""), fontsize=10)
        if dims:
            ax.set_xlabel(dims[-1])
            ax.set_xticks(range(grid.shape[1]), self.labels(dims[-1]), rotation=60, ha="right", fontsize=7)
        if len(dims) > 1:
            ax.set_ylabel(dims[0])
            ax.set_yticks(range(grid.shape[0]), self.labels(dims[0]), fontsize=7)
        else:
            ax.set_yticks([])
        return ax

    def _repr_svg_(self):
        """The heat map, as notebooks show it."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return None
        import io
        _, numbers = self._map(True)
        grid = numpy.atleast_2d(numbers)
        figure = Figure(figsize=(max(4, 0.4 * grid.shape[1] + 2), max(2, 0.3 * grid.shape[0] + 1)))
        self.plot(ax=figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", bbox_inches="tight")
        return out.getvalue()

    def verify(self, count=20):
        """Of an attribution: the `count` strongest points patched. Returns ([(site, {axis: label}, score, exact)], rank correlation)."""
        return self._made.verify(count)

    def save(self, path):
        """All results of the sweep as safetensors, with the axes in the metadata."""
        self._made.write(str(path))

    def __repr__(self):
        axes = ", ".join(f"{d} {len(self.coords[d])}" for d in self.dims)
        return f"<inset.Result {self.site} {self.metric}: {len(self.clean)} pairs x ({axes})>"


class EdgeResult:
    """Scores of edges: values [source, destination] (by position: [position, source, destination]), 0 where there is no edge; sources, destinations: names;
    per_pair [pair, ...] where kept; clean, corrupt [pair]."""

    def __init__(self, made, r):
        self._made = made
        for name, x in r.items():
            setattr(self, name, x)

    def top(self, count=10):
        """[(source, destination, score)], the largest in size first."""
        values = self.values if self.values.ndim == 2 else self.values.sum(0)
        order = numpy.argsort(-numpy.abs(values), axis=None, kind="stable")[:count]
        return [(self.sources[i // len(self.destinations)], self.destinations[i % len(self.destinations)], float(values.flat[i])) for i in order]

    def to_pandas(self):
        import pandas
        return pandas.DataFrame(self.values if self.values.ndim == 2 else self.values.sum(0), index=self.sources, columns=self.destinations)

    def verify(self, count=20):
        """The strongest edges patched one by one: ([(source, destination, score, exact)], rank correlation)."""
        return self._made.verify(count)

    def patch(self, paths, freeze=False):
        """Edges by name, "a0.h1->m2, 3->logits", patched exactly; freeze: path patching. [(path, what it changes the metric by)]"""
        return self._made.patch(paths if isinstance(paths, str) else ", ".join(paths), freeze)

    def circuit(self, size, by="abs", ablation=None):
        """The metric with the `size` strongest edges kept (a share below 1, or a number) and the other run's value along all others; ablation: "zero" or
        "mean:PROMPTS" in its place. by: "abs", "score", "greedy"."""
        if isinstance(size, float) and not 0 <= size <= 1:
            raise errors.ValueError(f"a share of the edges is 0.0 to 1.0, a number of them an integer; found {size}")
        self._made.ablate(ablation)
        return self._made.circuit(self._made.choose(by, round(size * self.edges) if isinstance(size, float) else int(size)))

    def save(self, path):
        self._made.write(str(path))

    def __repr__(self):
        return f"<inset.EdgeResult {self.metric}: {self.edges} edges>"
