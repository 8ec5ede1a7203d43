/* expert_cases.h: the kernels of mixtures of experts, against plain loops in double precision; what
 * gradients are expected is difference quotients of those. Part of kernel_cases.h, behind
 * back_cases.h. */
#ifndef INSET_EXPERT_CASES_H
#define INSET_EXPERT_CASES_H

/* ---- the router --------------------------------------------------------- */

/* Weights of logits x [n]: softmax over all or over the chosen largest, 0 for the others. */
static void route_row(const double *x, int n, int chosen, bool over_all, double *out)
{
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int i = 0; i < n; i++) {
        int before = 0;
        for (int j = 0; j < n; j++) before += x[j] > x[i] || (x[j] == x[i] && j < i);
        out[i] = before < chosen ? exp(x[i] - most) : 0;
        if (before < chosen || over_all) sum += exp(x[i] - most);
    }
    for (int i = 0; i < n; i++) out[i] /= sum;
}

/* Logits far enough apart that a nudge chooses no others, some equal where `tied`. */
static buffer route_logits(
    subject *s, int type, int64_t n, int64_t experts, int64_t stride, bool tied)
{
    buffer x = buffer_new(s, type, n * stride, 1);
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < experts; i++) {
            const int64_t at = (i * 7 + r * 3) % experts;
            x.values[r * stride + i] = as_type(type, 0.25 * (double)(tied ? at / 2 : at));
        }
    buffer_send(&x);
    return x;
}

static void case_route(subject *s, int type, int experts, int chosen, bool over_all, bool tied)
{
    const int64_t rows = 5, stride = experts + 3;
    buffer x = route_logits(s, type, rows, experts, stride, tied),
           dy = buffer_random(s, type, rows * experts, 0, 2),
           out = buffer_result(s, type, rows * experts, 1),
           back = buffer_result(s, type, rows * experts, 1);
    double *want = calloc((size_t)(rows * experts), sizeof *want),
           *slope = calloc((size_t)(rows * experts), sizeof *want), up[64], down[64], at[64];
    for (int64_t r = 0; r < rows; r++) {
        route_row(x.values + r * stride, experts, chosen, over_all, want + r * experts);
        for (int i = 0; i < experts && !tied; i++) {
            memcpy(at, x.values + r * stride, (size_t)experts * sizeof *at);
            at[i] += NUDGE, route_row(at, experts, chosen, over_all, up);
            at[i] -= 2 * NUDGE, route_row(at, experts, chosen, over_all, down);
            for (int j = 0; j < experts; j++)
                slope[r * experts + i] += (up[j] - down[j]) / (2 * NUDGE)
                                          * dy.values[r * experts + j];
        }
    }
    route_args a = {buffer_at(&out, 0), buffer_at(&x, 0), NULL, NULL, NULL, rows, experts, experts,
        stride, 0, chosen, over_all};
    launch(s, KERNEL_ROUTE, type, &a, sizeof a, rows);
    check_rows(s, "route", &out, rows, experts, experts, want, 1.5, 1e-6);
    a.out = buffer_at(&back, 0), a.dy = buffer_at(&dy, 0), a.dy_stride = experts;
    launch(s, KERNEL_ROUTE_BACK, type, &a, sizeof a, rows);
    if (!tied) check_rows(s, "route back", &back, rows, experts, experts, slope, 1.5, 3e-6);
    buffer_free(&x);
    buffer_free(&dy);
    buffer_free(&out);
    buffer_free(&back);
    free(want);
    free(slope);
}

/* NaNs among the logits: no more than the chosen have a weight, and those are NaNs. */
static void case_odd_route(subject *s, int type)
{
    enum { N = 9, CHOSEN = 2 };
    buffer x = buffer_new(s, type, N, 0), out = buffer_result(s, type, N, 0);
    for (int i = 0; i < N; i++) x.values[i] = i % 2 ? NAN : 0.5 * i;
    buffer_send(&x);
    const route_args a = {
        buffer_at(&out, 0), buffer_at(&x, 0), NULL, NULL, NULL, 1, N, N, N, 0, CHOSEN, 0};
    launch(s, KERNEL_ROUTE, type, &a, sizeof a, 1);
    buffer_fetch(&out);
    int n = 0;
    for (int i = 0; i < N; i++) n += isnan(out.values[i]) || out.values[i] != 0;
    CHECK(n == CHOSEN && isnan(out.values[1]), "%s: route %s: %d experts of NaNs", s->name,
        type_names[type], n);
    buffer_free(&x);
    buffer_free(&out);
}

/* ---- pairs -------------------------------------------------------------- */

/* A mixture of `experts` experts, d wide, m wide inside, and its tables as plain loops make them.
 * */
typedef struct mixture_case {
    subject *s;
    int type;
    int64_t rows, experts, d, m, pairs, room; /* pairs there are, and there is room for */
    buffer weights, table;                    /* [rows, experts] */
    expert_tables tables;
    int32_t *row, *expert; /* [pairs] */
    double *want;          /* room for any result */
} mixture_case;

static expert_weights weights_of(const mixture_case *c)
{
    return (expert_weights){buffer_at(&c->weights, 0), NULL, c->experts};
}

static void mixture_tables(mixture_case *c, bool all)
{
    const int64_t E = c->experts, bytes = expert_tables_bytes(c->rows, E, c->room);
    c->table = buffer_result(c->s, INSET_I32, bytes / 4, 0);
    c->tables = (expert_tables){buffer_at(&c->table, 0), c->rows, E, c->room};
    expert_table_args a = {c->tables, weights_of(c)};
    if (all) a.weights = (expert_weights){0};
    launch(c->s, KERNEL_EXPERT_COUNT, c->type, &a, sizeof a, E);
    launch(c->s, KERNEL_EXPERT_PLACE, c->type, &a, sizeof a, E);
    bool same = buffer_fetch(&c->table);
    const double *counts = c->table.values, *offsets = counts + E, *rows = offsets + E + 1,
                 *experts = rows + c->room, *pairs = experts + c->room;
    c->pairs = 0;
    for (int64_t e = 0; e < E; e++) {
        int64_t n = 0;
        same &= offsets[e] == (double)c->pairs;
        for (int64_t r = 0; r < c->rows; r++) {
            const bool has = all || c->weights.values[r * E + e] != 0;
            same &= pairs[r * E + e] == (has ? (double)c->pairs : -1);
            if (!has) continue;
            same &= rows[c->pairs] == (double)r && experts[c->pairs] == (double)e;
            c->row[c->pairs] = (int32_t)r, c->expert[c->pairs++] = (int32_t)e;
            n++;
        }
        same &= counts[e] == (double)n;
    }
    same &= offsets[E] == (double)c->pairs;
    CHECK(same, "%s: tables of %d experts, %s", c->s->name, (int)E, type_names[c->type]);
}

static double weight_in(const mixture_case *c, int64_t pair)
{
    return c->weights.values[c->row[pair] * c->experts + c->expert[pair]];
}

static void case_gather_pairs(mixture_case *c, bool apart)
{
    const int64_t d = c->d, width = apart ? d * c->experts : d, stride = width + 2;
    buffer x = buffer_random(c->s, c->type, c->rows * stride, 1, 2),
           out = buffer_result(c->s, c->type, c->room * d, 1);
    for (int64_t p = 0; p < c->pairs; p++)
        memcpy(c->want + p * d, x.values + c->row[p] * stride + (apart ? c->expert[p] * d : 0),
            (size_t)d * sizeof *c->want);
    const expert_gather_args a = {
        buffer_at(&out, 0), buffer_at(&x, 0), NULL, c->tables, d, stride, apart};
    launch(c->s, KERNEL_EXPERT_GATHER, c->type, &a, sizeof a, c->room);
    check_rows(c->s, "gathered pairs", &out, c->pairs, d, d, c->want, 0, 0);
    buffer_free(&x);
    buffer_free(&out);
}

/* ---- inside an expert --------------------------------------------------- */

/* What a gate makes of gate and up; kind and limit as the kernel takes them. */
static double gated(int kind, double limit, double alpha, double g, double u)
{
    if (limit > 0) {
        g = g > limit ? limit : g;
        u = u > limit ? limit : u < -limit ? -limit : u;
        return (u + 1) * g / (1 + exp(-alpha * g));
    }
    return activation_of(kind, g) * u;
}

/* Random numbers away from 0 and from where they are clamped: there slopes jump. */
static buffer away_from_jumps(mixture_case *c, int64_t n, double limit)
{
    buffer b = buffer_random(c->s, c->type, n, 0, 2);
    for (int64_t i = 0; i < n; i++)
        if (fabs(b.values[i]) < 0.01 || fabs(fabs(b.values[i]) - limit) < 0.02) b.values[i] = 0.5;
    buffer_send(&b);
    return b;
}

static void case_gates(mixture_case *c, int kind, double limit, bool half)
{
    const int64_t m = c->m, by = limit > 0 ? 2 : 1, stride = by * m;
    const double alpha = 1.7;
    buffer gate = away_from_jumps(c, c->room * stride, limit),
           up = away_from_jumps(c, c->room * m, limit),
           dh = buffer_random(c->s, c->type, c->room * m, 0, 2),
           out = buffer_result(c->s, c->type, c->room * m, 1);
    double *by_gate = calloc((size_t)(c->pairs * stride) + 1, sizeof *by_gate),
           *by_up = calloc((size_t)(c->pairs * stride) + 1, sizeof *by_up);
    const buffer *second = by == 2 ? &gate : &up;
    for (int64_t p = 0; p < c->pairs; p++)
        for (int64_t i = 0; i < m; i++) {
            const double g = gate.values[p * stride + by * i],
                         u = second->values[p * stride + by * i + (by == 2)],
                         back = dh.values[p * m + i] * weight_in(c, p) * (half ? 0.25 : 1);
            c->want[p * m + i] = gated(kind, limit, alpha, g, u);
            by_gate[p * stride + by * i] = back
                                           * (gated(kind, limit, alpha, g + NUDGE, u)
                                               - gated(kind, limit, alpha, g - NUDGE, u))
                                           / (2 * NUDGE);
            double *to = by == 2 ? &by_gate[p * stride + 2 * i + 1] : &by_up[p * m + i];
            *to = back
                  * (gated(kind, limit, alpha, g, u + NUDGE)
                      - gated(kind, limit, alpha, g, u - NUDGE))
                  / (2 * NUDGE);
        }
    expert_gate_args a = {buffer_at(&out, 0), buffer_at(&gate, 0),
        by == 2 ? buffer_at(&gate, 1) : buffer_at(&up, 0), c->tables, m, stride, kind, (float)limit,
        (float)alpha};
    launch(c->s, KERNEL_EXPERT_GATE, c->type, &a, sizeof a, c->room);
    check_rows(c->s, "gate", &out, c->pairs, m, m, c->want, by == 2 ? 6 : 3, 2e-6);
    expert_gate_back_args b = {(void *)(uintptr_t)a.gate, (void *)(uintptr_t)a.up,
        buffer_at(&dh, 0), c->tables, weights_of(c), m, stride, kind, 0, half, (float)limit,
        (float)alpha};
    launch(c->s, KERNEL_EXPERT_GATE_BACK, c->type, &b, sizeof b, c->room);
    check_rows(c->s, "gate back", &gate, c->pairs, stride, stride, by_gate, 1.5, 1e-4);
    if (by == 1) check_rows(c->s, "up back", &up, c->pairs, m, m, by_up, 1.5, 1e-4);
    buffer_free(&gate);
    buffer_free(&up);
    buffer_free(&dh);
    buffer_free(&out);
    free(by_gate);
    free(by_up);
}

/* ---- rows again --------------------------------------------------------- */

static void case_sums(mixture_case *c, bool y_apart)
{
    const int64_t d = c->d, E = c->experts;
    buffer y = buffer_random(c->s, c->type, y_apart ? c->rows * E * d : c->room * d, 0, 2),
           out = buffer_result(c->s, c->type, c->rows * (d + 1), 1);
    memset(c->want, 0, (size_t)(c->rows * d) * sizeof *c->want);
    for (int64_t p = 0; p < c->pairs; p++)
        for (int64_t i = 0; i < d; i++)
            c->want[c->row[p] * d + i] += as_type(c->type,
                weight_in(c, p)
                    * y.values[y_apart ? (c->row[p] * E + c->expert[p]) * d + i : p * d + i]);
    const expert_sum_args a = {buffer_at(&out, 0), buffer_at(&y, 0), NULL, c->tables, weights_of(c),
        d, d + 1, E * d, y_apart, 0};
    launch(c->s, KERNEL_EXPERT_SUM, c->type, &a, sizeof a, c->rows);
    check_rows(c->s, "sum of experts", &out, c->rows, d, d + 1, c->want, 2.5, 1e-5);
    buffer_free(&y);
    buffer_free(&out);
}

static void case_sums_back(mixture_case *c, bool half)
{
    const int64_t d = c->d, E = c->experts, width = d + E;
    buffer y = buffer_random(c->s, c->type, c->room * d, 0, 2),
           dy = buffer_random(c->s, c->type, c->room * d, 0, 2),
           weights = buffer_result(c->s, INSET_F32, c->room, 0),
           out = buffer_result(c->s, c->type, c->rows * width, 1);
    double *want = calloc((size_t)(c->rows * width), sizeof *want);
    for (int64_t p = 0; p < c->pairs; p++) {
        c->want[p] = 0;
        for (int64_t i = 0; i < d; i++) {
            c->want[p] += y.values[p * d + i] * dy.values[p * d + i] * (half ? 0.5 : 1);
            want[c->row[p] * width + i] += y.values[p * d + i] + dy.values[p * d + i];
        }
        want[c->row[p] * width + d + c->expert[p]] = c->want[p];
    }
    const expert_weight_back_args a = {
        buffer_at(&weights, 0), buffer_at(&y, 0), buffer_at(&dy, 0), c->tables, d, half};
    launch(c->s, KERNEL_EXPERT_WEIGHT_BACK, c->type, &a, sizeof a, c->room);
    check_rows(c->s, "weight back", &weights, 1, c->pairs, c->pairs, c->want, 4, 1e-4);
    const expert_sum_back_args b = {buffer_at(&out, 0), buffer_at(&y, 0), buffer_at(&dy, 0),
        buffer_at(&weights, 0), c->tables, d, width, 0};
    launch(c->s, KERNEL_EXPERT_SUM_BACK, c->type, &b, sizeof b, c->rows);
    check_rows(c->s, "experts back", &out, c->rows, width, width, want, 1.5, 1e-4);
    buffer_free(&y);
    buffer_free(&dy);
    buffer_free(&weights);
    buffer_free(&out);
    free(want);
}

static void case_joined_back(mixture_case *c)
{
    const int64_t d = c->d, E = c->experts, width = E * d + E;
    buffer y = buffer_random(c->s, c->type, c->rows * E * d, 0, 2),
           dy = buffer_random(c->s, c->type, c->rows * d, 0, 2),
           out = buffer_result(c->s, c->type, c->rows * width, 1);
    double *want = calloc((size_t)(c->rows * width), sizeof *want);
    for (int64_t p = 0; p < c->pairs; p++)
        for (int64_t r = c->row[p], e = c->expert[p], i = 0; i < d; i++) {
            want[r * width + e * d + i] = weight_in(c, p) * dy.values[r * d + i];
            want[r * width + E * d + e] += y.values[(r * E + e) * d + i] * dy.values[r * d + i];
        }
    const expert_joined_back_args a = {buffer_at(&out, 0), buffer_at(&y, 0), buffer_at(&dy, 0),
        NULL, NULL, weights_of(c), c->rows, E, d, width, E * d, d, 0};
    launch(c->s, KERNEL_EXPERTS_JOINED_BACK, c->type, &a, sizeof a, c->rows);
    check_rows(c->s, "joined back", &out, c->rows, width, width, want, 1.5, 1e-4);
    buffer_free(&y);
    buffer_free(&dy);
    buffer_free(&out);
    free(want);
}

/* Rows with none, some and all of the experts; an expert that no row has. */
static void case_mixture(subject *s, int type, int64_t rows, int64_t experts, int64_t d, int64_t m)
{
    mixture_case c = {.s = s,
        .type = type,
        .rows = rows,
        .experts = experts,
        .d = d,
        .m = m,
        .room = rows * experts};
    const int64_t wide = d > m ? d : m;
    c.weights = buffer_new(s, type, rows * experts, 1);
    c.row = calloc((size_t)c.room + 1, sizeof *c.row);
    c.expert = calloc((size_t)c.room + 1, sizeof *c.expert);
    c.want = calloc((size_t)(c.room * wide * 2) + 1, sizeof *c.want);
    for (int64_t i = 0; i < rows * experts; i++) {
        const int64_t r = i / experts, e = i % experts;
        const bool has = r % 4 == 3 || (r % 4 && test_random(&s->random) % 3 == 0);
        c.weights.values[i] = has && (e != 1 || experts < 3)
                                  ? as_type(type, test_uniform(&s->random) + 1.25)
                                  : 0;
    }
    buffer_send(&c.weights);
    mixture_tables(&c, true);
    case_gather_pairs(&c, true);
    buffer_free(&c.table);
    mixture_tables(&c, false);
    case_gather_pairs(&c, false);
    for (int kind = s->brief ? 3 : 0; kind < (s->brief ? 4 : 6); kind++)
        case_gates(&c, kind, 0, kind % 2);
    case_gates(&c, 3, 1.25, false);
    case_sums(&c, false);
    case_sums(&c, true);
    case_sums_back(&c, false);
    case_sums_back(&c, true);
    case_joined_back(&c);
    buffer_free(&c.weights);
    buffer_free(&c.table);
    free(c.row);
    free(c.expert);
    free(c.want);
}

static void run_expert_cases(subject *s, int type)
{
    for (int over_all = 0; over_all < 2; over_all++) {
        case_route(s, type, 8, 2, over_all, false);
        if (!s->brief) case_route(s, type, 5, 5, over_all, false);
        if (!s->brief) case_route(s, type, 37, 1, over_all, false);
        case_route(s, type, 37, 6, over_all, true);
    }
    case_odd_route(s, type);
    case_mixture(s, type, 9, 4, 20, 28);
    if (s->brief) return;
    case_mixture(s, type, 1, 1, 5, 3);
    case_mixture(s, type, 40, 17, 33, 65);
}

/* ---- products of sorted rows, of compilations that have them ------------- */

/* Rows of n matrices, the last of which has none; `alone`: each matrix's rows in a launch of their
 * own have the same bits. */
static void case_grouped(subject *s, int type, int64_t in, int64_t out, bool in_out, bool with_bias)
{
    enum { N = 4 };
    static const int32_t counts[N] = {3, 70, 1, 0};
    int32_t offsets[N + 1] = {0};
    for (int i = 0; i < N; i++) offsets[i + 1] = offsets[i] + counts[i];
    const int64_t rows = offsets[N], columns = GROUPED_COLUMNS((int)type_sizes[type]),
                  blocks = (out + columns - 1) / columns
                           * ((rows + GROUPED_ROWS - 1) / GROUPED_ROWS + N);
    buffer x = buffer_random(s, type, rows * in, 0, 1),
           w = buffer_random(s, type, N * in * out, 0, 1),
           bias = buffer_random(s, type, N * out, 0, 1), at = buffer_integers(s, N + 1, offsets),
           y = buffer_result(s, type, rows * out, 0);
    double *want = calloc((size_t)(rows * out), sizeof *want);
    grouped_args a = {
        buffer_at(&y, 0), buffer_at(&x, 0), buffer_at(&at, 0), in, out, N, in_out, {NULL}, {NULL}};
    for (int i = 0; i < N; i++) {
        a.weights[i] = buffer_at(&w, i * in * out);
        a.biases[i] = with_bias ? buffer_at(&bias, i * out) : NULL;
        const double *own = w.values + i * in * out;
        for (int64_t r = offsets[i]; r < offsets[i + 1]; r++)
            for (int64_t o = 0; o < out; o++) {
                double sum = with_bias ? bias.values[i * out + o] : 0;
                for (int64_t k = 0; k < in; k++)
                    sum += x.values[r * in + k] * own[in_out ? k * out + o : o * in + k];
                want[r * out + o] = sum;
            }
    }
    launch(s, KERNEL_GROUPED_PRODUCT, type, &a, sizeof a, blocks);
    check_rows(s, "grouped product", &y, rows, out, out, want, 1.5, 2e-5);
    buffer_free(&x);
    buffer_free(&w);
    buffer_free(&bias);
    buffer_free(&at);
    buffer_free(&y);
    free(want);
}

__attribute__((unused)) static void run_grouped_cases(subject *s, int type)
{
    for (int k = 0; k < 4; k += s->brief ? 3 : 1) {
        case_grouped(s, type, 40, 144, k & 1, k >> 1 & 1);
        case_grouped(s, type, 7, 5, k & 1, k >> 1 & 1);
        if (!s->brief) case_grouped(s, type, 131, 67, k & 1, k >> 1 & 1);
    }
}

#endif
