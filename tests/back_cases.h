/* back_cases.h: the kernels of gradients. What is expected is the difference quotient of the
 * forward loops in double precision, so that no formula of the kernels is written twice. Part of
 * kernel_cases.h. */
#ifndef INSET_BACK_CASES_H
#define INSET_BACK_CASES_H

/* The step of a central difference: its error is about its square, and 1e-16 over it. */
static const double NUDGE = 1e-5;

/* ---- norms and activations ---------------------------------------------- */

/* dy times a norm of x, in one number. */
static double norm_through(const double *x, const double *dy, const double *weight, int64_t d,
    int64_t groups, double eps, bool centred, bool plus_one, const double *scales)
{
    const int64_t part = d / groups;
    double total = 0;
    for (int64_t g = 0; g < groups; g++) {
        double mean = 0, square = 0;
        for (int64_t i = 0; i < part && centred; i++) mean += x[g * part + i] / (double)part;
        for (int64_t i = 0; i < part; i++)
            square += (x[g * part + i] - mean) * (x[g * part + i] - mean) / (double)part;
        const double scale = scales ? scales[g] : sqrt(square + eps);
        for (int64_t i = 0; i < part; i++)
            total += dy[g * part + i] * (x[g * part + i] - mean) / scale
                     * (weight ? weight[i] + plus_one : 1);
    }
    return total;
}

/* A norm that divides by a scale in the open, which is another than its own: by x, by the scale;
 * and of that scale by x. scratch: as many numbers as a row has. */
static void case_norm_given(subject *s, int type, operand *x, operand *dy,
    const norm_back_args *like, const buffer *weight, double *scratch, double *want)
{
    const int64_t rows = like->n_rows, d = like->width, groups = like->groups, part = d / groups;
    const row_shape shape = {rows, groups, 2, 1, true};
    operand scale = operand_new(s, type, &shape, 1), ds = operand_new(s, type, &shape, 2);
    buffer out = buffer_result(s, type, rows * d, 1),
           divisors = buffer_result(s, type, rows * groups, 0),
           through = buffer_result(s, type, rows * d, 0);
    double *divisor = malloc((size_t)(rows * groups) * sizeof *divisor),
           *own = malloc((size_t)(rows * d) * sizeof *own);
    for (int64_t i = 0; i < (rows + 2) * scale.stride; i++) { /* not near 0 */
        double *one = &scale.x.values[i];
        *one = as_type(type, *one + (*one < 0 ? -1 : 1));
    }
    buffer_send(&scale.x);
    for (int64_t r = 0; r < rows; r++) {
        double *at = malloc((size_t)d * sizeof *at);
        for (int64_t g = 0; g < groups; g++) scratch[g] = operand_row(&scale, r)[g];
        memcpy(at, operand_row(x, r), (size_t)d * sizeof *at);
        for (int64_t i = 0; i < d; i++) {
            double value[2], scales[2];
            for (int k = 0; k < 2; k++) {
                at[i] = operand_row(x, r)[i] + (k ? NUDGE : -NUDGE);
                value[k] = norm_through(at, operand_row(dy, r), weight->values, d, groups, 0,
                    like->centred, like->plus_one, scratch);
                double mean = 0, square = 0;
                const double *from = at + i / part * part;
                for (int64_t j = 0; j < part && like->centred; j++) mean += from[j] / (double)part;
                for (int64_t j = 0; j < part; j++) square += pow(from[j] - mean, 2) / (double)part;
                scales[k] = sqrt(square + like->eps);
            }
            at[i] = operand_row(x, r)[i];
            want[r * d + i] = (value[1] - value[0]) / (2 * NUDGE);
            own[r * d + i] = operand_row(&ds, r)[i / part] * (scales[1] - scales[0]) / (2 * NUDGE);
        }
        for (int64_t g = 0; g < groups; g++) {
            double value[2];
            for (int k = 0; k < 2; k++) {
                scratch[g] = operand_row(&scale, r)[g] + (k ? NUDGE : -NUDGE);
                value[k] = norm_through(at, operand_row(dy, r), weight->values, d, groups, 0,
                    like->centred, like->plus_one, scratch);
            }
            scratch[g] = operand_row(&scale, r)[g];
            divisor[r * groups + g] = (value[1] - value[0]) / (2 * NUDGE);
        }
        free(at);
    }
    norm_back_args args = *like;
    args.out = buffer_at(&out, 0), args.out_stride = d, args.constant_scale = 0;
    args.scale = buffer_at(&scale.x, 0), args.scale_rows = operand_rows(&scale);
    args.scale_stride = scale.stride;
    launch(s, KERNEL_NORM_BACK, type, &args, sizeof args, rows);
    check_rows(s, "norm back by a scale", &out, rows, d, d, want, 1.5, d == 1 ? 1e-3 : 2e-5);
    divisor_back_args by = {.out = buffer_at(&divisors, 0),
        .x = like->x,
        .scale = args.scale,
        .dy = like->dy,
        .x_rows = like->x_rows,
        .scale_rows = args.scale_rows,
        .dy_rows = like->dy_rows,
        .weight = like->weight,
        .n_rows = rows,
        .width = d,
        .out_stride = groups,
        .x_stride = like->x_stride,
        .scale_stride = scale.stride,
        .dy_stride = like->dy_stride,
        .groups = groups,
        .centred = like->centred,
        .plus_one = like->plus_one};
    launch(s, KERNEL_DIVISOR_BACK, type, &by, sizeof by, rows);
    check_rows(s, "divisor back", &divisors, rows, groups, groups, divisor, 1.5, 1e-4);
    norm_back_args of = *like;
    of.out = buffer_at(&through, 0), of.out_stride = d;
    of.dy = buffer_at(&ds.x, 0), of.dy_rows = operand_rows(&ds), of.dy_stride = ds.stride;
    launch(s, KERNEL_NORM_SCALE_BACK, type, &of, sizeof of, rows);
    check_rows(s, "norm scale back", &through, rows, d, d, own, 1.5, d == 1 ? 1e-3 : 2e-5);
    operand_free(&scale);
    operand_free(&ds);
    buffer_free(&out);
    buffer_free(&divisors);
    buffer_free(&through);
    free(divisor);
    free(own);
}

static void case_norm_back(
    subject *s, int type, const row_shape *shape, int64_t groups, bool centred, bool constant)
{
    const int64_t rows = shape->rows, d = shape->width / groups * groups, stride = d + shape->gap;
    operand x = operand_new(s, type, shape, 3), dy = operand_new(s, type, shape, 2);
    buffer weight = buffer_random(s, type, d / groups, shape->skip, 2),
           out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want),
           *at = malloc((size_t)(2 * d) * sizeof *at), *scales = at + d;
    const double eps = 0.01;
    for (int64_t r = 0; r < rows; r++) {
        memcpy(at, operand_row(&x, r), (size_t)d * sizeof *at);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t part = d / groups;
            double mean = 0, square = 0;
            for (int64_t i = 0; i < part && centred; i++) mean += at[g * part + i] / (double)part;
            for (int64_t i = 0; i < part; i++)
                square += pow(at[g * part + i] - mean, 2) / (double)part;
            scales[g] = sqrt(square + eps);
        }
        for (int64_t i = 0; i < d; i++) {
            double value[2];
            for (int k = 0; k < 2; k++) {
                at[i] = operand_row(&x, r)[i] + (k ? NUDGE : -NUDGE);
                value[k] = norm_through(at, operand_row(&dy, r), weight.values, d, groups, eps,
                    centred, !centred, constant ? scales : NULL);
            }
            at[i] = operand_row(&x, r)[i];
            want[r * d + i] = (value[1] - value[0]) / (2 * NUDGE);
        }
    }
    norm_back_args args = {.out = buffer_at(&out, 0),
        .x = buffer_at(&x.x, 0),
        .dy = buffer_at(&dy.x, 0),
        .x_rows = operand_rows(&x),
        .dy_rows = operand_rows(&dy),
        .weight = buffer_at(&weight, 0),
        .n_rows = rows,
        .width = d,
        .out_stride = stride,
        .x_stride = x.stride,
        .dy_stride = dy.stride,
        .groups = groups,
        .eps = (float)eps,
        .centred = centred,
        .plus_one = !centred,
        .constant_scale = constant};
    launch(s, KERNEL_NORM_BACK, type, &args, sizeof args, rows);
    check_rows(s, "norm back", &out, rows, d, stride, want, 1.5, d == 1 ? 1e-3 : 2e-5);
    if (constant) case_norm_given(s, type, &x, &dy, &args, &weight, scales, want);
    operand_free(&x);
    operand_free(&dy);
    buffer_free(&weight);
    buffer_free(&out);
    free(want);
    free(at);
}

static void case_activation_back(
    subject *s, int type, const row_shape *shape, int kind, bool secant)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    const bool softcap = kind == ACTIVATION_BACK_SOFTCAP;
    operand x = operand_new(s, type, shape, 6), dy = operand_new(s, type, shape, 2);
    buffer out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) {
            const double at = operand_row(&x, r)[i];
            double slope = secant ? activation_of(kind, at) / (at < 0 ? at - 1e-6 : at + 1e-6)
                           : softcap
                               ? 5 * (tanh((at + NUDGE) / 5) - tanh((at - NUDGE) / 5)) / (2 * NUDGE)
                               : (activation_of(kind, at + NUDGE) - activation_of(kind, at - NUDGE))
                                     / (2 * NUDGE);
            if (kind == 2 && fabs(at) < 2 * NUDGE) slope = at > 0;
            want[r * d + i] = operand_row(&dy, r)[i] * slope;
        }
    activation_back_args args = {.out = buffer_at(&out, 0),
        .x = buffer_at(&x.x, 0),
        .dy = buffer_at(&dy.x, 0),
        .x_rows = operand_rows(&x),
        .dy_rows = operand_rows(&dy),
        .n_rows = rows,
        .width = d,
        .out_stride = stride,
        .x_stride = x.stride,
        .dy_stride = dy.stride,
        .kind = kind,
        .secant = secant,
        .softcap = 5};
    launch(s, KERNEL_ACTIVATION_BACK, type, &args, sizeof args, rows);
    check_rows(s, "activation back", &out, rows, d, stride, want, 2, 5e-6);
    operand_free(&x);
    operand_free(&dy);
    buffer_free(&out);
    free(want);
}

/* ---- columns ------------------------------------------------------------ */

static void case_join(subject *s, int type, int column, int parts, int part, int apart)
{
    enum { ROWS = 3, WIDTH = 61, STRIDE = 64 };
    const row_shape shape = {ROWS, parts * part, 3, 1, true};
    operand x = operand_new(s, type, &shape, 4);
    buffer out = buffer_result(s, type, ROWS * STRIDE, 1);
    double want[ROWS * WIDTH] = {0};
    for (int64_t r = 0; r < ROWS; r++)
        for (int p = 0; p < parts; p++)
            for (int i = 0; i < part; i++)
                want[r * WIDTH + column + p * apart + i] = operand_row(&x, r)[p * part + i];
    join_args args = {.out = buffer_at(&out, 0),
        .x = buffer_at(&x.x, 0),
        .x_rows = operand_rows(&x),
        .n_rows = ROWS,
        .width = WIDTH,
        .out_stride = STRIDE,
        .x_stride = x.stride,
        .column = column,
        .parts = parts,
        .part = part,
        .part_stride = apart};
    launch(s, KERNEL_JOIN, type, &args, sizeof args, ROWS);
    check_rows(s, "join", &out, ROWS, WIDTH, STRIDE, want, 0, 0);
    operand_free(&x);
    buffer_free(&out);
}

/* ---- attention ---------------------------------------------------------- */

typedef struct back_case {
    int heads, kv_heads, head_dim, window;
    double softcap;
    bool alibi, both_ways;
} back_case;

enum { BACK_UNITS = 2, BACK_ROWS = 7 };
static const int32_t back_units[2 * BACK_UNITS] = {0, 4, 4, 3}; /* first, count */

/* dz times the attention of all units; rows of x[0 .. 2] are q, k, v, side by side. */
static double attention_through(const back_case *c, double *const x[3], const double *dz)
{
    const attention_case forward = {
        c->heads, c->kv_heads, c->head_dim, BACK_ROWS, c->window, c->softcap, false, c->alibi};
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    double *out = malloc((size_t)q * sizeof *out), total = 0, keys[BACK_ROWS];
    for (int u = 0; u < BACK_UNITS; u++)
        for (int i = 0; i < back_units[2 * u + 1]; i++) {
            const int from = c->window && i + 1 > c->window ? i + 1 - c->window : 0,
                      end = c->both_ways ? back_units[2 * u + 1] : i + 1,
                      row = back_units[2 * u] + i;
            for (int j = from; j < end; j++) keys[j - from] = back_units[2 * u] + j;
            attention_row(out, &forward, x[0] + row * q, x[1], x[2], kv, kv, keys, keys, end - from,
                1 / sqrt(c->head_dim));
            for (int64_t k = 0; k < q; k++) total += out[k] * dz[row * q + k];
        }
    free(out);
    return total;
}

static void case_attention_back(subject *s, int type, const back_case *c)
{
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, width = q + 2 * kv,
                  widths[3] = {q, kv, kv}, stride = width + 3;
    operand in[4];
    double *x[3], *want = malloc((size_t)(BACK_ROWS * width) * sizeof *want),
                  *dz = malloc((size_t)(BACK_ROWS * q) * sizeof *dz);
    for (int k = 0; k < 4; k++) {
        const row_shape shape = {BACK_ROWS, k < 3 ? widths[k] : q, k, 1, true};
        in[k] = operand_new(s, type, &shape, 1.5);
        double *to = k < 3 ? malloc((size_t)(BACK_ROWS * widths[k]) * sizeof *to) : dz;
        for (int64_t r = 0; r < BACK_ROWS; r++)
            memcpy(to + r * shape.width, operand_row(&in[k], r), (size_t)shape.width * sizeof *to);
        if (k < 3) x[k] = to;
    }
    for (int64_t r = 0, column; r < BACK_ROWS; r++) {
        column = 0;
        for (int k = 0; k < 3; k++)
            for (int64_t i = 0; i < widths[k]; i++, column++) {
                double *at = &x[k][r * widths[k] + i], before = *at, value[2];
                for (int side = 0; side < 2; side++) {
                    *at = before + (side ? NUDGE : -NUDGE);
                    value[side] = attention_through(c, x, dz);
                }
                *at = before;
                want[r * width + column] = (value[1] - value[0]) / (2 * NUDGE);
            }
    }
    buffer units = buffer_integers(s, 2 * BACK_UNITS, back_units),
           scratch = buffer_result(
               s, INSET_F32, (int64_t)c->kv_heads * BACK_ROWS * (2 * c->head_dim + 3), 0),
           out = buffer_result(s, type, BACK_ROWS * stride, 1), slopes = buffer_slopes(s, c->heads),
           sinks = buffer_sinks(s, type, c->heads);
    attention_back_args args = {.out = buffer_at(&out, 0),
        .q = buffer_at(&in[0].x, 0),
        .k = buffer_at(&in[1].x, 0),
        .v = buffer_at(&in[2].x, 0),
        .dz = buffer_at(&in[3].x, 0),
        .q_rows = operand_rows(&in[0]),
        .key_rows = operand_rows(&in[1]),
        .value_rows = operand_rows(&in[2]),
        .dz_rows = operand_rows(&in[3]),
        .units = buffer_at(&units, 0),
        .slopes = c->alibi ? buffer_at(&slopes, 0) : NULL,
        .sinks = sinks_at(&sinks),
        .scratch = buffer_at(&scratch, 0),
        .n_units = BACK_UNITS,
        .n_rows = BACK_ROWS,
        .out_stride = stride,
        .q_stride = in[0].stride,
        .k_stride = in[1].stride,
        .v_stride = in[2].stride,
        .dz_stride = in[3].stride,
        .n_heads = c->heads,
        .n_kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .window = c->window,
        .both_ways = c->both_ways,
        .scale = 1 / sqrtf((float)c->head_dim),
        .softcap = (float)c->softcap};
    launch(s, KERNEL_ATTENTION_BACK, type, &args, sizeof args, BACK_UNITS * c->kv_heads);
    check_rows(s, "attention back", &out, BACK_ROWS, width, stride, want, 1.5, 1e-5);
    CHECK(buffer_fetch(&scratch), "%s: attention back: written outside its scratch", s->name);
    for (int k = 0; k < 4; k++) operand_free(&in[k]);
    for (int k = 0; k < 3; k++) free(x[k]);
    free(want);
    free(dz);
    buffer_free(&units);
    buffer_free(&scratch);
    buffer_free(&slopes);
    buffer_free(&sinks);
    buffer_free(&out);
}

/* ---- attention in the open ---------------------------------------------- */

/* Rows of `groups` parts of n columns: a softmax whose weights are given, and scores. */
static void case_softmax_back(subject *s, int type, int scaled, double softcap)
{
    enum { ROWS = 3, GROUPS = 2, N = 37, WIDTH = GROUPS * N };
    const row_shape shape = {ROWS, WIDTH, 5, 1, false};
    operand x = operand_new(s, type, &shape, 2), dy = operand_new(s, type, &shape, 3);
    buffer out = buffer_result(s, type, ROWS * WIDTH, 1);
    double want[ROWS * WIDTH];
    if (scaled)
        for (int r = 0; r < ROWS; r++) x.x.values[r * x.stride + N - 1] = -INFINITY;
    buffer_send(&x.x);
    for (int r = 0; r < ROWS; r++)
        for (int g = 0; g < GROUPS; g++) {
            const double *p = operand_row(&x, r) + g * N, *d = operand_row(&dy, r) + g * N;
            double sum = 0;
            for (int i = 0; i < N; i++) sum += p[i] * d[i];
            for (int i = 0; i < N; i++) {
                /* the cap made x of c atanh(x / c) */
                const double raw = softcap > 0 ? softcap * atanh(p[i] / softcap) : 0,
                             slope = softcap > 0 ? softcap
                                                       * (tanh((raw + NUDGE) / softcap)
                                                           - tanh((raw - NUDGE) / softcap))
                                                       / (2 * NUDGE)
                                                 : 1;
                want[r * WIDTH + g * N + i] = !scaled             ? p[i] * (d[i] - sum)
                                              : p[i] == -INFINITY ? 0
                                                                  : d[i] * 0.25 * slope;
            }
        }
    softmax_back_args args = {.out = buffer_at(&out, 0),
        .x = buffer_at(&x.x, 0),
        .dy = buffer_at(&dy.x, 0),
        .n_rows = ROWS,
        .groups = GROUPS,
        .n_columns = N,
        .out_stride = WIDTH,
        .x_stride = x.stride,
        .dy_stride = dy.stride,
        .scale = 0.25f,
        .softcap = (float)softcap,
        .scaled = scaled};
    launch(s, KERNEL_SOFTMAX_BACK, type, &args, sizeof args, ROWS);
    check_rows(s, "softmax back", &out, ROWS, WIDTH, WIDTH, want, 3, 2e-5);
    operand_free(&x);
    operand_free(&dy);
    buffer_free(&out);
}

/* In two launches, the second of which goes on from the first. */
static void case_mix_back(subject *s, int type, int heads, int kv, int d)
{
    enum { ROWS = 5, FIRST = 2, KEYS = 6, COLUMNS = 7 };
    const row_shape weights = {ROWS, (int64_t)heads * COLUMNS, 3, 1, false},
                    rows = {ROWS, (int64_t)heads * d, 2, 0, true};
    operand pattern = operand_new(s, type, &weights, 1), x = operand_new(s, type, &rows, 2);
    const int64_t width = (int64_t)kv * d, stride = width + 3;
    buffer out = buffer_result(s, type, KEYS * stride, 1),
           scratch = buffer_result(s, INSET_F32, KEYS * width, 0);
    double *want = calloc((size_t)(KEYS * width), sizeof *want);
    for (int j = 0; j < KEYS; j++)
        for (int r = 0; r < ROWS; r++)
            for (int h = 0; h < heads; h++)
                for (int c = 0; c < d; c++)
                    want[j * width + h / (heads / kv) * d + c] += operand_row(
                                                                      &pattern, r)[h * COLUMNS + j]
                                                                  * operand_row(&x, r)[h * d + c];
    for (int k = 0; k < 2; k++) {
        const int64_t at = k ? FIRST : 0, size = type == INSET_F32 ? 4 : 2;
        mix_back_args args = {.out = buffer_at(&out, 0),
            .pattern = (char *)buffer_at(&pattern.x, 0) + at * pattern.stride * size,
            .x = buffer_at(&x.x, 0),
            .x_rows = operand_rows(&x) + at,
            .scratch = buffer_at(&scratch, 0),
            .n_rows = k ? ROWS - FIRST : FIRST,
            .n_keys = KEYS,
            .n_columns = COLUMNS,
            .out_stride = stride,
            .pattern_stride = pattern.stride,
            .x_stride = x.stride,
            .n_heads = heads,
            .n_kv_heads = kv,
            .head_dim = d,
            .first = !k,
            .last = k};
        launch(s, KERNEL_MIX_BACK, type, &args, sizeof args, KEYS);
    }
    check_rows(s, "mix back", &out, KEYS, width, stride, want, 2, 1e-5);
    CHECK(buffer_fetch(&scratch), "%s: mix back: written outside its scratch", s->name);
    operand_free(&pattern);
    operand_free(&x);
    buffer_free(&out);
    buffer_free(&scratch);
    free(want);
}

/* ---- metrics ------------------------------------------------------------ */

static double softmax_at(const double *x, int64_t n, int64_t i)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++) sum += exp(x[k] - x[i]);
    return 1 / sum;
}

static double metric_value(
    int kind, const double *x, const double *other, int64_t n, const int32_t *tokens)
{
    double sum = 0;
    switch (kind) {
    case METRIC_LOGIT: return (x[tokens[0]] + x[tokens[1]]) / 2;
    case METRIC_LOGIT_DIFF: return (x[tokens[0]] + x[tokens[1]]) / 2 - x[tokens[2]];
    case METRIC_PROBABILITY: return softmax_at(x, n, tokens[0]) + softmax_at(x, n, tokens[1]);
    case METRIC_LOG_PROBABILITY:
        return log(softmax_at(x, n, tokens[0]) + softmax_at(x, n, tokens[1]));
    default:
        for (int64_t i = 0; i < n; i++)
            sum += softmax_at(other, n, i) * log(softmax_at(other, n, i) / softmax_at(x, n, i));
        return sum;
    }
}

static void case_slopes(subject *s, int type, int kind)
{
    enum { N = 45 };
    const int32_t tokens[3] = {7, 44, 0};
    buffer x = buffer_random(s, type, N, 1, 3), other = buffer_random(s, type, N, 0, 3),
           list = buffer_integers(s, 3, tokens), out = buffer_result(s, INSET_F32, N, 0);
    double want[N];
    for (int i = 0; i < N; i++) {
        const double before = x.values[i];
        double value[2];
        for (int k = 0; k < 2; k++) {
            x.values[i] = before + (k ? NUDGE : -NUDGE);
            value[k] = metric_value(kind, x.values, other.values, N, tokens);
        }
        x.values[i] = before;
        want[i] = (value[1] - value[0]) / (2 * NUDGE);
    }
    metric_row row = {.out = buffer_at(&out, 0),
        .x = buffer_at(&x, 0),
        .other = buffer_at(&other, 0),
        .tokens = buffer_at(&list, 0),
        .n_a = kind == METRIC_KL ? 0 : 2,
        .n_b = kind == METRIC_LOGIT_DIFF,
        .width = N,
        .kind = kind + METRIC_SLOPE};
    void *rows;
    if (device_allocate(s->device, sizeof row, &rows)
        || device_upload(s->device, rows, &row, sizeof row))
        abort();
    metrics_args args = {.rows = rows, .n_rows = 1};
    launch(s, KERNEL_METRICS, type, &args, sizeof args, 1);
    check_rows(s, "slope of a metric", &out, 1, N, N, want, 16, 1e-6);
    device_release(s->device, rows, sizeof row);
    buffer_free(&x);
    buffer_free(&other);
    buffer_free(&list);
    buffer_free(&out);
}

static void run_back_cases(subject *s, int type)
{
    static const back_case attentions[] = {{2, 2, 8, 0, 0, false, false},
        {4, 2, 5, 0, 0, false, false}, {3, 1, 16, 2, 0, false, false},
        {2, 1, 20, 0, 3, false, false}, {4, 2, 7, 0, 0, true, false}, {3, 3, 6, 0, 0, false, true}};
    for (int i = 0; i < shape_count(s); i++) {
        const row_shape *shape = &row_shapes[i];
        if (shape->width > 800) continue; /* differences of long rows take long */
        for (int constant = 0; constant < 2; constant++) {
            if (shape->width > 1) case_norm_back(s, type, shape, 1, true, constant);
            case_norm_back(s, type, shape, 1, false, constant);
            if (shape->width >= 4) case_norm_back(s, type, shape, 2, false, constant);
        }
        for (int kind = 0; kind <= 5; kind++) case_activation_back(s, type, shape, kind, false);
        case_activation_back(s, type, shape, 1, true);
        case_activation_back(s, type, shape, 3, true);
        case_activation_back(s, type, shape, ACTIVATION_BACK_SOFTCAP, false);
    }
    case_join(s, type, 0, 1, 61, 61);
    case_join(s, type, 7, 1, 20, 20);
    case_join(s, type, 5, 3, 6, 18);
    for (size_t i = 0; i < sizeof attentions / sizeof *attentions; i++)
        case_attention_back(s, type, &attentions[i]);
    case_softmax_back(s, type, 0, 0);
    case_softmax_back(s, type, 1, 0);
    case_softmax_back(s, type, 1, 3);
    case_mix_back(s, type, 4, 2, 5);
    case_mix_back(s, type, 2, 2, 16);
    static const int kinds[] = {
        METRIC_LOGIT, METRIC_LOGIT_DIFF, METRIC_PROBABILITY, METRIC_LOG_PROBABILITY, METRIC_KL};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) case_slopes(s, type, kinds[i]);
}

#endif
