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
} back_case;

enum { BACK_UNITS = 2, BACK_ROWS = 7 };
static const int32_t back_units[2 * BACK_UNITS] = {0, 4, 4, 3}; /* first, count */

/* dz times the attention of all units; rows of x[0 .. 2] are q, k, v, side by side. */
static double attention_through(const back_case *c, double *const x[3], const double *dz)
{
    const attention_case forward = {
        c->heads, c->kv_heads, c->head_dim, BACK_ROWS, c->window, c->softcap, false};
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    double *out = malloc((size_t)q * sizeof *out), total = 0, keys[BACK_ROWS];
    for (int u = 0; u < BACK_UNITS; u++)
        for (int i = 0; i < back_units[2 * u + 1]; i++) {
            const int from = c->window && i + 1 > c->window ? i + 1 - c->window : 0,
                      row = back_units[2 * u] + i;
            for (int j = from; j <= i; j++) keys[j - from] = back_units[2 * u] + j;
            attention_row(out, &forward, x[0] + row * q, x[1], x[2], kv, kv, keys, keys,
                i + 1 - from, 1 / sqrt(c->head_dim));
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
           out = buffer_result(s, type, BACK_ROWS * stride, 1);
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
    buffer_free(&out);
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
    static const back_case attentions[] = {
        {2, 2, 8, 0, 0}, {4, 2, 5, 0, 0}, {3, 1, 16, 2, 0}, {2, 1, 20, 0, 3}};
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
    static const int kinds[] = {
        METRIC_LOGIT, METRIC_LOGIT_DIFF, METRIC_PROBABILITY, METRIC_LOG_PROBABILITY, METRIC_KL};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) case_slopes(s, type, kinds[i]);
}

#endif
