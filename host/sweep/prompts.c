/* prompts.c: token ids of prompts, and other tensors, from text and files.
 *
 * A text is nested lists, read as JSON, so that an error has a place. A file is closed before its
 * tensor is used: a sweep may run for hours, and its input must not change under it. */
#include "sweep/sweep.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "file/file.h"
#include "run/tokens.h"

enum { MOST_DIMENSIONS_OF_PROMPTS = 2 };

/* ---- files -------------------------------------------------------------- */

static bool ends_with(const char *text, size_t length, const char *end)
{
    size_t n = strlen(end);
    return length >= n && !memcmp(text + length - n, end, n);
}

/* Where the tensor's name begins in "FILE.safetensors:NAME"; NULL when there is none. */
static const char *tensor_name(const char *text, size_t length)
{
    static const char mark[] = ".safetensors:";
    for (size_t i = 0; i + sizeof mark - 1 < length; i++)
        if (!memcmp(text + i, mark, sizeof mark - 1)) return text + i + sizeof mark - 1;
    return NULL;
}

bool is_file_name(const char *text, size_t length)
{
    return ends_with(text, length, ".npy") || ends_with(text, length, ".safetensors")
           || tensor_name(text, length);
}

static inset_status copy_tensor(sweep *s, const file_tensor *from, inset_tensor *out)
{
    *out = (inset_tensor){.type = from->type, .n_dimensions = from->n_dimensions};
    memcpy(out->shape, from->shape, sizeof out->shape);
    out->data = arena_copy(&s->memory, from->data, from->bytes);
    return out->data ? INSET_OK : INSET_NO_MEMORY;
}

inset_status tensor_load(sweep *s, const char *text, inset_tensor *out)
{
    const char *name = tensor_name(text, strlen(text));
    if (!name) {
        npy *file;
        if (!ends_with(text, strlen(text), ".npy"))
            return error_set(s->context, INSET_FILE_ERROR,
                "%s: FILE.npy or FILE.safetensors:NAME was expected", text);
        inset_status status = npy_open(s->context, text, &file);
        if (status) return status;
        status = copy_tensor(s, npy_tensor(file), out);
        npy_close(file);
        return status;
    }
    safetensors *file;
    const file_tensor *found;
    const char *path = arena_text(&s->memory, text, (size_t)(name - 1 - text));
    if (!path) return INSET_NO_MEMORY;
    inset_status status = safetensors_open(s->context, path, &file);
    if (status) return status;
    if (!(status = safetensors_need(file, name, &found))) status = copy_tensor(s, found, out);
    safetensors_close(file);
    return status;
}

inset_status integers_load(
    sweep *s, const char *text, int *n_dimensions, int64_t *shape, int64_t **out)
{
    inset_tensor tensor;
    inset_status status = tensor_load(s, text, &tensor);
    if (status) return status;
    if (type_is_float(tensor.type) || tensor.type == INSET_BOOL)
        return error_set(s->context, INSET_TYPE_ERROR, "%s: token ids are integers, found %s", text,
            type_torch_name(tensor.type));
    size_t count = 1;
    for (int i = 0; i < tensor.n_dimensions; i++) count *= (size_t)tensor.shape[i];
    int64_t *made = arena_new(&s->memory, (count + !count) * sizeof *made);
    if (!made) return INSET_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const char *at = (const char *)tensor.data + i * type_size(tensor.type);
        if (tensor.type == INSET_I64) memcpy(&made[i], at, sizeof made[i]);
        else made[i] = (int64_t)element_get(tensor.type, at);
    }
    *n_dimensions = tensor.n_dimensions;
    memcpy(shape, tensor.shape, (size_t)tensor.n_dimensions * sizeof *shape);
    *out = made;
    return INSET_OK;
}

/* ---- prompts ------------------------------------------------------------ */

static inset_status prompts_new(
    sweep *s, const char *what, int64_t count, int64_t tokens, prompts *out)
{
    if (count <= 0) return error_set(s->context, INSET_VALUE_ERROR, "%s: there is no prompt", what);
    *out = (prompts){.count = count,
        .lengths = arena_new(&s->memory, (size_t)count * sizeof(int64_t)),
        .starts = arena_new(&s->memory, (size_t)count * sizeof(int64_t)),
        .tokens = arena_new(&s->memory, (size_t)(tokens + !tokens) * sizeof(int64_t))};
    return out->lengths && out->starts && out->tokens ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status from_lists(sweep *s, const char *what, const inset_prompts *given, prompts *out)
{
    int64_t total = 0;
    if (!given->lengths || !given->tokens)
        return error_set(s->context, INSET_USAGE_ERROR,
            "%s: lengths and tokens were expected, found NULL", what);
    for (int64_t i = 0; i < given->count; i++) {
        if (given->lengths[i] < 0 || given->lengths[i] > INT32_MAX)
            return error_set(s->context, INSET_VALUE_ERROR, "%s: prompt %lld has the length %lld",
                what, (long long)i, (long long)given->lengths[i]);
        total += given->lengths[i];
    }
    inset_status status = prompts_new(s, what, given->count, total, out);
    if (status) return status;
    memcpy(out->lengths, given->lengths, (size_t)given->count * sizeof *out->lengths);
    memcpy(out->tokens, given->tokens, (size_t)total * sizeof *out->tokens);
    return INSET_OK;
}

/* Rows of equal length, each up to its first -1. */
static inset_status from_file(sweep *s, const char *what, const char *text, prompts *out)
{
    int n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS], *ids, written = 0;
    inset_status status = integers_load(s, text, &n_dimensions, shape, &ids);
    if (status) return status;
    if (n_dimensions < 1 || n_dimensions > MOST_DIMENSIONS_OF_PROMPTS)
        return error_set(s->context, INSET_SHAPE_ERROR,
            "%s: %s: [prompt, position] was expected, found %d dimensions", what, text,
            n_dimensions);
    int64_t rows = n_dimensions == 2 ? shape[0] : 1, columns = shape[n_dimensions - 1];
    if ((status = prompts_new(s, what, rows, rows * columns, out))) return status;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t *row = ids + i * columns;
        while (out->lengths[i] < columns && row[out->lengths[i]] != -1)
            out->tokens[written++] = row[out->lengths[i]++];
        for (int64_t k = out->lengths[i]; k < columns; k++)
            if (row[k] != -1)
                return error_set(s->context, INSET_VALUE_ERROR,
                    "%s: %s: prompt %lld goes on behind the -1 that ends it", what, text,
                    (long long)i);
    }
    return INSET_OK;
}

static inset_status refuse_text(sweep *s, const char *what)
{
    return error_set(s->context, INSET_TYPE_ERROR,
        "%s: lists of token ids or texts were expected, [[464, 412], [733]] or [\"a text\", "
        "\"another\"], a text, or FILE.npy, FILE.safetensors:NAME, FILE.json, FILE.jsonl or "
        "FILE.txt",
        what);
}

/* ---- texts --------------------------------------------------------------- */

/* Texts as they come; their ids go into prompts at the end. */
typedef struct texts {
    id_list ids;
    int64_t *lengths;
    size_t count, capacity;
} texts;

static inset_status add_text(sweep *s, texts *to, const char *given, size_t length)
{
    tokenizer *t;
    id_list made = {0};
    inset_status status = model_tokenizer(s->model, &t);
    if (!status) status = tokenizer_encode(t, given, length, true, &made);
    if (!status
        && !array_extend(
            s->context, &to->lengths, &to->capacity, to->count + 1, sizeof *to->lengths))
        status = INSET_NO_MEMORY;
    for (size_t i = 0; i < made.count && !status; i++)
        if (!id_list_add(s->context, &to->ids, made.ids[i])) status = INSET_NO_MEMORY;
    if (!status) to->lengths[to->count++] = (int64_t)made.count;
    id_list_free(s->context, &made);
    return status;
}

static inset_status finish_texts(
    sweep *s, const char *what, inset_status status, texts *from, prompts *out)
{
    if (!status) status = prompts_new(s, what, (int64_t)from->count, (int64_t)from->ids.count, out);
    if (!status) {
        memcpy(out->lengths, from->lengths, from->count * sizeof *from->lengths);
        if (from->ids.count)
            memcpy(out->tokens, from->ids.ids, from->ids.count * sizeof *from->ids.ids);
    }
    id_list_free(s->context, &from->ids);
    memory_free(s->context, from->lengths);
    return status;
}

static inset_status from_one_text(sweep *s, const char *what, const char *given, prompts *out)
{
    texts all = {0};
    if (!access(given, F_OK)) /* nobody's prompt */
        return error_set(s->context, INSET_VALUE_ERROR,
            "%s: '%s' is a file; files of prompts end in .npy, .json, .jsonl or .txt, or are "
            "FILE.safetensors:NAME",
            what, given);
    return finish_texts(s, what, add_text(s, &all, given, strlen(given)), &all, out);
}

/* ["a text", "another"] */
static inset_status from_strings(sweep *s, const char *what, const json_node *root, prompts *out)
{
    texts all = {0};
    inset_status status = INSET_OK;
    for (size_t i = 0; i < json_length(root) && !status; i++) {
        const char *given;
        status = json_as_string(json_item(root, i), &given)
                     ? add_text(s, &all, given, strlen(given))
                     : error_set(s->context, INSET_TYPE_ERROR,
                         "%s: prompt %zu: the others are texts, this is none", what, i);
    }
    return finish_texts(s, what, status, &all, out);
}

/* FILE.txt: a text a line; empty ones are passed over. */
static inset_status from_text_lines(sweep *s, const char *what, const char *path, prompts *out)
{
    texts all = {0};
    char *bytes;
    size_t size;
    inset_status status = file_read(s->context, path, (size_t)1 << 32, &bytes, &size);
    if (status) return status;
    for (size_t at = 0, end; at < size && !status; at = end + 1) {
        const char *newline = memchr(bytes + at, '\n', size - at);
        end = newline ? (size_t)(newline - bytes) : size;
        const size_t length = end - at - (end > at && bytes[end - 1] == '\r');
        if (length) status = add_text(s, &all, bytes + at, length);
    }
    memory_free(s->context, bytes);
    return finish_texts(s, what, status, &all, out);
}

/* ---- lists --------------------------------------------------------------- */

static inset_status from_nodes(sweep *s, const char *what, const json_node *root, prompts *out)
{
    bool nested = json_is_array(json_item(root, 0));
    int64_t count = nested ? (int64_t)json_length(root) : 1, total = 0, written = 0;
    if (!json_is_array(root)) return refuse_text(s, what);
    if (json_is_string(json_item(root, 0))) return from_strings(s, what, root, out);
    if (!json_length(root))
        return error_set(s->context, INSET_VALUE_ERROR, "%s: there is no prompt", what);
    for (int64_t i = 0; i < count; i++) {
        const json_node *row = nested ? json_item(root, (size_t)i) : root;
        if (!json_is_array(row)) return refuse_text(s, what);
        total += (int64_t)json_length(row);
    }
    inset_status status = prompts_new(s, what, count, total, out);
    for (int64_t i = 0; i < count && !status; i++) {
        const json_node *row = nested ? json_item(root, (size_t)i) : root;
        out->lengths[i] = (int64_t)json_length(row);
        for (int64_t k = 0; k < out->lengths[i]; k++)
            if (!json_as_integer(json_item(row, (size_t)k), &out->tokens[written++]))
                return error_set(s->context, INSET_TYPE_ERROR,
                    "%s: prompt %lld, position %lld: a token id is an integer", what, (long long)i,
                    (long long)k);
    }
    return status;
}

static inset_status from_text(sweep *s, const char *what, const char *text, prompts *out)
{
    json_document *document;
    if (text[strspn(text, " \t\n")] != '[') return from_one_text(s, what, text, out);
    inset_status status = json_parse(s->context, what, text, strlen(text), &document);
    if (status) return status;
    status = from_nodes(s, what, json_root(document), out);
    json_close(document);
    return status;
}

/* A line is a list of token ids; empty ones are passed over. */
static inset_status from_lines(
    sweep *s, const char *what, const char *path, char *bytes, size_t size, prompts *out)
{
    int64_t lines = 0, most = 1, written = 0;
    for (size_t i = 0; i < size; i++) {
        lines += bytes[i] == '\n';
        most += bytes[i] == ',' || bytes[i] == '\n';
    }
    inset_status status = prompts_new(s, what, lines + 1, most, out);
    if (status) return status;
    out->count = 0;
    int64_t number = 1;
    for (char *at = bytes, *end; at < bytes + size && !status; at = end + 1, number++) {
        char name[512];
        json_document *document;
        end = memchr(at, '\n', (size_t)(bytes + size - at));
        if (!end) end = bytes + size;
        if (at + strspn(at, " \t\r") >= end) continue;
        snprintf(name, sizeof name, "%s line %lld", path, (long long)number);
        if ((status = json_parse(s->context, name, at, (size_t)(end - at), &document))) break;
        const json_node *row = json_root(document);
        if (!json_is_array(row))
            status = error_set(s->context, INSET_TYPE_ERROR,
                "%s: a list of token ids was expected, [464, 412] (texts go into FILE.txt, one a "
                "line, or FILE.json)",
                name);
        for (size_t k = 0; k < json_length(row) && !status; k++)
            if (!json_as_integer(json_item(row, k), &out->tokens[written++]))
                status = error_set(s->context, INSET_TYPE_ERROR,
                    "%s: position %zu: a token id is an integer", name, k);
        out->lengths[out->count++] = (int64_t)json_length(row);
        json_close(document);
    }
    if (!status && !out->count)
        status = error_set(
            s->context, INSET_VALUE_ERROR, "%s: there is no prompt in %s", what, path);
    return status;
}

/* FILE.json holds lists in lists, FILE.jsonl a list a line. */
static inset_status from_json_file(sweep *s, const char *what, const char *path, prompts *out)
{
    enum { MOST_MEGABYTES = 16384 };
    char *bytes;
    size_t size;
    inset_status status = file_read(s->context, path, (size_t)MOST_MEGABYTES << 20, &bytes, &size);
    if (status) return status;
    if (ends_with(path, strlen(path), ".jsonl")) {
        status = from_lines(s, what, path, bytes, size, out);
    } else {
        json_document *document;
        status = json_parse(s->context, path, bytes, size, &document);
        if (!status) {
            status = from_nodes(s, what, json_root(document), out);
            json_close(document);
        }
    }
    memory_free(s->context, bytes);
    return status;
}

static inset_status check_prompt(sweep *s, const char *what, const prompts *p, int64_t i)
{
    const program *g = s->program;
    if (p->lengths[i] == 0)
        return error_set(
            s->context, INSET_VALUE_ERROR, "%s: prompt %lld is empty", what, (long long)i);
    if (p->lengths[i] > g->max_positions)
        return error_set(s->context, INSET_VALUE_ERROR,
            "%s: prompt %lld has %lld tokens; the model has %d positions", what, (long long)i,
            (long long)p->lengths[i], g->max_positions);
    for (int64_t k = 0; k < p->lengths[i]; k++) {
        int64_t token = p->tokens[p->starts[i] + k];
        if (token < 0 || token >= g->vocabulary)
            return error_set(s->context, INSET_INDEX_ERROR,
                "%s: prompt %lld, position %lld: token %lld is outside the vocabulary of %d", what,
                (long long)i, (long long)k, (long long)token, g->vocabulary);
    }
    return INSET_OK;
}

inset_status prompts_read(sweep *s, const char *what, const inset_prompts *given, prompts *out)
{
    const char *text = given->text;
    const size_t length = text ? strlen(text) : 0;
    const bool json = text
                      && (ends_with(text, length, ".json") || ends_with(text, length, ".jsonl"));
    inset_status status = !text                             ? from_lists(s, what, given, out)
                          : json                            ? from_json_file(s, what, text, out)
                          : ends_with(text, length, ".txt") ? from_text_lines(s, what, text, out)
                          : is_file_name(text, length)      ? from_file(s, what, text, out)
                                                            : from_text(s, what, text, out);
    for (int64_t i = 0, at = 0; !status && i < out->count; at += out->lengths[i++]) {
        out->starts[i] = at;
        if (out->lengths[i] > out->longest) out->longest = out->lengths[i];
        status = check_prompt(s, what, out, i);
    }
    return status;
}
