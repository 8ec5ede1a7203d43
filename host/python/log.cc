/* log.cc: recorded lines as a trace script. */
#include "log.h"

#include <map>

#include "handles.h"

static std::string text_of(nb::handle x) { return nb::str(x).c_str(); }

static void add_item(std::string &text, nb::handle item)
{
    if (PySlice_Check(item.ptr())) {
        const PySliceObject *s = (const PySliceObject *)item.ptr();
        const nb::handle start = s->start, stop = s->stop, step = s->step;
        if (!start.is_none()) text += text_of(start);
        text += ":";
        if (!stop.is_none()) text += text_of(stop);
        if (!step.is_none()) text += ":" + text_of(step);
    } else {
        text += item.ptr() == Py_Ellipsis ? "..." : text_of(item);
    }
}

std::string index_text(nb::handle index)
{
    if (PyUnicode_Check(index.ptr())) return text_of(index);
    std::string text = "[";
    if (!PyTuple_Check(index.ptr())) {
        add_item(text, index);
        return text + "]";
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(index.ptr()); i++) {
        if (i) text += ", ";
        add_item(text, PyTuple_GET_ITEM(index.ptr(), i));
    }
    return text + "]";
}

static void need_numbers(nb::handle array)
{
    if (array.is_none())
        fail("UsageError",
            "this trace has an array of more than 4096 numbers from outside, which a "
            "script loads from a file: load(\"FILE.npy\")");
}

static std::string rows_text(nb::handle bytes, int64_t width)
{
    need_numbers(bytes);
    const nb::object all = nb::steal(PyMemoryView_FromObject(bytes.ptr()));
    const int64_t n = (int64_t)nb::len(bytes) / (4 * width);
    return text_of(all.attr("cast")("f", nb::make_tuple(n, width)).attr("tolist")());
}

static std::string array_text(nb::handle array)
{
    need_numbers(array);
    return PyUnicode_Check(array.ptr()) ? text_of(array) : text_of(array.attr("tolist")());
}

/* Writes lines, one after the other. */
class Writer {
  public:
    explicit Writer(inset_model *model) : model_(model) {}
    std::string text;

    void line(const LogLine &l)
    {
        switch (l.kind) {
        case LogLine::INVOKE:
            end();
            put("with invoke(" + (l.text.empty() ? source(l.source) : l.text) + "):");
            begin();
            break;
        case LogLine::EDIT: end(), put("with edit():"), begin(); break;
        case LogLine::CLEAR_EDITS: end(), put("clear_edits()"); break;
        case LogLine::END: end(); break;
        case LogLine::BACKWARD: put("with " + value(l.of) + ".backward():"), begin(); break;
        case LogLine::READ: put(value(l.made) + " = " + site(l.of)); break;
        case LogLine::SET_SITE: put(site(l.of) + " = " + source(l.source)); break;
        case LogLine::METHOD: put(value(l.made) + " = " + value(l.of) + "." + l.text); break;
        case LogLine::CALL:
            put(value(l.made) + " = " + l.text + "(" + source(l.source) + ")");
            break;
        case LogLine::WHERE:
            put(value(l.made) + " = where(" + value(l.of) + ", " + source(l.source) + ", "
                + source(l.other) + ")");
            break;
        case LogLine::WEIGHT: put(value(l.made) + " = " + l.text); break;
        case LogLine::SKIP: put(l.text + ".skip(" + source(l.source) + ")"); break;
        case LogLine::CACHE: put("# " + site(l.of) + " is kept: tracer.cache()"); break;
        case LogLine::STOP: put("stop()"); break;
        case LogLine::SAVE: put(value(l.of) + ".save()"); break;
        case LogLine::SET:
            put(value(l.of) + (l.index.is_valid() ? index_text(l.index) : "[...]") + " = "
                + source(l.source));
            break;
        case LogLine::UPDATE:
            put(value(l.of) + " " + "+-*/"[(int)l.operation] + "= " + source(l.source));
            break;
        default: made(l);
        }
    }
    void end()
    {
        if (depth_ && empty_) put("pass");
        depth_ = 0;
    }

  private:
    inset_model *model_;
    int depth_ = 0;
    bool empty_ = false;
    std::map<int64_t, std::string> between_; /* sums of metrics that no line may hold */

    void put(const std::string &line)
    {
        text.append(4 * (size_t)depth_, ' ');
        text += line + "\n";
        empty_ = false;
    }
    void begin() { depth_++, empty_ = true; }

    std::string site(int64_t number) const
    {
        inset_site s;
        return inset_site_at(model_, (size_t)number, &s) ? "?" : s.path;
    }
    std::string value(int64_t number) const
    {
        const auto at = between_.find(number);
        return at == between_.end() ? "v" + std::to_string(number) : at->second;
    }
    std::string source(const LogOperand &o) const
    {
        switch (o.kind) {
        case LogOperand::VALUE: return value(o.integer);
        case LogOperand::INTEGER: return std::to_string(o.integer);
        case LogOperand::FLOAT: return text_of(nb::repr(nb::float_(o.number)));
        case LogOperand::ROWS: return rows_text(o.array, o.integer);
        default: return array_text(o.array);
        }
    }

    std::string arithmetic(const LogLine &l) const
    {
        static const char *const symbols[] = {
            "+", "-", "*", "/", "@", "==", "!=", "<", "<=", ">", ">="};
        const std::string a = value(l.of), b = source(l.source),
                          between = std::string(" ") + symbols[l.operation & ~REFLECTED] + " ";
        return l.operation & REFLECTED ? b + between + a : a + between + b;
    }
    void made(const LogLine &l)
    {
        if (l.kind == LogLine::EXTERNAL)
            fail("UsageError",
                "tracer.tensor(): a script has no arrays from outside, it loads them "
                "from a file: load(\"FILE.npy\")");
        const std::string of = value(l.of);
        std::string made = l.kind == LogLine::INDEX        ? of + index_text(l.index)
                           : l.kind == LogLine::ARITHMETIC ? arithmetic(l)
                           : l.kind == LogLine::NEGATE     ? "-" + of
                           : l.kind == LogLine::CLONE      ? of + ".clone()"
                           : l.kind == LogLine::GRADIENT   ? of + ".grad"
                           : l.kind == LogLine::METRIC     ? of + "." + l.text
                           : l.kind == LogLine::KL         ? of + ".kl(" + source(l.source) + ")"
                                                           : "zeros(" + l.text + ")";
        if (!depth_ && l.kind != LogLine::ZEROS) between_[l.made] = "(" + made + ")";
        else put(value(l.made) + " = " + made);
    }
};

std::string Log::script(inset_model *model) const
{
    Writer writer(model);
    for (const LogLine &l : lines_) writer.line(l);
    writer.end();
    return writer.text;
}
