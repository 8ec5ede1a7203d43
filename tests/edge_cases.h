/* edge_cases.h: the kernels of edges' scores. What is expected of a row through a norm is the
 * difference quotient of the norm itself, in double precision, in both directions. Part of
 * kernel_cases.h, behind back_cases.h. */
#ifndef INSET_EDGE_CASES_H
#define INSET_EDGE_CASES_H

/* The norm of x, all of it, into out; it divides by `scale` unless that is 0. Returns what it
 * divided by. */
static double norm_whole(
    const double *x, const double *weight, const through_norm_args *like, double scale, double *out)
{
    const int64_t d = like->width;
    double mean = 0, square = 0;
    for (int64_t i = 0; i < d && like->centred; i++) mean += x[i] / (double)d;
    for (int64_t i = 0; i < d; i++) square += (x[i] - mean) * (x[i] - mean) / (double)d;
    if (scale == 0) scale = sqrt(square + (double)like->eps);
    for (int64_t i = 0; i < d; i++)
        out[i] = (x[i] - mean) / scale * (weight ? weight[i] + like->plus_one : 1);
    return scale;
}

/* J v or J^T v of the norm at x. scratch [3 d]. */
static void norm_slope(const double *x, const double *v, const double *weight,
    const through_norm_args *like, double *scratch, double *out)
{
    const int64_t d = like->width;
    double *at = scratch, *up = scratch + d, *down = scratch + 2 * d;
    memcpy(at, x, (size_t)d * sizeof *at);
    const double scale = norm_whole(x, weight, like, 0, up),
                 fixed = like->constant_scale ? scale : 0;
    for (int64_t i = 0; i < d; i++) {
        if (like->forward && i) break; /* all of x moves along v */
        for (int k = 0; k < 2; k++) {
            for (int64_t j = 0; j < d; j++)
                at[j] = x[j] + (k ? NUDGE : -NUDGE) * (like->forward ? v[j] : i == j);
            norm_whole(at, weight, like, fixed, k ? up : down);
        }
        double along = 0;
        for (int64_t j = 0; j < d; j++) {
            const double slope = (up[j] - down[j]) / (2 * NUDGE);
            if (like->forward) out[j] = slope;
            along += slope * v[j];
        }
        if (!like->forward) out[i] = along;
    }
}

static void case_through_norm(
    subject *s, int type, const row_shape *shape, const through_norm_args *like, bool weighted)
{
    through_norm_args a = *like;
    a.n_rows = shape->rows, a.width = shape->width, a.eps = 0.01f, a.share = 0.25f;
    const int64_t rows = a.n_rows, d = a.width, n = a.n_heads * rows * d;
    buffer x = buffer_random(s, INSET_F32, rows * d, shape->skip, 3),
           v = buffer_random(s, INSET_F32, n, shape->skip, 2),
           weight = buffer_random(s, type, d, shape->skip, 2),
           out = buffer_result(s, INSET_F32, n, shape->skip);
    double *want = malloc((size_t)n * sizeof *want),
           *scratch = malloc(3 * (size_t)d * sizeof *want);
    for (int64_t i = 0; i < n; i++)
        out.values[i] = as_type(INSET_F32, 2 * test_uniform(&s->random));
    if (a.add) buffer_send(&out);
    a.out = buffer_at(&out, 0), a.v = buffer_at(&v, 0);
    a.weight = weighted ? buffer_at(&weight, 0) : NULL;
    a.x = like->x ? buffer_at(&x, 0) : NULL;
    for (int64_t h = 0; h < a.n_heads; h++)
        for (int64_t r = 0; r < rows; r++) {
            const int64_t at = (h * rows + r) * d;
            if (a.x)
                norm_slope(x.values + r * d, v.values + at, weighted ? weight.values : NULL, &a,
                    scratch, want + at);
            for (int64_t i = at; i < at + d; i++)
                want[i] = (a.x ? want[i] : v.values[i]) * (double)a.share
                          + (a.add ? out.values[i] : 0);
        }
    const int64_t groups = (a.n_heads + a.heads_a_block - 1) / a.heads_a_block;
    launch(s, KERNEL_THROUGH_NORM, type, &a, sizeof a, rows * groups);
    check_rows(s, "through norm", &out, a.n_heads * rows, d, d, want, 1.5, d == 1 ? 1e-3 : 2e-5);
    buffer_free(&x);
    buffer_free(&v);
    buffer_free(&weight);
    buffer_free(&out);
    free(want);
    free(scratch);
}

static void case_widen(subject *s, int type, int64_t n)
{
    buffer x = buffer_random(s, type, n, 1, 4), out = buffer_result(s, INSET_F32, n, 1);
    const widen_args a = {buffer_at(&out, 0), buffer_at(&x, 0), n};
    launch(s, KERNEL_WIDEN, type, &a, sizeof a, (n + WIDEN_A_BLOCK - 1) / WIDEN_A_BLOCK);
    check_rows(s, "widen", &out, 1, n, n, x.values, 0, 0);
    buffer_free(&x);
    buffer_free(&out);
}

static void run_edge_cases(subject *s, int type)
{
    static const float there = 0; /* x is given */
    for (int i = 0; i < shape_count(s); i++) {
        const row_shape *shape = &row_shapes[i];
        if (shape->width > 300) continue; /* differences of long rows take long */
        for (int k = 0; k < 32; k += s->brief ? 5 : 1) {
            const through_norm_args like = {.x = k % 16 == 15 ? NULL : &there,
                .centred = k & 1 && shape->width > 1,
                .forward = k >> 1 & 1,
                .constant_scale = k >> 2 & 1,
                .add = k >> 3 & 1,
                .plus_one = k >> 4 & 1,
                .n_heads = 1 + k % 5,
                .heads_a_block = 1 + k % 3};
            case_through_norm(s, type, shape, &like, k % 7 > 0);
        }
    }
    case_widen(s, type, 1);
    case_widen(s, type, WIDEN_A_BLOCK);
    case_widen(s, type, 3 * WIDEN_A_BLOCK + 77);
}

#endif
