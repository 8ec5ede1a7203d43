/* test_properties.c: what must hold for any trace, on random traces of the gpt2 fixture; no
 * expected numbers.
 *
 *   self-set       a value set to itself changes no bit of anything
 *   more saves     saving a site changes no bit of anything else (nearly so on a device whose
 *                  products are not steady: device.h)
 *   again          a plan run twice gives the same bits
 *   sharing        on and off agree to 1e-5
 *   alone          a batch of independent invokes agrees with each invoke alone
 *   replacement    a set in place agrees with a changed clone put in its place, where nobody else
 *                  holds the value
 *   other tokens   run_set_tokens agrees with a fresh plan; tokens of another pattern are refused,
 *                  and do no harm
 *
 * A recipe says what a trace does, without building it, so that one recipe can be built in several
 * ways that must agree. Recipes come from a seed; a failure names the property and the seed.
 * test_properties [-d DEVICE] [SEED] runs one recipe alone. */
#include "test.h"

#include "base/base.h"
#include "plan/plan.h"
#include "run/model.h"
#include "run/run.h"
#include "trace/trace.h"

enum {
    LAYERS = 3,
    WIDTH = 28,
    VOCABULARY = 61,
    PLACES = 2 + LAYERS * 10 + 1,
    MAX_INVOKES = 4,
    MAX_ACTIONS = 6,
    MAX_LENGTH = 6,
    MAX_BATCH = 2,
    MAX_SAVES = 128,
    RECIPES = 40
};

/* ---- where things happen ------------------------------------------------ */

typedef struct place {
    char name[64];
    int width;
    /* the value at this site is read through this site alone, from here on */
    bool own;
} place;

static place places[PLACES]; /* in execution order */

static void name_places(void)
{
    static const struct {
        const char *name;
        int width;
        bool own;
    } in_block[10] = {
        {"input", WIDTH, true},
        {"ln_1.output", WIDTH, true},
        {"attn.c_attn.output", 3 * WIDTH, true},
        {"attn.c_proj.input", WIDTH, true},
        {"attn.output", WIDTH, true},
        {"ln_2.input", WIDTH, false},
        {"mlp.c_fc.output", 4 * WIDTH, true},
        {"mlp.act.output", 4 * WIDTH, true},
        {"mlp.output", WIDTH, true},
        {"output", WIDTH, true},
    };
    int n = 0;
    places[n++] = (place){"transformer.wte.output", WIDTH, true};
    places[n++] = (place){"transformer.drop.output", WIDTH, true};
    for (int layer = 0; layer < LAYERS; layer++)
        for (int i = 0; i < 10; i++, n++) {
            snprintf(places[n].name, sizeof places[n].name, "transformer.h[%d].%s", layer,
                in_block[i].name);
            places[n].width = in_block[i].width;
            places[n].own = in_block[i].own;
        }
    places[n] = (place){"transformer.ln_f.output", WIDTH, true};
}

/* ---- recipes ------------------------------------------------------------ */

typedef enum action_kind {
    /* save what the site holds: a clone, or the reference itself */
    READ,
    FILL,          /* site[:, p, a:b] op= number */
    COPY_POSITION, /* site[:, p] = site[:, q] */
    FROM_EARLIER,  /* site[:, p] op= a value read before, [:, q] */
    SCALE,         /* site = site * number + 0.5 */
    /* transformer.h[l].skip(its input * number): at a block's input only */
    SKIP_BLOCK
} action_kind;

typedef struct action {
    action_kind kind;
    int place, p, q, from, to, source; /* source: which of the values read before */
    trace_op op;
    double number;
    bool reference;
} action;

typedef struct recipe_invoke {
    int64_t tokens[MAX_BATCH * MAX_LENGTH];
    int length, n_actions;
    action actions[MAX_ACTIONS];
} recipe_invoke;

typedef struct recipe {
    uint64_t seed;
    int batch, n_invokes;
    bool independent; /* action.source counts within the invoke */
    recipe_invoke invokes[MAX_INVOKES];
} recipe;

typedef struct recipe_options {
    bool independent; /* no value of one invoke in another */
    bool clones_only; /* no reference to a value that a later action may change */
} recipe_options;

static int below(uint64_t *state, int n) { return (int)(test_random(state) % (uint64_t)n); }

static action random_action(
    uint64_t *state, const recipe_invoke *v, int at, int n_read, const recipe_options *options)
{
    static const trace_op ops[] = {
        TRACE_COPY, TRACE_COPY, TRACE_ADD, TRACE_SUBTRACT, TRACE_MULTIPLY};
    action a = {.place = at,
        .p = below(state, v->length),
        .q = below(state, v->length),
        .op = ops[below(state, 5)],
        .number = 0.25 * (below(state, 9) - 4)};
    a.from = below(state, places[at].width);
    a.to = a.from + 1 + below(state, places[at].width - a.from);
    a.kind = (action_kind)below(state, 5);
    a.reference = !options->clones_only && below(state, 3) == 0;
    a.source = n_read ? below(state, n_read) : 0;
    if (a.kind == FROM_EARLIER && (!n_read || places[at].width != WIDTH)) a.kind = FILL;
    if (at >= 2 && (at - 2) % 10 == 0 && at < PLACES - 1 && below(state, 4) == 0)
        a.kind = SKIP_BLOCK;
    if (a.kind == READ && places[at].width != WIDTH) a.reference = false;
    return a;
}

static recipe random_recipe(uint64_t seed, const recipe_options *options)
{
    uint64_t state = seed * 1000003;
    recipe r = {.seed = seed,
        .batch = 1 + below(&state, MAX_BATCH),
        .n_invokes = 1 + below(&state, MAX_INVOKES),
        .independent = options->independent};
    int n_read = 0;
    for (int i = 0; i < r.n_invokes; i++) {
        recipe_invoke *v = &r.invokes[i];
        v->length = 2 + below(&state, MAX_LENGTH - 1);
        bool like_before = i && below(&state, 3);
        if (like_before) *v = r.invokes[i - 1];
        int n = r.batch * v->length;
        for (int k = 0; k < n; k++)
            if (!like_before || k % v->length >= v->length - below(&state, 2))
                v->tokens[k] = below(&state, VOCABULARY);
        v->n_actions = 0;
        if (options->independent) n_read = 0;
        for (int at = below(&state, 6); at < PLACES && v->n_actions < MAX_ACTIONS;
             at += below(&state, 9)) {
            action a = random_action(&state, v, at, n_read, options);
            v->actions[v->n_actions++] = a;
            if (a.kind == READ && places[at].width == WIDTH) n_read++;
            if (a.kind == SKIP_BLOCK) at += 9;
        }
    }
    return r;
}

/* ---- building a recipe's trace ------------------------------------------ */

typedef struct variant {
    bool self_sets, more_saves, as_replacement;
    int only;            /* this invoke alone, or -1 */
    int64_t token_shift; /* added to every token, modulo the vocabulary */
} variant;

typedef struct builder {
    trace *t;
    const recipe *r;
    variant variant;
    operand read[MAX_INVOKES * MAX_ACTIONS];
    int read_length[MAX_INVOKES * MAX_ACTIONS];
    int n_read, n_extra;
    uint64_t state;
} builder;

static index_item all(void) { return (index_item){.kind = INDEX_SLICE}; }
static index_item at(int64_t i) { return (index_item){.kind = INDEX_INTEGER, .integer = i}; }
static index_item cut(int64_t from, int64_t to)
{
    return (index_item){
        .kind = INDEX_SLICE, .has_start = true, .start = from, .has_stop = true, .stop = to};
}
static index_item dots(void) { return (index_item){.kind = INDEX_ELLIPSIS}; }
static operand number(double x) { return (operand){.kind = OPERAND_FLOAT, .number = x}; }

static int32_t find(const trace *t, const char *name)
{
    int32_t site = -1;
    program_find_site(trace_program(t), name, strlen(name), &site);
    return site;
}

/* target[items] op= source; as a changed clone in the site's place where the variant wants that. */
static inset_status set(builder *b, const place *where, const operand *target, size_t n,
    const index_item *items, trace_op op, const operand *source)
{
    if (!b->variant.as_replacement || !where->own)
        return trace_set(b->t, target, n, items, op, source);
    operand copy;
    inset_status status = trace_clone(b->t, target, &copy);
    if (!status) status = trace_set(b->t, &copy, n, items, op, source);
    if (!status) status = trace_replace(b->t, find(b->t, where->name), &copy);
    return status;
}

static inset_status self_set(builder *b, const action *a, const operand *value)
{
    operand part;
    index_item row[] = {all(), at(a->p)}, columns[] = {all(), at(a->p), cut(a->from, a->to)},
               whole[] = {dots()};
    inset_status status;
    switch (below(&b->state, 4)) {
    case 0: return trace_set(b->t, value, 1, whole, TRACE_COPY, value);
    case 1:
        status = trace_index(b->t, value, 2, row, &part);
        return status ? status : trace_set(b->t, value, 2, row, TRACE_COPY, &part);
    case 2:
        status = trace_index(b->t, value, 3, columns, &part);
        return status ? status : trace_set(b->t, value, 3, columns, TRACE_COPY, &part);
    default: return trace_replace(b->t, find(b->t, places[a->place].name), value);
    }
}

static inset_status read_site(
    builder *b, const recipe_invoke *v, const char *name, const action *a, const operand *value)
{
    operand kept = *value;
    inset_status status = a->reference ? INSET_OK : trace_clone(b->t, value, &kept);
    if (!status) status = trace_save(b->t, name, &kept);
    if (!status && places[a->place].width == WIDTH) {
        b->read_length[b->n_read] = v->length;
        b->read[b->n_read++] = kept;
    }
    return status;
}

static inset_status from_earlier(builder *b, const action *a, const operand *value)
{
    operand source;
    index_item row[] = {all(), at(a->q % b->read_length[a->source])},
               place_of[] = {all(), at(a->p)};
    inset_status status = trace_index(b->t, &b->read[a->source], 2, row, &source);
    return status ? status : set(b, &places[a->place], value, 2, place_of, a->op, &source);
}

static inset_status skip_block(builder *b, const action *a, const operand *value)
{
    operand factor = number(a->number), output;
    int32_t module = -1;
    char path[64];
    snprintf(path, sizeof path, "transformer.h[%d]", (a->place - 2) / 10);
    inset_status status = trace_binary(b->t, TRACE_MULTIPLY, value, &factor, &output);
    if (!status) status = program_find_module(trace_program(b->t), path, strlen(path), &module);
    return status ? status : trace_skip(b->t, module, &output);
}

static inset_status act(builder *b, const recipe_invoke *v, const char *name, const action *a)
{
    operand value, other, factor = number(a->number), half = number(0.5);
    index_item columns[] = {all(), at(a->p), cut(a->from, a->to)}, to[] = {all(), at(a->p)},
               from[] = {all(), at(a->q)};
    const place *where = &places[a->place];
    inset_status status = trace_site(b->t, find(b->t, where->name), &value);
    if (!status && b->variant.self_sets && below(&b->state, 2)) status = self_set(b, a, &value);
    if (status) return status;
    switch (a->kind) {
    case READ: return read_site(b, v, name, a, &value);
    case FILL: return set(b, where, &value, 3, columns, a->op, &factor);
    case COPY_POSITION:
        status = trace_index(b->t, &value, 2, from, &other);
        return status ? status : set(b, where, &value, 2, to, TRACE_COPY, &other);
    case FROM_EARLIER: return from_earlier(b, a, &value);
    case SCALE:
        if (!(status = trace_binary(b->t, TRACE_MULTIPLY, &value, &factor, &other)))
            status = trace_binary(b->t, TRACE_ADD, &other, &half, &other);
        return status ? status : trace_replace(b->t, find(b->t, where->name), &other);
    case SKIP_BLOCK: return skip_block(b, a, &value);
    }
    return INSET_USAGE_ERROR;
}

/* A save between the actions, where the trace is at the moment. */
static inset_status extra_save(builder *b, const action *a)
{
    char name[32];
    operand value;
    snprintf(name, sizeof name, "extra%d", b->n_extra++);
    inset_status status = trace_site(b->t, find(b->t, places[a->place].name), &value);
    return status ? status : trace_save(b->t, name, &value);
}

static int64_t shifted(const variant *v, int64_t token)
{
    return (token + v->token_shift) % VOCABULARY;
}

static inset_status build_invoke(builder *b, int i)
{
    const recipe_invoke *v = &b->r->invokes[i];
    int64_t lengths[MAX_BATCH] = {v->length, v->length}, tokens[MAX_BATCH * MAX_LENGTH];
    char name[32];
    operand logits;
    index_item last[] = {all(), at(-1)};
    for (int k = 0; k < b->r->batch * v->length; k++)
        tokens[k] = shifted(&b->variant, v->tokens[k]);
    if (b->r->independent) b->n_read = 0;
    inset_status status = trace_invoke_tokens(b->t, b->r->batch, lengths, tokens);
    for (int k = 0; !status && k < v->n_actions; k++) {
        snprintf(name, sizeof name, "s%d_%d", i, k);
        if (b->variant.more_saves && v->actions[k].kind != SKIP_BLOCK && below(&b->state, 2))
            status = extra_save(b, &v->actions[k]);
        if (!status) status = act(b, v, name, &v->actions[k]);
    }
    snprintf(name, sizeof name, "logits%d", i);
    if (!status) status = trace_site(b->t, find(b->t, "lm_head.output"), &logits);
    if (!status) status = trace_index(b->t, &logits, 2, last, &logits);
    if (!status) status = trace_save(b->t, name, &logits);
    return status;
}

static inset_status build(
    inset_context *context, struct inset_model *model, const recipe *r, variant how, trace **out)
{
    static builder b; /* large */
    b = (builder){.r = r, .variant = how, .state = r->seed};
    inset_status status = trace_create(context, model->program, model->type, &b.t);
    for (int i = 0; !status && i < r->n_invokes; i++)
        if (how.only < 0 || how.only == i) status = build_invoke(&b, i);
    *out = b.t;
    return status;
}

/* ---- running and comparing ---------------------------------------------- */

typedef struct outcome {
    int n;
    struct {
        char name[32];
        inset_tensor tensor;
        size_t bytes;
    } saved[MAX_SAVES];
} outcome;

static void outcome_free(outcome *o)
{
    for (int i = 0; i < o->n; i++) free((void *)o->saved[i].tensor.data);
    o->n = 0;
}

static inset_status collect(plan *p, run *work, outcome *o)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; !status && i < plan_saved_count(p) && o->n < MAX_SAVES; i++) {
        inset_tensor *tensor = &o->saved[o->n].tensor;
        if ((status = run_saved(work, i, tensor))) break;
        size_t bytes = type_size(tensor->type);
        for (int d = 0; d < tensor->n_dimensions; d++) bytes *= (size_t)tensor->shape[d];
        void *copy = malloc(bytes ? bytes : 1);
        if (!copy) return INSET_NO_MEMORY;
        memcpy(copy, tensor->data, bytes);
        tensor->data = copy;
        o->saved[o->n].bytes = bytes;
        snprintf(o->saved[o->n].name, sizeof o->saved[0].name, "%s", plan_saved_name(p, i));
        o->n++;
    }
    return status;
}

/* Every value of `want` is in `got`, with the same bits (tolerance 0) or nearly so. */
static void agree(const char *property, const recipe *r, const outcome *got, const outcome *want,
    double tolerance)
{
    for (int i = 0; i < want->n; i++) {
        int k = 0;
        while (k < got->n && strcmp(got->saved[k].name, want->saved[i].name)) k++;
        NEED(k < got->n, "%s, seed %llu: %s is missing", property, (unsigned long long)r->seed,
            want->saved[i].name);
        NEED(got->saved[k].bytes == want->saved[i].bytes, "%s, seed %llu: %s has another size",
            property, (unsigned long long)r->seed, want->saved[i].name);
        const float *a = got->saved[k].tensor.data, *b = want->saved[i].tensor.data;
        size_t n = want->saved[i].bytes / sizeof *a;
        if (tolerance == 0) {
            CHECK(!memcmp(a, b, want->saved[i].bytes), "%s, seed %llu: %s has other bits", property,
                (unsigned long long)r->seed, want->saved[i].name);
            continue;
        }
        double error = 0, norm = 0;
        for (size_t e = 0; e < n; e++) {
            error += ((double)a[e] - b[e]) * ((double)a[e] - b[e]);
            norm += (double)b[e] * b[e];
        }
        CHECK(sqrt(error) <= tolerance * sqrt(norm) + 1e-7 * sqrt((double)n),
            "%s, seed %llu: %s differs by %.3g", property, (unsigned long long)r->seed,
            want->saved[i].name, sqrt(error / norm));
    }
}

typedef struct bench {
    inset_context *context;
    struct inset_model *model;
} bench;

/* Builds, plans and runs; with `again` the plan runs a second time, into it. False when something
 * fails, which is reported. */
static bool measure(bench *b, const char *property, const recipe *r, variant how, bool no_share,
    outcome *out, outcome *again)
{
    trace *t = NULL;
    plan *p = NULL;
    run *work = NULL;
    plan_options options = {.no_share = no_share, .traits = model_traits(b->model)};
    inset_status status = build(b->context, b->model, r, how, &t);
    if (!status) status = plan_create(t, &options, &p);
    if (!status) status = run_create(b->model, p, &work);
    if (!status) status = run_execute(work);
    if (!status) status = collect(p, work, out);
    if (!status && again) status = run_execute(work);
    if (!status && again) status = collect(p, work, again);
    CHECK(!status, "%s, seed %llu: %s", property, (unsigned long long)r->seed,
        inset_message(b->context));
    run_free(work);
    plan_free(p);
    trace_free(t);
    return !status;
}

static const variant plain = {.only = -1};

/* ---- the properties ----------------------------------------------------- */

static void self_sets_and_saves(bench *b, uint64_t seed)
{
    recipe_options any = {.independent = false};
    recipe r = random_recipe(seed, &any);
    outcome base = {0}, again = {0}, other = {0};
    variant with_self_sets = {.only = -1, .self_sets = true},
            with_saves = {.only = -1, .more_saves = true};
    if (measure(b, "plain", &r, plain, false, &base, &again)) {
        agree("again", &r, &again, &base, 0);
        if (measure(b, "self-set", &r, with_self_sets, false, &other, NULL))
            agree("self-set", &r, &other, &base, 0);
        outcome_free(&other);
        if (measure(b, "more saves", &r, with_saves, false, &other, NULL))
            agree("more saves", &r, &other, &base, b->model->device->steady ? 0 : 1e-5);
        outcome_free(&other);
        if (measure(b, "sharing", &r, plain, true, &other, NULL))
            agree("sharing", &r, &other, &base, 1e-5);
    }
    outcome_free(&base);
    outcome_free(&again);
    outcome_free(&other);
}

static void each_alone(bench *b, uint64_t seed)
{
    recipe_options options = {.independent = true};
    recipe r = random_recipe(seed, &options);
    outcome together = {0}, alone = {0};
    if (measure(b, "together", &r, plain, false, &together, NULL))
        for (int i = 0; i < r.n_invokes; i++) {
            variant one = {.only = i};
            if (measure(b, "alone", &r, one, false, &alone, NULL))
                agree("alone", &r, &together, &alone, 1e-5);
            outcome_free(&alone);
        }
    outcome_free(&together);
}

static void replaced(bench *b, uint64_t seed)
{
    recipe_options options = {.clones_only = true};
    recipe r = random_recipe(seed, &options);
    outcome in_place = {0}, replacement = {0};
    variant how = {.only = -1, .as_replacement = true};
    if (measure(b, "in place", &r, plain, false, &in_place, NULL)
        && measure(b, "replacement", &r, how, false, &replacement, NULL))
        agree("replacement", &r, &replacement, &in_place, 1e-5);
    outcome_free(&in_place);
    outcome_free(&replacement);
}

static inset_status set_tokens(run *work, const recipe *r, const variant *how)
{
    inset_status status = INSET_OK;
    for (int i = 0; !status && i < r->n_invokes; i++) {
        const recipe_invoke *v = &r->invokes[i];
        int64_t tokens[MAX_BATCH * MAX_LENGTH];
        int n = r->batch * v->length;
        for (int k = 0; k < n; k++) tokens[k] = shifted(how, v->tokens[k]);
        status = run_set_tokens(work, i, tokens, n);
    }
    return status;
}

/* Makes one of two sequences that begin with one token begin with another: false when no two do. */
static bool break_pattern(run *work, const recipe *r, const variant *how)
{
    for (int i = 1; i < r->n_invokes; i++) {
        const recipe_invoke *v = &r->invokes[i];
        int64_t tokens[MAX_BATCH * MAX_LENGTH];
        if (v->tokens[0] != r->invokes[0].tokens[0]) continue;
        for (int k = 0; k < r->batch * v->length; k++) tokens[k] = shifted(how, v->tokens[k]);
        tokens[0] = (tokens[0] + 1) % VOCABULARY;
        return !run_set_tokens(work, i, tokens, r->batch * v->length);
    }
    return false;
}

/* Another token for each token keeps what is equal equal and what differs different. */
static void other_tokens(bench *b, uint64_t seed)
{
    recipe_options any = {.independent = false};
    recipe r = random_recipe(seed, &any);
    outcome fresh = {0}, moved = {0}, mended = {0};
    variant how = {.only = -1, .token_shift = 7};
    trace *t = NULL;
    plan *p = NULL;
    run *work = NULL;
    inset_status status = build(b->context, b->model, &r, plain, &t);
    const plan_options options = {.traits = model_traits(b->model)};
    if (!status) status = plan_create(t, &options, &p);
    if (!status) status = run_create(b->model, p, &work);
    if (!status) status = run_execute(work);
    if (!status) status = set_tokens(work, &r, &how);
    if (!status) status = run_execute(work);
    if (!status) status = collect(p, work, &moved);
    CHECK(!status, "other tokens, seed %llu: %s", (unsigned long long)r.seed,
        inset_message(b->context));
    if (!status && measure(b, "other tokens", &r, how, false, &fresh, NULL)) {
        agree("other tokens", &r, &moved, &fresh, 0);
        if (break_pattern(work, &r, &how)) {
            status = run_execute(work);
            CHECK(status == INSET_VALUE_ERROR, "another pattern, seed %llu: %s",
                (unsigned long long)r.seed, inset_status_name(status));
            status = set_tokens(work, &r, &how);
            if (!status) status = run_execute(work);
            if (!status) status = collect(p, work, &mended);
            CHECK(!status, "pattern mended, seed %llu: %s", (unsigned long long)r.seed,
                inset_message(b->context));
            if (!status) agree("pattern mended", &r, &mended, &fresh, 0);
        }
    }
    outcome_free(&fresh);
    outcome_free(&moved);
    outcome_free(&mended);
    run_free(work);
    plan_free(p);
    trace_free(t);
}

int main(int argc, char **argv)
{
    const char *device = getenv("INSET_TEST_DEVICE");
    uint64_t first = 1, last = RECIPES;
    bench b = {NULL, NULL};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-d") && i + 1 < argc) device = argv[++i];
        else first = last = strtoull(argv[i], NULL, 10);
    }
    if (!device) device = "cpu";
    name_places();
    if (!CHECK(!inset_context_create(NULL, &b.context), "no context")) return test_result();
    inset_status status = model_open(
        b.context, "fixtures/gpt2", device, INSET_TYPE_COUNT, false, false, 0, &b.model);
    if (status == INSET_DEVICE_ERROR && strcmp(device, "cpu")) {
        fprintf(stderr, "%s\n", inset_message(b.context));
        inset_context_free(b.context);
        return TEST_SKIP;
    }
    CHECK(!status, "%s", inset_message(b.context));
    for (uint64_t seed = first; !status && seed <= last; seed++) {
        self_sets_and_saves(&b, seed);
        each_alone(&b, seed);
        replaced(&b, seed);
        other_tokens(&b, seed);
    }
    model_free(b.model);
    inset_context_free(b.context);
    return test_result();
}
