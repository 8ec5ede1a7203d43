/* handles.h: C handles as Python objects hold them.
 *
 * A model has a context of its own, so that two models may be used by two threads. A handle keeps
 * what it was made from alive, and is freed before it: plan -> trace -> model, sweep -> model.
 * Arrays keep their plan.
 *
 * The lock. One thread at a time may use a context. Calls that take long give up the GIL and hold
 * the lock. Whoever waits for the lock, a destructor too, has given up the GIL, so that one who
 * holds the lock and runs Python code (a source is converted) gets the GIL back. */
#ifndef INSET_PYTHON_HANDLES_H
#define INSET_PYTHON_HANDLES_H

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>

#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <map>
#include <vector>

#include "inset.h"
#include "log.h"

namespace nb = nanobind;

struct TraceState;

struct ModelState {
    inset_context *context = nullptr;
    inset_model *model = nullptr;
    std::recursive_mutex lock; /* a source may be an array of this very model */
    bool on_gpu = false;       /* and on which */
    int32_t gpu = 0;
    std::weak_ptr<TraceState> active; /* the trace whose `with` block is open */
    std::vector<nb::ndarray<nb::ro, nb::c_contig>>
        held;                                      /* tensors in memory that the model reads */
    nb::object on_progress = nb::none();           /* what Python code watches with */
    std::vector<std::shared_ptr<const Log>> edits; /* the lines of the model's edits */

    ~ModelState() { inset_context_free(context); }
};

/* The context's watcher while the GIL is given up: Ctrl-C, and who watches from Python. An
 * exception that one of them raises stops the call and is what comes out of it. */
int watch_from_python(void *model, const inset_progress *progress);

/* Holds the lock; the GIL is held before and after. */
class Locked {
  public:
    explicit Locked(ModelState &m) : m_(m)
    {
        while (!m_.lock.try_lock()) {
            nb::gil_scoped_release without;
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
    }
    ~Locked() { m_.lock.unlock(); }
    Locked(const Locked &) = delete;

  private:
    ModelState &m_;
};

/* Holds the lock with the GIL given up, for what takes long. */
class Alone {
  public:
    explicit Alone(ModelState &m) : lock_(m.lock) {}

  private:
    nb::gil_scoped_release without_; /* first to go, last to come back */
    std::lock_guard<std::recursive_mutex> lock_;
};

/* Throws the Python exception of a status, with the context's message; under the lock. The classes
 * come from errors.py (set_errors). */
void check(ModelState &m, inset_status status);
[[noreturn]] void fail_as(inset_status status, const std::string &message);
[[noreturn]] void fail(const char *error, const std::string &message);

/* Makes a call that takes long: without the GIL. */
template <typename F>
void run_alone(ModelState &m, F call)
{
    std::string message;
    inset_status status;
    {
        Alone alone(m);
        if ((status = call()) != INSET_OK) message = inset_message(m.context);
    }
    if (status == INSET_STOPPED && PyErr_Occurred()) throw nb::python_error();
    if (status != INSET_OK) fail_as(status, message);
}

struct TraceState {
    std::shared_ptr<ModelState> model;
    inset_trace *trace = nullptr;
    int64_t invoke = 0;                            /* the last begun, from 1; 0: none yet */
    int64_t blocks = 0;                            /* invokes and edits that have begun */
    bool inside = false;                           /* one is open */
    bool edits_model = false;                      /* its lines are an edit of the model */
    std::vector<std::shared_ptr<const Log>> edits; /* those that the model had when it began */
    int64_t values = 0;                            /* so far; the log counts them */
    Log log;
    int64_t saved = 0; /* values so far, saved as "v0", "v1", ... */
    /* tensors of PyTorch's and small arrays that lines have taken already, by object: what is made
     * of one in several invokes of a loop is one. `version` tells whether it is as it was. */
    struct Taken {
        nb::object tensor, version;
        inset_value *value;
    };
    std::map<PyObject *, Taken> taken;

    ~TraceState()
    {
        if (!trace) return;
        Locked locked(*model);
        inset_trace_free(trace);
    }
};

struct PlanState {
    std::shared_ptr<TraceState> trace;
    inset_plan *plan = nullptr;

    ~PlanState()
    {
        if (!plan) return;
        Locked locked(*trace->model);
        inset_plan_free(plan);
    }
};

void define_models(nb::module_ &m);
void define_traces(nb::module_ &m);
void define_sweeps(nb::module_ &m);
void define_caches(nb::module_ &m);

#endif
