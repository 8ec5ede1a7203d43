/* caches.cc: what sites hold in the runs of many prompts, kept in files, batch by batch. */
#include "prompts.h"

struct Cache {
    std::shared_ptr<ModelState> model;
    inset_cache *cache = nullptr;

    ~Cache()
    {
        if (!cache) return;
        Locked locked(*model);
        inset_cache_free(cache);
    }
};

static std::shared_ptr<Cache> cache_create(const std::shared_ptr<ModelState> &m, nb::handle prompts,
    const std::string &sites, const std::string &directory, const text_or_none &layers,
    const text_or_none &positions, const text_or_none &dtype, size_t shard_bytes, int64_t batch,
    size_t memory, bool no_share, const std::string &name, const text_or_none &version)
{
    const Prompts given = prompts_of(prompts);
    const auto text = [](const text_or_none &x) { return x ? x->c_str() : nullptr; };
    inset_cache_options o = INSET_CACHE_OPTIONS;
    o.prompts = given.given();
    o.sites = sites.c_str();
    o.layers = text(layers);
    o.positions = text(positions);
    o.dtype = text(dtype);
    o.directory = directory.c_str();
    o.shard_bytes = shard_bytes;
    o.batch_tokens = batch;
    o.memory_limit = memory;
    o.no_share = no_share;
    o.model = name.c_str();
    o.version = text(version);
    auto c = std::make_shared<Cache>();
    c->model = m;
    run_alone(*m, [&]() { return inset_cache_create(m->model, &o, &c->cache); });
    return c;
}

static nb::dict cache_progress(Cache &c)
{
    inset_cache_progress p = INSET_CACHE_PROGRESS;
    nb::dict out;
    Locked locked(*c.model);
    check(*c.model, inset_cache_progress_of(c.cache, &p));
    out["prompts"] = p.prompts, out["rows"] = p.rows, out["shards"] = p.shards;
    out["tensors"] = p.tensors, out["done"] = p.done, out["restored"] = p.restored;
    out["batches"] = p.batches, out["plans"] = p.plans, out["bytes"] = p.bytes;
    out["planning"] = p.planning, out["running"] = p.running, out["waiting"] = p.waiting;
    return out;
}

void define_caches(nb::module_ &m)
{
    m.def("cache", &cache_create, nb::arg("model"), nb::arg("prompts").none(), nb::arg("sites"),
        nb::arg("directory"), nb::arg("layers").none(), nb::arg("positions").none(),
        nb::arg("dtype").none(), nb::arg("shard_bytes"), nb::arg("batch"), nb::arg("memory"),
        nb::arg("no_share"), nb::arg("name"), nb::arg("version").none());
    nb::class_<Cache>(m, "CacheRun")
        .def("step",
            [](Cache &c) { run_alone(*c.model, [&]() { return inset_cache_step(c.cache); }); })
        .def_prop_ro("done", [](Cache &c) { return inset_cache_done(c.cache) != 0; })
        .def("progress", &cache_progress);
}
