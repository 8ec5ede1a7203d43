/* module.cc: the extension module inset._inset: the C API's calls as methods, errors as Python's
 * exceptions. What users see beyond that is written in Python (inset/). */
#include "handles.h"

/* by the names that inset_status_name gives */
static nb::dict *errors;

void fail(const char *error, const std::string &message)
{
    nb::object kind = errors && errors->contains(error)
                          ? nb::object((*errors)[error])
                          : nb::borrow(nb::handle(PyExc_RuntimeError));
    PyErr_SetString(kind.ptr(), message.c_str());
    throw nb::python_error();
}

/* The last line is "NAME: what is wrong"; Python shows the name itself. */
static std::string without_name(const char *message, const char *name)
{
    std::string text = message;
    const size_t line = text.rfind('\n'), at = line == std::string::npos ? 0 : line + 1;
    const std::string start = std::string(name) + ": ";
    if (text.compare(at, start.size(), start) == 0) text.erase(at, start.size());
    return text;
}

void fail_as(inset_status status, const std::string &message)
{
    const char *name = inset_status_name(status);
    fail(name, without_name(message.c_str(), name));
}

void check(ModelState &m, inset_status status)
{
    if (status != INSET_OK) fail_as(status, inset_message(m.context));
}

NB_MODULE(_inset, m)
{
    m.def("set_errors", [](nb::dict classes) {
        delete errors;
        errors = new nb::dict(classes);
    });
    m.def("version", &inset_version);
    define_models(m);
    define_traces(m);
    define_sweeps(m);
    define_caches(m);
    nb::module_::import_("atexit").attr("register")(nb::cpp_function([]() {
        delete errors;
        errors = nullptr;
    }));
}
