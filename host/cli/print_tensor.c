/* print_tensor.c: a tensor as PyTorch prints it by default (precision 4, threshold 1000, edgeitems
 * 3, linewidth 80).
 *
 * PyTorch first looks at every element that will be shown to choose one format for all of them:
 * integers as they are; floats that are all whole as "1."; else four decimals, or in scientific
 * notation when the magnitudes are too far apart. Then it writes nested brackets, wrapping the
 * innermost dimension at the line's width. More than 1000 elements: three at each end of every
 * dimension. The rules are those of torch/_tensor_str.py; tests/test_print_tensor.c compares with
 * what PyTorch printed. */
#include "cli/cli.h"

#include <math.h>
#include <string.h>

enum {
    EDGE_ITEMS = 3,
    LINE_WIDTH = 80,
    PRECISION = 4,
    SUMMARY_THRESHOLD = 1000,
    LONGEST_NUMBER = 400
};

typedef struct printer {
    FILE *to;
    const inset_tensor *tensor;
    bool floats, whole, scientific, summarise;
    int width;          /* of a number, at least */
    int line;           /* characters since the last line break */
    double least, most; /* magnitudes of the finite numbers that are not 0 */
} printer;

static void put(printer *p, const char *text)
{
    fputs(text, p->to);
    const char *end = strrchr(text, '\n');
    p->line = end ? (int)strlen(end + 1) : p->line + (int)strlen(text);
}

static bool is_float(inset_type type) { return type <= INSET_F64; }

/* One number without padding. Python writes no sign before nan. */
static int format_number(const printer *p, int64_t index, char *out)
{
    const inset_tensor *t = p->tensor;
    double x = inset_tensor_element(t, index);
    if (t->type == INSET_I64)
        return snprintf(out, LONGEST_NUMBER, "%lld", (long long)((const int64_t *)t->data)[index]);
    if (t->type == INSET_BOOL)
        return snprintf(out, LONGEST_NUMBER, "%s", x != 0 ? "True" : "False");
    if (!p->floats) return snprintf(out, LONGEST_NUMBER, "%.0f", x);
    if (isnan(x)) return snprintf(out, LONGEST_NUMBER, "nan");
    if (isinf(x)) return snprintf(out, LONGEST_NUMBER, x < 0 ? "-inf" : "inf");
    if (p->scientific) return snprintf(out, LONGEST_NUMBER, "%.*e", PRECISION, x);
    if (p->whole) return snprintf(out, LONGEST_NUMBER, "%.0f.", x);
    return snprintf(out, LONGEST_NUMBER, "%.*f", PRECISION, x);
}

/* ---- the elements that are shown ---------------------------------------- */

/* The next index of a dimension to show after `i`: past the middle when it is left out. */
static int64_t next_shown(const printer *p, int dimension, int64_t i)
{
    int64_t extent = p->tensor->shape[dimension];
    return p->summarise && extent > 2 * EDGE_ITEMS && i == EDGE_ITEMS - 1 ? extent - EDGE_ITEMS
                                                                          : i + 1;
}

static void each_shown(printer *p, int dimension, int64_t index, void (*visit)(printer *, int64_t))
{
    if (dimension == p->tensor->n_dimensions) {
        visit(p, index);
        return;
    }
    int64_t extent = p->tensor->shape[dimension];
    for (int64_t i = 0; i < extent; i = next_shown(p, dimension, i))
        each_shown(p, dimension + 1, index * extent + i, visit);
}

static void visit_magnitude(printer *p, int64_t index)
{
    double x = inset_tensor_element(p->tensor, index), size = fabs(x);
    if (!isfinite(x) || x == 0) return;
    if (p->most == 0 || size < p->least) p->least = size;
    if (size > p->most) p->most = size;
    if (x != ceil(x)) p->whole = false;
}

/* Zeros, nan and inf have no say in the width of floats. */
static void visit_width(printer *p, int64_t index)
{
    char text[LONGEST_NUMBER];
    double x = inset_tensor_element(p->tensor, index);
    if (p->floats && (!isfinite(x) || x == 0)) return;
    int width = format_number(p, index, text);
    if (width > p->width) p->width = width;
}

static void choose_format(printer *p)
{
    p->width = 1;
    p->floats = is_float(p->tensor->type);
    p->whole = true;
    if (p->floats) {
        each_shown(p, 0, 0, visit_magnitude);
        p->scientific = p->most > 0
                        && (p->most / p->least > 1000 || p->most > 1e8 || p->least < 1e-4);
    }
    each_shown(p, 0, 0, visit_width);
}

/* ---- brackets ----------------------------------------------------------- */

static void put_number(printer *p, int64_t index)
{
    char text[LONGEST_NUMBER], padded[LONGEST_NUMBER + 32];
    format_number(p, index, text);
    snprintf(padded, sizeof padded, "%*s", p->width, text);
    put(p, padded);
}

static void put_break(printer *p, int lines, int indent)
{
    char text[64];
    put(p, ",");
    while (lines-- > 0) put(p, "\n");
    snprintf(text, sizeof text, "%*s", indent, "");
    put(p, text);
}

/* The innermost dimension, as many numbers a line as fit. */
static void put_vector(printer *p, int64_t first, int64_t extent, int indent)
{
    int per_line = (LINE_WIDTH - indent) / (p->width + 2), n = 0;
    int dimension = p->tensor->n_dimensions - 1;
    if (per_line < 1) per_line = 1;
    put(p, "[");
    for (int64_t i = 0, before = -1; i < extent; before = i, i = next_shown(p, dimension, i)) {
        for (int items = i > before + 1 ? 2 : 1; items > 0; items--, n++) {
            if (n && n % per_line == 0) put_break(p, 1, indent + 1);
            else if (n) put(p, ", ");
            if (items == 2) put(p, " ...");
            else put_number(p, first + i);
        }
    }
    put(p, "]");
}

static void put_slices(printer *p, int dimension, int64_t index, int indent)
{
    const inset_tensor *t = p->tensor;
    int64_t extent = t->shape[dimension];
    int deep = t->n_dimensions - dimension;
    if (deep == 1) {
        put_vector(p, index * extent, extent, indent);
        return;
    }
    put(p, "[");
    for (int64_t i = 0, before = -1; i < extent; before = i, i = next_shown(p, dimension, i)) {
        if (i) put_break(p, deep - 1, indent + 1);
        if (i > before + 1) {
            put(p, "...");
            put_break(p, deep - 1, indent + 1);
        }
        put_slices(p, dimension + 1, index * extent + i, indent + 1);
    }
    put(p, "]");
}

/* ---- what follows the numbers ------------------------------------------- */

static const char *torch_name(inset_type type)
{
    static const char *const names[INSET_TYPE_COUNT] = {"float32", "bfloat16", "float16", "float64",
        "int64", "int32", "int16", "int8", "uint8", "bool"};
    return names[type];
}

/* ", dtype=..." on the line when it fits, else below. PyTorch counts two characters more than there
 * are. */
static void put_suffix(printer *p, const char *suffix)
{
    char text[256];
    bool fits = p->line + 2 + (int)strlen(suffix) + 2 <= LINE_WIDTH;
    snprintf(text, sizeof text, fits ? ", %s" : ",\n       %s", suffix);
    put(p, text);
}

static void put_size(printer *p)
{
    char text[256];
    const inset_tensor *t = p->tensor;
    size_t n = (size_t)snprintf(text, sizeof text, "size=(");
    for (int i = 0; i < t->n_dimensions && n < sizeof text; i++)
        n += (size_t)snprintf(
            text + n, sizeof text - n, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    if (n < sizeof text) snprintf(text + n, sizeof text - n, ")");
    put_suffix(p, text);
}

void print_tensor(FILE *to, const inset_tensor *tensor)
{
    printer p = {.to = to, .tensor = tensor};
    int64_t count = inset_tensor_count(tensor);
    bool usual = tensor->type == INSET_F32
                 || (count && (tensor->type == INSET_I64 || tensor->type == INSET_BOOL));
    p.summarise = count > SUMMARY_THRESHOLD;
    put(&p, "tensor(");
    if (count) choose_format(&p);
    if (!count) put(&p, "[]");
    else if (tensor->n_dimensions == 0) put_number(&p, 0);
    else put_slices(&p, 0, 0, (int)strlen("tensor("));
    if (!count && tensor->n_dimensions != 1) put_size(&p);
    if (!usual) {
        char dtype[64];
        snprintf(dtype, sizeof dtype, "dtype=torch.%s", torch_name(tensor->type));
        put_suffix(&p, dtype);
    }
    put(&p, ")");
}
