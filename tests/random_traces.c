/* random_traces.c: see random_traces.h. */
#include "random_traces.h"

#include "file/file.h"
#include "models/models.h"
#include "test.h"

/* ---- models ------------------------------------------------------------- */

const char *const tiny_models[] = {"gpt2", "llama", "neox", "neox_serial", "gemma2", "qwen3",
    "olmo2", "phi3", "sequential", "qwen3_ungrouped", "bert", NULL};

static const char *const configs[] = {
    "{\"model_type\": \"gpt2\", \"n_embd\": 12, \"n_head\": 3, \"n_layer\": 3, \"n_positions\": "
    "16, \"vocab_size\": 17, \"n_inner\": 20}",
    "{\"model_type\": \"llama\", \"hidden_size\": 12, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"head_dim\": 4, \"num_hidden_layers\": 3, "
    "\"intermediate_size\": 18, \"max_position_embeddings\": 16, \"vocab_size\": 17, "
    "\"tie_word_embeddings\": false}",
    "{\"model_type\": \"gpt_neox\", \"hidden_size\": 16, \"num_attention_heads\": 2, "
    "\"num_hidden_layers\": 3, \"intermediate_size\": 20, "
    "\"max_position_embeddings\": 16, \"vocab_size\": 17, \"tie_word_embeddings\": false}",
    "{\"model_type\": \"gpt_neox\", \"hidden_size\": 16, \"num_attention_heads\": 2, "
    "\"num_hidden_layers\": 3, \"intermediate_size\": 20, "
    "\"max_position_embeddings\": 16, \"vocab_size\": 17, \"use_parallel_residual\": false}",
    "{\"model_type\": \"gemma2\", \"hidden_size\": 12, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"head_dim\": 4, \"num_hidden_layers\": 3, "
    "\"intermediate_size\": 18, \"max_position_embeddings\": 16, \"vocab_size\": 17, "
    "\"sliding_window\": 3, \"query_pre_attn_scalar\": 5, "
    "\"attn_logit_softcapping\": 2.0, \"final_logit_softcapping\": 3.0}",
    "{\"model_type\": \"qwen3\", \"hidden_size\": 12, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"head_dim\": 4, \"num_hidden_layers\": 3, "
    "\"intermediate_size\": 18, \"max_position_embeddings\": 16, \"vocab_size\": 17}",
    "{\"model_type\": \"olmo2\", \"hidden_size\": 12, \"num_attention_heads\": 3, "
    "\"num_hidden_layers\": 3, "
    "\"intermediate_size\": 18, \"max_position_embeddings\": 16, \"vocab_size\": 17}",
    "{\"model_type\": \"phi3\", \"hidden_size\": 12, \"num_attention_heads\": 3, "
    "\"num_hidden_layers\": 3, "
    "\"intermediate_size\": 18, \"max_position_embeddings\": 16, "
    "\"original_max_position_embeddings\": 16, \"vocab_size\": 17, \"pad_token_id\": 0}",
    "{\"model_type\": \"sequential\", \"layers\": [{\"name\": \"one\", \"type\": \"linear\", "
    "\"in\": 5, \"out\": 9, \"bias\": true}, "
    "{\"name\": \"relu\", \"type\": \"relu\"}, {\"name\": \"norm\", \"type\": \"layernorm\", "
    "\"in\": 9}, "
    "{\"name\": \"two\", \"type\": \"linear\", \"in\": 9, \"out\": 9, \"bias\": false}, {\"name\": "
    "\"gelu\", \"type\": \"gelu\"}, "
    "{\"name\": \"three\", \"type\": \"linear\", \"in\": 9, \"out\": 9, \"bias\": true}, "
    "{\"name\": \"tanh\", \"type\": \"tanh\"}, "
    "{\"name\": \"out\", \"type\": \"linear\", \"in\": 9, \"out\": 4, \"bias\": true}]}",
    "{\"model_type\": \"qwen3\", \"hidden_size\": 12, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"head_dim\": 4, \"num_hidden_layers\": 3, "
    "\"intermediate_size\": 18, \"max_position_embeddings\": 16, \"vocab_size\": 17}",
    "{\"model_type\": \"bert\", \"hidden_size\": 12, \"num_attention_heads\": 3, "
    "\"num_hidden_layers\": 3, \"intermediate_size\": 18, \"max_position_embeddings\": 16, "
    "\"vocab_size\": 17}",
};

static size_t weight_size(const weight *w) { return (size_t)w->rows * (size_t)w->columns; }

static float random_weight(const weight *w, uint64_t *state)
{
    size_t n = strlen(w->name);
    double x = test_uniform(state);
    if (w->role == WEIGHT_MATRIX)
        return (float)(x * sqrt(3.0 / (w->in_out ? w->rows : w->columns)));
    if (w->role == WEIGHT_TABLE) return (float)(1.5 * x);
    if (n >= 4 && !strcmp(w->name + n - 4, "bias")) return (float)(0.3 * x);
    return (float)(1 + 0.4 * x);
}

static void fill_weights(program *g, uint64_t seed, float *numbers)
{
    for (size_t i = 0; i < g->n_weights; i++) {
        weight *w = &g->weights[i];
        if (w->same_as >= 0) continue;
        w->data = numbers;
        w->data_type = INSET_F32;
        for (size_t k = 0; k < weight_size(w); k++) *numbers++ = random_weight(w, &seed);
    }
}

inset_status tiny_model(inset_context *context, const char *name, const char *device, uint64_t seed,
    struct inset_model **out, void **numbers)
{
    json_document *document = NULL;
    program *g = NULL;
    size_t at = 0, n = 1;
    *out = NULL;
    *numbers = NULL;
    while (tiny_models[at] && strcmp(tiny_models[at], name)) at++;
    if (!tiny_models[at])
        return error_set(context, INSET_VALUE_ERROR, "no tiny model is called %s", name);
    inset_status status = json_parse(context, name, configs[at], strlen(configs[at]), &document);
    if (!status) status = models_build(context, document, strstr(name, "_ungrouped") != NULL, &g);
    json_close(document);
    if (status) return status;
    for (size_t i = 0; i < g->n_weights; i++)
        n += g->weights[i].same_as < 0 ? weight_size(&g->weights[i]) : 0;
    *numbers = malloc(n * sizeof(float));
    if (!*numbers) abort();
    fill_weights(g, seed, *numbers);
    return model_from_program(g, device, INSET_F32, false, out);
}

/* ---- random traces ------------------------------------------------------ */

enum { MOST_POOL = 64, MOST_LENGTH = 6, MOST_SEQUENCES = 3, MOST_INVOKES = 5, MOST_SAVES = 40 };

typedef struct pooled {
    operand value;
    int32_t site;
} pooled;

typedef struct maker {
    trace *t;
    const program *g;
    uint64_t state;
    pooled pool[MOST_POOL];
    int n_pool; /* values that later lines may use */
    operand accumulators[2];
    int n_accumulators;
    int n_saves;
    int32_t *order;
    int32_t n_order; /* settable and other sites, in execution order */
    int64_t tokens[MOST_SEQUENCES * MOST_LENGTH], lengths[MOST_SEQUENCES];
    float rows[MOST_SEQUENCES * 16];
    int n_sequences;
    /* all kinds of calls; else those of a patching study */
    bool wild;
    bool lost; /* memory is out */
} maker;

static int below(maker *m, int n) { return (int)(test_random(&m->state) % (uint64_t)n); }
static bool one_in(maker *m, int n) { return below(m, n) == 0; }
static operand number(double x) { return (operand){.kind = OPERAND_FLOAT, .number = x}; }
static operand random_number(maker *m) { return number(0.25 * (below(m, 11) - 5)); }

/* Notes what came of a call: true when it was taken. */
static bool took(maker *m, inset_status status)
{
    m->lost |= status == INSET_NO_MEMORY;
    return !status;
}

static void keep(maker *m, const operand *value, int32_t site)
{
    m->pool[m->n_pool < MOST_POOL ? m->n_pool++ : below(m, MOST_POOL)] = (pooled){*value, site};
}

static void save(maker *m, const operand *value)
{
    char name[16];
    if (m->n_saves >= MOST_SAVES) return;
    snprintf(name, sizeof name, "s%d", m->n_saves);
    if (took(m, trace_save(m->t, name, value))) m->n_saves++;
}

/* ---- indices ------------------------------------------------------------ */

typedef struct items {
    size_t n;
    index_item items[INSET_MAX_DIMENSIONS];
    int64_t list[4];
} items;

static index_item random_item(maker *m, items *x, int64_t extent, bool *listed)
{
    index_item item = {.kind = INDEX_SLICE};
    int least = extent > 1 ? below(m, (int)extent) : 0;
    switch (below(m, *listed ? 7 : 8)) {
    case 0:
    case 1:
    case 2: return item;
    case 3:
    case 4:
        return (index_item){
            .kind = INDEX_INTEGER, .integer = one_in(m, 3) ? least - extent : least};
    case 5:
    case 6:
        item.has_start = !one_in(m, 3);
        item.start = one_in(m, 4) ? least - extent : least;
        item.has_stop = one_in(m, 2);
        item.stop = least + 1 + below(m, (int)(extent - least > 0 ? extent - least : 1));
        item.has_step = one_in(m, 4);
        item.step = 1 + below(m, 3);
        return item;
    default:
        *listed = true;
        item = (index_item){
            .kind = INDEX_LIST, .list = x->list, .list_length = (size_t)(1 + below(m, 3))};
        for (size_t i = 0; i < item.list_length; i++)
            x->list[i] = extent ? below(m, (int)extent) : 0;
        return item;
    }
}

static void random_index(maker *m, const view *v, items *x)
{
    bool listed = false;
    x->n = 0;
    if (one_in(m, 6)) {
        x->items[x->n++] = (index_item){.kind = INDEX_ELLIPSIS};
        if (v->n_dimensions)
            x->items[x->n++] = random_item(
                m, x, v->dimensions[v->n_dimensions - 1].extent, &listed);
        return;
    }
    int n = below(m, v->n_dimensions + 1);
    for (int d = 0; d < n; d++) {
        int64_t extent = v->dimensions[d].extent;
        if (d == v->position_dimension)
            for (int32_t s = 0; s < v->n_spans; s++)
                if (v->spans[s].count < extent) extent = v->spans[s].count;
        x->items[x->n++] = random_item(m, x, extent, &listed);
    }
}

/* ---- sources ------------------------------------------------------------ */

static int32_t last_dimension(const operand *a)
{
    return a->kind == OPERAND_TENSOR && a->view.n_dimensions
               ? (int32_t)a->view.dimensions[a->view.n_dimensions - 1].extent
               : 0;
}

/* A value of the pool, as wide as `like` if one is found. */
static bool pick(maker *m, const operand *like, operand *out)
{
    for (int i = 0; i < 12 && m->n_pool; i++) {
        const pooled *one = &m->pool[below(m, m->n_pool)];
        *out = one->value;
        if (last_dimension(&one->value) == last_dimension(like)
            && (i > 8 || one->value.view.n_dimensions == like->view.n_dimensions))
            return true;
    }
    return m->n_pool > 0 && one_in(m, 3);
}

static bool random_external(maker *m, int64_t width, operand *out)
{
    static const inset_type types[] = {INSET_F32, INSET_F32, INSET_F32, INSET_F64, INSET_I64,
        INSET_I32, INSET_BF16, INSET_F16, INSET_I16, INSET_I8};
    inset_type type = types[below(m, (int)(sizeof types / sizeof *types))];
    unsigned char bytes[3 * 64 * 8];
    double numbers[3 * 64];
    int64_t shape[2] = {one_in(m, 2) ? 1 : 1 + below(m, 3), width};
    if (width < 1 || width > 64) return false;
    for (int64_t i = 0; i < shape[0] * width; i++) {
        numbers[i] = type_is_float(type) ? 0.25 * (below(m, 13) - 6) : below(m, 7) - 3;
        element_put(type, bytes + (size_t)i * type_size(type), numbers[i]);
    }
    if (one_in(m, 3))
        return took(m, trace_literal(m->t, 1, shape + 1, numbers, !type_is_float(type), out));
    if (one_in(m, 2) && shape[0] == 1)
        return took(m, trace_external(m->t, type, 1, shape + 1, bytes, out));
    return took(m, trace_external(m->t, type, 2, shape, bytes, out));
}

/* A function that is smooth enough for fp32 and of no unbounded growth. */
static bool function(maker *m, const operand *a, operand *out)
{
    static const trace_op ops[] = {TRACE_ABS, TRACE_RELU, TRACE_SIGMOID, TRACE_TANH, TRACE_GELU,
        TRACE_GELU_TANH, TRACE_SILU, TRACE_AT_LEAST, TRACE_AT_MOST};
    const trace_op op = ops[below(m, 9)];
    const operand bound = number(op == TRACE_AT_LEAST ? -0.5 : 0.75);
    return took(m, trace_function(m->t, op, a, trace_op_operands(op) > 1 ? &bound : NULL, out));
}

static bool arithmetic(maker *m, const operand *a, operand *out)
{
    static const trace_op ops[] = {TRACE_ADD, TRACE_SUBTRACT, TRACE_MULTIPLY, TRACE_DIVIDE};
    operand x = random_number(m), other;
    trace_op op = ops[below(m, 4)];
    if (one_in(m, 6)) return took(m, trace_negate(m->t, a, out));
    if (one_in(m, 6)) return function(m, a, out);
    if (op == TRACE_DIVIDE) {
        if (one_in(m, 2)) x = number(one_in(m, 2) ? 4 : -1.5);
        else { /* 1 / (a a + 2): a divisor that is never small */ operand two = number(2);
            if (!took(m, trace_binary(m->t, TRACE_MULTIPLY, a, a, &x))
                || !took(m, trace_binary(m->t, TRACE_ADD, &x, &two, &x)))
                return false;
        }
    } else if (one_in(m, 3) && pick(m, a, &other)) x = other;
    /* products of values grow without bound */
    if (op == TRACE_MULTIPLY && x.kind == OPERAND_TENSOR) op = TRACE_ADD;
    return one_in(m, 2) || op == TRACE_DIVIDE ? took(m, trace_binary(m->t, op, a, &x, out))
                                              : took(m, trace_binary(m->t, op, &x, a, out));
}

/* Something to put where `like` shows. */
static bool random_source(maker *m, const operand *like, const items *where, operand *out)
{
    operand whole;
    switch (below(m, 8)) {
    case 0: *out = random_number(m); return true;
    case 1: return random_external(m, last_dimension(like), out);
    case 2:
    case 3:
    case 4: {
        operand narrowed;
        if (!pick(m, like, &whole)) return false;
        *out = whole;
        items other = *where;
        if (other.n >= 2 && other.items[1].kind == INDEX_INTEGER && one_in(m, 2))
            other.items[1].integer = below(m, 3);
        for (size_t i = 0; i < other.n; i++)
            if (other.items[i].kind == INDEX_LIST) other.items[i].list = other.list;
        if (took(m, trace_index(m->t, &whole, other.n, other.items, &narrowed))) *out = narrowed;
        break;
    }
    case 5: {
        items other = *where;
        if (other.n >= 2 && other.items[1].kind == INDEX_INTEGER)
            other.items[1].integer = below(m, 3);
        for (size_t i = 0; i < other.n; i++)
            if (other.items[i].kind == INDEX_LIST) other.items[i].list = other.list;
        if (!took(m, trace_index(m->t, like, other.n, other.items, out))) return false;
        break;
    }
    case 6: *out = *like; break;
    default:
        if (!pick(m, like, out)) return false;
    }
    if (out->kind == OPERAND_TENSOR && one_in(m, 4)) {
        operand made;
        if (arithmetic(m, out, &made)) *out = made;
    }
    return true;
}

/* ---- lines -------------------------------------------------------------- */

static void line_read(maker *m, int32_t site, const operand *value)
{
    operand kept = *value;
    items x;
    if (one_in(m, 2)) took(m, trace_clone(m->t, value, &kept));
    keep(m, &kept, site);
    if (one_in(m, 2)) return;
    random_index(m, &kept.view, &x);
    if (!one_in(m, 3)) took(m, trace_index(m->t, &kept, x.n, x.items, &kept));
    save(m, &kept);
}

static void line_set(maker *m, const operand *value)
{
    static const trace_op ops[] = {TRACE_COPY, TRACE_COPY, TRACE_COPY, TRACE_ADD, TRACE_SUBTRACT,
        TRACE_MULTIPLY, TRACE_DIVIDE};
    items x;
    operand source;
    random_index(m, &value->view, &x);
    trace_op op = ops[below(m, 7)];
    if (!random_source(m, value, &x, &source)) return;
    if ((op == TRACE_MULTIPLY || op == TRACE_DIVIDE) && source.kind == OPERAND_TENSOR)
        op = TRACE_COPY;
    if (op == TRACE_DIVIDE) source = number(one_in(m, 2) ? -2 : 1.5);
    took(m, trace_set(m->t, value, x.n, x.items, op, &source));
}

static void line_replace(maker *m, int32_t site, const operand *value)
{
    operand source;
    if (!one_in(m, 3) || !pick(m, value, &source)) source = *value;
    if (!one_in(m, 3)) arithmetic(m, &source, &source);
    if (one_in(m, 4)) { /* another layout: the same numbers by way of a list */
        int64_t list[8];
        index_item item = {.kind = INDEX_LIST, .list = list};
        int64_t extent = source.view.n_dimensions ? source.view.dimensions[0].extent : 0;
        for (; (int64_t)item.list_length < extent && item.list_length < 8; item.list_length++)
            list[item.list_length] = (int64_t)item.list_length;
        if (extent && extent <= 8) took(m, trace_index(m->t, &source, 1, &item, &source));
    }
    took(m, trace_replace(m->t, site, &source));
}

static void line_accumulate(maker *m, const operand *value)
{
    operand source, *to = &m->accumulators[below(m, m->n_accumulators)];
    index_item at[] = {{.kind = INDEX_INTEGER, .integer = below(m, 4)}},
               from[] = {{.kind = INDEX_INTEGER}, {.kind = INDEX_INTEGER}};
    from[0].integer = below(m, m->n_sequences);
    from[1].integer = below(m, 2);
    if (took(m, trace_index(m->t, value, 2, from, &source)))
        took(m, trace_set(m->t, to, 1, at, one_in(m, 4) ? TRACE_ADD : TRACE_COPY, &source));
}

static void line_skip(maker *m, int32_t site, const operand *value)
{
    const struct site *s = &m->g->sites[site];
    operand source;
    if (strcmp(s->name, "input") || !s->module) return;
    if (!pick(m, value, &source) || one_in(m, 2)) source = *value;
    if (one_in(m, 2)) arithmetic(m, &source, &source);
    took(m, trace_skip(m->t, s->module, &source));
}

/* What studies do most: one position (or one head) of a site patched from an earlier invoke, or
 * from another position, or set to a number. */
static void line_patch(maker *m, int32_t site, const operand *value)
{
    items x = {.n = 2, .items = {{.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER}}};
    operand source = number(0.5), from;
    x.items[1].integer = below(m, 3);
    if (value->view.n_dimensions == 4 && one_in(m, 2)) {
        x.n = 3;
        x.items[2] = (index_item){
            .kind = INDEX_INTEGER, .integer = below(m, (int)value->view.dimensions[2].extent)};
        if (one_in(m, 2)) x.items[1] = (index_item){.kind = INDEX_SLICE};
    } else if (one_in(m, 3) && value->view.n_dimensions == 3) {
        x.n = 3;
        x.items[2] = (index_item){
            .kind = INDEX_SLICE, .has_stop = true, .stop = 1 + below(m, last_dimension(value))};
    }
    for (int i = 0; i < 20 && m->n_pool; i++) {
        const pooled *one = &m->pool[below(m, m->n_pool)];
        if (one->site != site) continue;
        if (took(m, trace_index(m->t, &one->value, x.n, x.items, &from))) source = from;
        break;
    }
    if (one_in(m, 8)) took(m, trace_index(m->t, value, x.n, x.items, &source));
    took(m, trace_set(m->t, value, x.n, x.items, TRACE_COPY, &source));
}

/* A number a row, of this value or of another one; no ranks, which a last bit decides. */
static void line_metric(maker *m, const operand *value)
{
    operand row = *value, reference, made;
    items x;
    int64_t tokens[2][3];
    metric_request r = {.kind = (inset_metric_kind)below(m, INSET_KL + 1), .reference = &reference};
    if (r.kind == INSET_RANK) r.kind = INSET_LOGIT_DIFF;
    if (one_in(m, 4) && !pick(m, value, &row)) row = *value;
    random_index(m, &row.view, &x);
    if (one_in(m, 2)) took(m, trace_index(m->t, &row, x.n, x.items, &row));
    int32_t n = last_dimension(&row);
    if (n < 2) return;
    for (int k = 0; k < 2; k++) {
        r.sets[k] = (token_list){(size_t)(1 + below(m, 3)), tokens[k]};
        for (int i = 0; i < 3; i++) tokens[k][i] = below(m, n < 5 ? n : 5);
    }
    reference = row;
    if (r.kind == INSET_KL && !pick(m, &row, &reference)) return;
    if (r.kind == INSET_KL && one_in(m, 3)) arithmetic(m, &reference, &reference);
    if (!took(m, trace_metric(m->t, &row, &r, &made))) return;
    keep(m, &made, -1);
    if (!one_in(m, 3)) save(m, &made);
}

/* A module applied to this value, or to another one of its width; sometimes a second to what it
 * gives. */
static void line_call(maker *m, const operand *value)
{
    operand x = *value, made;
    items at;
    module_call call;
    if (one_in(m, 3) && !pick(m, value, &x)) x = *value;
    random_index(m, &x.view, &at);
    if (one_in(m, 2)) took(m, trace_index(m->t, &x, at.n, at.items, &x));
    if (one_in(m, 4)) arithmetic(m, &x, &x);
    bool any = false;
    for (int tries = 0; tries < 40; tries++) {
        const int32_t module = below(m, (int)m->g->n_modules);
        if (!program_callable(m->g, module, &call) || call.attends
            || slot_columns(&m->g->slots[call.in]) != last_dimension(&x))
            continue;
        if (!took(m, trace_call(m->t, module, &x, &made))) break;
        any = true;
        x = made;
        if (!one_in(m, 3)) break;
    }
    if (!any) return;
    keep(m, &made, -1);
    if (!one_in(m, 3)) save(m, &made);
}

/* Comparisons are with numbers that values do not come near to in droves. */
static bool choose(maker *m, const operand *a, const operand *b, operand *out)
{
    const operand bound = number(0.3);
    operand mask;
    return took(m, trace_binary(
                       m->t, one_in(m, 2) ? TRACE_GREATER : TRACE_LESS_EQUAL, a, &bound, &mask))
           && took(m, trace_where(m->t, &mask, a, b, out));
}

/* a @ b: a vector of the pool, a weight, or a matrix from outside. */
static bool product(maker *m, const operand *a, operand *out)
{
    const int32_t width = last_dimension(a);
    operand b;
    if (one_in(m, 3)) {
        if (!pick(m, a, &b) || b.view.n_dimensions < 1) return false;
        while (b.view.n_dimensions > 1) {
            const index_item first = {.kind = INDEX_INTEGER, .integer = 0};
            if (!took(m, trace_index(m->t, &b, 1, &first, &b))) return false;
        }
        return took(m, trace_product(m->t, a, &b, out));
    }
    for (int tries = 0; tries < 12 && m->g->n_head_paths; tries++) {
        const int32_t weight = below(m, (int)m->g->n_weights);
        if (!took(m, trace_weight(m->t, weight, &b)) || b.view.n_dimensions < 2) continue;
        if (one_in(m, 2) && !took(m, trace_transpose(m->t, &b, 0, 1, &b))) continue;
        if (b.view.dimensions[0].extent != width) continue;
        const index_item part[2] = {{.kind = INDEX_SLICE}, {.kind = INDEX_SLICE,
                                                               .has_start = true,
                                                               .start = below(m, 3),
                                                               .has_step = one_in(m, 3),
                                                               .step = 2}};
        if (one_in(m, 2) && !took(m, trace_index(m->t, &b, 2, part, &b))) continue;
        return took(m, trace_product(m->t, a, &b, out));
    }
    float numbers[64 * 4];
    const int64_t shape[2] = {width, 1 + below(m, 4)};
    if (width > 64) return false;
    for (int i = 0; i < 64 * 4; i++) numbers[i] = 0.125f * (float)(below(m, 9) - 4);
    operand x = *a;
    if (trace_operand_type(m->t, a) != INSET_F32 && !took(m, trace_cast(m->t, a, INSET_F32, &x)))
        return false;
    return took(m, trace_external(m->t, INSET_F32, 2, shape, numbers, &b))
           && took(m, trace_product(m->t, &x, &b, out));
}

/* A function of whole rows, a product or a choice, of this value or another one. */
static void line_rows(maker *m, const operand *value)
{
    operand x = *value, other, made;
    items at;
    if (one_in(m, 2) && !pick(m, value, &x)) x = *value;
    random_index(m, &x.view, &at);
    if (one_in(m, 2)) took(m, trace_index(m->t, &x, at.n, at.items, &x));
    if (one_in(m, 4)) arithmetic(m, &x, &x);
    const int n = x.view.n_dimensions;
    if (one_in(m, 6) && n > 1) took(m, trace_transpose(m->t, &x, below(m, n), below(m, n), &x));
    const int64_t dimensions[2] = {
        n ? below(m, n) - (one_in(m, 2) ? n : 0) : 0, n ? below(m, n) : 0};
    row_request r = {.function = (trace_row_op)below(m, TRACE_ROW_TOPK + 1),
        .n_dimensions = below(m, 3),
        .dimensions = dimensions,
        .keep = one_in(m, 2),
        .k = 1 + below(m, 2)};
    if (r.function == TRACE_ROW_DOT || r.function == TRACE_ROW_ARGMAX) r.function = TRACE_ROW_MEAN;
    if (r.function > TRACE_ROW_ARGMAX) r.n_dimensions = 1;
    bool done = false;
    switch (below(m, 6)) {
    case 0: done = product(m, &x, &made); break;
    case 1:
        if (!pick(m, &x, &other)) other = random_number(m);
        done = choose(m, &x, &other, &made);
        break;
    default: done = took(m, trace_row_function(m->t, &x, &r, &made));
    }
    if (!done) return;
    keep(m, &made, -1);
    if (!one_in(m, 3)) save(m, &made);
}

/* A norm's scale is divided by: it stays well away from zero, where a last bit would decide. */
static void line_scale(maker *m, int32_t site, const operand *value)
{
    items x;
    operand source = number(0.5 + 0.25 * below(m, 5));
    random_index(m, &value->view, &x);
    switch (below(m, 5)) {
    case 0:
    case 1: line_read(m, site, value); return;
    case 2:
        took(m, trace_set(m->t, value, x.n, x.items, one_in(m, 2) ? TRACE_COPY : TRACE_MULTIPLY,
                    &source));
        return;
    case 3: line_patch(m, site, value); return;
    default:
        if (took(m, trace_binary(m->t, TRACE_MULTIPLY, value, &source, &source)))
            took(m, trace_replace(m->t, site, &source));
    }
}

static void line(maker *m, int32_t site)
{
    operand value;
    if (!took(m, trace_site(m->t, site, &value))) return;
    if (!strcmp(m->g->sites[site].name, "scale")) {
        line_scale(m, site, &value);
        return;
    }
    if (!m->wild) {
        if (one_in(m, 3)) line_patch(m, site, &value);
        else line_read(m, site, &value);
        return;
    }
    switch (below(m, 13)) {
    case 11:
    case 12: line_rows(m, &value); return;
    case 10: line_call(m, &value); return;
    case 9: line_metric(m, &value); return;
    case 0:
    case 1: line_read(m, site, &value); return;
    case 2:
    case 3: line_set(m, &value); return;
    case 4: line_patch(m, site, &value); return;
    case 5: line_replace(m, site, &value); return;
    case 6: line_skip(m, site, &value); return;
    case 7:
        if (m->n_accumulators) line_accumulate(m, &value);
        return;
    default: {
        operand made;
        if (arithmetic(m, &value, &made)) keep(m, &made, site);
    }
    }
}

static bool begin(maker *m, int invoke)
{
    bool like_before = invoke && !one_in(m, 4);
    if (!like_before) {
        m->n_sequences = one_in(m, 2) ? 1 : 1 + below(m, MOST_SEQUENCES);
        bool ragged = one_in(m, 2);
        for (int s = 0; s < m->n_sequences; s++)
            m->lengths[s] = s && !ragged ? m->lengths[0] : 2 + below(m, MOST_LENGTH - 1);
    }
    int64_t n = 0;
    for (int s = 0; s < m->n_sequences; s++) n += m->lengths[s];
    if (m->g->input_width) {
        for (int64_t i = 0; i < m->n_sequences * m->g->input_width; i++)
            if (!like_before || one_in(m, 20)) m->rows[i] = (float)test_uniform(&m->state);
        return took(m, trace_invoke_rows(m->t, m->n_sequences, m->g->input_width, m->rows));
    }
    for (int64_t i = 0; i < n; i++)
        if (!like_before || one_in(m, 12))
            m->tokens[i] = below(m, one_in(m, 3) ? m->g->vocabulary : 3);
    return took(m, trace_invoke_tokens(m->t, m->n_sequences, m->lengths, m->tokens));
}

static void order_sites(maker *m)
{
    m->order = malloc((m->g->n_sites + 1) * sizeof *m->order);
    if (!m->order) abort();
    for (int32_t i = 0; i < (int32_t)m->g->n_sites; i++) {
        int32_t at = m->n_order++;
        for (; at > 0 && m->g->sites[m->order[at - 1]].event > m->g->sites[i].event; at--)
            m->order[at] = m->order[at - 1];
        m->order[at] = i;
    }
}

static void stack(maker *m)
{
    operand list[3], first;
    char name[16];
    if (!m->n_pool) return;
    first = m->pool[below(m, m->n_pool)].value;
    list[0] = first;
    int n = 1;
    for (int i = 0; i < 8 && n < 3; i++)
        if (pick(m, &first, &list[n])) n++;
    snprintf(name, sizeof name, "s%d", m->n_saves);
    for (; n > 0; n--)
        if (took(m, trace_save_stack(m->t, name, (size_t)n, list))) {
            m->n_saves++;
            return;
        }
}

static void make_trace(maker *m)
{
    int n_invokes = 1 + below(m, MOST_INVOKES), stride = 2 + below(m, 12);
    int64_t zeros[2] = {4, m->g->values[m->g->n_values - 1].width};
    if (m->g->n_blocks) zeros[1] = m->g->values[m->g->slots[m->g->blocks[0]].value].width;
    if (m->wild && one_in(m, 2) && took(m, trace_zeros(m->t, 2, zeros, &m->accumulators[0])))
        m->n_accumulators = 1;
    for (int i = 0; i < n_invokes && !m->lost; i++) {
        if (!begin(m, i)) continue;
        for (int32_t at = below(m, stride); at < m->n_order && !m->lost;
             at += 1 + below(m, stride)) {
            line(m, m->order[at]);
            if (one_in(m, 4)) at--; /* the same site again */
        }
        operand logits;
        if (one_in(m, 2) && took(m, trace_site(m->t, m->order[m->n_order - 1], &logits)))
            save(m, &logits);
        for (int k = below(m, 4); k > 0; k--)
            if (took(m, trace_site(m->t, m->order[m->n_order - 1], &logits)))
                line_metric(m, &logits);
        if (m->wild && one_in(m, 3)) stack(m);
        if (m->wild && one_in(m, 12)) took(m, trace_stop(m->t));
    }
    trace_end_invoke(m->t);
    for (int i = 0; i < 3 && m->n_pool; i++) save(m, &m->pool[below(m, m->n_pool)].value);
    if (m->n_accumulators && one_in(m, 2)) save(m, &m->accumulators[0]);
}

inset_status random_trace(const struct inset_model *model, uint64_t seed, trace **out)
{
    maker *m = calloc(1, sizeof *m);
    if (!m) abort();
    m->g = model->program;
    m->state = seed * 0x9e3779b97f4a7c15u + 1;
    m->wild = below(m, 3) > 0;
    inset_status status = trace_create(model->context, model->program, model->type, &m->t);
    *out = m->t;
    if (!status) {
        order_sites(m);
        make_trace(m);
    }
    if (m->lost) status = INSET_NO_MEMORY;
    free(m->order);
    free(m);
    return status;
}
