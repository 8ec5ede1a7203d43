/* test_items.c: sites by number and indices item by item say what the same texts say: random lines
 * are recorded both ways, and the two traces save the same numbers or are refused alike. */
#include <string.h>

#include "inset.h"
#include "test.h"

enum { LINES = 4, MOST_ITEMS = 5 };

/* An index both ways. */
typedef struct both {
    char text[160];
    inset_index_item items[MOST_ITEMS];
    size_t n;
    int64_t lists[MOST_ITEMS][3];
} both;

static int64_t small(uint64_t *state) { return (int64_t)(test_random(state) % 9) - 4; }

static void add_item(both *b, uint64_t *state)
{
    inset_index_item *i = &b->items[b->n];
    char *to = b->text + strlen(b->text);
    const size_t room = sizeof b->text - strlen(b->text);
    *i = (inset_index_item){.kind = (inset_index_kind)(test_random(state) % 5)};
    if (i->kind == INSET_ELLIPSIS && test_random(state) % 2) i->kind = INSET_SLICE;
    switch (i->kind) {
    case INSET_AT: snprintf(to, room, "%lld", (long long)(i->at = small(state))); break;
    case INSET_ELLIPSIS: snprintf(to, room, "..."); break;
    case INSET_NEW: snprintf(to, room, "None"); break;
    case INSET_SLICE:
        if ((i->has_start = test_random(state) % 2)) i->start = small(state);
        if ((i->has_stop = test_random(state) % 2)) i->stop = small(state);
        if ((i->has_step = test_random(state) % 3 == 0)) i->step = 1 + small(state) % 3;
        if (i->has_start) to += sprintf(to, "%lld", (long long)i->start);
        to += sprintf(to, ":");
        if (i->has_stop) to += sprintf(to, "%lld", (long long)i->stop);
        if (i->has_step) sprintf(to, ":%lld", (long long)i->step);
        break;
    case INSET_LIST:
        i->count = 1 + test_random(state) % 3;
        i->list = b->lists[b->n];
        for (size_t k = 0; k < i->count; k++) {
            b->lists[b->n][k] = small(state);
            to += sprintf(to, "%s%lld", k ? ", " : "[", (long long)b->lists[b->n][k]);
        }
        sprintf(to, "]");
        break;
    }
    b->n++;
}

static void make_index(both *b, uint64_t *state)
{
    const size_t n = 1 + test_random(state) % 4;
    b->n = 0;
    strcpy(b->text, "[");
    while (b->n < n) {
        if (b->n) strcat(b->text, ", ");
        add_item(b, state);
    }
    strcat(b->text, "]");
}

/* One trace of the lines that `seed` makes. Statuses of all its calls, and what it saves. */
static int record(inset_model *model, uint64_t seed, bool by_text, inset_status *statuses,
    inset_plan **plan, inset_trace **trace)
{
    static const int64_t length = 5, tokens[] = {3, 7, 1, 9, 4};
    uint64_t state = seed;
    int n = 0;
    inset_value *value, *part, *number;
    *plan = NULL;
    if (inset_trace_create(model, trace)) return 0;
    statuses[n++] = inset_invoke_tokens(*trace, 1, &length, tokens);
    size_t at = 0;
    for (int line = 0; line < LINES; line++) {
        inset_site site;
        both b;
        at += 1 + test_random(&state) % 9;
        if (at >= inset_site_count(model) || inset_site_at(model, at, &site)) break;
        make_index(&b, &state);
        inset_status status = by_text ? inset_get(*trace, site.path, &value)
                                      : inset_get_site(*trace, at, &value);
        statuses[n++] = status;
        if (status || inset_number(*trace, small(&state), &number)) continue;
        statuses[n++] = by_text ? inset_set_value(value, b.text, number)
                                : inset_set_items(value, b.n, b.items, number);
        status = by_text ? inset_index(value, b.text, &part)
                         : inset_index_items(value, b.n, b.items, &part);
        statuses[n++] = status;
        char name[16];
        snprintf(name, sizeof name, "v%d", line);
        if (!status) statuses[n++] = inset_save(*trace, name, part);
        if (test_random(&state) % 3 == 0)
            statuses[n++] = by_text ? inset_set(*trace, site.path, value)
                                    : inset_set_site(*trace, at, value);
    }
    statuses[n++] = inset_plan_create(*trace, NULL, plan);
    if (*plan) statuses[n++] = inset_run(*plan);
    return n;
}

static void the_same(inset_context *context, inset_model *model, uint64_t seed)
{
    inset_status a[64], b[64];
    inset_plan *plans[2];
    inset_trace *traces[2];
    const int n = record(model, seed, true, a, &plans[0], &traces[0]),
              m = record(model, seed, false, b, &plans[1], &traces[1]);
    CHECK(n == m, "seed %d: %d calls by text, %d by items", (int)seed, n, m);
    for (int i = 0; i < n && i < m; i++)
        CHECK(a[i] == b[i], "seed %d: call %d: %s by text, %s by items (%s)", (int)seed, i,
            inset_status_name(a[i]), inset_status_name(b[i]), inset_message(context));
    for (size_t i = 0; plans[0] && plans[1] && i < inset_saved_count(plans[0]); i++) {
        inset_tensor x, y;
        if (!CHECK(!inset_saved_at(plans[0], i, NULL, &x) && !inset_saved_at(plans[1], i, NULL, &y),
                "seed %d: nothing was saved", (int)seed))
            continue;
        const size_t bytes = (size_t)inset_tensor_count(&x) * inset_type_size(x.type);
        CHECK(x.n_dimensions == y.n_dimensions && !memcmp(x.shape, y.shape, sizeof x.shape)
                  && !memcmp(x.data, y.data, bytes),
            "seed %d: value %d differs", (int)seed, (int)i);
    }
    inset_trace_free(traces[0]);
    inset_trace_free(traces[1]);
}

static void refused(inset_context *context, inset_model *model)
{
    inset_trace *trace;
    inset_value *x, *y;
    const inset_index_item list = {.kind = INSET_LIST, .count = 2},
                           none = {.kind = (inset_index_kind)9};
    if (!CHECK(!inset_trace_create(model, &trace), "%s", inset_message(context))) return;
    CHECK(inset_get_site(NULL, 0, &x) == INSET_USAGE_ERROR, "no trace");
    CHECK(!inset_invoke_tokens(trace, 1, (int64_t[]){2}, (int64_t[]){1, 2}), "an invoke");
    CHECK(inset_get_site(trace, 0, NULL) == INSET_USAGE_ERROR, "no place");
    CHECK(inset_get_site(trace, 100000, &x) == INSET_INDEX_ERROR, "no such site");
    CHECK(!inset_get_site(trace, 0, &x), "%s", inset_message(context));
    CHECK(inset_index_items(x, 1, NULL, &y) == INSET_USAGE_ERROR, "no items");
    CHECK(inset_index_items(x, 1, &list, &y) == INSET_USAGE_ERROR, "a list without numbers");
    CHECK(inset_index_items(x, 1, &none, &y) == INSET_USAGE_ERROR, "no kind");
    CHECK(inset_index_items(NULL, 0, NULL, &y) == INSET_USAGE_ERROR, "no value");
    CHECK(inset_set_items(NULL, 0, NULL, x) == INSET_USAGE_ERROR, "no target");
    CHECK(inset_set_site(trace, 1, NULL) == INSET_USAGE_ERROR, "no source");
    CHECK(inset_set_site(NULL, 1, x) == INSET_USAGE_ERROR, "no trace to set in");
    CHECK(!inset_index_items(x, 0, NULL, &y), "an index of nothing: %s", inset_message(context));
    inset_trace_free(trace);
}

/* Metrics of two invokes, added between them and gone back from. */
static void reopened(inset_context *context, inset_model *model)
{
    inset_trace *trace;
    inset_plan *plan;
    inset_value *row, *x, *part, *m[2], *sum, *g;
    inset_tensor alone[2], both_at_once;
    if (!CHECK(!inset_trace_create(model, &trace), "%s", inset_message(context))) return;
    CHECK(!inset_invoke_reopen(trace), "nothing to reopen");
    for (int i = 0; i < 2; i++) {
        const int64_t tokens[] = {3, 7 + i, 1};
        CHECK(!inset_invoke_tokens(trace, 1, (int64_t[]){3}, tokens)
                  && (i
                      || (!inset_get(trace, "transformer.h[0].output", &x)
                          && !inset_index(x, "[:, 1]", &part)))
                  && (!i || !inset_set(trace, "transformer.h[0].output[:, 1]", part))
                  && !inset_get(trace, "output.logits[0, -1]", &row)
                  && !inset_metric(row, INSET_LOGIT, 1, (int64_t[]){5}, 0, NULL, NULL, &m[i])
                  && !inset_save(trace, i ? "b" : "a", m[i]),
            "%s", inset_message(context));
    }
    CHECK(!inset_invoke_end(trace), "%s", inset_message(context));
    CHECK(inset_arithmetic(m[0], INSET_ADD, m[1], &sum) == INSET_SYNTAX_ERROR, "outside an invoke");
    CHECK(!inset_invoke_reopen(trace) && !inset_arithmetic(m[0], INSET_ADD, m[1], &sum)
              && !inset_save(trace, "sum", sum) && !inset_backward(trace, sum)
              && !inset_gradient(trace, x, &g) && !inset_save(trace, "g", g)
              && !inset_invoke_end(trace) && !inset_plan_create(trace, NULL, &plan)
              && !inset_run(plan) && !inset_saved(plan, "a", &alone[0])
              && !inset_saved(plan, "b", &alone[1]) && !inset_saved(plan, "sum", &both_at_once),
        "%s", inset_message(context));
    const float apart = *(const float *)alone[0].data + *(const float *)alone[1].data
                        - *(const float *)both_at_once.data;
    CHECK(apart == 0, "the sum of the metrics is %g apart", (double)apart);
    inset_trace_free(trace);
}

int main(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    if (!CHECK(!inset_context_create(NULL, &context)
                   && !inset_model_open(context, "fixtures/gpt2", &options, &model),
            "%s", context ? inset_message(context) : "no context"))
        return test_result();
    for (uint64_t seed = 1; seed <= 1500; seed++) the_same(context, model, seed);
    refused(context, model);
    reopened(context, model);
    inset_context_free(context);
    return test_result();
}
