/* json.c: JSON over Jansson, seen through typed getters that make the error messages. Jansson is
 * used because it keeps 64-bit integers, refuses duplicate keys and bounds the depth; no other file
 * includes it.
 *
 * Jansson's own blocks do not come from the context: its allocator is set for the whole process
 * (json_set_alloc_funcs), which a library must not do to the program it is part of. What it can
 * allocate is bounded instead: by the size of the text, and by a count of the values in it before
 * parsing, since a value can take some 200 times its own two characters ("{}"). */
#include "file/file.h"
#include "file/map.h"

#include <jansson.h>
#include <string.h>

enum { MOST_BYTES = 64 << 20, MOST_VALUES = 2 << 20, SHOWN = 80 };

struct json_document {
    inset_context *context;
    json_t *root;
    char *name;
};

static const json_t *value_of(const json_node *node) { return (const json_t *)node; }
static const json_node *node_of(const json_t *value) { return (const json_node *)value; }

/* Jansson quotes the text it could not read; control characters in it are not for a terminal. */
static void make_printable(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at; at++) {
        if (*at < 0x20 || *at == 0x7f) *at = '?';
        if (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0) *at = at[1] = '?';
    }
}

/* An upper bound of the number of values: brackets and commas outside strings. Up to the first
 * error, where parsing ends, this scan and the parser agree on what is a string. */
static size_t count_values(const char *bytes, size_t size)
{
    size_t count = 1;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        char c = bytes[i];
        if (in_string && c == '\\') i++;
        else if (c == '"') in_string = !in_string;
        else if (!in_string && (c == '[' || c == '{' || c == ',')) count++;
    }
    return count;
}

static inset_status refused(json_document *document, json_error_t *error)
{
    if (json_error_code(error) == json_error_out_of_memory || !*error->text)
        return error_no_memory(document->context);
    make_printable(error->text);
    return error_set(document->context, INSET_FILE_ERROR, "%s:%d:%d: %s", document->name,
        error->line, error->column, error->text);
}

static inset_status document_parse(json_document *document, const void *bytes, size_t size)
{
    json_error_t error = {0};
    if (count_values(bytes, size) > MOST_VALUES)
        return error_set(document->context, INSET_FILE_ERROR, "%s: has more than %d JSON values",
            document->name, MOST_VALUES);
    document->root = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &error);
    return document->root ? INSET_OK : refused(document, &error);
}

inset_status json_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, json_document **out)
{
    *out = NULL;
    json_document *document = memory_new(context, sizeof *document);
    if (!document) return INSET_NO_MEMORY;
    document->context = context;
    document->name = memory_text(context, name, strlen(name));
    inset_status status = document->name ? document_parse(document, size ? bytes : "", size)
                                         : INSET_NO_MEMORY;
    if (status) {
        json_close(document);
        return status;
    }
    *out = document;
    return INSET_OK;
}

inset_status json_open(inset_context *context, const char *path, json_document **out)
{
    char *bytes;
    size_t size;
    *out = NULL;
    inset_status status = file_read_regular(context, path, MOST_BYTES, &bytes, &size);
    if (status) return status;
    status = json_parse(context, path, bytes, size, out);
    memory_free(context, bytes);
    return status;
}

void json_close(json_document *document)
{
    if (!document) return;
    json_decref(document->root);
    memory_free(document->context, document->name);
    memory_free(document->context, document);
}

const char *json_document_name(const json_document *d) { return d->name; }
const json_node *json_root(const json_document *document) { return node_of(document->root); }

/* ---- structure ---------------------------------------------------------- */

const json_node *json_member(const json_node *object, const char *key)
{
    const json_t *value = json_object_get(value_of(object), key);
    return value && !json_is_null(value) ? node_of(value) : NULL;
}

size_t json_length(const json_node *node)
{
    const json_t *value = value_of(node);
    return json_is_array(value) ? json_array_size(value) : json_object_size(value);
}

const json_node *json_item(const json_node *array, size_t index)
{
    return node_of(json_array_get(value_of(array), index));
}

bool json_next(const json_node *object, void **cursor, const char **key, const json_node **value)
{
    json_t *members = (json_t *)value_of(object);
    *cursor = *cursor ? json_object_iter_next(members, *cursor) : json_object_iter(members);
    if (!*cursor) return false;
    *key = json_object_iter_key(*cursor);
    *value = node_of(json_object_iter_value(*cursor));
    return true;
}

/* Jansson has macros of these names; the parentheses keep them from being expanded. */
bool(json_is_object)(const json_node *n) { return json_is_object(value_of(n)); }
bool(json_is_array)(const json_node *n) { return json_is_array(value_of(n)); }
bool(json_is_string)(const json_node *n) { return json_is_string(value_of(n)); }
bool(json_is_number)(const json_node *n) { return json_is_number(value_of(n)); }

bool json_as_integer(const json_node *n, int64_t *out)
{
    if (!json_is_integer(value_of(n))) return false;
    *out = json_integer_value(value_of(n));
    return true;
}

bool json_as_number(const json_node *n, double *out)
{
    if (!json_is_number(value_of(n))) return false;
    *out = json_number_value(value_of(n));
    return true;
}

bool json_as_bool(const json_node *n, bool *out)
{
    if (!json_is_boolean(value_of(n))) return false;
    *out = json_is_true(value_of(n));
    return true;
}

bool json_as_string(const json_node *n, const char **out)
{
    if (!json_is_string(value_of(n))) return false;
    *out = json_string_value(value_of(n));
    return true;
}

/* ---- typed members ------------------------------------------------------ */

/* What a message says was found: the value itself when it is short, else its kind. */
static void describe(const json_t *value, char text[SHOWN])
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        snprintf(text, SHOWN, "an object of %zu members", json_object_size(value));
        break;
    case JSON_ARRAY: snprintf(text, SHOWN, "an array of %zu items", json_array_size(value)); break;
    case JSON_STRING:
        snprintf(text, SHOWN, "\"%.40s%s\"", json_string_value(value),
            json_string_length(value) > 40 ? "..." : "");
        break;
    case JSON_INTEGER: snprintf(text, SHOWN, "%lld", (long long)json_integer_value(value)); break;
    case JSON_REAL: snprintf(text, SHOWN, "the number %.17g", json_real_value(value)); break;
    case JSON_TRUE: snprintf(text, SHOWN, "true"); break;
    case JSON_FALSE: snprintf(text, SHOWN, "false"); break;
    case JSON_NULL: snprintf(text, SHOWN, "null"); break;
    }
    make_printable(text);
}

static inset_status wrong(
    const json_document *d, const char *key, const char *expected, const json_node *found)
{
    char text[SHOWN];
    describe(value_of(found), text);
    return error_set(d->context, INSET_FILE_ERROR, "%s: '%s' must be %s, found %s", d->name, key,
        expected, text);
}

static inset_status absent(const json_document *d, const char *key, const char *expected)
{
    return error_set(
        d->context, INSET_FILE_ERROR, "%s: '%s' is missing, expected %s", d->name, key, expected);
}

static void describe_range(int64_t least, int64_t most, char text[SHOWN])
{
    if (least == INT64_MIN && most == INT64_MAX) snprintf(text, SHOWN, "an integer");
    else if (most == INT64_MAX)
        snprintf(text, SHOWN, "an integer of at least %lld", (long long)least);
    else snprintf(text, SHOWN, "an integer from %lld to %lld", (long long)least, (long long)most);
}

inset_status json_get_integer(const json_document *d, const json_node *object, const char *key,
    int64_t least, int64_t most, int64_t *out)
{
    const json_node *member = json_member(object, key);
    int64_t value;
    char expected[SHOWN];
    if (!member) return INSET_OK;
    if (json_as_integer(member, &value) && value >= least && value <= most) {
        *out = value;
        return INSET_OK;
    }
    describe_range(least, most, expected);
    return wrong(d, key, expected, member);
}

inset_status json_get_number(
    const json_document *d, const json_node *object, const char *key, double *out)
{
    const json_node *member = json_member(object, key);
    return !member || json_as_number(member, out) ? INSET_OK : wrong(d, key, "a number", member);
}

inset_status json_get_bool(
    const json_document *d, const json_node *object, const char *key, bool *out)
{
    const json_node *member = json_member(object, key);
    return !member || json_as_bool(member, out) ? INSET_OK : wrong(d, key, "true or false", member);
}

inset_status json_get_string(
    const json_document *d, const json_node *object, const char *key, const char **out)
{
    const json_node *member = json_member(object, key);
    return !member || json_as_string(member, out) ? INSET_OK : wrong(d, key, "a string", member);
}

inset_status json_need_integer(const json_document *d, const json_node *object, const char *key,
    int64_t least, int64_t most, int64_t *out)
{
    char expected[SHOWN];
    if (json_member(object, key)) return json_get_integer(d, object, key, least, most, out);
    describe_range(least, most, expected);
    return absent(d, key, expected);
}

inset_status json_need_string(
    const json_document *d, const json_node *object, const char *key, const char **out)
{
    return json_member(object, key) ? json_get_string(d, object, key, out)
                                    : absent(d, key, "a string");
}
