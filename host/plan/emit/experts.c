/* experts.c: launches of mixtures of experts. What a step of them does is the same for any weights:
 * tables of pairs (kernels.h, expert_tables), the rows of all pairs side by side, products over
 * each expert's, and rows again. How many pairs there are is found on the device; the launches and
 * the scratch are made for the most there can be: `chosen` a row, and all experts of a row whose
 * weights a record has set. */
#include "plan/emit/emit.h"

/* A step's launches while they are made; scratch lies behind the arena's buffers. */
typedef struct group {
    emitter *e;
    const step *st;
    const experts *of;
    expert_tables tables;
    expert_weights weights; /* of the rows; at NULL: each row has all */
    int64_t scratch;        /* bytes taken so far */
    bool apart;
} group;

/* ---- how many pairs ----------------------------------------------------- */

typedef struct pair_counter {
    const planner *p;
    int32_t value;
    const experts *of;
    int64_t pairs;
} pair_counter;

static bool count_pairs(void *user, int32_t strand_index, int32_t first, int32_t count)
{
    pair_counter *c = user;
    const strand *s = &c->p->strands[strand_index];
    const bool set = s->kind == STRAND_COPY && s->born == c->value;
    (void)first;
    c->pairs += (int64_t)count * (set ? c->of->n : c->of->chosen);
    return true;
}

/* The most pairs that the rows of a moment have. */
static int64_t most_pairs(emitter *e, const step *st, const moment_plan *m)
{
    pair_counter c = {e->p, e->p->program->slots[st->operands[1]].value, st->experts, 0};
    for (int32_t i = 0; i < computed_count(m); i++) {
        const need *n = computed_need(e->s, m, i);
        operand_rows(e->p, st, 1, n->strand, n->lo, n->hi, count_pairs, &c);
    }
    return c.pairs;
}

/* ---- launches ----------------------------------------------------------- */

static void *take(group *g, int64_t bytes)
{
    enum { ALIGNED = 256 };
    void *at = tagged(AREA_ARENA, g->e->s->arena_bytes + g->scratch);
    g->scratch += (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    if (g->scratch > g->e->scratch_bytes) g->e->scratch_bytes = g->scratch;
    return at;
}

/* Rows of all pairs, `width` wide. */
static void *take_rows(group *g, int64_t width)
{
    return take(g, g->tables.n_pairs * width * (int64_t)type_size(g->e->out->model_type));
}

static bool make_tables(group *g)
{
    const expert_tables *t = &g->tables;
    g->tables.at = take(g, expert_tables_bytes(t->n_rows, t->n_experts, t->n_pairs));
    const kernel_id both[2] = {KERNEL_EXPERT_COUNT, KERNEL_EXPERT_PLACE};
    for (int i = 0; i < 2; i++) {
        launch *l = emit_kernel(
            g->e, both[i], sizeof(expert_table_args), t->n_experts, 2 * t->n_experts * t->n_rows);
        if (!l) return false;
        l->args.expert_table = (expert_table_args){.tables = *t, .weights = g->weights};
    }
    return true;
}

/* The rows of x that pairs are of, side by side. NULL: memory is out. */
static void *gather(group *g, const operand_ref *x)
{
    void *out = take_rows(g, g->of->d);
    launch *l = emit_kernel(g->e, KERNEL_EXPERT_GATHER, sizeof(expert_gather_args),
        g->tables.n_pairs, g->tables.n_pairs * g->of->d);
    if (!l) return NULL;
    l->args.expert_gather = (expert_gather_args){.out = out,
        .x = x->at,
        .x_rows = x->rows,
        .tables = g->tables,
        .width = g->of->d,
        .x_stride = x->stride,
        .apart = g->apart};
    return out;
}

/* y = x W of every pair's expert, or x W^T; `first` is the weight of expert 0, which makes `out`
 * columns of `in`. */
static bool multiply(group *g, int32_t first, int32_t bias, bool reverse, int64_t in, int64_t out,
    const void *x, void *y)
{
    launch *l = emit_launch(g->e);
    if (!l) return false;
    l->is_matmul = true;
    l->reverse = reverse;
    l->weight = first;
    l->bias = bias;
    l->n_group = g->of->n;
    l->offsets = moved(g->tables.at, g->of->n * (int64_t)sizeof(int32_t));
    l->x = x, l->x_stride = reverse ? out : in;
    l->y = y, l->y_stride = reverse ? in : out;
    l->rows = g->tables.n_pairs;
    g->e->out->statistics.flops += 2.0 * (double)l->rows * (double)in * (double)out;
    return true;
}

/* What an expert makes on its way: gate and up, [pairs, stride] each, and what is behind them. */
typedef struct inside {
    void *gate, *up, *made;
    int64_t stride;
} inside;

/* Both products, up to the gate; keep: gate and up stay for the way back. */
static bool run_gate(group *g, const void *x, bool keep, inside *out)
{
    const experts *of = g->of;
    const bool both = of->up < 0;
    const int64_t size = (int64_t)type_size(g->e->out->model_type);
    out->stride = both ? 2 * of->m : of->m;
    out->gate = take_rows(g, out->stride);
    if (!multiply(g, of->gate, of->gate_bias, false, of->d, out->stride, x, out->gate))
        return false;
    out->up = both ? moved(out->gate, size) : take_rows(g, of->m);
    if (!both && !multiply(g, of->up, -1, false, of->d, of->m, x, out->up)) return false;
    out->made = keep || both ? take_rows(g, of->m) : out->gate;
    launch *l = emit_kernel(g->e, KERNEL_EXPERT_GATE, sizeof(expert_gate_args), g->tables.n_pairs,
        g->tables.n_pairs * of->m * 4);
    if (!l) return false;
    l->args.expert_gate = (expert_gate_args){.out = out->made,
        .gate = out->gate,
        .up = out->up,
        .tables = g->tables,
        .width = of->m,
        .stride = out->stride,
        .kind = (int32_t)of->act,
        .limit = of->limit,
        .alpha = of->alpha};
    return true;
}

static bool run_down(group *g, const inside *in, void *y)
{
    return multiply(g, g->of->down, g->of->down_bias, false, g->of->m, g->of->d, in->made, y);
}

/* Rows of their experts' parts; y_apart: `y` has all parts of a row side by side. */
static inset_status sum_parts(
    group *g, const operand_ref *y, bool y_apart, void *out, int64_t out_stride)
{
    launch *l = emit_kernel(g->e, KERNEL_EXPERT_SUM, sizeof(expert_sum_args), g->tables.n_rows,
        g->tables.n_pairs * g->of->d * 2);
    if (!l) return INSET_NO_MEMORY;
    l->args.expert_sum = (expert_sum_args){.out = out,
        .y = y->at,
        .y_rows = y->rows,
        .tables = g->tables,
        .weights = g->weights,
        .width = g->of->d,
        .out_stride = out_stride,
        .y_stride = y->stride,
        .y_apart = y_apart,
        .apart = g->apart};
    return INSET_OK;
}

static inset_status run_experts(group *g, const operand_ref *x, void *out, int64_t width)
{
    inside in;
    if (!make_tables(g)) return INSET_NO_MEMORY;
    void *rows = gather(g, x);
    if (!rows || !run_gate(g, rows, false, &in) || !run_down(g, &in, rows)) return INSET_NO_MEMORY;
    return sum_parts(g, &(operand_ref){rows, NULL, g->of->d}, false, out, width);
}

/* ---- backwards ---------------------------------------------------------- */

/* The gradients of gate and up take their places. */
static bool gate_back(group *g, const inside *in, const void *back)
{
    launch *l = emit_kernel(g->e, KERNEL_EXPERT_GATE_BACK, sizeof(expert_gate_back_args),
        g->tables.n_pairs, g->tables.n_pairs * g->of->m * 6);
    if (!l) return false;
    l->args.expert_gate_back = (expert_gate_back_args){.gate = in->gate,
        .up = in->up,
        .back = back,
        .tables = g->tables,
        .weights = g->weights,
        .width = g->of->m,
        .stride = in->stride,
        .kind = (int32_t)g->of->act,
        .secant = g->st->secant,
        .half = g->st->half,
        .limit = g->of->limit,
        .alpha = g->of->alpha};
    return true;
}

/* The gradients of the pairs' weights, fp32. */
static float *weight_back(group *g, const void *y, const void *dy)
{
    float *out = take(g, g->tables.n_pairs * (int64_t)sizeof(float));
    launch *l = emit_kernel(g->e, KERNEL_EXPERT_WEIGHT_BACK, sizeof(expert_weight_back_args),
        g->tables.n_pairs, g->tables.n_pairs * g->of->d);
    if (!l) return NULL;
    l->args.expert_weight_back = (expert_weight_back_args){
        .out = out, .y = y, .dy = dy, .tables = g->tables, .width = g->of->d, .half = g->st->half};
    return out;
}

/* With y = down(h), h = act(gate(x)) * up(x) and the row's sum of weight * y: dweight = y . dy, and
 * dy goes back through down, the gate, and both products. */
static inset_status run_experts_back(
    group *g, const operand_ref *x, const operand_ref *dy, void *out, int64_t width)
{
    const experts *of = g->of;
    const int64_t stride = of->up < 0 ? 2 * of->m : of->m;
    inside in;
    float *weights = NULL;
    if (!make_tables(g)) return INSET_NO_MEMORY;
    void *rows = gather(g, x), *sent = gather(g, dy);
    if (!rows || !sent || !run_gate(g, rows, true, &in)) return INSET_NO_MEMORY;
    void *back = take_rows(g, of->m), *made = take_rows(g, of->d);
    if (!g->apart && (!run_down(g, &in, made) || !(weights = weight_back(g, made, sent))))
        return INSET_NO_MEMORY;
    if (!multiply(g, of->down, -1, true, of->m, of->d, sent, back) || !gate_back(g, &in, back)
        || !multiply(g, of->gate, -1, true, of->d, stride, in.gate, rows)
        || (of->up >= 0 && !multiply(g, of->up, -1, true, of->d, of->m, in.up, made)))
        return INSET_NO_MEMORY;
    launch *l = emit_kernel(g->e, KERNEL_EXPERT_SUM_BACK, sizeof(expert_sum_back_args),
        g->tables.n_rows, g->tables.n_pairs * of->d * 2);
    if (!l) return INSET_NO_MEMORY;
    l->args.expert_sum_back = (expert_sum_back_args){.out = out,
        .by_gate = rows,
        .by_up = of->up < 0 ? NULL : made,
        .weights = weights,
        .tables = g->tables,
        .width = of->d,
        .out_stride = width,
        .apart = g->apart};
    return INSET_OK;
}

static inset_status joined_back(
    group *g, const operand_ref *y, const operand_ref *dy, void *out, int64_t width)
{
    launch *l = emit_kernel(g->e, KERNEL_EXPERTS_JOINED_BACK, sizeof(expert_joined_back_args),
        g->tables.n_rows, g->tables.n_rows * width * 2);
    if (!l) return INSET_NO_MEMORY;
    l->args.expert_joined_back = (expert_joined_back_args){.out = out,
        .y = y->at,
        .dy = dy->at,
        .y_rows = y->rows,
        .dy_rows = dy->rows,
        .weights = g->weights,
        .n_rows = g->tables.n_rows,
        .n_experts = g->of->n,
        .width = g->of->d,
        .out_stride = width,
        .y_stride = y->stride,
        .dy_stride = dy->stride,
        .half = g->st->half};
    return INSET_OK;
}

/* ---- steps -------------------------------------------------------------- */

static inset_status emit_route(
    emitter *e, const step *st, const moment_plan *m, const operand_ref *in, void *out)
{
    const bool back = st->kind == STEP_ROUTE_BACK;
    const int64_t n = st->experts->n;
    launch *l = emit_kernel(e, back ? KERNEL_ROUTE_BACK : KERNEL_ROUTE, sizeof(route_args),
        m->n_computed, m->n_computed * n * n);
    if (!l) return INSET_NO_MEMORY;
    l->args.route = (route_args){.out = out,
        .x = in[0].at,
        .dy = back ? in[1].at : NULL,
        .x_rows = in[0].rows,
        .dy_rows = back ? in[1].rows : NULL,
        .n_rows = m->n_computed,
        .n_experts = n,
        .out_stride = n,
        .x_stride = in[0].stride,
        .dy_stride = in[1].stride,
        .chosen = st->experts->chosen,
        .over_all = st->experts->over_all};
    return INSET_OK;
}

inset_status emit_experts(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    operand_ref in[3] = {{0}, {0}, {0}};
    for (int k = 0; k < st->n_operands; k++) {
        inset_status status = emit_operand(e, st, k, &in[k]);
        if (status) return status;
    }
    if (st->kind == STEP_ROUTE || st->kind == STEP_ROUTE_BACK) return emit_route(e, st, m, in, out);
    group g = {.e = e,
        .st = st,
        .of = st->experts,
        .apart = st->kind == STEP_EXPERTS_APART || st->kind == STEP_EXPERTS_APART_BACK};
    if (!g.apart) g.weights = (expert_weights){in[1].at, in[1].rows, in[1].stride};
    g.tables = (expert_tables){.n_rows = m->n_computed,
        .n_experts = g.of->n,
        .n_pairs = g.apart ? (int64_t)m->n_computed * g.of->n : most_pairs(e, st, m)};
    switch (st->kind) {
    case STEP_EXPERTS:
    case STEP_EXPERTS_APART: return run_experts(&g, &in[0], out, width);
    case STEP_EXPERTS_JOINED: return sum_parts(&g, &in[0], true, out, width);
    case STEP_EXPERTS_BACK: return run_experts_back(&g, &in[0], &in[2], out, width);
    case STEP_EXPERTS_APART_BACK: return run_experts_back(&g, &in[0], &in[1], out, width);
    default: return joined_back(&g, &in[0], &in[2], out, width);
    }
}
