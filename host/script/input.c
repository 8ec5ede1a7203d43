/* input.c: what comes into a trace: literals, loaded files, zeros, the inputs of invokes.
 *
 * A literal is numbers until somebody needs a tensor; as an invoke's input it goes to the trace as
 * it was written, so that its rows may differ in length. Files are open only while their tensor is
 * copied. */
#include "script/reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "file/file.h"

/* ---- literals ----------------------------------------------------------- */

static inset_status check_numbers(script *s, const literal *l)
{
    if (l->too_large)
        return script_refuse(s, l->too_large_at, INSET_VALUE_ERROR, "an integer beyond 64 bits");
    if (l->irregular)
        return script_refuse(s, l->irregular_at, INSET_VALUE_ERROR,
            "the lists of a literal nest alike and have one length; this differs");
    return INSET_OK;
}

/* All numbers as doubles, made once. */
static const double *numbers(script *s, literal *l)
{
    if (l->numbers) return l->numbers;
    l->numbers = arena_new(&s->memory, l->count * sizeof *l->numbers);
    for (size_t i = 0; l->numbers && i < l->count; i++) l->numbers[i] = (double)l->integers[i];
    return l->numbers;
}

static inset_status check_rectangle(script *s, const literal *l)
{
    inset_status status = check_numbers(s, l);
    if (status || !l->ragged) return status;
    return script_refuse(s, l->ragged_at, INSET_VALUE_ERROR,
        "the rows of a literal are of one length, unless they are token ids; "
        "this one is not of length %" PRId64,
        l->row_lengths[0]);
}

inset_status script_literal_operand(script *s, uint32_t at, literal *l, bool before, operand *out)
{
    inset_status status = check_rectangle(s, l);
    if (status) return status;
    if (l->n_dimensions > INSET_MAX_DIMENSIONS)
        return script_refuse(s, at, INSET_VALUE_ERROR,
            "a literal of %d dimensions; there may be %d", l->n_dimensions, INSET_MAX_DIMENSIONS);
    const double *all = numbers(s, l);
    if (!all) return INSET_NO_MEMORY;
    return script_at(s, at,
        (before ? trace_literal_before : trace_literal)(
            s->trace, l->n_dimensions, l->shape, all, !l->float_at, out));
}

/* ---- inputs of invokes -------------------------------------------------- */

static inset_status refuse_depth(script *s, uint32_t at, const literal *l, const char *expected)
{
    text shape = {0};
    for (int i = 0; i < l->n_dimensions && i < INSET_MAX_DIMENSIONS; i++)
        text_add(s->context, &shape, "%s%" PRId64, i ? ", " : "", l->shape[i]);
    inset_status status = script_refuse(s, at, INSET_SHAPE_ERROR,
        "an invoke takes %s, found shape (%s%s)", expected, shape.bytes ? shape.bytes : "",
        l->n_dimensions == 1 ? "," : "");
    text_free(s->context, &shape);
    return status;
}

/* [batch, position], or one prompt [position]. */
static inset_status invoke_tokens(script *s, uint32_t at, const literal *l)
{
    inset_status status = check_numbers(s, l);
    if (status) return status;
    if (l->float_at)
        return script_refuse(
            s, l->float_at, INSET_TYPE_ERROR, "a token id is an integer, this is a float");
    if (l->n_dimensions > 2) return refuse_depth(s, at, l, "token ids [batch, position]");
    return script_at(
        s, at, trace_invoke_tokens(s->trace, (int64_t)l->n_rows, l->row_lengths, l->integers));
}

/* [batch, in] */
static inset_status invoke_rows(script *s, uint32_t at, literal *l)
{
    char expected[64];
    inset_status status = check_rectangle(s, l);
    if (status) return status;
    snprintf(expected, sizeof expected, "numbers [batch, %" PRId32 "]", s->program->input_width);
    if (l->n_dimensions != 2) return refuse_depth(s, at, l, expected);
    const double *all = numbers(s, l);
    float *rows = memory_new(s->context, l->count * sizeof *rows);
    if (!all || !rows) {
        memory_free(s->context, rows);
        return INSET_NO_MEMORY;
    }
    for (size_t i = 0; i < l->count; i++) rows[i] = (float)all[i];
    status = script_at(s, at, trace_invoke_rows(s->trace, l->shape[0], l->shape[1], rows));
    memory_free(s->context, rows);
    return status;
}

/* `[]`, an empty batch: the trace has the words for it. */
static inset_status invoke_nothing(script *s, uint32_t at)
{
    int64_t none = 0;
    float no_row = 0;
    if (s->program->input_width)
        return script_at(s, at, trace_invoke_rows(s->trace, 0, s->program->input_width, &no_row));
    return script_at(s, at, trace_invoke_tokens(s->trace, 0, &none, &none));
}

inset_status script_invoke(script *s, expression *input)
{
    script_value v;
    inset_status status = script_evaluate(s, input, &v);
    if (status) return status;
    if (v.kind == VALUE_LIST && !v.list->length) return invoke_nothing(s, input->at);
    if (v.kind == VALUE_LITERAL && !v.literal->made)
        return s->program->input_width ? invoke_rows(s, input->at, v.literal->literal)
                                       : invoke_tokens(s, input->at, v.literal->literal);
    status = script_as_operand(s, input->at, &v);
    if (status) return status;
    if (v.operand.kind != OPERAND_TENSOR)
        return script_refuse(s, input->at, INSET_TYPE_ERROR,
            "an invoke takes nested lists of numbers or a loaded tensor, not a number");
    return script_at(s, input->at, trace_invoke_operand(s->trace, &v.operand));
}

/* ---- files -------------------------------------------------------------- */

/* A backslash stands before a quote, a backslash, and the n, t and r of line ends and tabs. */
char *script_unquoted(script *s, token t)
{
    char *plain = arena_new(&s->memory, t.end - t.at);
    size_t n = 0;
    for (uint32_t i = t.at + 1; plain && i + 1 < t.end; i++) {
        char c = s->text[i];
        if (c == '\\') {
            c = s->text[++i];
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        }
        plain[n++] = c;
    }
    return plain;
}

/* Relative to where the script is. */
static char *beside_script(script *s, const char *file)
{
    const char *directory = s->directory ? s->directory : "";
    size_t length = strlen(directory), size = strlen(file);
    bool joined = file[0] != '/' && length;
    char *path = arena_new(&s->memory, length + size + 2);
    if (!path) return NULL;
    if (joined) {
        memcpy(path, directory, length);
        if (directory[length - 1] != '/') path[length++] = '/';
    }
    memcpy(path + (joined ? length : 0), file, size + 1);
    return path;
}

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static inset_status external(script *s, const file_tensor *t, operand *out)
{
    return trace_external(s->trace, t->type, t->n_dimensions, t->shape, t->data, out);
}

static inset_status load_npy(script *s, const char *path, operand *out)
{
    npy *file;
    inset_status status = npy_open(s->context, path, &file);
    if (status) return status;
    status = external(s, npy_tensor(file), out);
    npy_close(file);
    return status;
}

static inset_status load_safetensors(script *s, const char *path, const char *name, operand *out)
{
    safetensors *file;
    const file_tensor *tensor;
    inset_status status = safetensors_open(s->context, path, &file);
    if (status) return status;
    status = safetensors_need(file, name, &tensor);
    if (!status) status = external(s, tensor, out);
    safetensors_close(file);
    return status;
}

inset_status script_load(script *s, const expression *e, operand *out)
{
    bool named = e->tensor.kind == TOKEN_STRING;
    char *file = script_unquoted(s, e->file), *name = named ? script_unquoted(s, e->tensor) : NULL;
    char *path = file ? beside_script(s, file) : NULL;
    if (!path || (named && !name)) return INSET_NO_MEMORY;
    if (ends_in(file, ".npy") && named)
        return script_refuse(s, e->tensor.at, INSET_FILE_ERROR,
            "%s: an .npy file holds one tensor, and it has no name", file);
    if (ends_in(file, ".npy")) return script_at(s, e->file.at, load_npy(s, path, out));
    if (!ends_in(file, ".safetensors"))
        return script_refuse(s, e->file.at, INSET_FILE_ERROR,
            "%s: only .npy and .safetensors files can be loaded", file);
    if (!named)
        return script_refuse(s, e->file.at, INSET_FILE_ERROR,
            "%s: a tensor of a .safetensors file has a name: load(\"%s\", \"NAME\")", file, file);
    return script_at(s, e->file.at, load_safetensors(s, path, name, out));
}

inset_status script_zeros(script *s, const expression *e, operand *out)
{
    int64_t shape[INSET_MAX_DIMENSIONS], *at = shape;
    if (e->n_extents > INSET_MAX_DIMENSIONS)
        return script_refuse(s, e->at, INSET_VALUE_ERROR,
            "zeros() of %d dimensions; there may be %d", (int)e->n_extents, INSET_MAX_DIMENSIONS);
    for (expression *extent = e->extents; extent; extent = extent->next, at++) {
        inset_status status = script_evaluate_integer(s, extent, at);
        if (status) return status;
        if (*at < 0)
            return script_refuse(
                s, extent->at, INSET_VALUE_ERROR, "zeros() of extent %" PRId64, *at);
    }
    return script_at(s, e->at, trace_zeros(s->trace, (int)e->n_extents, shape, out));
}
