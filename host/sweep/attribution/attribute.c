/* attribute.c: attribution of a sweep's points. For each pair the clean and the corrupt run, the
 * runs whose gradients are taken, and a backward() for each; then sums of products on the host.
 *
 * Which runs the gradients are of: that which is patched; with `ends` both; with `steps` m, runs
 * whose token embeddings go from the corrupt to the clean in m steps, the clean not among them.
 * They go through the model side by side, and share the rows before the first token that differs.
 * With `graddrop` there is a backward() for each layer, in which nothing flows through what its
 * attention and its MLP add to the stream; what lies above that layer is the same in all of them,
 * and made once. */
#include "sweep/attribution/scores.h"

#include <math.h>

#include <stdio.h>
#include <string.h>

#include "plan/plan.h"
#include "run/run.h"
#include "sweep/chunks/book.h"
#include "trace/records.h"

/* ---- what is needed of every run ---------------------------------------- */

static void want(struct attribution *a, int32_t place) { a->wanted[place] = true; }

static int32_t made_at(const sweep *s, int32_t place)
{
    const program *g = s->program;
    return program_maker(g, g->sites[place].slot)->event;
}

/* The value that holds the token embeddings: behind a factor or a norm of them alone (Gemma,
 * Granite; BLOOM), so that it is a part of the stream; -1: there is none. */
static int32_t embedded_value(const program *g)
{
    int32_t value = -1;
    const int32_t first_block = g->n_blocks ? g->slots[g->blocks[0]].event : 0;
    for (size_t i = 0; i < g->n_steps; i++) {
        const step *s = &g->steps[i];
        const int32_t of = s->n_operands ? g->slots[s->operands[0]].value : -1;
        const bool tokens = s->kind == STEP_EMBED && !s->by_position && !s->one_row
                            && g->steps[g->values[of].step].kind == STEP_TOKENS;
        if (value < 0 && tokens) value = s->value;
        else if (value >= 0 && of == value && s->event < first_block
                 && (s->kind == STEP_SCALE || step_is_norm(s)))
            value = s->value;
    }
    return value;
}

inset_status attribute_embedding(sweep *s, int32_t *site)
{
    const program *g = s->program;
    const int32_t value = embedded_value(g);
    *site = -1;
    for (size_t i = 0; i < g->n_sites && *site < 0; i++)
        if (g->slots[g->sites[i].slot].value == value && g->slots[g->sites[i].slot].settable)
            *site = (int32_t)i;
    if (*site >= 0) return INSET_OK;
    return error_set(s->context, INSET_UNKNOWN_SITE,
        "%s has no token embeddings to integrate along", g->model_type);
}

/* The sinks of an attention, where it has some and the model its weights. */
static inset_status find_sinks(sweep *s, const step *attention, const float **out)
{
    const float *numbers = NULL;
    if (attention->weight < 0 || !s->model->device) return INSET_OK;
    inset_status status = model_part_numbers(s->model, attention->weight, &numbers);
    if (status) return status;
    *out = arena_copy(&s->memory, numbers, (size_t)attention->n_heads * sizeof **out);
    return *out ? INSET_OK : INSET_NO_MEMORY;
}

/* The attention of the layer that a tap lies in, and the places of what it reads. */
static inset_status find_attention(sweep *s, struct attribution *a, int64_t layer)
{
    static const char *const names[4][2] = {{"rot_q", "q"}, {"rot_k", "k"}, {"v", "v"}, {"z", "z"}};
    const int32_t of_model = (int32_t)(s->first_layer + layer * s->layers.step);
    a->attention[layer] = layer_attention(s, of_model);
    for (int k = 0; k < 4; k++) {
        int32_t place = layer_place(s, of_model, names[k][0]);
        if (place < 0) place = layer_place(s, of_model, names[k][1]);
        if (place < 0 || a->attention[layer] < 0)
            return error_set(s->context, INSET_UNKNOWN_SITE, "layer %d has no site %s",
                (int)of_model, names[k][1]);
        a->heads[layer][k] = place;
        want(a, place);
    }
    return find_sinks(s, &s->program->steps[a->attention[layer]], &a->sinks[layer]);
}

static bool is_query(const sweep *s, const tap *t)
{
    return !strcmp(s->sites[t->site].members[t->member], "q");
}
static bool is_key(const sweep *s, const tap *t)
{
    return !strcmp(s->sites[t->site].members[t->member], "k");
}
static bool by_softmax(const sweep *s, const tap *t)
{
    return s->method.qk && (is_query(s, t) || is_key(s, t));
}

/* When a tap's gradient is asked for: where its value is made; where the softmax is exact, z's. */
static int32_t asked_at(const sweep *s, const struct attribution *a, int32_t index)
{
    const tap *t = &s->taps[index];
    return made_at(s, by_softmax(s, t) ? a->heads[t->layer][3] : t->place);
}

/* Taps in the order in which gradients come: the last first. */
static void order_taps(const sweep *s, struct attribution *a)
{
    for (size_t i = 0; i < s->n_taps; i++) {
        size_t k = i;
        const int32_t event = asked_at(s, a, (int32_t)i);
        for (; k > 0 && asked_at(s, a, a->order[k - 1]) < event; k--) a->order[k] = a->order[k - 1];
        a->order[k] = (int32_t)i;
    }
}

static inset_status find_places(sweep *s, struct attribution *a)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < s->n_taps && !status; i++) {
        want(a, s->taps[i].place);
        if (by_softmax(s, &s->taps[i])) status = find_attention(s, a, s->taps[i].layer);
    }
    if (!status && s->method.steps) status = attribute_embedding(s, &a->embedding);
    if (!status && s->method.steps) want(a, a->embedding);
    for (int32_t l = 0; s->method.graddrop && l < s->n_layers; l++)
        for (int k = 0; k < 2; k++) {
            a->stream[2 * l + k] = layer_place(s, l, k ? "mlp_out" : "attn_out");
            if (a->stream[2 * l + k] >= 0) want(a, a->stream[2 * l + k]);
        }
    for (size_t i = 0; i < s->program->n_sites; i++)
        if (a->wanted[i]) a->places[a->n_places++] = (int32_t)i;
    /* sites lie in execution order, or nearly: gradients and reads want exactly that */
    for (size_t i = 1; i < a->n_places; i++)
        for (size_t k = i;
             k > 0
             && s->program->sites[a->places[k]].event < s->program->sites[a->places[k - 1]].event;
             k--) {
            int32_t place = a->places[k];
            a->places[k] = a->places[k - 1], a->places[k - 1] = place;
        }
    return status;
}

/* ---- refusals ----------------------------------------------------------- */

inset_status attribute_check_method(sweep *s)
{
    const attribution_method *m = &s->method;
    inset_context *c = s->context;
    if (m->steps && m->ends)
        return error_set(c, INSET_USAGE_ERROR, "--steps and --ends are two methods: take one");
    if ((m->steps || m->ends) && !s->has_corrupt)
        return error_set(c, INSET_USAGE_ERROR, "which prompts? The corrupt ones are missing");
    for (size_t i = 0; i < s->n_metrics; i++)
        if (s->metrics[i].kind == INSET_RANK || s->metrics[i].kind == INSET_KL) {
            inset_status status = error_set(c, INSET_VALUE_ERROR, "%s: %s", s->metrics[i].name,
                s->metrics[i].kind == INSET_RANK
                    ? "a rank counts and has no gradient"
                    : "from the unpatched run it is 0 there, and so is its gradient");
            error_help(c, "Take logit_diff, logit, probability or log_probability.");
            return status;
        }
    return INSET_OK;
}

static inset_status check_method(sweep *s)
{
    const attribution_method *m = &s->method;
    inset_context *c = s->context;
    if ((m->steps || m->ends) && (m->qk || m->graddrop))
        return error_set(c, INSET_USAGE_ERROR,
            "AtP* (--star, --qk, --graddrop) takes the gradients of the run that is patched: leave "
            "out %s",
            m->steps ? "--steps" : "--ends");
    if (m->rules && (m->qk || m->graddrop))
        return error_set(c, INSET_USAGE_ERROR,
            "--relp and AtP* (--star, --qk, --graddrop) are two methods: take one");
    if (m->graddrop && s->n_layers < 2)
        return error_set(c, INSET_VALUE_ERROR, "--graddrop needs a model of two layers or more");
    if (m->qk && s->source != SOURCE_OTHER_RUN && s->source != SOURCE_RESAMPLE)
        return error_set(c, INSET_USAGE_ERROR, "--qk and --star take another run as source");
    bool any = false;
    for (size_t i = 0; i < s->n_taps; i++) any |= by_softmax(s, &s->taps[i]);
    if (m->qk && !any && !m->graddrop)
        return error_set(c, INSET_USAGE_ERROR, "--qk is for the sites q and k, and %s is neither",
            s->sites[0].name);
    return attribute_check_method(s);
}

/* ---- the trace of some pairs -------------------------------------------- */

typedef struct writer {
    sweep *s;
    struct attribution *a;
    trace *t;
    arena memory;
    readout readout;
    operand *external;               /* [n_taps] */
    operand *clean, *corrupt, *from; /* [program sites] of the runs of a pair; from: the source */
    operand **points;                /* [steps] */
    operand *sums;                   /* [n_taps] gradients so far */
    operand *metrics;                /* [points][n_metrics] */
    int64_t pair;
} writer;

static inset_status take_places(writer *w, operand *out)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < w->a->n_places && !status; i++)
        status = trace_site(w->t, w->a->places[i], &out[w->a->places[i]]);
    return status;
}

static inset_status begin(writer *w, const prompts *p, int64_t index)
{
    return trace_invoke_tokens(w->t, 1, &p->lengths[index], p->tokens + p->starts[index]);
}

/* A run as it is, with its metrics. */
static inset_status plain_run(writer *w, bool clean, operand *out)
{
    const sweep *s = w->s;
    inset_status status = begin(w, clean ? &s->clean : &s->corrupt, w->pair);
    if (!status) status = take_places(w, out);
    return status ? status : readout_take(s, w->t, &w->readout, w->pair, clean == s->noise);
}

int64_t attribute_first_difference(const sweep *s, int64_t pair)
{
    const int64_t *a = s->clean.tokens + s->clean.starts[pair],
                  *b = s->corrupt.tokens + s->corrupt.starts[pair];
    int64_t i = 0;
    while (i < s->clean.lengths[pair] && a[i] == b[i]) i++;
    return i;
}

inset_status attribute_point(const sweep *s, trace *t, int64_t pair, int32_t place, int32_t k,
    const operand *clean, const operand *corrupt)
{
    const int64_t first = attribute_first_difference(s, pair);
    const index_item items[2] = {
        {.kind = INDEX_SLICE}, {.kind = INDEX_SLICE, .has_start = true, .start = first}};
    operand target, end, start, part, way, sum;
    const operand share = {.kind = OPERAND_FLOAT, .number = (double)k / s->method.steps};
    inset_status status = trace_site(t, place, &target);
    if (status || first == s->clean.lengths[pair]) return status;
    if ((status = trace_index(t, clean, 2, items, &end))
        || (status = trace_index(t, corrupt, 2, items, &start))
        || (status = trace_binary(t, TRACE_SUBTRACT, &end, &start, &way))
        || (status = trace_binary(t, TRACE_MULTIPLY, &way, &share, &part))
        || (status = trace_binary(t, TRACE_ADD, &start, &part, &sum)))
        return status;
    return trace_set(t, &target, 2, items, TRACE_COPY, &sum);
}

/* The corrupt run with its embeddings k / m of the way to the clean ones. */
static inset_status point_run(writer *w, int32_t k)
{
    const sweep *s = w->s;
    const int32_t place = w->a->embedding;
    inset_status status = begin(w, &s->corrupt, w->pair);
    if (!status)
        status = attribute_point(s, w->t, w->pair, place, k, &w->clean[place], &w->corrupt[place]);
    if (!status) status = take_places(w, w->points[k]);
    return status ? status : metrics_take(s, w->t, w->pair, &w->metrics[(size_t)k * s->n_metrics]);
}

static inset_status float_of(writer *w, operand *x)
{
    const inset_type type = trace_operand_type(w->t, x);
    const operand from = *x;
    if (x->kind != OPERAND_TENSOR || type == INSET_F32) return INSET_OK;
    return trace_convert(w->t, &from, INSET_F32, x);
}

static inset_status save(writer *w, const operand *value)
{
    char name[32];
    snprintf(name, sizeof name, "a%zu", w->a->n_saved++);
    return trace_save(w->t, name, value);
}

static bool add_product(writer *w, product_kind kind, size_t metric, size_t tap_index)
{
    struct attribution *a = w->a;
    if (!array_extend(
            w->s->context, &a->products, &a->capacity, a->n_products + 1, sizeof *a->products))
        return false;
    a->products[a->n_products++] = (product){kind, w->pair, metric, tap_index, a->n_saved};
    return true;
}

/* The chosen positions and heads of a tap's site. */
static place_items all_places(const sweep *s, const tap *t, int64_t pair)
{
    const job whole = {.pair = pair, .site = &s->sites[t->site], .at = {-1, -1, -1, -1, -1}};
    return job_items(s, &whole);
}

/* (source - u) * g, saved. */
static inset_status save_scores(
    writer *w, size_t metric, int32_t tap_index, const operand *base, const operand *gradient)
{
    const sweep *s = w->s;
    const tap *at = &s->taps[tap_index];
    const place_items where = all_places(s, at, w->pair);
    operand u, g, source, delta, scores;
    trace *t = w->t;
    const bool from_run = s->source == SOURCE_OTHER_RUN || s->source == SOURCE_RESAMPLE;
    inset_status status = trace_index(t, gradient, where.n, where.items, &g);
    if (!status && s->sites[at->site].features) {
        if (!add_product(w, PRODUCT_SCORES, metric, (size_t)tap_index)) return INSET_NO_MEMORY;
        status = float_of(w, &g);
        return status ? status : save(w, &g);
    }
    if (!status) status = trace_index(t, &base[at->place], where.n, where.items, &u);
    if (!status && from_run)
        status = trace_index(t, &w->from[at->place], where.n, where.items, &source);
    else if (!status) status = source_take(s, t, NULL, w->external, tap_index, &where, &source);
    if (status || (status = float_of(w, &u)) || (status = float_of(w, &g))
        || (status = float_of(w, &source))
        || (status = trace_binary(t, TRACE_SUBTRACT, &source, &u, &delta))
        || (status = trace_binary(t, TRACE_MULTIPLY, &delta, &g, &scores)))
        return status;
    if (!add_product(w, PRODUCT_SCORES, metric, (size_t)tap_index)) return INSET_NO_MEMORY;
    return save(w, &scores);
}

/* What softmax.c wants of a layer: its gradient of z is at hand. */
static inset_status save_attention(
    writer *w, size_t metric, int32_t tap_index, const operand *base, const operand *back)
{
    const sweep *s = w->s;
    const tap *at = &s->taps[tap_index];
    const int32_t *heads = w->a->heads[at->layer];
    const bool key = is_key(s, at);
    const operand values[5] = {
        base[heads[0]], base[heads[1]], base[heads[2]], w->from[heads[key]], *back};
    if (!add_product(w, key ? PRODUCT_KEYS : PRODUCT_QUERIES, metric, (size_t)tap_index))
        return INSET_NO_MEMORY;
    inset_status status = INSET_OK;
    for (int k = 0; k < 5 && !status; k++) {
        operand kept = values[k];
        status = float_of(w, &kept);
        if (!status && k < 4 && trace_operand_type(w->t, &values[k]) == INSET_F32)
            status = trace_clone(w->t, &values[k], &kept);
        if (!status) status = save(w, &kept);
    }
    return status;
}

/* One backward: the gradients of all taps, from the last to the first. base: the run that is
 * patched; of: the run whose gradients are taken. last: the products are made now. drop: the layer
 * through whose branches nothing flows; -1. */
static inset_status take_gradients(writer *w, size_t metric, const operand *number,
    const operand *of, const operand *base, bool first, bool last, int32_t drop)
{
    const sweep *s = w->s;
    struct attribution *a = w->a;
    trace *t = w->t;
    const operand none = {.kind = OPERAND_INTEGER};
    operand *back = arena_new(&w->memory, (size_t)(s->chosen_layers + 1) * sizeof *back);
    bool *has_back = arena_new(&w->memory, (size_t)(s->chosen_layers + 1) * sizeof *has_back);
    if (!back || !has_back) return INSET_NO_MEMORY;
    inset_status status = trace_backward(t, number);
    int dropped = 1; /* mlp_out comes first */
    for (size_t i = 0; i < s->n_taps && !status; i++) {
        const int32_t index = a->order[i];
        const tap *at = &s->taps[index];
        for (; drop >= 0 && dropped >= 0; dropped--) {
            const int32_t place = a->stream[2 * drop + dropped];
            if (place < 0) continue;
            if (made_at(s, place) < asked_at(s, a, index)) break;
            operand g;
            if ((status = trace_gradient(t, &of[place], &g))
                || (status = trace_set(t, &g, 0, NULL, TRACE_COPY, &none)))
                break;
        }
        if (status) break;
        operand g;
        if (by_softmax(s, at)) {
            const int32_t z = a->heads[at->layer][3];
            if (!has_back[at->layer]) {
                if ((status = trace_gradient(t, &of[z], &g))
                    || (status = trace_clone(t, &g, &back[at->layer])))
                    break;
                has_back[at->layer] = true;
            }
            status = save_attention(w, metric, index, base, &back[at->layer]);
            continue;
        }
        if ((status = trace_gradient(t, &of[at->place], &g))) break;
        if (first) status = trace_clone(t, &g, &w->sums[index]);
        else {
            const operand sum = w->sums[index];
            status = trace_binary(t, TRACE_ADD, &sum, &g, &w->sums[index]);
        }
        if (!status && last) status = save_scores(w, metric, index, base, &w->sums[index]);
    }
    trace_end_backward(t);
    return status;
}

static inset_status backwards(writer *w)
{
    const sweep *s = w->s;
    const attribution_method *m = &s->method;
    const operand *base = s->noise ? w->clean : w->corrupt;
    const size_t runs = w->readout.runs;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < s->n_metrics && !status; i++) {
        const operand *clean = &w->readout.values[i][runs - 1 - s->has_corrupt],
                      *corrupt = &w->readout.values[i][runs - 1];
        const operand *own = s->noise ? clean : corrupt;
        if (m->steps) {
            status = take_gradients(w, i, corrupt, w->corrupt, base, true, m->steps == 1, -1);
            for (int32_t k = 1; k < m->steps && !status; k++)
                status = take_gradients(w, i, &w->metrics[(size_t)k * s->n_metrics + i],
                    w->points[k], base, false, k == m->steps - 1, -1);
        } else if (m->ends) {
            status = take_gradients(w, i, clean, w->clean, base, true, false, -1);
            if (!status) status = take_gradients(w, i, corrupt, w->corrupt, base, false, true, -1);
        } else if (m->graddrop) {
            for (int32_t l = 0; l < s->n_layers && !status; l++)
                status = take_gradients(w, i, own, base, base, true, true, l);
        } else status = take_gradients(w, i, own, base, base, true, true, -1);
    }
    return status;
}

static inset_status write_pair(writer *w)
{
    const sweep *s = w->s;
    inset_status status = plain_run(w, true, w->clean);
    if (!status && s->has_corrupt) status = plain_run(w, false, w->corrupt);
    w->from = s->noise ? w->corrupt : w->clean;
    if (!status && s->source == SOURCE_RESAMPLE) {
        w->from = w->points[0];
        status = begin(w, &s->others, s->partners[w->pair]);
        if (!status) status = take_places(w, w->from);
    }
    for (int32_t k = 1; k < s->method.steps && !status; k++) status = point_run(w, k);
    trace_end_invoke(w->t);
    return status ? status : backwards(w);
}

static inset_status start_writer(writer *w)
{
    sweep *s = w->s;
    const size_t sites = s->program->n_sites, points = (size_t)s->method.steps + 1;
    arena *m = &w->memory;
    w->external = arena_new(m, s->n_taps * sizeof *w->external);
    w->clean = arena_new(m, sites * sizeof *w->clean);
    w->corrupt = arena_new(m, sites * sizeof *w->corrupt);
    w->points = arena_new(m, points * sizeof *w->points);
    w->sums = arena_new(m, s->n_taps * sizeof *w->sums);
    w->metrics = arena_new(m, points * s->n_metrics * sizeof *w->metrics);
    if (!w->external || !w->clean || !w->corrupt || !w->points || !w->sums || !w->metrics)
        return INSET_NO_MEMORY;
    for (size_t k = 0; k < points; k++)
        if (!(w->points[k] = arena_new(m, sites * sizeof **w->points))) return INSET_NO_MEMORY;
    inset_status status = readout_start(
        s, m, &w->readout, (size_t)w->a->count * (1 + (size_t)s->has_corrupt));
    if (!status) status = trace_create(s->context, s->program, s->model->type, &w->t);
    if (!status) trace_rules(w->t, s->method.rules), trace_again(w->t, s->again);
    if (!status && s->source == SOURCE_TENSOR) status = source_externals(s, w->t, w->external);
    return status;
}

/* Plans the pairs first .. first + count. */
static inset_status prepare(sweep *s, int64_t first, int64_t count)
{
    struct attribution *a = s->attribution;
    writer w = {.s = s, .a = a};
    const plan_options options = {
        .no_share = s->no_share, .memory_limit = s->memory_limit, .traits = sweep_traits(s)};
    a->first = first;
    a->count = count;
    a->n_products = 0;
    a->n_saved = 0;
    arena_start(&w.memory, s->context);
    inset_status status = start_writer(&w);
    for (w.pair = first; w.pair < first + count && !status; w.pair++) status = write_pair(&w);
    if (!status) status = readout_save(s, w.t, &w.readout);
    if (!status) status = plan_create(w.t, &options, &a->plan);
    trace_free(w.t);
    arena_free(&w.memory);
    return status;
}

/* Plans the pairs from `first` on, at most `most` of them and as many as there is memory for; where
 * one is too much, with its blocks run again. */
static inset_status prepare_from(sweep *s, int64_t first, int64_t most)
{
    for (int64_t count = most;; count /= 2) {
        inset_status status = prepare(s, first, count);
        if (status != INSET_NO_MEMORY || (count == 1 && s->again)) return status;
        if (count == 1) s->again = true, count = 2;
    }
}

/* ---- begin, step, free -------------------------------------------------- */

/* Pairs that go through together: as many as rows are worth having, and fit. */
static int64_t pairs_at_once(const sweep *s)
{
    const double runs = 2.0 + (s->method.steps > 1 ? s->method.steps - 1 : 0),
                 backward = s->method.steps      ? s->method.steps
                            : s->method.ends     ? 2
                            : s->method.graddrop ? s->n_layers
                                                 : 1;
    const double rows = (runs + backward) * (double)s->clean.longest;
    double saved = 0;
    for (size_t i = 0; i < s->n_taps; i++) {
        const sweep_site *site = &s->sites[s->taps[i].site];
        saved += 4.0 * site->width * site->n_heads * (double)s->clean.longest
                 * (by_softmax(s, &s->taps[i]) ? 5 : 1);
    }
    saved *= (double)s->n_metrics * (s->method.graddrop ? s->n_layers : 1);
    double pairs = 8192 / rows, fit = 268435456.0 / (saved + 1),
           part = ceil((double)s->pairs / SHARED_CHUNKS);
    if (fit < pairs) pairs = fit;
    if (s->shared && part < pairs) pairs = part;
    return pairs < 1 ? 1 : pairs > (double)s->pairs ? s->pairs : (int64_t)pairs;
}

inset_status attribute_begin(sweep *s, bool cuts)
{
    inset_status status = check_method(s);
    if (status) return status;
    struct attribution *a = memory_new(s->context, sizeof *a);
    if (!(s->attribution = a)) return INSET_NO_MEMORY;
    arena *m = &s->memory;
    const size_t layers = (size_t)s->chosen_layers;
    a->wanted = arena_new(m, s->program->n_sites * sizeof *a->wanted);
    a->places = arena_new(m, s->program->n_sites * sizeof *a->places);
    a->stream = arena_new(m, 2 * (size_t)s->n_layers * sizeof *a->stream);
    a->order = arena_new(m, s->n_taps * sizeof *a->order);
    a->attention = arena_new(m, layers * sizeof *a->attention);
    a->sinks = arena_new(m, layers * sizeof *a->sinks);
    a->heads = arena_new(m, layers * sizeof *a->heads);
    if (!a->wanted || !a->places || !a->stream || !a->order || !a->attention || !a->sinks
        || !a->heads)
        return INSET_NO_MEMORY;
    if ((status = find_places(s, a))) return status;
    order_taps(s, a);
    if (!cuts) return INSET_OK;
    /* how pairs are cut must not depend on which of them are done (the last bits of a sum may
     * depend on it): the first pairs say how many go together */
    s->chunk_pairs = pairs_at_once(s);
    status = prepare_from(s, 0, s->chunk_pairs);
    s->chunk_pairs = a->count;
    return status;
}

/* Runs the planned pairs; their scores are added to what their points have. */
static inset_status run_pairs(sweep *s, chunk_counts *counts)
{
    struct attribution *a = s->attribution;
    const plan_statistics *is = plan_get_statistics(a->plan);
    run *r = NULL;
    inset_status status = run_create(s->model, a->plan, &r);
    if (!status) status = run_execute(r);
    if (!status) status = scores_keep(s, r);
    run_free(r);
    if (status) return status;
    job j;
    for (int64_t i = a->first * s->points; i < (a->first + a->count) * s->points; i++)
        counts->done += job_at(s, i, &j);
    counts->rows += is->rows;
    counts->rows_unshared += is->rows_unshared;
    counts->flops += is->flops;
    counts->flops_unshared += is->flops_unshared;
    s->progress.plans++;
    return INSET_OK;
}

static void drop_plan(struct attribution *a)
{
    plan_free(a->plan);
    a->plan = NULL;
}

inset_status attribute_run(sweep *s, int64_t chunk, chunk_counts *counts)
{
    struct attribution *a = s->attribution;
    const int64_t end = (chunk_first(s, chunk) + chunk_jobs(s, chunk)) / s->points;
    inset_status status = INSET_OK;
    /* an attempt that failed may have left numbers */
    for (int64_t m = 0; m < (int64_t)s->n_metrics; m++)
        for (int64_t i = chunk_first(s, chunk); i < end * s->points; i++)
            s->values[m * s->jobs + i] = NAN;
    for (int64_t pair = chunk_first(s, chunk) / s->points; pair < end && !status;) {
        if (a->plan && (a->first != pair || a->count > end - pair)) drop_plan(a);
        if (!a->plan) status = prepare_from(s, pair, end - pair);
        if (!status) status = run_pairs(s, counts);
        pair += a->count;
        drop_plan(a);
    }
    return status;
}

inset_status attribute_cost(sweep *s, inset_cost *out)
{
    struct attribution *a = s->attribution;
    inset_status status = a->plan ? INSET_OK : prepare_from(s, 0, s->chunk_pairs);
    if (status) return status;
    const plan_statistics *is = plan_get_statistics(a->plan);
    const double share = (double)s->pairs / (double)a->count;
    *out = (inset_cost){.pairs = s->pairs,
        .pairs_at_once = a->count,
        .rows = (int64_t)((double)is->rows * share),
        .flops = is->flops * share,
        .blocks_again = is->blocks_again,
        .device_bytes = is->arena_bytes + is->saved_bytes,
        .weight_bytes = s->model->device ? model_bytes_backward(s->model) : is->weight_bytes,
        .host_bytes = is->saved_bytes + 3 * (int64_t)sizeof(float) * s->jobs};
    return INSET_OK;
}

void attribute_free(sweep *s)
{
    struct attribution *a = s->attribution;
    if (!a) return;
    plan_free(a->plan);
    memory_free(s->context, a->products);
    memory_free(s->context, a);
    s->attribution = NULL;
}
