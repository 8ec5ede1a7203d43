/* test_json.c: JSON through the typed getters: values, refusals by their words and places, floods
 * of brackets. */
#include "files.h"

static const char config[] = "{\n  \"n\": 12, \"big\": 9223372036854775807, \"eps\": 1e-5, "
                             "\"yes\": true, \"no\": false, \"name\": \"gpt2\",\n"
                             "  \"nothing\": null, \"list\": [1, \"a\", 2.5, true], \"inner\": "
                             "{\"z\": 1, \"a\": 2}, \"long\": "
                             "\"0123456789012345678901234567890123456789012\\u001b\"}";

static void reads_json(void)
{
    world w;
    json_document *d;
    inset_context *context = world_start(&w);
    write_text(at("config.json"), config);
    NEED(!json_open(context, at("config.json"), &d), "%s", inset_message(context));
    const json_node *root = json_root(d), *list = json_member(root, "list"), *value;
    int64_t integer = -1;
    double number = -1;
    bool yes = false;
    const char *text = "default", *key;
    CHECK(!strcmp(json_document_name(d), at("config.json")), "%s", json_document_name(d));
    CHECK(!json_get_integer(d, root, "absent", 0, 9, &integer) && integer == -1,
        "an absent key leaves the default");
    CHECK(!json_get_integer(d, root, "nothing", 0, 9, &integer) && integer == -1,
        "null leaves the default");
    CHECK(!json_get_string(d, root, "absent", &text) && !strcmp(text, "default"), "an absent text");
    CHECK(!json_get_number(d, root, "absent", &number) && !json_get_bool(d, root, "absent", &yes)
              && number == -1 && !yes,
        "absent");
    CHECK(!json_get_integer(d, root, "n", 12, 12, &integer) && integer == 12, "%lld",
        (long long)integer);
    CHECK(!json_need_integer(d, root, "big", 0, INT64_MAX, &integer) && integer == INT64_MAX,
        "64 bits");
    CHECK(!json_get_number(d, root, "eps", &number) && number == 1e-5, "%g", number);
    CHECK(!json_get_number(d, root, "n", &number) && number == 12, "an integer is a number");
    CHECK(
        !json_get_bool(d, root, "yes", &yes) && yes && !json_get_bool(d, root, "no", &yes) && !yes,
        "true, then false");
    CHECK(!json_need_string(d, root, "name", &text) && !strcmp(text, "gpt2"), "%s", text);
    CHECK(json_length(list) == 4 && json_length(root) == 10 && !json_length(json_member(root, "n"))
              && !json_length(NULL),
        "lengths");
    CHECK(json_as_integer(json_item(list, 0), &integer) && integer == 1
              && json_as_string(json_item(list, 1), &text) && *text == 'a'
              && json_as_number(json_item(list, 2), &number) && number == 2.5
              && json_as_bool(json_item(list, 3), &yes) && yes,
        "items");
    CHECK(!json_item(list, 4) && !json_as_integer(NULL, &integer)
              && !json_as_integer(json_item(list, 2), &integer)
              && !json_as_string(json_item(list, 0), &text)
              && !json_as_bool(json_item(list, 0), &yes),
        "items of another kind");
    CHECK(json_is_object(root) && json_is_array(list) && json_is_string(json_member(root, "name"))
              && json_is_number(json_member(root, "n")) && !json_is_object(list)
              && !json_is_array(root) && !json_is_string(NULL) && !json_is_number(NULL),
        "kinds");
    CHECK(!json_member(list, "n") && !json_member(NULL, "n") && !json_member(root, "nothing"),
        "members that are not there");
    void *cursor = NULL;
    CHECK(json_next(json_member(root, "inner"), &cursor, &key, &value) && !strcmp(key, "z")
              && json_next(json_member(root, "inner"), &cursor, &key, &value) && !strcmp(key, "a")
              && !json_next(json_member(root, "inner"), &cursor, &key, &value),
        "members in the document's order");
    cursor = NULL;
    CHECK(!json_next(list, &cursor, &key, &value) && !json_next(NULL, &cursor, &key, &value),
        "an array has no members");
    json_close(d);
    world_end(&w, "json");
}

static void refuses_json_values(void)
{
    world w;
    json_document *d;
    inset_context *context = world_start(&w);
    int64_t integer = 7;
    double number;
    bool yes;
    const char *text;
    NEED(!json_parse(context, "c.json", config, sizeof config - 1, &d), "%s",
        inset_message(context));
    const json_node *root = json_root(d);
    check_refused(context, json_get_integer(d, root, "n", 1, 11, &integer), "range",
        "c.json: 'n' must be an integer from 1 to 11, found 12");
    check_refused(context, json_get_integer(d, root, "n", 13, INT64_MAX, &integer), "least",
        "'n' must be an integer of at least 13, found 12");
    check_refused(context, json_get_integer(d, root, "eps", INT64_MIN, INT64_MAX, &integer), "real",
        "c.json: 'eps' must be an integer, found the number 1.0000000000000001e-05");
    check_refused(context, json_get_integer(d, root, "name", 0, 1, &integer), "text",
        "'name' must be an integer from 0 to 1, found \"gpt2\"");
    check_refused(context, json_get_integer(d, root, "long", 0, 1, &integer), "long text",
        "found \"0123456789012345678901234567890123456789...\"");
    check_refused(context, json_get_number(d, root, "list", &number), "array",
        "c.json: 'list' must be a number, found an array of 4 items");
    check_refused(context, json_get_number(d, root, "yes", &number), "bool",
        "'yes' must be a number, found true");
    check_refused(context, json_get_bool(d, root, "n", &yes), "integer as bool",
        "c.json: 'n' must be true or false, found 12");
    check_refused(context, json_get_string(d, root, "inner", &text), "object",
        "c.json: 'inner' must be a string, found an object of 2 members");
    check_refused(context, json_get_string(d, root, "no", &text), "false",
        "'no' must be a string, found false");
    check_refused(context, json_need_integer(d, root, "absent", 1, 9, &integer), "absent",
        "c.json: 'absent' is missing, expected an integer from 1 to 9");
    check_refused(context, json_need_string(d, root, "nothing", &text), "null",
        "c.json: 'nothing' is missing, expected a string");
    check_refused(context, json_need_string(d, root, "n", &text), "need another kind",
        "c.json: 'n' must be a string, found 12");
    CHECK(integer == 7, "a refused value changes nothing");
    json_close(d);
    world_end(&w, "json values");
}

static void refuses_json(void)
{
    static const struct {
        const char *name, *text, *words;
    } texts[] = {
        {"empty", "", "x.json:1:0: '[' or '{' expected near end of file"},
        {"bare", "12", "x.json:1:2: '[' or '{' expected near '12'"},
        {"third line", "{\n\"a\": 1,\n  \"b\" 2}", "x.json:3:7: ':' expected near '2'"},
        {"nan", "{\"a\": NaN}", "x.json:1:9: invalid token near 'NaN'"},
        {"trailing comma", "{\"a\": 1,}", "x.json:1:9: string or '}' expected near '}'"},
        {"comment", "{\"a\": 1} // x", "x.json:1:10: end of file expected near '/'"},
        {"single quotes", "{'a': 1}", "x.json:1:2: string or '}' expected near '''"},
        {"leading zero", "{\"a\": 012}", "x.json:1:7: invalid token near '0'"},
        {"too large", "{\"a\": 1e999}", "real number overflow near '1e999'"},
        {"escape sequence", "{\"a\": \x1b[2J}", "x.json:1:7: invalid token near '?'"},
        {"surrogate", "{\"a\": \"\\ud800\"}", "invalid Unicode"},
        {"byte order mark", "\xef\xbb\xbf{}", "'[' or '{' expected near '\xef\xbb\xbf'"},
        {"duplicate", "{\"a\": 1, \"b\": {\"a\": 1, \"a\": 2}}",
            "duplicate object key near '\"a\"'"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        world w;
        json_document *d;
        inset_context *context = world_start(&w);
        check_refused(context,
            json_parse(context, "x.json", texts[i].text, strlen(texts[i].text), &d), texts[i].name,
            texts[i].words);
        CHECK(!d, "%s: out must be NULL", texts[i].name);
        world_end(&w, texts[i].name);
    }
}

/* Nesting and numbers of values that would cost stack or memory are refused before they do. */
static void refuses_floods(void)
{
    static const struct {
        const char *name, *open, *item;
        size_t times;
        const char *words;
    } floods[] = {
        {"deep", "{\"a\":", "[", 100000, "maximum parsing depth reached"},
        {"deep objects", "", "{\"a\":", 100000, "maximum parsing depth reached"},
        {"many values", "{\"a\":[", "[],", 3000000, "has more than 2097152 JSON values"},
        {"many in a text", "{\"a\":\"\\\"", "[],", 1000, "premature end of input"},
    };
    for (size_t i = 0; i < sizeof floods / sizeof *floods; i++) {
        world w;
        json_document *document;
        inset_context *context = world_start(&w);
        size_t head = strlen(floods[i].open), step = strlen(floods[i].item),
               size = head + step * floods[i].times;
        char *bytes = malloc(size);
        NEED(bytes, "memory for the test");
        memcpy(bytes, floods[i].open, head);
        for (size_t n = 0; n < floods[i].times; n++)
            memcpy(bytes + head + n * step, floods[i].item, step);
        check_refused(context, json_parse(context, "x", bytes, size, &document), floods[i].name,
            floods[i].words);
        free(bytes);
        world_end(&w, floods[i].name);
    }
}

int main(void)
{
    if (directory_start()) return 1;
    reads_json();
    refuses_json_values();
    refuses_json();
    refuses_floods();
    directory_end();
    return test_result();
}
