/* traces.cc: a trace that is being recorded, its values, the plan that is made of it, and what the
 * plan saved as arrays. */
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "handles.h"
#include "tensors.h"

/* A reference to a tensor of a trace. */
struct Value {
    std::shared_ptr<TraceState> trace;
    inset_value *value = nullptr;
    /* How it was got: `base[index]`, a view of base, where base is not NULL; as a site in an invoke
     * (or edit) where site is not -1. What is assigned to where it was got changes nothing: that is
     * the second half of x[i] += 1, whose first half has changed x already. Python hands the very
     * same index object to both. */
    const inset_value *base = nullptr;
    nb::object index;
    int64_t site = -1, block = 0;
    int64_t number = -1; /* in the log */
};

/* convert(object, None) -> an array; convert(lists, "bf16") -> one of that type */
static nb::callable *convert;

/* ---- indices ------------------------------------------------------------ */

static bool whole_number(nb::handle x, int64_t *out)
{
    if (PyBool_Check(x.ptr()) || !PyIndex_Check(x.ptr())) return false;
    *out = PyNumber_AsSsize_t(x.ptr(), PyExc_IndexError);
    if (*out == -1 && PyErr_Occurred()) throw nb::python_error();
    return true;
}

[[noreturn]] static void no_index(nb::handle item)
{
    const std::string what = nb::repr(item).c_str();
    fail(
        "TypeError", "an index is made of integers, slices, lists of integers, None and ..., found "
                         + what + "; an array of indices goes in as a list: x[:, ids.tolist()]");
}

/* An index as C takes it. */
class Index {
  public:
    explicit Index(nb::handle index)
    {
        if (!PyTuple_Check(index.ptr())) {
            add(index);
            return;
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(index.ptr()); i++)
            add(PyTuple_GET_ITEM(index.ptr(), i));
    }
    size_t n() const { return n_; }
    const inset_index_item *items() const { return items_; }
    bool is_view() const { return !has_list_; }

  private:
    enum { MOST = 16 };
    inset_index_item items_[MOST];
    size_t n_ = 0;
    bool has_list_ = false;
    std::vector<std::vector<int64_t>> lists_;

    static int part(nb::handle x, int64_t *out)
    {
        if (x.is_none()) return 0;
        if (!whole_number(x, out)) no_index(x);
        return 1;
    }

    void add(nb::handle item)
    {
        if (n_ == MOST) fail("IndexError", "an index of more than 16 parts");
        inset_index_item &to = items_[n_] = {};
        if (PySlice_Check(item.ptr())) {
            const PySliceObject *s = (const PySliceObject *)item.ptr();
            to.kind = INSET_SLICE;
            to.has_start = part(s->start, &to.start);
            to.has_stop = part(s->stop, &to.stop);
            to.has_step = part(s->step, &to.step);
        } else if (item.is_none()) {
            to.kind = INSET_NEW;
        } else if (item.ptr() == Py_Ellipsis) {
            to.kind = INSET_ELLIPSIS;
        } else if (PyList_Check(item.ptr())) {
            to.kind = INSET_LIST;
            has_list_ = true;
            lists_.emplace_back();
            for (nb::handle one : nb::borrow<nb::list>(item)) {
                int64_t number;
                if (!whole_number(one, &number)) no_index(item);
                lists_.back().push_back(number);
            }
            to.count = lists_.back().size();
            to.list = lists_.back().data(); /* which stays where it is when others join */
        } else if (whole_number(item, &to.at)) {
            to.kind = INSET_AT;
        } else {
            no_index(item);
        }
        n_++;
    }
};

/* ---- arrays ------------------------------------------------------------- */

typedef nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu> array;

static inset_tensor tensor_of(const array &a) { return tensor_of(any_array(a)).tensor; }

static array array_of(nb::handle x)
{
    array a;
    if (nb::try_cast(x, a)) return a;
    if (!nb::try_cast((*convert)(x, nb::none()), a))
        fail("TypeError", "an array on the CPU was expected");
    return a;
}

/* ---- values ------------------------------------------------------------- */

/* A new value, of which `line` says how it was made. */
static nb::object made(const std::shared_ptr<TraceState> &t, inset_value *value, LogLine line)
{
    Value v;
    v.trace = t;
    v.value = value;
    line.made = v.number = t->values++;
    t->log.add(std::move(line));
    return nb::cast(std::move(v));
}

static LogLine line_of(LogLine::Kind kind, int64_t of = -1)
{
    LogLine line;
    line.kind = kind;
    line.of = of;
    return line;
}

/* Lists of numbers, which have the model's type: convert gives bfloat16 as its bits. */
static inset_status literal(TraceState &t, nb::handle x, inset_value **out)
{
    const inset_type type = inset_model_type(t.model->model);
    array a;
    if (!nb::try_cast((*convert)(x, inset_type_name(type)), a))
        fail("TypeError", "nested lists of numbers were expected");
    inset_tensor numbers = tensor_of(a);
    numbers.type = type;
    return inset_external(t.trace, &numbers, out);
}

/* What tells whether an array is as it was: PyTorch counts what is written to a tensor; of a small
 * array of others its bytes; of a large one nothing (None). */
static nb::object version_of(nb::handle x)
{
    enum { SMALL = 1 << 18 };
    if (nb::hasattr(x, "_version")) return x.attr("_version");
    if (!nb::hasattr(x, "tobytes") || nb::cast<size_t>(x.attr("nbytes")) > SMALL) return nb::none();
    return x.attr("tobytes")();
}

/* The value of an array that was taken before and is as it was then; or NULL. */
static inset_value *taken_before(const TraceState &t, nb::handle x)
{
    const auto at = t.taken.find(x.ptr());
    return at != t.taken.end() && at->second.version.equal(version_of(x)) ? at->second.value
                                                                          : nullptr;
}

static void note_taken(TraceState &t, nb::handle x, inset_value *value)
{
    const nb::object version = version_of(x);
    if (!version.is_none()) t.taken[x.ptr()] = {nb::borrow(x), version, value};
}

/* The array for the log; None where it is too long for a line. */
static nb::object logged(nb::handle x, size_t size)
{
    return size > MOST_NUMBERS ? nb::none() : nb::object((*convert)(x, "copy"));
}

/* What stands in a line of the trace: a value of it, a number, or an array, which is copied. Under
 * the lock. */
static inset_value *operand(const std::shared_ptr<TraceState> &t, nb::handle x, LogOperand &log)
{
    inset_value *out = nullptr;
    Value *v;
    if (PyLong_Check(x.ptr())) {
        log.kind = LogOperand::INTEGER, log.integer = nb::cast<int64_t>(x);
        check(*t->model, inset_integer(t->trace, log.integer, &out));
        return out;
    }
    if (PyFloat_Check(x.ptr())) {
        log.kind = LogOperand::FLOAT, log.number = PyFloat_AS_DOUBLE(x.ptr());
        check(*t->model, inset_number(t->trace, log.number, &out));
        return out;
    }
    if (nb::try_cast(x, v) && v->trace == t) {
        log.kind = LogOperand::VALUE, log.integer = v->number;
        return v->value;
    }
    log.kind = LogOperand::ARRAY;
    if (PyList_Check(x.ptr()) || PyTuple_Check(x.ptr())) {
        check(*t->model, literal(*t, x, &out));
        log.array = nb::str(x); /* as it is now */
        return out;
    }
    if ((out = taken_before(*t, x))) {
        log.array = logged(
            x, nb::cast<size_t>(nb::hasattr(x, "numel") ? x.attr("numel")() : x.attr("size")));
        return out;
    }
    typedef nb::ndarray<nb::ro, nb::c_contig, nb::device::cuda> gpu_array;
    gpu_array there;
    if (t->model->on_gpu && !t->edits_model && nb::try_cast(x, there)
        && there.device_id() == t->model->gpu) { /* it stays there */
        const inset_device_tensor tensor = tensor_of(any_array(there));
        check(*t->model, inset_external_device(t->trace, &tensor, nullptr, &out));
        note_taken(*t, x, out);
        log.array = logged(x, there.size());
        return out;
    }
    const array a = array_of(x);
    const inset_tensor tensor = tensor_of(a);
    check(*t->model, inset_external(t->trace, &tensor, &out));
    note_taken(*t, x, out);
    log.array = logged(x, a.size());
    return out;
}

static std::shared_ptr<TraceState> recording(const std::shared_ptr<ModelState> &m, const char *what)
{
    std::shared_ptr<TraceState> t = m->active.lock();
    if (!t)
        fail("UsageError",
            std::string(what) + ": outside a trace. Write it inside `with model.trace(prompt):`");
    return t;
}

static const std::shared_ptr<TraceState> &recording(const Value &v)
{
    if (v.trace->model->active.lock() != v.trace)
        fail("UsageError", "a value of a trace that is over: what is to be looked at behind it "
                           "must be saved in it, x.save()");
    return v.trace;
}

static bool is_recorded(const Value &v) { return v.trace->model->active.lock() == v.trace; }

/* An index for the log: lists may change later. */
static nb::object kept(const Index &parts, nb::handle index)
{
    return parts.is_view() ? nb::borrow(index) : nb::object(nb::str(index_text(index).c_str()));
}

/* x[index]: recorded, or behind the trace of what was saved. */
static nb::object value_index(nb::handle self, nb::handle index)
{
    const Value &v = nb::cast<const Value &>(self);
    if (!is_recorded(v)) return self.attr("_natural")()[index];
    const Index parts(index);
    Value made;
    {
        Locked locked(*v.trace->model);
        check(*v.trace->model, inset_index_items(v.value, parts.n(), parts.items(), &made.value));
    }
    made.trace = v.trace;
    made.number = v.trace->values++;
    LogLine line = line_of(LogLine::INDEX, v.number);
    line.made = made.number;
    line.index = kept(parts, index);
    if (parts.is_view()) made.base = v.value, made.index = line.index;
    v.trace->log.add(std::move(line));
    return nb::cast(std::move(made));
}

static void value_set(const Value &v, nb::handle index, nb::handle source)
{
    const auto &t = recording(v);
    Value *from;
    if (!PyLong_Check(source.ptr()) && !PyFloat_Check(source.ptr()) && nb::try_cast(source, from)
        && from->base == v.value && from->index.is(index))
        return;
    const Index parts(index);
    LogLine line = line_of(LogLine::SET, v.number);
    Locked locked(*t->model);
    inset_value *x = operand(t, source, line.source);
    check(*t->model, inset_set_items(v.value, parts.n(), parts.items(), x));
    line.index = kept(parts, index);
    t->log.add(std::move(line));
}

static nb::object value_update(nb::handle self, inset_operation operation, nb::handle other)
{
    const Value &v = nb::cast<const Value &>(self);
    const auto &t = recording(v);
    LogLine line = line_of(LogLine::UPDATE, v.number);
    line.operation = (char)operation;
    Locked locked(*t->model);
    check(*t->model, inset_update_value(v.value, "", operation, operand(t, other, line.source)));
    t->log.add(std::move(line));
    return nb::borrow(self);
}

/* What a line computes between invokes belongs to the last one. Under the lock. */
class Between {
  public:
    explicit Between(TraceState &t) : t_(t), open_(!t.inside && t.invoke)
    {
        if (open_) inset_invoke_reopen(t.trace);
    }
    ~Between()
    {
        if (open_) inset_invoke_end(t_.trace);
    }

  private:
    TraceState &t_;
    bool open_;
};

static nb::object arithmetic(
    const Value &v, inset_operation operation, nb::handle other, bool reflected)
{
    const auto &t = recording(v);
    inset_value *out = nullptr;
    LogLine line = line_of(LogLine::ARITHMETIC, v.number);
    line.operation = (char)(operation | (reflected ? REFLECTED : 0));
    {
        Locked locked(*t->model);
        Between between(*t);
        inset_value *x = operand(t, other, line.source);
        check(*t->model,
            inset_arithmetic(reflected ? x : v.value, operation, reflected ? v.value : x, &out));
    }
    return made(t, out, std::move(line));
}

template <typename F>
static nb::object unary(const Value &v, LogLine line, F call)
{
    const auto &t = recording(v);
    inset_value *out = nullptr;
    {
        Locked locked(*t->model);
        check(*t->model, call(v.value, &out));
    }
    return made(t, out, std::move(line));
}

static std::string metric_text(
    int kind, const std::vector<int64_t> &a, const std::vector<int64_t> &b)
{
    static const char *const names[] = {
        "logit_diff", "logit", "probability", "log_probability", "rank"};
    std::string text = names[kind];
    const char *between = "([";
    for (int64_t token : a) text += between + std::to_string(token), between = ", ";
    between = "], [";
    for (int64_t token : b) text += between + std::to_string(token), between = ", ";
    return text + "])";
}

static nb::object metric(const Value &v, int kind, const std::vector<int64_t> &a,
    const std::vector<int64_t> &b, const Value *reference)
{
    LogLine line = line_of(reference ? LogLine::KL : LogLine::METRIC, v.number);
    if (reference) line.source.kind = LogOperand::VALUE, line.source.integer = reference->number;
    else line.text = metric_text(kind, a, b);
    return unary(v, std::move(line), [&](inset_value *row, inset_value **out) {
        return inset_metric(row, (inset_metric_kind)kind, a.size(), a.data(), b.size(), b.data(),
            reference ? reference->value : nullptr, out);
    });
}

/* ("(2, 3|5, 48)", "f32") */
static nb::tuple value_shape(const Value &v)
{
    char text[256];
    inset_type type;
    Locked locked(*v.trace->model);
    check(*v.trace->model, inset_value_shape(v.value, text, sizeof text, &type));
    return nb::make_tuple(std::string(text), inset_type_name(type));
}

/* Saves it under the next name; returns that. */
static std::string save(const Value &v)
{
    const auto &t = recording(v);
    const std::string name = "v" + std::to_string(t->saved);
    Locked locked(*t->model);
    check(*t->model, inset_save(t->trace, name.c_str(), v.value));
    t->saved++;
    t->log.add(line_of(LogLine::SAVE, v.number));
    return name;
}

/* Saves what a site holds under the next name; returns that and the value, or None where its module
 * does not run. */
static nb::object save_site(const std::shared_ptr<TraceState> &t, size_t site)
{
    const std::string name = "v" + std::to_string(t->saved);
    Value v;
    v.trace = t;
    {
        Locked locked(*t->model);
        const inset_status status = inset_save_site(t->trace, site, name.c_str());
        if (status == INSET_MISSED_PROVIDER) return nb::none();
        check(*t->model, status);
        const size_t last = inset_trace_saved_count(t->trace) - 1;
        check(*t->model, inset_trace_saved_at(t->trace, last, nullptr, &v.value));
    }
    t->saved++;
    t->log.add(line_of(LogLine::CACHE, (int64_t)site));
    return nb::make_tuple(name, nb::cast(std::move(v)));
}

/* ---- sites -------------------------------------------------------------- */

struct Module {
    std::shared_ptr<ModelState> model;
    std::string path;           /* "" for the root */
    std::vector<int64_t> sites; /* as inset_site_at counts them, in the order of the properties */
};

static nb::object site_get(const Module &m, size_t which)
{
    Value v;
    v.site = m.sites.at(which);
    v.trace = recording(m.model, m.path.c_str());
    v.block = v.trace->blocks;
    {
        Locked locked(*m.model);
        check(*m.model, inset_get_site(v.trace->trace, (size_t)v.site, &v.value));
    }
    LogLine line = line_of(LogLine::READ, v.site);
    line.made = v.number = v.trace->values++;
    v.trace->log.add(std::move(line));
    return nb::cast(std::move(v));
}

static void site_set(const Module &m, size_t which, nb::handle source)
{
    const auto t = recording(m.model, m.path.c_str());
    const int64_t site = m.sites.at(which);
    Value *from;
    if (nb::try_cast(source, from) && from->trace == t && from->block == t->blocks
        && from->site == site)
        return;
    LogLine line = line_of(LogLine::SET_SITE, site);
    Locked locked(*m.model);
    check(*m.model, inset_set_site(t->trace, (size_t)site, operand(t, source, line.source)));
    t->log.add(std::move(line));
}

static void skip(const Module &m, nb::handle output)
{
    const auto t = recording(m.model, m.path.c_str());
    Locked locked(*m.model);
    LogLine line = line_of(LogLine::SKIP);
    line.text = m.path;
    check(*m.model, inset_skip(t->trace, m.path.c_str(), operand(t, output, line.source)));
    t->log.add(std::move(line));
}

/* What the module makes of a value. */
static nb::object call(const Module &m, nb::handle x)
{
    const auto t = recording(m.model, m.path.c_str());
    inset_value *out = nullptr;
    LogLine line = line_of(LogLine::CALL);
    line.text = m.path;
    {
        Locked locked(*m.model);
        check(*m.model, inset_call(t->trace, m.path.c_str(), operand(t, x, line.source), &out));
    }
    return made(t, out, std::move(line));
}

/* ---- traces ------------------------------------------------------------- */

static std::shared_ptr<TraceState> trace_begin(const std::shared_ptr<ModelState> &m)
{
    if (m->active.lock())
        fail("UsageError", "a trace of this model is open already: several inputs in one trace "
                           "are invokes, `with model.trace() as tracer: with tracer.invoke(x):`");
    auto t = std::make_shared<TraceState>();
    t->model = m;
    Locked locked(*m);
    check(*m, inset_trace_create(m->model, &t->trace));
    t->edits = m->edits;
    m->active = t;
    return t;
}

static void trace_end(TraceState &t) { t.model->active.reset(); }

static void begun(TraceState &t) { t.invoke++, t.blocks++, t.inside = true; }

/* Lines that later invokes repeat. */
static void begin_edit(TraceState &t)
{
    Locked locked(*t.model);
    check(*t.model, inset_edit(t.trace));
    t.log.add(line_of(LogLine::EDIT));
    t.blocks++, t.inside = true;
}

static std::shared_ptr<TraceState> begin_model_edit(const std::shared_ptr<ModelState> &m)
{
    if (m->active.lock())
        fail("UsageError", "edit(): a trace of this model is open; an edit of its later invokes is "
                           "`with tracer.edit():`");
    auto t = std::make_shared<TraceState>();
    t->model = m;
    t->edits_model = t->inside = true;
    Locked locked(*m);
    check(*m, inset_model_edit(m->model, &t->trace));
    t->log.add(line_of(LogLine::EDIT));
    m->active = t;
    return t;
}

/* The edit is the model's from now on; where its lines have failed, it never is. */
static void end_model_edit(TraceState &t)
{
    Locked locked(*t.model);
    check(*t.model, inset_invoke_end(t.trace));
    t.log.add(line_of(LogLine::END));
    t.model->edits.push_back(std::make_shared<const Log>(t.log));
}

static std::string script(const TraceState &t)
{
    std::string text;
    for (const auto &log : t.edits) text += log->script(t.model->model);
    return text + t.log.script(t.model->model);
}

/* "[[464, 412], [733]]" */
static std::string prompts_text(const std::vector<std::vector<int64_t>> &prompts)
{
    std::string text;
    for (const auto &p : prompts) {
        text += text.empty() ? "[[" : ", [";
        for (size_t i = 0; i < p.size(); i++) text += (i ? ", " : "") + std::to_string(p[i]);
        text += "]";
    }
    return text + "]";
}

static void invoke_tokens(TraceState &t, const std::vector<std::vector<int64_t>> &prompts)
{
    std::vector<int64_t> lengths, tokens;
    for (const auto &p : prompts) {
        lengths.push_back((int64_t)p.size());
        tokens.insert(tokens.end(), p.begin(), p.end());
    }
    Locked locked(*t.model);
    check(*t.model,
        inset_invoke_tokens(t.trace, (int64_t)lengths.size(), lengths.data(), tokens.data()));
    LogLine line = line_of(LogLine::INVOKE);
    line.text = prompts_text(prompts);
    t.log.add(std::move(line));
    begun(t);
}

static void invoke_rows(TraceState &t, nb::handle rows)
{
    nb::ndarray<float, nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> a;
    if (!nb::try_cast(rows, a) && !nb::try_cast((*convert)(rows, nb::none()), a))
        fail("ShapeError", "rows of numbers [batch, width] in float32 were expected");
    Locked locked(*t.model);
    check(*t.model, inset_invoke_rows(t.trace, (int64_t)a.shape(0), (int64_t)a.shape(1), a.data()));
    LogLine line = line_of(LogLine::INVOKE);
    line.source.kind = LogOperand::ROWS;
    line.source.integer = (int64_t)a.shape(1);
    line.source.array = a.size() > MOST_NUMBERS
                            ? nb::none()
                            : nb::object(nb::bytes((const void *)a.data(), a.nbytes()));
    t.log.add(std::move(line));
    begun(t);
}

/* A plan of the trace, run where anything is saved. */
static std::shared_ptr<PlanState> plan_create(
    const std::shared_ptr<TraceState> &t, bool no_share, size_t memory, bool explain)
{
    auto p = std::make_shared<PlanState>();
    inset_plan_options options = INSET_PLAN_OPTIONS;
    options.no_share = no_share;
    options.memory_limit = memory;
    options.explain = explain;
    p->trace = t;
    run_alone(*t->model, [&]() {
        const inset_status status = inset_plan_create(t->trace, &options, &p->plan);
        return status || !t->saved ? status : inset_run(p->plan);
    });
    return p;
}

/* (array, type): bf16 as the same bits in 16-bit integers. The array is the plan's memory. */
static nb::tuple plan_saved(const std::shared_ptr<PlanState> &p, const std::string &name)
{
    inset_tensor x;
    size_t shape[INSET_MAX_DIMENSIONS];
    ModelState &m = *p->trace->model;
    Locked locked(m);
    check(m, inset_saved(p->plan, name.c_str(), &x));
    for (int i = 0; i < x.n_dimensions; i++) shape[i] = (size_t)x.shape[i];
    nb::ndarray<nb::numpy> out((void *)x.data, (size_t)x.n_dimensions, shape, nb::cast(p), nullptr,
        x.type == INSET_BF16 ? nb::dtype<uint16_t>() : dtype_of(x.type)); /* numpy has no bf16 */
    return nb::make_tuple(out, inset_type_name(x.type));
}

/* The saved value where the device has it, as a capsule of DLPack's. */
static nb::object plan_saved_device(const std::shared_ptr<PlanState> &p, const std::string &name)
{
    inset_device_tensor out;
    ModelState &m = *p->trace->model;
    Locked locked(m);
    for (size_t i = 0; i < inset_saved_count(p->plan); i++) {
        const char *saved;
        inset_tensor shape;
        check(m, inset_saved_describe(p->plan, i, &saved, &shape));
        if (name != saved) continue;
        check(m, inset_saved_device(p->plan, i, nullptr, &out));
        return give(out);
    }
    fail("NameError", "nothing was saved under " + name);
}

static nb::dict plan_statistics(const PlanState &p)
{
    inset_statistics s = INSET_STATISTICS;
    nb::dict out;
    Locked locked(*p.trace->model);
    check(*p.trace->model, inset_plan_statistics(p.plan, &s));
    out["invokes"] = s.invokes, out["sequences"] = s.sequences, out["records"] = s.records;
    out["rows"] = s.rows, out["rows_unshared"] = s.rows_unshared;
    out["flops"] = s.flops, out["flops_unshared"] = s.flops_unshared;
    out["arena_bytes"] = s.arena_bytes, out["saved_bytes"] = s.saved_bytes;
    out["weight_bytes"] = s.weight_bytes, out["launches"] = s.launches;
    return out;
}

static nb::object external(const std::shared_ptr<TraceState> &t, nb::handle x)
{
    inset_value *out;
    LogLine line = line_of(LogLine::EXTERNAL);
    {
        Locked locked(*t->model);
        out = operand(t, x, line.source);
    }
    if (line.source.kind != LogOperand::ARRAY)
        fail("TypeError", "an array was expected; numbers stand in lines as they are");
    return made(t, out, std::move(line));
}

static nb::object zeros(const std::shared_ptr<TraceState> &t, const std::vector<int64_t> &shape)
{
    inset_value *out = nullptr;
    {
        Locked locked(*t->model);
        check(*t->model, inset_zeros(t->trace, (int32_t)shape.size(), shape.data(), &out));
    }
    LogLine line = line_of(LogLine::ZEROS);
    for (int64_t extent : shape)
        line.text += (line.text.empty() ? "" : ", ") + std::to_string(extent);
    return made(t, out, std::move(line));
}

static std::string clamp_text(nb::handle low, nb::handle high)
{
    const auto text = [](nb::handle x) { return std::string(nb::str(x).c_str()); };
    if (high.is_none()) return "clamp_min(" + text(low) + ")";
    if (low.is_none()) return "clamp_max(" + text(high) + ")";
    return "clamp(" + text(low) + ", " + text(high) + ")";
}

static nb::object rows(const Value &v, int function, const std::vector<int64_t> &dimensions,
    bool keep, const std::string &text)
{
    LogLine line = line_of(LogLine::METHOD, v.number);
    line.text = text;
    return unary(v, std::move(line), [&](inset_value *x, inset_value **out) {
        return inset_rows(x, (inset_row_function)function, (int32_t)dimensions.size(),
            dimensions.data(), keep, out);
    });
}

/* The values, or the places, of the k largest. */
static nb::object topk(const Value &v, int64_t k, int64_t dimension, bool places)
{
    LogLine line = line_of(LogLine::METHOD, v.number);
    line.text = "topk(" + std::to_string(k) + ", " + std::to_string(dimension)
                + (places ? ").indices" : ").values");
    return unary(v, std::move(line), [&](inset_value *x, inset_value **out) {
        return inset_topk(x, k, dimension, places ? nullptr : out, places ? out : nullptr);
    });
}

static nb::object where(const Value &v, nb::handle a, nb::handle b)
{
    const auto &t = recording(v);
    inset_value *out = nullptr;
    LogLine line = line_of(LogLine::WHERE, v.number);
    {
        Locked locked(*t->model);
        Between between(*t);
        inset_value *x = operand(t, a, line.source), *y = operand(t, b, line.other);
        check(*t->model, inset_where(v.value, x, y, &out));
    }
    return made(t, out, std::move(line));
}

static nb::object weight(const Module &m, const std::string &name)
{
    const std::string path = m.path + "." + name;
    const auto t = recording(m.model, path.c_str());
    inset_value *out = nullptr;
    LogLine line = line_of(LogLine::WEIGHT);
    line.text = path;
    {
        Locked locked(*m.model);
        check(*m.model, inset_weight(t->trace, path.c_str(), &out));
    }
    return made(t, out, std::move(line));
}

/* ---- the module --------------------------------------------------------- */

static void define_values(nb::module_ &m)
{
    nb::class_<Value> c(m, "Value", nb::dynamic_attr(), nb::is_weak_referenceable());
    c.def("__getitem__", &value_index)
        .def("_of",
            [](const Value &v, const std::shared_ptr<TraceState> &t) { return v.trace == t; })
        .def("__setitem__", &value_set, nb::arg("index"), nb::arg("source").none())
        .def("_shape", &value_shape)
        .def("_save", &save)
        .def("_metric", &metric, nb::arg("kind"), nb::arg("a"), nb::arg("b"),
            nb::arg("reference").none())
        .def("_apply",
            [](const Value &v, int function, const std::string &name) {
                LogLine line = line_of(LogLine::METHOD, v.number);
                line.text = name + "()";
                return unary(v, std::move(line), [&](inset_value *x, inset_value **out) {
                    return inset_apply(x, (inset_function)function, out);
                });
            })
        .def(
            "_clamp",
            [](const Value &v, nb::handle low, nb::handle high) {
                LogLine line = line_of(LogLine::METHOD, v.number);
                line.text = clamp_text(low, high);
                return unary(v, std::move(line), [&](inset_value *x, inset_value **out) {
                    LogOperand log;
                    const auto bound = [&](nb::handle b) {
                        return b.is_none() ? nullptr : operand(v.trace, b, log);
                    };
                    return inset_clamp(x, bound(low), bound(high), out);
                });
            },
            nb::arg("low").none(), nb::arg("high").none())
        .def("_cast",
            [](const Value &v, const std::string &type, const std::string &name) {
                LogLine line = line_of(LogLine::METHOD, v.number);
                line.text = name + "()";
                const inset_type to = type == "f32"    ? INSET_F32
                                      : type == "bf16" ? INSET_BF16
                                                       : INSET_F16;
                return unary(v, std::move(line),
                    [&](inset_value *x, inset_value **out) { return inset_cast(x, to, out); });
            })
        .def("_rows", &rows)
        .def("_topk", &topk)
        .def("_where", &where, nb::arg("a"), nb::arg("b"))
        .def("_transpose",
            [](const Value &v, int64_t first, int64_t second) {
                LogLine line = line_of(LogLine::METHOD, v.number);
                line.text = "transpose(" + std::to_string(first) + ", " + std::to_string(second)
                            + ")";
                return unary(v, std::move(line), [&](inset_value *x, inset_value **out) {
                    return inset_transpose(x, first, second, out);
                });
            })
        .def("_detach",
            [](const Value &v) {
                LogLine line = line_of(LogLine::METHOD, v.number);
                line.text = "detach()";
                return unary(v, std::move(line), inset_detach);
            })
        .def("_clone",
            [](const Value &v) { return unary(v, line_of(LogLine::CLONE, v.number), inset_clone); })
        .def("_negate",
            [](const Value &v) {
                return unary(v, line_of(LogLine::NEGATE, v.number), inset_negate);
            })
        .def("_gradient",
            [](const Value &v) {
                LogLine line = line_of(LogLine::GRADIENT, v.number);
                return unary(v, std::move(line), [&](inset_value *x, inset_value **out) {
                    return inset_gradient(v.trace->trace, x, out);
                });
            })
        .def("_backward",
            [](const Value &v) {
                const auto &t = recording(v);
                Locked locked(*t->model);
                if (!t->inside) inset_invoke_reopen(t->trace);
                check(*t->model, inset_backward(t->trace, v.value));
                t->inside = true;
                t->log.add(line_of(LogLine::BACKWARD, v.number));
            })
        .def("_set_all",
            [](const Value &v, nb::handle source) {
                const auto &t = recording(v);
                Locked locked(*t->model);
                LogLine line = line_of(LogLine::SET, v.number);
                check(*t->model, inset_set_value(v.value, "", operand(t, source, line.source)));
                t->log.add(std::move(line));
            })
        .def("_arithmetic",
            [](const Value &v, int operation, nb::handle other, bool reflected) {
                return arithmetic(v, (inset_operation)operation, other, reflected);
            })
        .def("_update", [](nb::handle self, int operation, nb::handle other) {
            return value_update(self, (inset_operation)operation, other);
        });
}

void define_traces(nb::module_ &m)
{
    define_values(m);
    m.def("set_convert", [](nb::callable f) {
        delete convert;
        convert = new nb::callable(f);
    });
    nb::class_<Module>(m, "Module", nb::dynamic_attr())
        .def("__init__",
            [](Module *self, std::shared_ptr<ModelState> model, const std::string &path,
                const std::vector<int64_t> &sites) {
                new (self) Module{model, path, sites};
            })
        .def_ro("_path", &Module::path)
        .def("_get", &site_get)
        .def("_set", &site_set, nb::arg("which"), nb::arg("source").none())
        .def("__call__", &call)
        .def("_weight", &weight)
        .def("_skip", &skip);
    nb::class_<TraceState>(m, "Trace")
        .def_static("begin", &trace_begin)
        .def("end", &trace_end)
        .def("invoke_tokens", &invoke_tokens)
        .def("invoke_rows", &invoke_rows)
        .def("invoke_value",
            [](TraceState &t, const Value &input) {
                Locked locked(*t.model);
                check(*t.model, inset_invoke_value(t.trace, input.value));
                LogLine line = line_of(LogLine::INVOKE);
                line.text = "v" + std::to_string(input.number);
                t.log.add(std::move(line));
                begun(t);
            })
        .def("invoke_end",
            [](TraceState &t) {
                Locked locked(*t.model);
                t.inside = false;
                check(*t.model, inset_invoke_end(t.trace));
                t.log.add(line_of(LogLine::END));
            })
        .def("stop",
            [](TraceState &t) {
                Locked locked(*t.model);
                check(*t.model, inset_stop(t.trace));
                t.log.add(line_of(LogLine::STOP));
            })
        .def("again",
            [](TraceState &t, bool again) {
                Locked locked(*t.model);
                check(*t.model, inset_trace_again(t.trace, again));
            })
        .def("save_site", &save_site)
        .def_static("begin_model_edit", &begin_model_edit)
        .def("end_model_edit", &end_model_edit)
        .def("edit", &begin_edit)
        .def("clear_edits",
            [](TraceState &t) {
                Locked locked(*t.model);
                check(*t.model, inset_clear_edits(t.trace));
                t.log.add(line_of(LogLine::CLEAR_EDITS));
            })
        .def("script", &script)
        .def("external", &external)
        .def("zeros", &zeros)
        .def("plan", &plan_create);
    nb::class_<PlanState>(m, "Plan")
        .def("saved", &plan_saved)
        .def("saved_device", &plan_saved_device)
        .def("statistics", &plan_statistics)
        .def("explanation", [](PlanState &p) {
            const char *text = inset_plan_explanation(p.plan);
            return std::string(text ? text : "");
        });
}
