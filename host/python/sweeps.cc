/* sweeps.cc: sweeps, attribution of places and of edges, step by step, and their numbers. */
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <optional>
#include <vector>

#include "prompts.h"

/* Options, and the memory behind their pointers. */
struct Options {
    inset_attribution_options all = INSET_ATTRIBUTION_OPTIONS;
    Prompts clean, corrupt;
    std::vector<std::string> metrics;
    std::vector<const char *> metric_pointers;
    std::vector<std::unique_ptr<std::string>> texts;

    const char *text(nb::dict given, const char *name)
    {
        if (!given.contains(name) || given[name].is_none()) return nullptr;
        texts.push_back(std::make_unique<std::string>(nb::cast<std::string>(given[name])));
        return texts.back()->c_str();
    }
    int64_t number(nb::dict given, const char *name)
    {
        if (!given.contains(name) || given[name].is_none()) return 0;
        return nb::cast<int64_t>(given[name]);
    }

    explicit Options(nb::dict given)
    {
        inset_sweep_options &o = all.sweep;
        clean = prompts_of(given["clean"]);
        corrupt = prompts_of(given["corrupt"]);
        o.clean = clean.given();
        o.corrupt = corrupt.given();
        metrics = nb::cast<std::vector<std::string>>(given["metrics"]);
        for (const std::string &m : metrics) metric_pointers.push_back(m.c_str());
        metric_pointers.push_back(nullptr);
        o.metrics = metric_pointers.data();
        o.patch = text(given, "patch");
        o.by = text(given, "by");
        o.layers = text(given, "layers");
        o.positions = text(given, "positions");
        o.heads = text(given, "heads");
        o.features = text(given, "features");
        o.source = text(given, "source");
        o.direction = text(given, "direction");
        o.state = text(given, "state");
        o.seed = (uint64_t)number(given, "seed");
        o.no_share = (int)number(given, "no_share");
        o.memory_limit = (size_t)number(given, "memory");
        o.resume = (int)number(given, "resume");
        all.steps = (int)number(given, "steps");
        all.ends = (int)number(given, "ends");
        all.qk = (int)number(given, "qk");
        all.graddrop = (int)number(given, "graddrop");
        all.rules = text(given, "rules");
    }
};

/* helpers: the same sweep on other models, which run chunks of it in threads of their own. They
 * wait for the GIL where they are watched, so it is given up while they end. */
struct Sweep {
    std::shared_ptr<ModelState> model;
    inset_sweep *sweep = nullptr;
    std::vector<std::shared_ptr<Sweep>> helpers;

    ~Sweep()
    {
        if (!sweep) return;
        Locked locked(*model);
        nb::gil_scoped_release without;
        inset_sweep_free(sweep);
    }
};

struct Edges {
    std::shared_ptr<ModelState> model;
    inset_edges *edges = nullptr;

    ~Edges()
    {
        if (!edges) return;
        Locked locked(*model);
        inset_edges_free(edges);
    }
};

/* ---- numbers ------------------------------------------------------------ */

/* A copy, so that results outlive what made them. */
static nb::object numbers(const float *from, const std::vector<size_t> &shape)
{
    size_t n = 1;
    for (size_t extent : shape) n *= extent;
    float *own = new float[n ? n : 1];
    if (from) std::memcpy(own, from, n * sizeof *own);
    nb::capsule owner(own, [](void *p) noexcept { delete[](float *) p; });
    return nb::cast(nb::ndarray<nb::numpy, float>(own, shape.size(), shape.data(), owner));
}

/* ---- sweeps ------------------------------------------------------------- */

static std::shared_ptr<Sweep> create_one(
    const std::shared_ptr<ModelState> &m, Options &o, bool attribution)
{
    auto s = std::make_shared<Sweep>();
    s->model = m;
    run_alone(*m, [&]() {
        return attribution ? inset_attribution_create(m->model, &o.all, &s->sweep)
                           : inset_sweep_create(m->model, &o.all.sweep, &s->sweep);
    });
    return s;
}

static std::shared_ptr<Sweep> sweep_create(const std::shared_ptr<ModelState> &m, nb::dict given,
    bool attribution, const std::vector<std::shared_ptr<ModelState>> &helpers)
{
    Options o(given);
    o.all.sweep.shared = !helpers.empty();
    auto s = create_one(m, o, attribution);
    o.all.sweep.state = nullptr;
    o.all.sweep.resume = 0;
    for (const std::shared_ptr<ModelState> &other : helpers) {
        auto h = create_one(other, o, attribution);
        run_alone(*m, [&]() { return inset_sweep_help(s->sweep, h->sweep); });
        s->helpers.push_back(h);
    }
    return s;
}

static nb::dict sweep_progress(Sweep &s)
{
    inset_sweep_progress p = INSET_SWEEP_PROGRESS;
    nb::dict out;
    Locked locked(*s.model);
    check(*s.model, inset_sweep_progress_of(s.sweep, &p));
    out["patches"] = p.patches, out["done"] = p.done, out["restored"] = p.restored,
    out["unchanged"] = p.unchanged;
    out["rows"] = p.rows, out["rows_unshared"] = p.rows_unshared;
    out["flops"] = p.flops, out["planning"] = p.planning, out["running"] = p.running;
    out["plans"] = p.plans;
    return out;
}

static nb::dict sweep_result(Sweep &s, size_t index)
{
    inset_sweep_result r;
    nb::dict out;
    nb::list axes;
    Locked locked(*s.model);
    check(*s.model, inset_sweep_result_at(s.sweep, index, &r));
    std::vector<size_t> pairs = {(size_t)r.pairs}, points, all = pairs;
    for (int i = 0; i < r.n_axes; i++) {
        nb::list labels;
        for (int64_t k = 0; k < r.axes[i].count; k++)
            if (r.axes[i].names) labels.append(r.axes[i].names[k]);
            else labels.append(r.axes[i].labels[k]);
        axes.append(nb::make_tuple(r.axes[i].name, labels));
        points.push_back((size_t)r.axes[i].count);
        all.push_back((size_t)r.axes[i].count);
    }
    out["site"] = r.site, out["metric"] = r.metric, out["axes"] = axes;
    out["values"] = numbers(r.values, all), out["mean"] = numbers(r.mean, points);
    out["normalised"] = numbers(r.normalised, all);
    out["normalised_mean"] = numbers(r.normalised_mean, points);
    out["clean"] = numbers(r.clean, pairs), out["corrupt"] = numbers(r.corrupt, pairs);
    return out;
}

static nb::tuple sweep_verify(Sweep &s, size_t count)
{
    const inset_verified *found = nullptr;
    size_t n = 0;
    double rank = 0;
    run_alone(
        *s.model, [&]() { return inset_attribution_verify(s.sweep, count, &found, &n, &rank); });
    nb::list out;
    for (size_t i = 0; i < n; i++) {
        nb::dict at;
        for (int k = 0; k < found[i].n_axes; k++) at[found[i].axes[k]] = found[i].at[k];
        out.append(nb::make_tuple(found[i].site, at, found[i].score, found[i].exact));
    }
    return nb::make_tuple(out, rank);
}

/* ---- edges -------------------------------------------------------------- */

static std::shared_ptr<Edges> edges_create(
    const std::shared_ptr<ModelState> &m, nb::dict given, bool per_pair)
{
    Options o(given);
    auto e = std::make_shared<Edges>();
    e->model = m;
    run_alone(*m, [&]() { return inset_edges_create(m->model, &o.all, per_pair, &e->edges); });
    return e;
}

static nb::list names(const char *const *from, int64_t n)
{
    nb::list out;
    for (int64_t i = 0; i < n; i++) out.append(from[i]);
    return out;
}

static nb::dict edges_result(Edges &e, size_t metric)
{
    inset_edge_result r;
    nb::dict out;
    Locked locked(*e.model);
    check(*e.model, inset_edges_result(e.edges, metric, &r));
    std::vector<size_t> shape, pairs = {(size_t)r.pairs};
    if (r.positions > 1) shape.push_back((size_t)r.positions);
    shape.push_back((size_t)r.sources);
    shape.push_back((size_t)r.destinations);
    std::vector<size_t> each = shape;
    each.insert(each.begin(), (size_t)r.pairs);
    out["metric"] = r.metric, out["edges"] = r.edges, out["done"] = r.done;
    out["sources"] = names(r.source_names, r.sources);
    out["destinations"] = names(r.destination_names, r.destinations);
    out["values"] = numbers(r.mean, shape);
    out["per_pair"] = r.per_pair ? numbers(r.per_pair, each) : nb::none();
    out["clean"] = numbers(r.clean, pairs), out["corrupt"] = numbers(r.corrupt, pairs);
    return out;
}

static nb::tuple edges_verify(Edges &e, size_t count)
{
    const inset_verified_edge *found = nullptr;
    size_t n = 0;
    double rank = 0;
    run_alone(*e.model, [&]() { return inset_edges_verify(e.edges, count, &found, &n, &rank); });
    nb::list out;
    for (size_t i = 0; i < n; i++)
        out.append(
            nb::make_tuple(found[i].source, found[i].destination, found[i].score, found[i].exact));
    return nb::make_tuple(out, rank);
}

static nb::list edges_patch(Edges &e, const std::string &paths, bool freeze)
{
    const inset_edge_effect *found = nullptr;
    size_t n = 0;
    run_alone(
        *e.model, [&]() { return inset_edges_patch(e.edges, paths.c_str(), freeze, &found, &n); });
    nb::list out;
    for (size_t i = 0; i < n; i++) out.append(nb::make_tuple(found[i].path, found[i].effect));
    return out;
}

typedef nb::ndarray<nb::numpy, uint8_t> kept_edges;

static kept_edges edges_choose(Edges &e, const std::string &by, int64_t size)
{
    inset_edge_result r;
    Locked locked(*e.model);
    check(*e.model, inset_edges_result(e.edges, 0, &r));
    const size_t shape[2] = {(size_t)r.sources, (size_t)r.destinations};
    uint8_t *kept = new uint8_t[shape[0] * shape[1]];
    nb::capsule owner(kept, [](void *p) noexcept { delete[](uint8_t *) p; });
    check(*e.model, inset_edges_choose(e.edges, nullptr, by.c_str(), size, kept));
    return kept_edges(kept, 2, shape, owner);
}

static double edges_circuit(
    Edges &e, nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> kept)
{
    inset_edge_result r;
    double metric = 0;
    {
        Locked locked(*e.model);
        check(*e.model, inset_edges_result(e.edges, 0, &r));
    }
    if ((int64_t)kept.shape(0) != r.sources || (int64_t)kept.shape(1) != r.destinations)
        fail("ShapeError", "kept edges are [" + std::to_string(r.sources) + ", "
                               + std::to_string(r.destinations) + "], sources by destinations");
    run_alone(*e.model, [&]() { return inset_edges_circuit(e.edges, kept.data(), &metric); });
    return metric;
}

/* ---- the module --------------------------------------------------------- */

void define_sweeps(nb::module_ &m)
{
    m.def("sweep", &sweep_create);
    m.def("edges", &edges_create);
    nb::class_<Sweep>(m, "Sweep")
        .def("step",
            [](Sweep &s) { run_alone(*s.model, [&]() { return inset_sweep_step(s.sweep); }); })
        .def_prop_ro("done", [](Sweep &s) { return inset_sweep_done(s.sweep) != 0; })
        .def("progress", &sweep_progress)
        .def_prop_ro("count", [](Sweep &s) { return inset_sweep_result_count(s.sweep); })
        .def("result", &sweep_result)
        .def("verify", &sweep_verify)
        .def("write", [](Sweep &s, const std::string &path) {
            run_alone(*s.model,
                [&]() { return inset_sweep_write(s.sweep, path.c_str(), "inset, from Python"); });
        });
    nb::class_<Edges>(m, "Edges")
        .def("step",
            [](Edges &e) { run_alone(*e.model, [&]() { return inset_edges_step(e.edges); }); })
        .def_prop_ro("done", [](Edges &e) { return inset_edges_done(e.edges) != 0; })
        .def("result", &edges_result)
        .def("verify", &edges_verify)
        .def("patch", &edges_patch)
        .def("choose", &edges_choose)
        .def("circuit", &edges_circuit)
        .def(
            "ablate",
            [](Edges &e, const text_or_none &what) {
                Locked locked(*e.model);
                check(*e.model, inset_edges_ablate(e.edges, what ? what->c_str() : nullptr));
            },
            nb::arg("what").none())
        .def("write", [](Edges &e, const std::string &path) {
            run_alone(*e.model,
                [&]() { return inset_edges_write(e.edges, path.c_str(), "inset, from Python"); });
        });
}
