/* test_script.c: the script reader. What it refuses and what it takes are data, in tests/script:
 * refusals.txt has scripts with the exact message, same.txt pairs of scripts that must make the
 * same records. Here are the programs that replay them, what is too long or too odd to be written
 * in a file, and memory running out. */
#include "models/models.h"
#include "script/script.h"
#include "trace/records.h"
#include "world.h"

#include <inttypes.h>
#include <unistd.h>

/* ---- models and traces -------------------------------------------------- */

typedef struct reading {
    world w;
    json_document *config;
    program *model;
    trace *t;
} reading;

static bool start(reading *r, const char *model)
{
    char path[128];
    memset(r, 0, sizeof *r);
    inset_context *context = world_start(&r->w);
    snprintf(path, sizeof path, "fixtures/%s/config.json", model);
    inset_status status = json_open(context, path, &r->config);
    if (!status) status = models_build(context, r->config, false, &r->model);
    if (!status) status = trace_create(context, r->model, INSET_F32, &r->t);
    return CHECK(!status, "%s: %s", model, inset_message(context));
}

static void finish(reading *r, const char *name)
{
    trace_free(r->t);
    program_free(r->model);
    json_close(r->config);
    world_end(&r->w, name);
}

static inset_status read_script(reading *r, const char *file, const char *text, size_t length)
{
    return script_read(r->t, file, "script", text, length);
}

/* Reads a script; the message, or "" when it was taken. Where these tests lie on this machine is
 * written as TESTS. */
static const char *message_of(reading *r, const char *text, size_t length)
{
    static char shown[1 << 16], folder[4096];
    char *end = shown;
    const char *const tests = getcwd(folder, sizeof folder) ? folder : "?";
    if (!read_script(r, "x.inset", text, length)) return "";
    for (const char *at = inset_message(r->w.context), *next; *at && end < shown + sizeof shown - 8;
         at = next) {
        bool here = !strncmp(at, tests, strlen(tests));
        if (here) end = stpcpy(end, "TESTS");
        else *end++ = *at;
        next = here ? at + strlen(tests) : at + 1;
    }
    *end = 0;
    return shown;
}

/* ---- data files --------------------------------------------------------- */

enum { MOST_CASES = 400 };

/* A block "=== title | model", a script, "--- word", another text; the parts lie in the file's
 * bytes, which are cut up. */
typedef struct text_case {
    char *title, *model, *script, *expected;
} text_case;

static char *cut(char *text, const char *mark)
{
    char *at = strstr(text, mark);
    if (!at) return NULL;
    /* the newline before the mark stays with the text */
    at[1] = 0;
    return at + strlen(mark);
}

static int read_cases(const char *name, char **bytes, text_case cases[MOST_CASES])
{
    int count = 0;
    *bytes = test_read(name, NULL);
    if (!CHECK(*bytes, "%s cannot be read", name)) return 0;
    for (char *at = cut(*bytes, "\n=== "); at && count < MOST_CASES; count++) {
        text_case *c = &cases[count];
        char *next = cut(at, "\n=== "), *line_end = strchr(at, '\n'), *bar = strstr(at, " | ");
        if (!CHECK(line_end && bar && bar < line_end, "%s: no title and model at %.40s", name, at))
            return count;
        *bar = *line_end = 0;
        *c = (text_case){at, bar + 3, line_end + 1, NULL};
        char *other = cut(line_end + 1, "\n--- ");
        if (other) c->expected = strchr(other, '\n') + 1;
        at = next;
    }
    return count;
}

/* ---- refusals ----------------------------------------------------------- */

static void write_case(FILE *out, const text_case *c, const char *message)
{
    fprintf(out, "=== %s | %s\n%s--- message\n%s\n", c->title, c->model, c->script, message);
}

/* The message without the newline that the file has behind it. */
static bool same_message(const char *got, const char *expected)
{
    size_t n = strlen(got);
    return expected && !strncmp(got, expected, n) && !strcmp(expected + n, "\n");
}

static void refuses(FILE *rewrite)
{
    static text_case cases[MOST_CASES];
    char *bytes;
    int count = read_cases("script/refusals.txt", &bytes, cases);
    for (int i = 0; i < count; i++) {
        reading r;
        if (!start(&r, cases[i].model)) continue;
        const char *message = message_of(&r, cases[i].script, strlen(cases[i].script));
        if (rewrite) write_case(rewrite, &cases[i], message);
        else
            CHECK(same_message(message, cases[i].expected), "%s: got\n%s\nexpected\n%s",
                cases[i].title, message, cases[i].expected);
        finish(&r, cases[i].title);
    }
    CHECK(count > 100, "%d refusals were found", count);
    free(bytes);
}

/* Writes the messages anew, behind the file's own first lines. */
static int write_refusals(void)
{
    char path[512];
    snprintf(path, sizeof path, "%s", "script/refusals.txt");
    char *before = test_read(path, NULL);
    char *head_end = before ? strstr(before, "\n=== ") : NULL;
    FILE *out = tmpfile();
    if (!head_end || !out) return 1;
    refuses(out);
    size_t length = (size_t)ftell(out);
    char *text = malloc(length);
    rewind(out);
    FILE *to = text && fread(text, 1, length, out) == length ? fopen(path, "wb") : NULL;
    if (!to) return 1;
    fwrite(before, 1, (size_t)(head_end + 1 - before), to);
    fwrite(text, 1, length, to);
    free(text);
    free(before);
    fclose(out);
    return fclose(to) != 0;
}

/* ---- records ------------------------------------------------------------ */

static void show_view(inset_context *context, text *out, const view *v)
{
    text_add(context, out, " s%d column %" PRId64 " [", (int)v->storage, v->column);
    for (int i = 0; i < v->n_dimensions; i++)
        text_add(context, out, " %d%s%" PRId64 "*%" PRId64, v->dimensions[i].kind,
            v->dimensions[i].ragged ? "r" : ":", v->dimensions[i].extent, v->dimensions[i].stride);
    for (int i = 0; i < v->n_spans; i++)
        text_add(context, out, " (%d %d %d)", (int)v->spans[i].sequence, (int)v->spans[i].start,
            (int)v->spans[i].count);
    text_add(context, out, " ]");
}

static void show_source(inset_context *context, text *out, const source *s)
{
    if (s->view) show_view(context, out, s->view);
    else text_add(context, out, " %.17g", s->number);
}

static void show_record(inset_context *context, text *out, const trace_record *r)
{
    text_add(context, out, "%d %d at %d:", r->kind, r->op, (int)r->event);
    show_view(context, out, r->target);
    show_source(context, out, &r->a);
    show_source(context, out, &r->b);
    text_add(context, out, "\n");
}

static void show_invoke(inset_context *context, text *out, const trace *t, const invoke *v)
{
    text_add(context, out, "invoke of %d, event %d:", (int)v->n_sequences, (int)v->current_event);
    for (int i = 0, at = 0; i < v->n_sequences; i++)
        for (int n = 0; n < v->lengths[i]; n++, at++)
            text_add(context, out, " %g",
                v->tokens ? (double)v->tokens[at] : (double)v->rows[at * t->program->input_width]);
    text_add(context, out, "\n");
    for (size_t i = 0; i < v->n_rebindings; i++) {
        text_add(context, out, "slot %d is", (int)v->rebindings[i].slot);
        show_view(context, out, v->rebindings[i].view);
        text_add(context, out, "\n");
    }
    for (size_t i = 0; i < v->n_skips; i++)
        text_add(context, out, "skip %d\n", (int)v->skips[i].module);
}

/* All of a trace that lines make, as text. */
static void show_trace(text *out, const trace *t)
{
    inset_context *context = t->context;
    for (size_t i = 0; i < t->n_storages; i++)
        text_add(context, out, "storage %d %s of invoke %d, value %d, width %" PRId64 "\n",
            t->storages[i].kind, type_name(t->storages[i].type), (int)t->storages[i].invoke,
            (int)t->storages[i].value, t->storages[i].width);
    for (size_t i = 0; i < t->n_invokes; i++) show_invoke(context, out, t, &t->invokes[i]);
    for (size_t i = 0; i < t->n_records; i++) show_record(context, out, &t->records[i]);
    for (size_t i = 0; i < t->n_saves; i++) {
        text_add(context, out, "save %s%s", t->saves[i].name, t->saves[i].stacked ? "[]" : "");
        for (size_t k = 0; k < t->saves[i].n_views; k++)
            show_view(context, out, &t->saves[i].view[k]);
        text_add(context, out, "\n");
    }
}

/* The records of a script, to be freed with free(). */
static char *records_of(const text_case *c, const char *script)
{
    reading r;
    text shown = {0};
    if (!start(&r, c->model)) return NULL;
    inset_status status = read_script(&r, "x.inset", script, strlen(script));
    CHECK(!status, "%s: %s\n%s", c->title, inset_message(r.w.context), script);
    show_trace(&shown, r.t);
    char *copy = shown.bytes ? strdup(shown.bytes) : NULL;
    text_free(r.w.context, &shown);
    finish(&r, c->title);
    return copy;
}

static void same_records(void)
{
    static text_case cases[MOST_CASES];
    char *bytes;
    int count = read_cases("script/same.txt", &bytes, cases);
    for (int i = 0; i < count; i++) {
        char *a = records_of(&cases[i], cases[i].script),
             *b = records_of(&cases[i], cases[i].expected ? cases[i].expected : "");
        CHECK(a && b && !strcmp(a, b), "%s: the records differ:\n%s----\n%s", cases[i].title,
            a ? a : "", b ? b : "");
        free(a);
        free(b);
    }
    CHECK(count > 15, "%d pairs were found", count);
    free(bytes);
}

/* The comparison must notice what differs in one number, one path, one order. */
static void differing_records_differ(void)
{
    static const char *const scripts[] = {
        "with invoke([[1, 2]]):\n    x = transformer.h[0].output[:, 0].save()\n",
        "with invoke([[1, 2]]):\n    x = transformer.h[0].output[:, 1].save()\n",
        "with invoke([[1, 2]]):\n    x = transformer.h[1].output[:, 0].save()\n",
        "with invoke([[1, 3]]):\n    x = transformer.h[0].output[:, 0].save()\n",
        "with invoke([[1, 2]]):\n    y = transformer.h[0].output[:, 0].save()\n",
        "with invoke([[1, 2]]):\n    x = transformer.h[0].output[:, 0].clone().save()\n",
        "with invoke([[1, 2]]):\n    x = (transformer.h[0].output[:, 0] + 1).save()\n",
        "with invoke([[1, 2]]):\n    x = (transformer.h[0].output[:, 0] - 1).save()\n",
    };
    enum { N = sizeof scripts / sizeof *scripts };
    text_case c = {"differing records", "gpt2", NULL, NULL};
    char *shown[N];
    for (int i = 0; i < N; i++) shown[i] = records_of(&c, scripts[i]);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < i; k++)
            CHECK(shown[i] && shown[k] && strcmp(shown[i], shown[k]),
                "scripts %d and %d look the same", i, k);
    for (int i = 0; i < N; i++) free(shown[i]);
}

/* ---- bytes and limits --------------------------------------------------- */

typedef struct byte_case {
    const char *name, *text;
    size_t length;
    const char *expected;
} byte_case;
#define BYTES(text) text, sizeof(text) - 1

static void odd_bytes(void)
{
    static const byte_case cases[] = {
        {"nothing", BYTES(""), ""},
        {"blank lines", BYTES("\n  \n\t\n# comment"), ""},
        {"no newline at the end", BYTES("x = 1"), ""},
        {"a comment at the end", BYTES("x = 1 # comment"), ""},
        {"CRLF", BYTES("for i in range(2):\r\n    x = [1,\r\n 2]\r\n\r\n    y = 3\r\nz = 4\r\n"),
            ""},
        {"byte order mark", BYTES("\xef\xbb\xbfx = 1\n"), ""},
        {"form feed", BYTES("x = 1\f\n"),
            "x.inset:1:6\n    x = 1?\n         ^\nSyntaxError: a control character (0x0c)"},
        {"NUL", BYTES("x = 1\ny = \0002\n"),
            "x.inset:2:5\n    y = ?2\n        ^\nSyntaxError: the script holds a NUL byte"},
        {"lone carriage return", BYTES("x = 1\ry = 2\n"),
            "x.inset:1:6\n    x = 1?y = 2\n         ^\nSyntaxError: a control character (0x0d)"},
        {"no UTF-8", BYTES("# \xff\n"),
            "x.inset:1:3\n    # ?\n      ^\nSyntaxError: byte 0xff is not UTF-8 text here"},
        {"overlong UTF-8", BYTES("# \xc0\xaf\n"),
            "x.inset:1:3\n    # ?\n      ^\nSyntaxError: byte 0xc0 is not UTF-8 text here"},
        {"a surrogate", BYTES("# \xed\xa0\x80\n"),
            "x.inset:1:3\n    # ?\n      ^\nSyntaxError: byte 0xed is not UTF-8 text here"},
        {"UTF-8 cut off", BYTES("x = '\xe2\x82"),
            "x.inset:1:6\n    x = '?\n         ^\nSyntaxError: byte 0xe2 is not UTF-8 text here"},
        {"escape sequences are not echoed",
            BYTES("x = y # \x1b[31m \xc2\x9b \xe2\x80\xae \xe2\x82\xac\n"),
            "x.inset:1:5\n    x = y # ?[31m ? ? \xe2\x82\xac\n        ^\nNameError: name 'y' is "
            "not defined"},
        {"tabs between words", BYTES("x\t=\t1\nfor i in range(2):\n    x =\t[1,\n\t2]\n"), ""},
        {"columns count characters", BYTES("x = load('\xc3\xa4.npy') + 1\n"),
            "x.inset:1:19\n    x = load('\xc3\xa4.npy') + 1\n                      ^\nSyntaxError: "
            "expected the end of the line, found '+'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        reading r;
        if (!start(&r, "notebook")) continue;
        const char *got = message_of(&r, cases[i].text, cases[i].length);
        CHECK(!strcmp(got, cases[i].expected), "%s: got\n%s\nexpected\n%s", cases[i].name, got,
            cases[i].expected);
        finish(&r, cases[i].name);
    }
}

/* A script made of repeated pieces: before, `open` n times, middle, `close` n times, after. */
static char *repeated(const char *before, const char *open, const char *middle, const char *close,
    const char *after, size_t n)
{
    size_t size = strlen(before) + n * (strlen(open) + strlen(close)) + strlen(middle)
                  + strlen(after) + 1;
    char *made = malloc(size), *at = made;
    if (!made) return NULL;
    at = stpcpy(at, before);
    for (size_t i = 0; i < n; i++) at = stpcpy(at, open);
    at = stpcpy(at, middle);
    for (size_t i = 0; i < n; i++) at = stpcpy(at, close);
    stpcpy(at, after);
    return made;
}

typedef struct repeat_case {
    const char *name, *before, *open, *middle, *close, *after;
    size_t n;
    const char *last_line; /* of the message; "" when the script is taken */
} repeat_case;

static void deep_and_long(void)
{
    static const repeat_case cases[] = {
        {"200 brackets", "x = ", "(", "1", ")", "\n", 200, ""},
        {"201 brackets", "x = ", "(", "1", ")", "\n", 201,
            "SyntaxError: brackets nest more than 200 deep"},
        {"100000 brackets", "x = ", "(", "1", "", "\n", 100000,
            "SyntaxError: brackets nest more than 200 deep"},
        {"200 lists", "x = ", "[", "1", "]", "\n", 200, ""},
        {"brackets in brackets of an index",
            "with invoke([[1, 2, 3, 4, 5]]):\n    x = layer1.output[", "(", "0", ")", "]\n", 199,
            ""},
        {"100000 terms", "x = 1", " + 1", "", "", "\n", 100000, ""},
        {"100000 factors", "x = 1", " * 1", "", "", "\n", 100000, ""},
        {"100000 signs", "x = ", "-", "1", "", "\n", 100000, ""},
        {"100000 names", "x = 1\ny = 0", " + x", "", "", "\n", 100000, ""},
        {"100000 numbers", "x = [", "7, ", "", "", "]\n", 100000, ""},
        {"100000 lines", "", "x = 1\n", "", "", "", 100000, ""},
        {"a long name", "x = ", "a", "", "", "\n", 100000,
            "NameError: name 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' is not "
            "defined"},
        {"a long path", "with invoke([[1, 2, 3, 4, 5]]):\n    x = layer1", ".a", "", "", "\n",
            100000, "UnknownSiteError: layer1.a does not exist"},
        {"a long integer", "x = ", "9", "", "", "\n", 100000,
            "ValueError: an integer beyond 64 bits"},
        {"a long float", "x = 0.", "9", "", "", "\n", 100000, ""},
        {"a long string", "x = load('", "a", "", "", "')\n", 10000, NULL},
        {"a long line of blanks", "x =", " ", "y", "", "\n", 100000,
            "NameError: name 'y' is not defined"},
        {"many indices", "with invoke([[1, 2, 3, 4, 5]]):\n    x = layer1.output[0", ", 0", "", "",
            "]\n", 1000, NULL},
        {"many lists of one index", "with invoke([[1, 2, 3, 4, 5]]):\n    x = layer1.output[[0",
            ", 0", "", "", "]].save()\n", 10000, ""},
        {"many links", "with invoke([[1, 2, 3, 4, 5]]):\n    x = layer1.output", "[:]", "", "",
            "\n", 1000, ""},
        {"a million turns", "for i in range(1000):\n    for j in [0", ", 0", "", "",
            "]:\n        pass\n", 998, ""},
        {"more than a million turns", "for i in range(1000):\n    for j in [0", ", 0", "", "",
            "]:\n        pass\n", 999,
            "ValueError: the loops of a script may have 1000000 turns in all"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const repeat_case *c = &cases[i];
        reading r;
        if (!start(&r, "notebook")) continue;
        char *script = repeated(c->before, c->open, c->middle, c->close, c->after, c->n);
        const char *got = script ? message_of(&r, script, strlen(script)) : "",
                   *last = strrchr(got, '\n');
        last = last ? last + 1 : got;
        if (c->last_line) CHECK(!strcmp(last, c->last_line), "%s: got '%s'", c->name, last);
        CHECK(strlen(got) < 20000, "%s: a message of %zu bytes", c->name, strlen(got));
        free(script);
        finish(&r, c->name);
    }
}

/* Blocks in blocks, one space deeper each. */
static void deep_blocks(void)
{
    for (int depth = 199; depth <= 202; depth++) {
        char *script = malloc(64 * 1024), *at = script;
        for (int i = 0; i < depth; i++) at += sprintf(at, "%*sfor i in [0]:\n", i, "");
        sprintf(at, "%*spass\n", depth, "");
        reading r;
        if (start(&r, "notebook")) {
            const char *got = message_of(&r, script, strlen(script));
            CHECK((depth <= 200) == !*got, "%d blocks: %s", depth, got);
            if (*got)
                CHECK(strstr(got, "SyntaxError: blocks nest more than 200 deep"), "%d blocks: %s",
                    depth, got);
            finish(&r, "blocks");
        }
        free(script);
    }
}

/* ---- sites of the C API ------------------------------------------------- */

typedef struct site_case {
    const char *text, *site;
    size_t n_items;
    const char *message;
} site_case;

static void sites(void)
{
    static const site_case cases[] = {
        {"transformer.h[1].output", "transformer.h.1.output", 0, ""},
        {" transformer.h.2.mlp.inputs[:, -1] ", "transformer.h.2.mlp.input", 2, ""},
        {"transformer.h[-1].attn.z[..., [0, 2], 1:]", "transformer.h.2.attn.z", 3, ""},
        {"transformer.h[4 // 2 - 1].output", "transformer.h.1.output", 0, ""},
        {"output.logits[0]", "output.logits", 1, ""},
        {"transformer.h[9].output", NULL, 0,
            "    transformer.h[9].output\n                  ^\nUnknownSiteError: transformer.h[9] "
            "does not exist: transformer.h has 3 modules, 0 to 2"},
        {"transformer.h[n].output", NULL, 0,
            "    transformer.h[n].output\n                  ^\nNameError: name 'n' is not defined"},
        {"transformer.h[1]", NULL, 0, NULL},
        {"transformer.h[1].output[0][1]", NULL, 0,
            "    transformer.h[1].output[0][1]\n                           ^\nSyntaxError: a site "
            "has one index at its end"},
        {"lm_head.output.clone()", NULL, 0,
            "    lm_head.output.clone()\n                   ^\nSyntaxError: a site has one index "
            "at its end"},
        {"lm_head.output.save()", NULL, 0,
            "    lm_head.output.save()\n                   ^\nSyntaxError: a site ends before "
            ".save()"},
        {"lm_head.output = 3", NULL, 0,
            "    lm_head.output = 3\n                   ^\nSyntaxError: expected the end of the "
            "site, found '='"},
        {"lm_head.output[", NULL, 0, NULL},
        {"lm_head.output[1 / 2]", NULL, 0, NULL},
        {"", NULL, 0, "    \n    ^\nSyntaxError: expected a site, found the end of the script"},
        {"3", NULL, 0, NULL},
        {"somewhere", NULL, 0, NULL},
        {"somewhere[0]", NULL, 0, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const site_case *c = &cases[i];
        reading r;
        int32_t site;
        size_t n_items;
        index_item *items;
        char name[256] = "";
        if (!start(&r, "gpt2")) continue;
        inset_status status = script_parse_site(r.t, c->text, &site, &n_items, &items);
        if (!status) program_site_name(r.model, site, name, sizeof name);
        CHECK(!status == (c->site != NULL), "%s: %s", c->text, inset_message(r.w.context));
        if (c->site)
            CHECK(!strcmp(name, c->site) && n_items == c->n_items, "%s: %s with %zu items", c->text,
                name, n_items);
        else if (c->message)
            CHECK(!strcmp(inset_message(r.w.context), c->message), "%s: got\n%s", c->text,
                inset_message(r.w.context));
        finish(&r, c->text);
    }
}

static void items_of_a_site(void)
{
    reading r;
    int32_t site;
    size_t n;
    index_item *items;
    if (!start(&r, "gpt2")) return;
    inset_status status = script_parse_site(
        r.t, "transformer.h[0].attn.q[..., -2, :1:, 3::2, [4, -5, 3 * 2]]", &site, &n, &items);
    CHECK(!status && n == 5, "%zu items: %s", n, inset_message(r.w.context));
    if (!status && n == 5) {
        CHECK(items[0].kind == INDEX_ELLIPSIS, "ellipsis");
        CHECK(items[1].kind == INDEX_INTEGER && items[1].integer == -2, "integer");
        CHECK(items[2].kind == INDEX_SLICE && !items[2].has_start && items[2].has_stop
                  && items[2].stop == 1 && !items[2].has_step,
            "stop");
        CHECK(items[3].kind == INDEX_SLICE && items[3].start == 3 && !items[3].has_stop
                  && items[3].has_step && items[3].step == 2,
            "step");
        CHECK(items[4].kind == INDEX_LIST && items[4].list_length == 3 && items[4].list[0] == 4
                  && items[4].list[1] == -5 && items[4].list[2] == 6,
            "list");
    }
    finish(&r, "items");
}

/* ---- memory ------------------------------------------------------------- */

static const char everything[] =
    "tokens, w = [[1, 2, 3], [4, 5]], load('../fixtures/gpt2/model.safetensors', "
    "'transformer.wte.weight')\n"
    "score = zeros(3, 2)\n"
    "with invoke(tokens):\n"
    "    xs = []\n"
    "    for layer in range(3):\n"
    "        xs.append(transformer.h[layer].mlp.output[:, [0, 1]].save())\n"
    "        transformer.h[layer].output[:, 0] = xs[layer][:, 1] * 0.5 + w[0] - [1.5]\n"
    "    a, b = lm_head.output.clone(), lm_head.output.save()\n"
    "with invoke([1, 2]):\n"
    "    transformer.h[1].attn.skip(transformer.h.1.attn.input)\n"
    "    score[1, len(xs) - 2] += lm_head.output[0, -1, 3]\n"
    "    stop()\n"
    "with invoke([1, 2]):\n"
    "    y = transformer.h[0].output\n"
    "    y[:, 1] = y[:, 1] * 2 + b[0, 1, :28]\n"
    "    transformer.h[2].mlp.output = y * 1\n"
    "    m = lm_head.output[0, -1].logit_diff(3, 4)\n"
    "with (m * 0.5).backward():\n"
    "    y.grad[:, 0] = 0\n"
    "    g = y.grad.save()\n"
    "score.save()\n";

/* Fails the first allocation, the second, and so on, until the script is read. */
static void memory_runs_out(void)
{
    int64_t tried = 0;
    for (bool read = false; !read && tried < 5000;) {
        reading r;
        if (!start(&r, "gpt2")) return;
        r.w.memory.fail_at = r.w.memory.calls + ++tried;
        inset_status status = read_script(&r, "x.inset", everything, sizeof everything - 1);
        bool reached = r.w.memory.calls >= r.w.memory.fail_at;
        r.w.memory.fail_at = 0;
        if (!reached || status != INSET_NO_MEMORY) {
            CHECK(!status, "allocation %" PRId64 " failed: %s", tried, inset_message(r.w.context));
            CHECK(!reached || status == INSET_NO_MEMORY,
                "allocation %" PRId64 " failed and nobody said so", tried);
            read = true;
        }
        finish(&r, "memory");
    }
    CHECK(tried > 20, "%" PRId64 " allocations were tried", tried);
}

/* ... and a refusal whose message cannot be written in full is still the right refusal. */
static void memory_runs_out_for_a_message(void)
{
    static const char script[] = "with invoke([[1, 2, 3, 4, 5]]):\n    for i in range(3):\n        "
                                 "x = layer1.output[:, i + 20]\n";
    for (int n = 1; n < 200; n++) {
        reading r;
        if (!start(&r, "notebook")) return;
        r.w.memory.fail_at = r.w.memory.calls + n;
        inset_status status = read_script(&r, "x.inset", script, sizeof script - 1);
        r.w.memory.fail_at = 0;
        CHECK(status == INSET_INDEX_ERROR || status == INSET_NO_MEMORY, "allocation %d: %s", n,
            inset_message(r.w.context));
        finish(&r, "message");
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--write")) return write_refusals();
    refuses(NULL);
    same_records();
    differing_records_differ();
    odd_bytes();
    deep_and_long();
    deep_blocks();
    sites();
    items_of_a_site();
    memory_runs_out();
    memory_runs_out_for_a_message();
    return test_result();
}
