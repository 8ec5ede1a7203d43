/* models.cc: opening a model, and what can be asked of it. */
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>

#include "handles.h"

typedef std::optional<std::string> text_or_none;
static const char *or_null(const text_or_none &text) { return text ? text->c_str() : nullptr; }

static std::shared_ptr<ModelState> open(const std::string &directory, const text_or_none &device,
    const text_or_none &dtype, bool fast, bool ungroup)
{
    auto m = std::make_shared<ModelState>();
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = or_null(device);
    options.dtype = or_null(dtype);
    options.fast = fast;
    options.ungroup = ungroup;
    if (inset_context_create(nullptr, &m->context)) fail("MemoryError", "no memory for a context");
    run_alone(
        *m, [&]() { return inset_model_open(m->context, directory.c_str(), &options, &m->model); });
    return m;
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

void define_models(nb::module_ &m)
{
    nb::class_<ModelState>(m, "Model")
        .def_static("open", &open, nb::arg("directory"), nb::arg("device").none(),
            nb::arg("dtype").none(), nb::arg("fast"), nb::arg("ungroup"))
        .def_prop_ro("device", [](ModelState &s) { return inset_model_device(s.model); })
        .def_prop_ro("kind", [](ModelState &s) { return inset_model_kind(s.model); })
        .def_prop_ro(
            "dtype", [](ModelState &s) { return inset_type_name(inset_model_type(s.model)); })
        .def("sites", &sites);
}
