/* row_function_cases.h: functions of whole rows against loops in double precision. Included by
 * kernel_cases.h. */
#ifndef INSET_ROW_FUNCTION_CASES_H
#define INSET_ROW_FUNCTION_CASES_H

/* Elements in the order of size, equal ones in that of their places: the k-th one's place. */
static int64_t plain_place(const double *x, int64_t n, int64_t k)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t before = 0;
        for (int64_t j = 0; j < n; j++) before += x[j] > x[i] || (x[j] == x[i] && j < i);
        if (before == k) return i;
    }
    return -1;
}

/* Number i of what the function makes of elements j of its operands: x of operand 0, y of operand
 * 1, n of them together. `all`: every operand's, one behind the other. */
static double plain_row_function(
    const row_call *c, const double *all, int64_t inner, int64_t i, const double *given)
{
    double sum = 0, most = all[0], least = all[0], exps = 0;
    const int64_t n = inner * c->n;
    for (int64_t e = 0; e < n; e++) {
        if (c->function == ROW_DOT) sum += e / inner % 2 ? 0 : all[e] * all[e + inner];
        else sum += c->function == ROW_NORM ? all[e] * all[e] : all[e];
        if (all[e] > most) most = all[e];
        if (all[e] < least) least = all[e];
    }
    for (int64_t e = 0; e < inner; e++) exps += exp(all[e] - most);
    switch (c->function) {
    case ROW_MEAN: return sum / (double)n;
    case ROW_AMAX: return most;
    case ROW_AMIN: return least;
    case ROW_NORM: return sqrt(sum);
    case ROW_ARGMAX: return (double)plain_place(all, inner, 0);
    case ROW_SOFTMAX: return exp(all[i] - most) / exps;
    case ROW_LOG_SOFTMAX: return all[i] - most - log(exps);
    case ROW_TOPK: return all[plain_place(all, inner, i)];
    case ROW_TOPK_AT: return (double)plain_place(all, inner, i);
    case ROW_TOPK_BACK:
        for (int64_t k = 0; k < c->k; k++)
            if (plain_place(all, inner, k) == i) return given[k];
        return 0;
    default: return sum;
    }
}

/* Calls [kept, inner] of n operands, two of them in one launch. */
static void case_row_function(
    subject *s, row_function function, int type, int32_t kept, int32_t inner, int32_t n, bool ties)
{
    enum { MOST = 6 };
    const bool of_many = function <= ROW_DOT, back = function == ROW_TOPK_BACK,
               ordered = function >= ROW_TOPK && function <= ROW_TOPK_BACK;
    const int32_t k = ordered ? inner < 4 ? inner : 4 : 0;
    const int out_type = function == ROW_ARGMAX || function == ROW_TOPK_AT ? INSET_I64 : type;
    row_call c = {.n = of_many ? n
                       : back  ? 2
                               : 1,
        .kept = kept,
        .inner = inner,
        .made = of_many || function == ROW_ARGMAX                 ? 1
                : function == ROW_TOPK || function == ROW_TOPK_AT ? k
                                                                  : inner,
        .k = k,
        .function = (uint8_t)function,
        .type = (uint8_t)type,
        .out_type = (uint8_t)out_type};
    buffer operands[MOST], out = buffer_result(s, out_type, 2 * kept * c.made, 1);
    const void *at[2 * MOST];
    row_call calls[2];
    for (int32_t o = 0; o < c.n; o++) {
        const int64_t row = (int64_t)kept * (back && o ? k : inner);
        operands[o] = buffer_random(s, type, 2 * row + 3, o % 3, 3);
        for (int64_t i = 0; ties && i < 2 * row + 3; i++)
            operands[o].values[i] = as_type(type, floor(operands[o].values[i]));
        buffer_send(&operands[o]);
        at[o] = buffer_at(&operands[o], 0);
        at[c.n + o] = buffer_at(&operands[o], row + 3);
    }
    for (int i = 0; i < 2; i++) {
        calls[i] = c;
        calls[i].first = i * c.n;
        calls[i].out = buffer_at(&out, (int64_t)i * kept * c.made);
    }
    void *table = NULL, *addresses = NULL;
    if (device_allocate(s->device, sizeof calls, &table)
        || device_allocate(s->device, sizeof at, &addresses)
        || device_upload(s->device, table, calls, sizeof calls)
        || device_upload(s->device, addresses, at, sizeof at))
        abort();
    row_functions_args args = {table, addresses, 2};
    launch(s, KERNEL_ROW_FUNCTIONS, INSET_F32, &args, sizeof args, 2);
    CHECK(buffer_fetch(&out), "%s: row function %d: written outside", s->name, (int)function);
    double *all = malloc((size_t)(inner * c.n + 1) * sizeof *all);
    for (int64_t e = 0; e < 2 * kept; e++) {
        const int64_t call = e / kept, j = e % kept;
        double size = 0;
        for (int32_t o = 0; o < (back ? 1 : c.n); o++)
            for (int64_t i = 0; i < inner; i++) {
                const int64_t first = call ? (int64_t)kept * inner + 3 : 0;
                all[o * inner + i] = operands[o].values[first + j * inner + i];
                size += fabs(all[o * inner + i]);
            }
        const double *given = back ? operands[1].values + (call ? kept * k + 3 : 0) + j * k : NULL;
        row_call one = c;
        if (back) one.n = 1;
        for (int32_t i = 0; i < c.made; i++) {
            const double want = as_type(out_type, plain_row_function(&one, all, inner, i, given)),
                         got = out.values[e * c.made + i];
            const bool exact = ordered || function == ROW_ARGMAX || function == ROW_AMAX
                               || function == ROW_AMIN;
            const double allowed = exact ? 0
                                         : 2 * rounding_of(type) * fabs(want) + 3e-7 * (size + 1);
            if (!CHECK(fabs(got - want) <= allowed,
                    "%s: row function %d of %d operands [%d, %d] of %s: [%d, %d] is %.9g and "
                    "should be %.9g",
                    s->name, (int)function, (int)c.n, (int)kept, (int)inner, type_names[type],
                    (int)j, (int)i, got, want)) {
                e = 2 * kept;
                break;
            }
        }
    }
    free(all);
    device_release(s->device, table, sizeof calls);
    device_release(s->device, addresses, sizeof at);
    for (int32_t o = 0; o < c.n; o++) buffer_free(&operands[o]);
    buffer_free(&out);
}

/* Numbers that are none, and none of them at all. */
static void case_row_nans(subject *s, int type)
{
    enum { N = 37 };
    static const row_function functions[] = {ROW_AMAX, ROW_AMIN, ROW_ARGMAX, ROW_TOPK_AT};
    for (int f = 0; f < 4; f++) {
        const int out_type = f < 2 ? type : INSET_I64;
        buffer x = buffer_random(s, type, N, 1, 3), out = buffer_result(s, out_type, 1, 0);
        x.values[20] = x.values[30] = NAN;
        if (f == 3) x.values[11] = INFINITY; /* of topk a NaN counts as infinity: the first place */
        buffer_send(&x);
        const void *at = buffer_at(&x, 0);
        row_call c = {.out = buffer_at(&out, 0),
            .n = 1,
            .kept = 1,
            .inner = N,
            .made = 1,
            .function = (uint8_t)functions[f],
            .type = (uint8_t)type,
            .out_type = (uint8_t)out_type};
        void *table = NULL, *addresses = NULL;
        if (device_allocate(s->device, sizeof c, &table)
            || device_allocate(s->device, sizeof at, &addresses)
            || device_upload(s->device, table, &c, sizeof c)
            || device_upload(s->device, addresses, &at, sizeof at))
            abort();
        row_functions_args args = {table, addresses, 1};
        launch(s, KERNEL_ROW_FUNCTIONS, INSET_F32, &args, sizeof args, 1);
        CHECK(buffer_fetch(&out), "%s: NaNs: written outside", s->name);
        const double got = out.values[0];
        CHECK(f < 2 ? isnan(got) : got == (f == 2 ? 20 : 11), "%s: function %d of NaNs is %g",
            s->name, (int)functions[f], got);
        device_release(s->device, table, sizeof c);
        device_release(s->device, addresses, sizeof at);
        buffer_free(&x);
        buffer_free(&out);
    }
}

/* i64, and where() of any type. */
static void case_row_integers(subject *s)
{
    enum { KEPT = 5, INNER = 9 };
    static const row_function functions[] = {ROW_SUM, ROW_AMAX, ROW_AMIN};
    static const int types[] = {INSET_F32, INSET_BF16, INSET_F64, INSET_I64, INSET_I8, INSET_BOOL};
    for (int f = 0; f < 3 + 6; f++) {
        const int type = f < 3 ? INSET_I64 : types[f - 3];
        const int64_t n = KEPT * INNER, made = f < 3 ? KEPT : n;
        buffer x = record_operand(s, type, n), y = record_operand(s, type, n),
               chosen = record_operand(s, INSET_BOOL, n), out = buffer_result(s, type, made, 1);
        const void *at[3] = {
            buffer_at(f < 3 ? &x : &chosen, 0), buffer_at(&x, 0), buffer_at(&y, 0)};
        row_call c = {.out = buffer_at(&out, 0),
            .n = f < 3 ? 1 : 3,
            .kept = (int32_t)(f < 3 ? KEPT : n),
            .inner = f < 3 ? INNER : 1,
            .made = 1,
            .function = (uint8_t)(f < 3 ? functions[f] : ROW_WHERE),
            .type = (uint8_t)type,
            .out_type = (uint8_t)type};
        void *table = NULL, *addresses = NULL;
        if (device_allocate(s->device, sizeof c, &table)
            || device_allocate(s->device, sizeof at, &addresses)
            || device_upload(s->device, table, &c, sizeof c)
            || device_upload(s->device, addresses, at, sizeof at))
            abort();
        row_functions_args args = {table, addresses, 1};
        launch(s, KERNEL_ROW_FUNCTIONS, INSET_F32, &args, sizeof args, 1);
        CHECK(buffer_fetch(&out), "%s: integers: written outside", s->name);
        for (int64_t i = 0; i < made; i++) {
            double want = f >= 3 ? chosen.values[i] != 0 ? x.values[i] : y.values[i]
                                 : x.values[i * INNER];
            for (int64_t e = 1; e < INNER && f < 3; e++) {
                const double v = x.values[i * INNER + e];
                want = f == 0 ? want + v : f == 1 ? fmax(want, v) : fmin(want, v);
            }
            CHECK(out.values[i] == want, "%s: function %d of %s: %g, expected %g", s->name,
                c.function, type_names[type], out.values[i], want);
        }
        device_release(s->device, table, sizeof c);
        device_release(s->device, addresses, sizeof at);
        buffer_free(&x);
        buffer_free(&y);
        buffer_free(&chosen);
        buffer_free(&out);
    }
}

static void run_row_function_cases(subject *s, int type)
{
    static const int32_t kept[] = {1, 3, 70}, inner[] = {1, 5, 67, 300};
    for (int f = ROW_SUM; f <= ROW_TOPK_BACK; f++)
        for (int i = 0; i < (s->brief ? 4 : 12); i++) {
            const int32_t n = f == ROW_DOT ? 2 + 2 * (i % 2) : 1 + i % 5;
            case_row_function(s, (row_function)f, type, kept[i % 3], inner[i / 3], n, i % 2);
        }
    case_row_nans(s, type);
    if (type == INSET_F32) case_row_integers(s);
}

#endif
