/* models.cc: opening a model, and what can be asked of it. */
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstdio>
#include <optional>

#include "handles.h"
#include "tensors.h"

/* between two looks at Ctrl-C */
static const double WATCH_SECONDS = 0.1;

typedef std::optional<std::string> text_or_none;
static const char *or_null(const text_or_none &text) { return text ? text->c_str() : nullptr; }

/* Texts of options, and a model's state before it is open. */
struct Opening {
    std::shared_ptr<ModelState> m = std::make_shared<ModelState>();
    text_or_none device, dtype;
    inset_model_options options = INSET_MODEL_OPTIONS;

    Opening(const text_or_none &on, const text_or_none &type, bool fast, bool ungroup,
        size_t weight_memory)
        : device(on), dtype(type)
    {
        options.device = or_null(device);
        options.dtype = or_null(dtype);
        options.fast = fast;
        options.ungroup = ungroup;
        options.weight_memory = weight_memory;
        if (inset_context_create(nullptr, &m->context))
            fail("MemoryError", "no memory for a context");
        inset_watch(m->context, watch_from_python, m.get(), WATCH_SECONDS);
    }
    std::shared_ptr<ModelState> opened()
    {
        int gpu = 0;
        m->on_gpu = sscanf(inset_model_device(m->model), "cuda:%d", &gpu) == 1;
        m->gpu = gpu;
        return m;
    }
};

static std::shared_ptr<ModelState> open(const std::string &directory, const text_or_none &device,
    const text_or_none &dtype, bool fast, bool ungroup, size_t weight_memory)
{
    Opening o(device, dtype, fast, ungroup, weight_memory);
    ModelState &m = *o.m;
    run_alone(
        m, [&]() { return inset_model_open(m.context, directory.c_str(), &o.options, &m.model); });
    return o.opened();
}

/* tensors: {name: array}, each kept by the model. */
static std::shared_ptr<ModelState> from_tensors(const std::string &config, nb::dict tensors,
    const text_or_none &device, const text_or_none &dtype, bool fast, bool ungroup,
    size_t weight_memory)
{
    Opening o(device, dtype, fast, ungroup, weight_memory);
    ModelState &m = *o.m;
    std::vector<std::string> names;
    std::vector<const char *> pointers;
    std::vector<inset_device_tensor> all;
    for (auto [name, x] : tensors) {
        any_array a;
        names.push_back(nb::cast<std::string>(name));
        if (!nb::try_cast(x, a)) fail("TypeError", names.back() + ": a dense array was expected");
        all.push_back(tensor_of(a));
        m.held.push_back(a);
    }
    for (const std::string &name : names) pointers.push_back(name.c_str());
    run_alone(m, [&]() {
        return inset_model_from_tensors(m.context, config.c_str(), all.size(), pointers.data(),
            all.data(), &o.options, &m.model);
    });
    return o.opened();
}

int watch_from_python(void *model, const inset_progress *p)
{
    nb::gil_scoped_acquire with;
    const nb::object &watcher = ((ModelState *)model)->on_progress;
    if (PyErr_CheckSignals()) return 1;
    if (watcher.is_none()) return 0;
    try {
        watcher(p->doing, p->done, p->total);
    } catch (nb::python_error &e) {
        e.restore();
        return 1;
    }
    return 0;
}

/* (module, name, path, depth, settable, integer, shape) of each, in execution order. */
static nb::list sites(ModelState &m)
{
    nb::list out;
    Locked locked(m);
    for (size_t i = 0; i < inset_site_count(m.model); i++) {
        inset_site s;
        nb::list shape;
        check(m, inset_site_at(m.model, i, &s));
        for (int k = 0; k < s.n_dimensions; k++) {
            if (s.shape[k] == INSET_BATCH) shape.append("batch");
            else if (s.shape[k] == INSET_POSITION) shape.append("position");
            else shape.append(s.shape[k]);
        }
        out.append(nb::make_tuple(s.module, s.name, std::string(s.path), s.depth, s.settable != 0,
            s.integer != 0, nb::tuple(shape)));
    }
    return out;
}

/* What the edits do, a line each. */
static std::string edits(ModelState &s)
{
    size_t length = 0;
    Locked locked(s);
    check(s, inset_model_edits(s.model, nullptr, 0, &length));
    std::string text(length + 1, 0);
    check(s, inset_model_edits(s.model, text.data(), text.size(), nullptr));
    text.resize(length);
    return text;
}

/* Ids of a text by the folder's tokenizer.json. */
static nb::list tokens(ModelState &s, const std::string &text, bool special)
{
    /* nearly always enough: a token is a byte at least, and a template adds a few */
    std::vector<int64_t> ids(text.size() + 16);
    size_t count = 0;
    nb::list out;
    Locked locked(s);
    check(s, inset_tokens(s.model, text.c_str(), special, ids.data(), ids.size(), &count));
    if (count > ids.size()) {
        ids.resize(count);
        check(s, inset_tokens(s.model, text.c_str(), special, ids.data(), count, &count));
    }
    for (size_t i = 0; i < count; i++) out.append(ids[i]);
    return out;
}

static std::string token_text(ModelState &s, int64_t token)
{
    char piece[1024];
    Locked locked(s);
    check(s, inset_token_text(s.model, token, piece, sizeof piece));
    return piece;
}

void define_models(nb::module_ &m)
{
    nb::class_<ModelState>(m, "Model")
        .def_static("open", &open, nb::arg("directory"), nb::arg("device").none(),
            nb::arg("dtype").none(), nb::arg("fast"), nb::arg("ungroup"), nb::arg("weight_memory"))
        .def_static("from_tensors", &from_tensors, nb::arg("config"), nb::arg("tensors"),
            nb::arg("device").none(), nb::arg("dtype").none(), nb::arg("fast"), nb::arg("ungroup"),
            nb::arg("weight_memory"))
        .def_prop_rw(
            "on_progress", [](ModelState &s) { return s.on_progress; },
            [](ModelState &s, nb::object f) { s.on_progress = f; }, nb::arg("f").none())
        .def_prop_ro("gpu", [](ModelState &s) { return s.on_gpu ? s.gpu : -1; })
        .def_prop_ro("device", [](ModelState &s) { return inset_model_device(s.model); })
        .def_prop_ro("kind", [](ModelState &s) { return inset_model_kind(s.model); })
        .def_prop_ro(
            "dtype", [](ModelState &s) { return inset_type_name(inset_model_type(s.model)); })
        .def("edits", &edits)
        .def("clear_edits",
            [](ModelState &s) {
                Locked locked(s);
                check(s, inset_model_clear_edits(s.model));
                s.edits.clear();
            })
        .def("tokens", &tokens, nb::arg("text"), nb::arg("special"))
        .def("token_text", &token_text)
        .def("sites", &sites);
}
