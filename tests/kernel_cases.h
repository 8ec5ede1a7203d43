/* kernel_cases.h: every kernel against plain loops in double precision, on any device.
 *
 * test_kernels.c runs these cases on the CPU device (or on the device it is given) and on each
 * instruction set's kernels, test_blocks.c on kernels whose blocks are real threads. Shapes divide
 * by nothing; rows have strides beyond their width and start at odd elements; behind and before
 * every buffer is a guard zone that must come back as it was. A failure names kernel, type and
 * shape. */
#ifndef INSET_KERNEL_CASES_H
#define INSET_KERNEL_CASES_H

#include <float.h>
#include "device/device.h"
#include "kernels/table.h"
#include "kernels/tile_shapes.h"
#include "test.h"

static const char *const type_names[] = {
    "f32", "bf16", "f16", "f64", "i64", "i32", "i16", "i8", "u8", "bool"};
static const size_t type_sizes[] = {4, 2, 2, 8, 8, 4, 2, 1, 1, 1};

/* The device under test, its name for messages, and whether it is so slow that one shape of each
 * kind must do. */
typedef struct subject {
    device *device;
    const char *name;
    bool brief;
    uint64_t random;
    bool tiles; /* attention is by tiles: 16-bit types round its weights */
} subject;

/* ---- numbers ------------------------------------------------------------ */

/* A double as the type holds it. */
static double as_type(int type, double x)
{
    if (type == INSET_F32) return (float)x;
    if (type == INSET_BF16) return bf16_to_float(bf16_from_float((float)x));
    if (type == INSET_F16) return f16_to_float(f16_from_float((float)x));
    return x;
}

/* The distance between 1 and the next number, halved: the largest relative error of one
 * rounding. */
static double rounding_of(int type)
{
    return type == INSET_F32 ? 0x1p-24 : type == INSET_BF16 ? 0x1p-8 : 0x1p-11;
}

/* The first element that differs from what was wanted by more than `roundings` roundings of its
 * size plus `slack`; -1 when none does. */
static int64_t first_difference(
    const double *got, const double *want, int64_t n, int type, double roundings, double slack)
{
    for (int64_t i = 0; i < n; i++) {
        if (isnan(want[i]) || isinf(want[i])) {
            if (isnan(want[i]) ? !isnan(got[i]) : got[i] != want[i]) return i;
            continue;
        }
        double allowed = roundings * rounding_of(type) * fabs(want[i]) + slack;
        /* a half's smallest step */
        if (type == INSET_F16 && allowed < 0x1p-24) allowed = 0x1p-24;
        if (!(fabs(got[i] - want[i]) <= allowed)) return i;
    }
    return -1;
}

/* ---- buffers ------------------------------------------------------------ */

enum { GUARD = 256, GUARD_BYTE = 0xcd };

/* n elements in device memory between guards, and their values here. */
typedef struct buffer {
    device *device;
    int type;
    int64_t n;
    size_t bytes, offset; /* of the whole block; of element 0 in it */
    unsigned char *image; /* the whole block as it was sent or fetched */
    void *block;          /* on the device */
    double *values;
} buffer;

static void *buffer_at(const buffer *b, int64_t element)
{
    return (char *)b->block + b->offset + (size_t)element * type_sizes[b->type];
}

static void buffer_send(buffer *b)
{
    for (int64_t i = 0; i < b->n; i++)
        element_put((inset_type)b->type, b->image + b->offset + (size_t)i * type_sizes[b->type],
            b->values[i]);
    if (device_upload(b->device, b->block, b->image, b->bytes)) abort();
}

/* Reads the block back; whether the guards are whole. */
static bool buffer_fetch(buffer *b)
{
    if (device_download(b->device, b->image, b->block, b->bytes) || device_synchronize(b->device))
        abort();
    for (int64_t i = 0; i < b->n; i++)
        b->values[i] = element_get(
            (inset_type)b->type, b->image + b->offset + (size_t)i * type_sizes[b->type]);
    const size_t end = b->offset + (size_t)b->n * type_sizes[b->type];
    for (size_t i = 0; i < b->bytes; i++)
        if ((i < b->offset || i >= end) && b->image[i] != GUARD_BYTE) return false;
    return true;
}

/* A buffer of n elements that begins `skip` elements off alignment. Its values are zero, not yet
 * sent. */
static buffer buffer_new(subject *s, int type, int64_t n, int64_t skip)
{
    buffer b = {.device = s->device, .type = type, .n = n};
    b.offset = GUARD + (size_t)skip * type_sizes[type];
    b.bytes = b.offset + (size_t)n * type_sizes[type] + GUARD;
    b.image = malloc(b.bytes);
    b.values = calloc((size_t)n + 1, sizeof(double));
    if (!b.image || !b.values || device_allocate(s->device, b.bytes, &b.block)) abort();
    memset(b.image, GUARD_BYTE, b.bytes);
    return b;
}

/* The same with random values between -size and size, sent. */
static buffer buffer_random(subject *s, int type, int64_t n, int64_t skip, double size)
{
    buffer b = buffer_new(s, type, n, skip);
    for (int64_t i = 0; i < n; i++) b.values[i] = as_type(type, size * test_uniform(&s->random));
    buffer_send(&b);
    return b;
}

/* A result's place: all guard bytes, so that gaps between rows are guarded too. */
static buffer buffer_result(subject *s, int type, int64_t n, int64_t skip)
{
    buffer b = buffer_new(s, type, n, skip);
    if (device_upload(b.device, b.block, b.image, b.bytes)) abort();
    return b;
}

static buffer buffer_integers(subject *s, int64_t n, const int32_t *values)
{
    buffer b = buffer_new(s, INSET_I32, n, 0);
    for (int64_t i = 0; i < n; i++) b.values[i] = values[i];
    buffer_send(&b);
    return b;
}

/* n row numbers below `below`, in no order. */
static buffer buffer_rows(subject *s, int64_t n, int64_t below)
{
    buffer b = buffer_new(s, INSET_I32, n, 0);
    for (int64_t i = 0; i < n; i++)
        b.values[i] = (double)(test_random(&s->random) % (uint64_t)below);
    buffer_send(&b);
    return b;
}

static void buffer_free(buffer *b)
{
    if (b->block) device_release(b->device, b->block, b->bytes);
    free(b->image);
    free(b->values);
    *b = (buffer){0};
}

/* Fetches rows of `out` and compares them; what lies between the rows must still be guard bytes. */
static void check_rows(subject *s, const char *what, buffer *out, int64_t rows, int64_t width,
    int64_t stride, const double *want, double roundings, double slack)
{
    CHECK(buffer_fetch(out), "%s: %s %s [%d, %d]: written outside the buffer", s->name, what,
        type_names[out->type], (int)rows, (int)width);
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = first_difference(
            out->values + r * stride, want + r * width, width, out->type, roundings, slack);
        if (at >= 0) {
            CHECK(false, "%s: %s %s [%d, %d]: row %d column %d is %.9g and should be %.9g", s->name,
                what, type_names[out->type], (int)rows, (int)width, (int)r, (int)at,
                out->values[r * stride + at], want[r * width + at]);
            return;
        }
        const unsigned char *gap = out->image + out->offset
                                   + (size_t)(r * stride + width) * type_sizes[out->type];
        for (size_t i = 0; r + 1 < rows && i < (size_t)(stride - width) * type_sizes[out->type];
             i++)
            if (!CHECK(gap[i] == GUARD_BYTE, "%s: %s %s [%d, %d]: written behind row %d", s->name,
                    what, type_names[out->type], (int)rows, (int)width, (int)r))
                return;
    }
}

/* fused_cases.h */
static void check_with_records(
    subject *s, kernel_id kernel, int type, const void *args, size_t size, int64_t blocks);

static void launch(
    subject *s, kernel_id kernel, int type, const void *args, size_t size, int64_t blocks)
{
    /* Work above any threshold, so that a device which spreads large launches over threads spreads
     * these. */
    CHECK(
        device_launch(s->device, kernel, (inset_type)type, args, size, blocks, 1 << 20) == INSET_OK,
        "%s: kernel %d", s->name, (int)kernel);
    if (kernel_takes_records(kernel)) check_with_records(s, kernel, type, args, size, blocks);
}

/* ---- shapes ------------------------------------------------------------- */

typedef struct row_shape {
    int64_t rows, width, gap, skip;
    bool table;
} row_shape;
static const row_shape row_shapes[] = {
    {3, 33, 3, 1, true},
    {1, 1, 0, 0, false},
    {2, 5, 1, 0, true},
    {7, 64, 0, 0, false},
    {5, 100, 7, 3, true},
    {2, 768, 0, 0, true},
    {3, 1025, 5, 1, false},
};
static int shape_count(const subject *s)
{
    return s->brief ? 3 : (int)(sizeof row_shapes / sizeof *row_shapes);
}

/* Rows of an operand [rows + 2, width + gap] and the table that picks them, as a shape has it. */
typedef struct operand {
    buffer x, rows;
    int64_t stride;
} operand;

static operand operand_new(subject *s, int type, const row_shape *shape, double size)
{
    operand o = {.stride = shape->width + shape->gap};
    o.x = buffer_random(s, type, (shape->rows + 2) * o.stride, shape->skip, size);
    if (shape->table) o.rows = buffer_rows(s, shape->rows, shape->rows + 2);
    return o;
}
static const int32_t *operand_rows(const operand *o)
{
    return o->rows.block ? buffer_at(&o->rows, 0) : NULL;
}
static const double *operand_row(const operand *o, int64_t row)
{
    return o->x.values + (o->rows.block ? (int64_t)o->rows.values[row] : row) * o->stride;
}
static void operand_free(operand *o)
{
    buffer_free(&o->x);
    buffer_free(&o->rows);
}

/* ---- embed, gather ------------------------------------------------------ */

static void case_embed(subject *s, int type, const row_shape *shape)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    buffer table = buffer_random(s, type, 11 * d, shape->skip, 4), ids = buffer_rows(s, rows, 11),
           out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++)
            want[r * d + i] = table.values[(int64_t)ids.values[r] * d + i];
    embed_args args = {
        buffer_at(&out, 0), buffer_at(&table, 0), buffer_at(&ids, 0), rows, d, stride};
    launch(s, KERNEL_EMBED, type, &args, sizeof args, rows);
    check_rows(s, "embed", &out, rows, d, stride, want, 0, 0);
    buffer_free(&table);
    buffer_free(&ids);
    buffer_free(&out);
    free(want);
}

static void case_gather(subject *s, int type, const row_shape *shape)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    operand x = operand_new(s, type, shape, 4);
    buffer out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) want[r * d + i] = operand_row(&x, r)[i];
    gather_args args = {
        buffer_at(&out, 0), buffer_at(&x.x, 0), operand_rows(&x), rows, d, stride, x.stride};
    launch(s, KERNEL_GATHER, type, &args, sizeof args, rows);
    check_rows(s, "gather", &out, rows, d, stride, want, 0, 0);
    operand_free(&x);
    buffer_free(&out);
    free(want);
}

/* ---- norms -------------------------------------------------------------- */

static void layernorm_row(
    double *out, const double *x, const double *weight, const double *bias, int64_t d, double eps)
{
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < d; i++) mean += x[i] / (double)d;
    for (int64_t i = 0; i < d; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)d;
    for (int64_t i = 0; i < d; i++)
        out[i] = (x[i] - mean) / sqrt(variance + eps) * (weight ? weight[i] : 1)
                 + (bias ? bias[i] : 0);
}

static void case_layernorm(
    subject *s, int type, const row_shape *shape, int64_t groups, bool weighted, bool biased)
{
    const int64_t rows = shape->rows, d = shape->width * groups, stride = d + shape->gap,
                  part = shape->width;
    row_shape whole = *shape;
    whole.width = d;
    operand x = operand_new(s, type, &whole, 3);
    buffer weight = buffer_random(s, type, part, shape->skip, 2),
           bias = buffer_random(s, type, part, shape->skip, 2);
    buffer out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < groups; g++)
            layernorm_row(want + r * d + g * part, operand_row(&x, r) + g * part,
                weighted ? weight.values : NULL, biased ? bias.values : NULL, part, 1e-5);
    layernorm_args args = {buffer_at(&out, 0), buffer_at(&x.x, 0), operand_rows(&x),
        weighted ? buffer_at(&weight, 0) : NULL, biased ? buffer_at(&bias, 0) : NULL, rows, d,
        stride, x.stride, groups, 1e-5f};
    launch(s, KERNEL_LAYERNORM, type, &args, sizeof args, rows);
    check_rows(s, "layernorm", &out, rows, d, stride, want, 1.5, part == 1 ? 1e-3 : 3e-6);
    operand_free(&x);
    buffer_free(&weight);
    buffer_free(&bias);
    buffer_free(&out);
    free(want);
}

/* Copies of parts, and their sum. */
static void case_copies(subject *s, int type, const row_shape *shape, int32_t parts, int32_t copies)
{
    const int64_t rows = shape->rows, part = shape->width, one = parts * part, many = one * copies;
    row_shape narrow = *shape, wide = *shape;
    narrow.width = one, wide.width = many;
    operand x = operand_new(s, type, &narrow, 3), y = operand_new(s, type, &wide, 3);
    buffer bias = buffer_random(s, type, one, shape->skip, 2);
    buffer spread = buffer_result(s, type, rows * many, shape->skip),
           fold = buffer_result(s, type, rows * one, shape->skip);
    double *apart = calloc((size_t)(rows * many), sizeof *apart),
           *sum = calloc((size_t)(rows * one), sizeof *sum);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < one; i++) {
            sum[r * one + i] = bias.values[i];
            for (int64_t c = 0; c < copies; c++) {
                const int64_t at = (i / part * copies + c) * part + i % part;
                apart[r * many + at] = operand_row(&x, r)[i];
                sum[r * one + i] += operand_row(&y, r)[at];
            }
        }
    copies_args to = {buffer_at(&spread, 0), buffer_at(&x.x, 0), NULL, operand_rows(&x), rows, many,
        many, x.stride, (int32_t)part, copies};
    launch(s, KERNEL_SPREAD, type, &to, sizeof to, rows);
    check_rows(s, "spread", &spread, rows, many, many, apart, 0, 0);
    copies_args from = {buffer_at(&fold, 0), buffer_at(&y.x, 0), buffer_at(&bias, 0),
        operand_rows(&y), rows, one, one, y.stride, (int32_t)part, copies};
    launch(s, KERNEL_FOLD, type, &from, sizeof from, rows);
    check_rows(s, "fold", &fold, rows, one, one, sum, 1.5, 3e-6);
    operand_free(&x);
    operand_free(&y);
    buffer_free(&bias);
    buffer_free(&spread);
    buffer_free(&fold);
    free(apart);
    free(sum);
}

/* The sum's bits and, from the rounded sum, the bits of the kernel without the sum. */
static void case_add_layernorm(subject *s, int type, const row_shape *shape)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    operand a = operand_new(s, type, shape, 3), b = operand_new(s, type, shape, 3);
    buffer weight = buffer_random(s, type, d, 1, 2), bias = buffer_random(s, type, d, 1, 2);
    buffer out = buffer_result(s, type, rows * stride, shape->skip),
           norm = buffer_result(s, type, rows * stride, 1);
    buffer alone = buffer_result(s, type, rows * stride, 0);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++)
            want[r * d + i] = as_type(
                type, (float)operand_row(&a, r)[i] + (float)operand_row(&b, r)[i]);
    add_layernorm_args args = {buffer_at(&out, 0), buffer_at(&norm, 0), buffer_at(&a.x, 0),
        buffer_at(&b.x, 0), operand_rows(&a), operand_rows(&b), buffer_at(&weight, 0),
        buffer_at(&bias, 0), rows, d, stride, stride, a.stride, b.stride, 1e-5f};
    launch(s, KERNEL_ADD_LAYERNORM, type, &args, sizeof args, rows);
    layernorm_args plain = {buffer_at(&alone, 0), buffer_at(&out, 0), NULL, buffer_at(&weight, 0),
        buffer_at(&bias, 0), rows, d, stride, stride, 1, 1e-5f};
    launch(s, KERNEL_LAYERNORM, type, &plain, sizeof plain, rows);
    check_rows(s, "add of add_layernorm", &out, rows, d, stride, want, 0, 0);
    buffer_fetch(&alone);
    for (int64_t r = 0; r < rows; r++)
        memcpy(want + r * d, alone.values + r * stride, (size_t)d * sizeof *want);
    check_rows(s, "norm of add_layernorm", &norm, rows, d, stride, want, 0, 0);
    operand_free(&a);
    operand_free(&b);
    buffer_free(&weight);
    buffer_free(&bias);
    buffer_free(&out);
    buffer_free(&norm);
    buffer_free(&alone);
    free(want);
}

/* `when`: 0 round, then multiply by the weight; 1 multiply by 1 + weight, then round; 2 multiply by
 * weight, then round. */
static double rms_weighted(int type, int when, double v, double weight)
{
    return when ? v * (weight + (when == 1)) : as_type(type, v) * weight;
}

static void rmsnorm_row(
    double *out, const double *x, const double *weight, int64_t d, int type, int when)
{
    double square = 0;
    for (int64_t i = 0; i < d; i++) square += x[i] * x[i] / (double)d;
    for (int64_t i = 0; i < d; i++)
        out[i] = rms_weighted(type, when, x[i] / sqrt(square + 1e-6), weight[i]);
}

static void case_rmsnorm(subject *s, int type, const row_shape *shape, int64_t groups, int when)
{
    const int64_t part = shape->width;
    row_shape whole = *shape;
    whole.width = part * groups;
    const int64_t rows = shape->rows, d = whole.width, stride = d + shape->gap;
    operand x = operand_new(s, type, &whole, 3);
    buffer weight = buffer_random(s, type, part, shape->skip, 2),
           out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < groups; g++)
            rmsnorm_row(want + r * d + g * part, operand_row(&x, r) + g * part, weight.values, part,
                type, when);
    rmsnorm_args args = {buffer_at(&out, 0), buffer_at(&x.x, 0), operand_rows(&x),
        buffer_at(&weight, 0), rows, d, stride, x.stride, groups, 1e-6f, when == 1, when == 2};
    launch(s, KERNEL_RMSNORM, type, &args, sizeof args, rows);
    check_rows(s, when == 1 ? "rmsnorm (1 + weight)" : "rmsnorm", &out, rows, d, stride, want,
        when ? 1.5 : 4, 1e-6);
    operand_free(&x);
    buffer_free(&weight);
    buffer_free(&out);
    free(want);
}

/* The sum's bits; from the rounded sum the bits of the kernel without the sum; and, apart from our
 * own kernels, what plain loops make of it. */
static void case_add_rmsnorm(subject *s, int type, const row_shape *shape, int when)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    operand a = operand_new(s, type, shape, 3), b = operand_new(s, type, shape, 3);
    buffer weight = buffer_random(s, type, d, 1, 2);
    buffer out = buffer_result(s, type, rows * stride, shape->skip),
           norm = buffer_result(s, type, rows * stride, 1);
    buffer alone = buffer_result(s, type, rows * stride, 0);
    double *sum = malloc((size_t)(rows * d) * sizeof *sum),
           *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < d; i++)
            sum[r * d + i] = as_type(
                type, (float)operand_row(&a, r)[i] + (float)operand_row(&b, r)[i]);
        rmsnorm_row(want + r * d, sum + r * d, weight.values, d, type, when);
    }
    add_rmsnorm_args args = {buffer_at(&out, 0), buffer_at(&norm, 0), buffer_at(&a.x, 0),
        buffer_at(&b.x, 0), operand_rows(&a), operand_rows(&b), buffer_at(&weight, 0), rows, d,
        stride, stride, a.stride, b.stride, 1e-6f, when == 1, when == 2};
    launch(s, KERNEL_ADD_RMSNORM, type, &args, sizeof args, rows);
    rmsnorm_args plain = {buffer_at(&alone, 0), buffer_at(&out, 0), NULL, buffer_at(&weight, 0),
        rows, d, stride, stride, 1, 1e-6f, when == 1, when == 2};
    launch(s, KERNEL_RMSNORM, type, &plain, sizeof plain, rows);
    check_rows(s, "add of add_rmsnorm", &out, rows, d, stride, sum, 0, 0);
    check_rows(s, "norm of add_rmsnorm", &norm, rows, d, stride, want, when ? 1.5 : 4, 1e-6);
    buffer_fetch(&alone);
    for (int64_t r = 0; r < rows; r++)
        memcpy(want + r * d, alone.values + r * stride, (size_t)d * sizeof *want);
    check_rows(s, "norm of add_rmsnorm, against rmsnorm", &norm, rows, d, stride, want, 0, 0);
    operand_free(&a);
    operand_free(&b);
    buffer_free(&weight);
    buffer_free(&out);
    buffer_free(&norm);
    buffer_free(&alone);
    free(sum);
    free(want);
}

/* What a norm divides by, and a norm that divides by a scale it is given. */
static void case_norm_scale(
    subject *s, int type, const row_shape *shape, int64_t groups, int centred, int when)
{
    const int64_t part = shape->width;
    row_shape whole = *shape, few = *shape;
    whole.width = part * groups;
    few.width = groups;
    const int64_t rows = shape->rows, d = whole.width, stride = d + shape->gap,
                  scale_stride = groups + 2;
    operand x = operand_new(s, type, &whole, 3), given = operand_new(s, type, &few, 1);
    for (int64_t i = 0; i < (rows + 2) * given.stride; i++)
        given.x.values[i] = as_type(type, 1.5 + given.x.values[i] / 2);
    buffer_send(&given.x);
    buffer weight = buffer_random(s, type, part, shape->skip, 2),
           bias = buffer_random(s, type, part, 0, 1);
    buffer scale = buffer_result(s, type, rows * scale_stride, 1),
           out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want),
           *want_scale = malloc((size_t)(rows * groups) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < groups; g++) {
            const double *row = operand_row(&x, r) + g * part;
            double mean = 0, square = 0;
            for (int64_t i = 0; i < part && centred; i++) mean += row[i] / (double)part;
            for (int64_t i = 0; i < part; i++)
                square += (row[i] - mean) * (row[i] - mean) / (double)part;
            want_scale[r * groups + g] = sqrt(square + 1e-6);
            for (int64_t i = 0; i < part; i++) {
                double v = (row[i] - mean) / operand_row(&given, r)[g];
                want[r * d + g * part + i] = centred
                                                 ? v * weight.values[i] + bias.values[i]
                                                 : rms_weighted(type, when, v, weight.values[i]);
            }
        }
    norm_scale_args args = {buffer_at(&scale, 0), buffer_at(&x.x, 0), operand_rows(&x), rows, d,
        scale_stride, x.stride, groups, 1e-6f, centred};
    launch(s, KERNEL_NORM_SCALE, type, &args, sizeof args, rows);
    check_rows(s, "norm scale", &scale, rows, groups, scale_stride, want_scale,
        type == INSET_F32 ? 16 : 1.5, 1e-6);
    norm_by_scale_args by = {buffer_at(&out, 0), buffer_at(&x.x, 0), buffer_at(&given.x, 0),
        operand_rows(&x), operand_rows(&given), buffer_at(&weight, 0),
        centred ? buffer_at(&bias, 0) : NULL, rows, d, stride, x.stride, given.stride, groups,
        centred, when == 1, when == 2};
    launch(s, KERNEL_NORM_BY_SCALE, type, &by, sizeof by, rows);
    check_rows(s, "norm by scale", &out, rows, d, stride, want, 4, 4e-6);
    operand_free(&x);
    operand_free(&given);
    buffer_free(&weight);
    buffer_free(&bias);
    buffer_free(&scale);
    buffer_free(&out);
    free(want);
    free(want_scale);
}

/* ---- pointwise ---------------------------------------------------------- */

static double activation_of(int kind, double x)
{
    switch (kind) {
    case 0: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case 1: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case 2: return x < 0 ? 0 : x;
    case 3: return x / (1 + exp(-x));
    case 4: return tanh(x);
    default: return 1 / (1 + exp(-x));
    }
}

static void case_activation(subject *s, int type, const row_shape *shape, int kind, bool biased)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    operand x = operand_new(s, type, shape, 6);
    buffer bias = buffer_random(s, type, d, shape->skip, 1),
           out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) {
            float v = (float)operand_row(&x, r)[i];
            want[r * d + i] = activation_of(
                kind, biased ? as_type(type, v + (float)bias.values[i]) : v);
        }
    activation_args args = {buffer_at(&out, 0), buffer_at(&x.x, 0), operand_rows(&x),
        biased ? buffer_at(&bias, 0) : NULL, rows, d, stride, x.stride, kind};
    launch(s, KERNEL_ACTIVATION, type, &args, sizeof args, rows);
    static const char *const kinds[] = {"gelu", "gelu (tanh)", "relu", "silu", "tanh", "sigmoid"};
    /* Both gelus take 1 + f(x) where f is near -1: an error of a few roundings of 1, times x. */
    check_rows(s, kinds[kind], &out, rows, d, stride, want, type == INSET_F32 ? 8 : 1.1, 2e-6);
    operand_free(&x);
    buffer_free(&bias);
    buffer_free(&out);
    free(want);
}

/* tanh, and exp by way of the sigmoid, over the whole range of floats and at its ends: infinities,
 * NaN, overflow, subnormals. */
static void case_range(subject *s)
{
    enum { N = 4099 };
    static const double ends[] = {0.0, -0.0, INFINITY, -INFINITY, NAN, FLT_MAX, -FLT_MAX, FLT_MIN,
        1e-45, -1e-45, 88.7, 88.8, -87.4, -103.9, -104.1, 0.625, 0.6249999, -0.625, 1, 4, -4, 10,
        -10};
    const int n_ends = sizeof ends / sizeof *ends;
    buffer x = buffer_new(s, INSET_F32, N, 1), out = buffer_result(s, INSET_F32, N, 0);
    double *want = malloc(N * sizeof *want);
    for (int i = 0; i < N; i++)
        x.values[i] = i < n_ends ? ends[i]
                                 : (float)(test_uniform(&s->random)
                                           * exp(12 * test_uniform(&s->random) - 6));
    buffer_send(&x);
    for (int kind = 0; kind <= 5; kind++) {
        for (int i = 0; i < N; i++) want[i] = (float)activation_of(kind, x.values[i]);
        want[3] = kind <= 1 || kind == 3 ? NAN : want[3]; /* -inf * 0 */
        /* as PyTorch: -FLT_MAX times a weight of 0 */
        if (kind <= 1 || kind == 3) want[6] = -0.0;
        activation_args args = {buffer_at(&out, 0), buffer_at(&x, 0), NULL, NULL, 1, N, N, N, kind};
        launch(s, KERNEL_ACTIVATION, INSET_F32, &args, sizeof args, 1);
        check_rows(s, "activation over the range", &out, 1, N, N, want, 8,
            kind <= 1   ? 1.5e-6
            : kind == 3 ? 1e-30
                        : 1e-37);
    }
    buffer_free(&x);
    buffer_free(&out);
    free(want);
}

static void case_gate(subject *s, int type, const row_shape *shape)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    operand a = operand_new(s, type, shape, 3), b = operand_new(s, type, shape, 3);
    buffer out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++)
            want[r * d + i] = as_type(
                type, (float)operand_row(&a, r)[i] * (float)operand_row(&b, r)[i]);
    gate_args args = {buffer_at(&out, 0), buffer_at(&a.x, 0), buffer_at(&b.x, 0), operand_rows(&a),
        operand_rows(&b), rows, d, stride, a.stride, b.stride};
    launch(s, KERNEL_GATE, type, &args, sizeof args, rows);
    check_rows(s, "gate", &out, rows, d, stride, want, 0, 0);
    operand_free(&a);
    operand_free(&b);
    buffer_free(&out);
    free(want);
}

static void case_add(subject *s, int type, const row_shape *shape, bool three)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    operand a = operand_new(s, type, shape, 3), b = operand_new(s, type, shape, 3),
            c = operand_new(s, type, shape, 3);
    buffer out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) {
            double sum = as_type(type, (float)operand_row(&a, r)[i] + (float)operand_row(&b, r)[i]);
            want[r * d + i] = three ? as_type(type, (float)sum + (float)operand_row(&c, r)[i])
                                    : sum;
        }
    add_args args = {buffer_at(&out, 0), buffer_at(&a.x, 0), buffer_at(&b.x, 0),
        three ? buffer_at(&c.x, 0) : NULL, operand_rows(&a), operand_rows(&b), operand_rows(&c),
        rows, d, stride, a.stride, b.stride, c.stride};
    launch(s, KERNEL_ADD, type, &args, sizeof args, rows);
    check_rows(s, three ? "add of three" : "add", &out, rows, d, stride, want, 0, 0);
    operand_free(&a);
    operand_free(&b);
    operand_free(&c);
    buffer_free(&out);
    free(want);
}

static void case_scale(subject *s, int type, const row_shape *shape, double softcap)
{
    const int64_t rows = shape->rows, d = shape->width, stride = d + shape->gap;
    operand x = operand_new(s, type, shape, 40);
    buffer out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * d) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) {
            double v = operand_row(&x, r)[i];
            want[r * d + i] = softcap > 0 ? softcap * tanh(v / softcap)
                                          : as_type(type, (float)v * 0.375f);
        }
    scale_args args = {buffer_at(&out, 0), buffer_at(&x.x, 0), operand_rows(&x), rows, d, stride,
        x.stride, 0.375f, (float)softcap};
    launch(s, KERNEL_SCALE, type, &args, sizeof args, rows);
    check_rows(s, softcap > 0 ? "softcap" : "scale", &out, rows, d, stride, want,
        softcap > 0 ? (type == INSET_F32 ? 8 : 4) : 0,
        softcap > 0 && type == INSET_F16 ? softcap * 0x1p-24 : 0);
    operand_free(&x);
    buffer_free(&out);
    free(want);
}

/* ---- columns ------------------------------------------------------------ */

static void case_columns(subject *s, int type, const row_shape *shape, bool biased)
{
    enum { OUT = 50, COLUMNS = 7 };
    const int64_t rows = shape->rows, d = shape->width, stride = COLUMNS + shape->gap;
    operand x = operand_new(s, type, shape, 1);
    buffer weight = buffer_random(s, type, OUT * d, shape->skip, 1),
           bias = buffer_random(s, type, OUT, shape->skip, 1),
           columns = buffer_rows(s, COLUMNS, OUT);
    buffer out = buffer_result(s, type, rows * stride, shape->skip);
    double *want = malloc((size_t)(rows * COLUMNS) * sizeof *want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < COLUMNS; j++) {
            const int64_t column = (int64_t)columns.values[j];
            double sum = biased ? bias.values[column] : 0;
            for (int64_t i = 0; i < d; i++)
                sum += operand_row(&x, r)[i] * weight.values[column * d + i];
            want[r * COLUMNS + j] = sum;
        }
    columns_args args = {buffer_at(&out, 0), buffer_at(&x.x, 0), operand_rows(&x),
        buffer_at(&weight, 0), biased ? buffer_at(&bias, 0) : NULL, buffer_at(&columns, 0), rows,
        COLUMNS, d, stride, x.stride};
    launch(s, KERNEL_COLUMNS, type, &args, sizeof args, rows);
    check_rows(s, "columns", &out, rows, COLUMNS, stride, want, 1.1, 5e-7 * sqrt((double)d));
    operand_free(&x);
    buffer_free(&weight);
    buffer_free(&bias);
    buffer_free(&columns);
    buffer_free(&out);
    free(want);
}

/* ---- metrics ------------------------------------------------------------ */

static double metric_log_sum(const double *x, int64_t n)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - most);
    return most + log(sum);
}

static double metric_mean(const double *x, const double *tokens, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[(int64_t)tokens[i]];
    return sum / n;
}

/* A metric of a row of n logits, in plain loops; y: kl's reference. */
static double plain_metric_of(
    int kind, const double *x, const double *y, int64_t n, const double *tokens, int n_a, int n_b)
{
    double log_sum = metric_log_sum(x, n), sum = 0, best = -INFINITY;
    switch (kind) {
    case METRIC_LOGIT_DIFF: return metric_mean(x, tokens, n_a) - metric_mean(x, tokens + n_a, n_b);
    case METRIC_LOGIT: return metric_mean(x, tokens, n_a);
    case METRIC_PROBABILITY:
    case METRIC_LOG_PROBABILITY:
        for (int i = 0; i < n_a; i++) sum += exp(x[(int64_t)tokens[i]] - log_sum);
        return kind == METRIC_PROBABILITY ? sum : log(sum);
    case METRIC_RANK:
        for (int i = 0; i < n_a; i++)
            best = x[(int64_t)tokens[i]] > best ? x[(int64_t)tokens[i]] : best;
        for (int64_t i = 0; i < n; i++) sum += x[i] > best;
        return sum;
    default: break;
    }
    double other = metric_log_sum(y, n);
    for (int64_t i = 0; i < n; i++)
        if (exp(y[i] - other) > 0) sum += exp(y[i] - other) * ((y[i] - other) - (x[i] - log_sum));
    return sum;
}

enum { METRIC_TOKENS = 6, METRIC_LINES = 9 };

/* Rows x and y of n logits, y close to x where `near`, some of the first -inf where `masked`; the
 * last line but one is kl of a row from itself, the last is log_probability of the last token. */
static void case_metrics(subject *s, int type, int64_t n, double size, bool near, bool masked)
{
    const int64_t stride = n + 3;
    buffer x = buffer_random(s, type, 2 * stride, 1, size),
           tokens = buffer_rows(s, METRIC_TOKENS, n),
           out = buffer_result(s, INSET_F32, METRIC_LINES, 1);
    double want[METRIC_LINES];
    for (int64_t i = 0; i < n; i++) {
        if (near)
            x.values[stride + i] = as_type(type, x.values[i] + 0.05 * test_uniform(&s->random));
        if (masked && i % 3 == 1) x.values[i] = x.values[stride + i] = -INFINITY;
    }
    /* Tokens that are there; those of the last line are masked. */
    for (int i = 0; masked && i < METRIC_TOKENS; i++)
        tokens.values[i] = (double)((int64_t)tokens.values[i] / 3 * 3 + (i == METRIC_TOKENS - 1));
    buffer_send(&x);
    buffer_send(&tokens);
    metric_row rows[METRIC_LINES];
    for (int k = 0; k < METRIC_LINES; k++) {
        int kind = k <= METRIC_KL ? k : k == METRIC_KL + 2 ? METRIC_KL : METRIC_LOG_PROBABILITY;
        bool second = k == METRIC_KL + 1;
        rows[k] = (metric_row){.out = buffer_at(&out, k),
            .x = buffer_at(&x, second ? stride : 0),
            .width = (int32_t)n,
            .kind = kind};
        const int first = k == METRIC_LINES - 1 ? METRIC_TOKENS - 1 : 0;
        rows[k].tokens = buffer_at(&tokens, first);
        rows[k].n_a = first                                ? 1
                      : kind == METRIC_KL                  ? 0
                      : kind == METRIC_LOGIT_DIFF || k % 2 ? 3
                                                           : 1;
        rows[k].n_b = kind == METRIC_LOGIT_DIFF ? 2 : 0;
        if (kind == METRIC_KL) rows[k].other = buffer_at(&x, k == METRIC_KL ? stride : 0);
        want[k] = plain_metric_of(kind, x.values + (second ? stride : 0),
            x.values + (k == METRIC_KL ? stride : 0), n, tokens.values + first, rows[k].n_a,
            rows[k].n_b);
    }
    void *table = NULL;
    if (device_allocate(s->device, sizeof rows, &table)
        || device_upload(s->device, table, rows, sizeof rows))
        abort();
    metrics_args args = {.rows = table, .n_rows = METRIC_LINES};
    launch(s, KERNEL_METRICS, type, &args, sizeof args, METRIC_LINES);
    CHECK(buffer_fetch(&out), "%s: metrics %s of %d: written outside", s->name, type_names[type],
        (int)n);
    for (int k = 0; k < METRIC_LINES; k++) {
        /* kl's smallest differences are those of logits: an error of d in log p makes one of d
         * sqrt(2 kl) in it, for d of 1e-6. */
        double allowed = FLT_MIN + 2e-6 * fabs(want[k])
                         + (rows[k].kind == METRIC_KL             ? 2e-6 * sqrt(2 * fabs(want[k]))
                             : rows[k].kind == METRIC_PROBABILITY ? 0
                                                                  : 2e-6);
        if (rows[k].kind == METRIC_RANK || k == METRIC_KL + 2) allowed = 0;
        bool fine = isinf(want[k]) ? out.values[k] == want[k]
                                   : fabs(out.values[k] - want[k]) <= allowed;
        CHECK(fine, "%s: metric %d of %d logits of %s is %.9g and should be %.9g", s->name, k,
            (int)n, type_names[type], out.values[k], want[k]);
    }
    device_release(s->device, table, sizeof rows);
    buffer_free(&x);
    buffer_free(&tokens);
    buffer_free(&out);
}

/* The same from what the logits are a product of: rounded to the type, and capped as KERNEL_SCALE
 * does it. */
static void case_metric_product(
    subject *s, int type, int64_t d, bool biased, double softcap, double scale)
{
    enum { LOGITS = 23, LINES = 2, N_A = 2, N_B = 3 };
    buffer x = buffer_random(s, type, d, 1, 1), weight = buffer_random(s, type, LOGITS * d, 3, 1),
           bias = buffer_random(s, type, LOGITS, 1, 1);
    buffer tokens = buffer_rows(s, N_A + N_B, LOGITS), out = buffer_result(s, INSET_F32, LINES, 0);
    double logits[LOGITS];
    for (int64_t j = 0; j < LOGITS; j++) {
        double sum = biased ? bias.values[j] : 0;
        for (int64_t i = 0; i < d; i++) sum += x.values[i] * weight.values[j * d + i];
        logits[j] = as_type(type, sum);
        if (softcap > 0)
            logits[j] = as_type(
                type, as_type(type, tanh(as_type(type, logits[j] / softcap))) * softcap);
        if (scale > 0) logits[j] = as_type(type, logits[j] * (float)scale);
    }
    metric_row rows[LINES];
    for (int k = 0; k < LINES; k++)
        rows[k] = (metric_row){.out = buffer_at(&out, k),
            .x = buffer_at(&x, 0),
            .tokens = buffer_at(&tokens, 0),
            .n_a = N_A,
            .n_b = k ? 0 : N_B,
            .width = (int32_t)d,
            .kind = k ? METRIC_LOGIT : METRIC_LOGIT_DIFF,
            .product = 1,
            .softcap = (float)softcap,
            .scale = (float)scale};
    void *table = NULL;
    if (device_allocate(s->device, sizeof rows, &table)
        || device_upload(s->device, table, rows, sizeof rows))
        abort();
    metrics_args args = {table, buffer_at(&weight, 0), biased ? buffer_at(&bias, 0) : NULL, LINES};
    launch(s, KERNEL_METRICS, type, &args, sizeof args, LINES);
    CHECK(buffer_fetch(&out), "%s: metrics of a product: written outside", s->name);
    for (int k = 0; k < LINES; k++) {
        double want = plain_metric_of(
            rows[k].kind, logits, NULL, LOGITS, tokens.values, rows[k].n_a, rows[k].n_b);
        double largest = sqrt((double)d) * 2 + 1,
               allowed = type == INSET_F32 ? 1e-6 * largest : 3 * rounding_of(type) * largest;
        CHECK(fabs(out.values[k] - want) <= allowed,
            "%s: metric %d of a product of %d in %s is %.9g and should be %.9g", s->name, k, (int)d,
            type_names[type], out.values[k], want);
    }
    device_release(s->device, table, sizeof rows);
    buffer_free(&x);
    buffer_free(&weight);
    buffer_free(&bias);
    buffer_free(&tokens);
    buffer_free(&out);
}

static void run_metric_cases(subject *s, int type)
{
    case_metrics(s, type, 1, 3, false, false);
    case_metrics(s, type, 61, 4, false, false);
    case_metrics(s, type, 67, 4, true, false);
    case_metrics(s, type, 67, 4, true, true);
    /* probabilities that fp32 has no numbers for */
    case_metrics(s, type, 33, 300, false, false);
    case_metric_product(s, type, 33, true, 0, 0);
    case_metric_product(s, type, 64, false, 3, 0);
    case_metric_product(s, type, 40, false, 0, 0.3);
    if (s->brief) return;
    case_metrics(s, type, 5003, 8, false, false);
    case_metrics(s, type, 5003, 8, true, false);
    case_metric_product(s, type, 768, true, 30, 0);
}

/* ---- rope --------------------------------------------------------------- */

/* head_stride: of x's heads, 0 when they lie side by side as out's do. */
static void case_rope(subject *s, int type, int heads, int head_dim, int rotary, int head_stride,
    int round_once, int interleaved)
{
    const int apart = head_stride ? head_stride : head_dim;
    const row_shape shape = {4, (int64_t)heads * apart, 3, 1, true};
    const int64_t d = (int64_t)heads * head_dim, stride = d + shape.gap;
    const int half = rotary / 2;
    operand x = operand_new(s, type, &shape, 2);
    buffer positions = buffer_rows(s, shape.rows, 1000),
           frequencies = buffer_new(s, INSET_F32, half, 0),
           out = buffer_result(s, type, shape.rows * stride, 1);
    double *want = malloc((size_t)(shape.rows * d) * sizeof *want);
    for (int i = 0; i < half; i++) frequencies.values[i] = (float)pow(10000, -(double)i / half);
    buffer_send(&frequencies);
    const float attention_scale = 1.25f;
    for (int64_t r = 0; r < shape.rows; r++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < head_dim; i++) {
                const double *row = operand_row(&x, r) + h * apart;
                const int j = interleaved ? i / 2 % half : i % half;
                const float angle = (float)positions.values[r] * (float)frequencies.values[j];
                const int rounded = round_once ? INSET_F32 : type;
                const double c = as_type(rounded, cos(angle) * attention_scale),
                             n = as_type(rounded, sin(angle) * attention_scale);
                double v = row[i];
                if (i < rotary) {
                    const double other = interleaved ? (i % 2 ? row[i - 1] : -row[i + 1])
                                         : i < half  ? -row[i + half]
                                                     : row[i - half];
                    v = as_type(rounded, row[i] * c) + as_type(rounded, other * n);
                }
                want[r * d + h * head_dim + i] = v;
            }
    rope_args args = {buffer_at(&out, 0), buffer_at(&x.x, 0), operand_rows(&x),
        buffer_at(&positions, 0), buffer_at(&frequencies, 0), shape.rows, stride, x.stride, heads,
        head_dim, rotary, attention_scale, head_stride, round_once, 0, interleaved};
    launch(s, KERNEL_ROPE, type, &args, sizeof args, shape.rows);
    check_rows(s, "rope", &out, shape.rows, d, stride, want, 1.1, 8 * rounding_of(type));
    operand_free(&x);
    buffer_free(&positions);
    buffer_free(&frequencies);
    buffer_free(&out);
    free(want);
}

/* ---- attention ---------------------------------------------------------- */

typedef struct attention_case {
    int heads, kv_heads, head_dim, longest, window;
    double softcap;
    bool separate, alibi;
} attention_case;

/* Scores' slopes of heads that know positions by them alone: halves, so that products are exact. */
static double slope_of(int head) { return pow(2, -1 - head); }
static buffer buffer_slopes(subject *s, int heads)
{
    buffer slopes = buffer_new(s, INSET_F32, heads, 0);
    for (int h = 0; h < heads; h++) slopes.values[h] = slope_of(h);
    buffer_send(&slopes);
    return slopes;
}

/* Cases whose heads divide by three have sinks, which the types hold exactly. (With slopes they
 * have no window: what scores have in common matters beside a sink.) */
static bool has_sinks(int64_t heads) { return heads % 3 == 0; }
static double sink_of(int64_t head) { return 1.5 - (double)(head % 7); }
static buffer buffer_sinks(subject *s, int type, int64_t heads)
{
    buffer sinks = buffer_new(s, type, heads, 1);
    for (int64_t h = 0; h < heads; h++) sinks.values[h] = sink_of(h);
    buffer_send(&sinks);
    return sinks;
}
static const void *sinks_at(const buffer *sinks)
{
    return has_sinks(sinks->n) ? buffer_at(sinks, 0) : NULL;
}

static void attention_row(double *out, const attention_case *c, const double *q, const double *k,
    const double *v, int64_t k_stride, int64_t v_stride, const double *key_rows,
    const double *value_rows, int count, double scale)
{
    double *scores = malloc((size_t)count * sizeof *scores), largest = -INFINITY, sum = 0;
    for (int h = 0; h < c->heads; h++, largest = -INFINITY, sum = 0) {
        const int group = h / (c->heads / c->kv_heads), d = c->head_dim;
        for (int j = 0; j < count; j++) {
            scores[j] = 0;
            for (int i = 0; i < d; i++)
                scores[j] += q[h * d + i] * k[(int64_t)key_rows[j] * k_stride + group * d + i];
            scores[j] *= scale;
            if (c->softcap > 0) scores[j] = c->softcap * tanh(scores[j] / c->softcap);
            if (c->alibi) scores[j] += slope_of(h) * j; /* what all have more changes nothing */
            if (scores[j] > largest) largest = scores[j];
        }
        if (has_sinks(c->heads)) sum = exp(sink_of(h) - largest);
        for (int j = 0; j < count; j++) sum += scores[j] = exp(scores[j] - largest);
        for (int i = 0; i < d; i++) {
            double total = 0;
            for (int j = 0; j < count; j++)
                total += scores[j] * v[(int64_t)value_rows[j] * v_stride + group * d + i];
            out[h * d + i] = total / sum;
        }
    }
    free(scores);
}

/* A rounded weight is off by half of what a rounding of its type may be; values are below 2. */
static double attention_slack(const subject *s, int type)
{
    return s->tiles && type != INSET_F32 ? 1e-5 + rounding_of(type) : 1e-5;
}

/* Rows whose contexts have different lengths over a table in no order; then each row alone, which
 * must give the same bits. */
static void case_attention(subject *s, int type, const attention_case *c)
{
    enum { ROWS = 4, POOL = 40 };
    const int64_t q_width = (int64_t)c->heads * c->head_dim,
                  kv_width = (int64_t)c->kv_heads * c->head_dim;
    const row_shape q_shape = {ROWS, q_width, 5, 1, true};
    const int64_t k_stride = kv_width + 2, v_stride = kv_width + 3, out_stride = q_width + 1;
    operand q = operand_new(s, type, &q_shape, 2);
    buffer k = buffer_random(s, type, POOL * k_stride, 1, 2),
           v = buffer_random(s, type, POOL * v_stride, 0, 2);
    const int32_t counts[ROWS] = {
        c->longest, 1, (c->longest + 1) / 2, c->longest > 2 ? c->longest - 1 : 1};
    int32_t contexts[2 * ROWS], entries = 0;
    for (int r = 0; r < ROWS; r++, entries += counts[r - 1])
        contexts[2 * r] = entries, contexts[2 * r + 1] = counts[r];
    buffer keys = buffer_rows(s, entries, POOL), values = buffer_rows(s, entries, POOL),
           table = buffer_integers(s, 2 * ROWS, contexts);
    buffer out = buffer_result(s, type, ROWS * out_stride, 1), slopes = buffer_slopes(s, c->heads),
           sinks = buffer_sinks(s, type, c->heads);
    double *want = malloc((size_t)(ROWS * q_width) * sizeof *want);
    const float scale = 1 / sqrtf((float)c->head_dim);
    for (int r = 0; r < ROWS; r++) {
        const int count = c->window && c->window < counts[r] ? c->window : counts[r],
                  first = contexts[2 * r] + counts[r] - count;
        attention_row(want + r * q_width, c, operand_row(&q, r), k.values, v.values, k_stride,
            v_stride, keys.values + first, (c->separate ? values : keys).values + first, count,
            scale);
    }
    attention_args args = {.out = buffer_at(&out, 0),
        .q = buffer_at(&q.x, 0),
        .k = buffer_at(&k, 0),
        .v = buffer_at(&v, 0),
        .q_rows = operand_rows(&q),
        .key_rows = buffer_at(&keys, 0),
        .value_rows = buffer_at(c->separate ? &values : &keys, 0),
        .contexts = buffer_at(&table, 0),
        .slopes = c->alibi ? buffer_at(&slopes, 0) : NULL,
        .sinks = sinks_at(&sinks),
        .n_rows = ROWS,
        .out_stride = out_stride,
        .q_stride = q.stride,
        .k_stride = k_stride,
        .v_stride = v_stride,
        .n_heads = c->heads,
        .n_kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .window = c->window,
        .scale = scale,
        .softcap = (float)c->softcap};
    launch(s, KERNEL_ATTENTION, type, &args, sizeof args, (int64_t)ROWS * c->heads);
    char what[96];
    snprintf(what, sizeof what, "attention of %d heads of %d, up to %d keys, window %d", c->heads,
        c->head_dim, c->longest, c->window);
    check_rows(s, what, &out, ROWS, q_width, out_stride, want, 1.1, attention_slack(s, type));
    for (int64_t r = 0; r < ROWS; r++)
        memcpy(want + r * q_width, out.values + r * out_stride, (size_t)q_width * sizeof *want);
    for (int64_t r = 0; r < ROWS && !s->brief; r++) {
        buffer alone = buffer_result(s, type, q_width, 0);
        attention_args one = args;
        one.out = buffer_at(&alone, 0);
        one.q_rows = args.q_rows ? args.q_rows + r : NULL;
        one.contexts = args.contexts + r;
        one.n_rows = 1;
        launch(s, KERNEL_ATTENTION, type, &one, sizeof one, c->heads);
        check_rows(
            s, "attention of one row alone", &alone, 1, q_width, q_width, want + r * q_width, 0, 0);
        buffer_free(&alone);
    }
    operand_free(&q);
    buffer *all[] = {&k, &v, &keys, &values, &table, &slopes, &sinks, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) buffer_free(all[i]);
    free(want);
}

/* Strands of a program: rows one after the other with one list, forks whose lists begin with the
 * rows of the first. */
typedef struct strand_case {
    int heads, kv_heads, head_dim, length, forks, window;
    bool alibi;
} strand_case;

/* Sets a key or a value of one row to a number. */
static void put_number(const subject *s, const buffer *b, int type, int64_t at, double x)
{
    unsigned char bytes[8];
    element_put((inset_type)type, bytes, x);
    if (device_upload(s->device, buffer_at(b, at), bytes, type_sizes[type])) abort();
}

/* All rows together, against loops; then each alone; then with what the last row of a fork alone
 * sees set to infinity: the bits of all other rows stay. */
static void case_strands(subject *s, int type, const strand_case *c)
{
    enum { MOST = 700 };
    int32_t lists[MOST * 8], contexts[2 * MOST], rows = 0, n = 0, pool = c->length;
    const int64_t q_width = (int64_t)c->heads * c->head_dim,
                  kv_width = (int64_t)c->kv_heads * c->head_dim;
    const int T = c->length;
    for (int f = 0; f <= c->forks; f++) {
        const int fork = f ? (T * f) / (c->forks + 1) + (f == 1) : 0, from = f        ? fork
                                                                             : T > 20 ? T - 20
                                                                                      : 0;
        for (int at = 0; at < T; at++) {
            lists[n + at] = f && at >= fork ? pool++ : at;
            if (at >= from && rows < MOST)
                contexts[2 * rows] = n, contexts[2 * rows + 1] = at + 1, rows++;
        }
        n += T;
    }
    const row_shape q_shape = {rows, q_width, 0, 0, false};
    operand q = operand_new(s, type, &q_shape, 2);
    buffer k = buffer_random(s, type, pool * kv_width, 0, 2),
           v = buffer_random(s, type, pool * kv_width, 0, 2), list = buffer_integers(s, n, lists),
           table = buffer_integers(s, 2 * rows, contexts),
           out = buffer_result(s, type, rows * q_width, 0), slopes = buffer_slopes(s, c->heads),
           sinks = buffer_sinks(s, type, c->heads);
    double *want = malloc((size_t)(rows * q_width) * sizeof *want);
    const attention_case as_case = {
        c->heads, c->kv_heads, c->head_dim, T, c->window, 0, false, c->alibi};
    const float scale = 1 / sqrtf((float)c->head_dim);
    for (int r = 0; r < rows; r++) {
        const int count = contexts[2 * r + 1],
                  seen = c->window && c->window < count ? c->window : count;
        const double *keys = list.values + contexts[2 * r] + count - seen;
        attention_row(want + r * q_width, &as_case, operand_row(&q, r), k.values, v.values,
            kv_width, kv_width, keys, keys, seen, scale);
    }
    attention_args args = {.out = buffer_at(&out, 0),
        .q = buffer_at(&q.x, 0),
        .k = buffer_at(&k, 0),
        .v = buffer_at(&v, 0),
        .key_rows = buffer_at(&list, 0),
        .value_rows = buffer_at(&list, 0),
        .contexts = buffer_at(&table, 0),
        .slopes = c->alibi ? buffer_at(&slopes, 0) : NULL,
        .sinks = sinks_at(&sinks),
        .n_rows = rows,
        .out_stride = q_width,
        .q_stride = q.stride,
        .k_stride = kv_width,
        .v_stride = kv_width,
        .n_heads = c->heads,
        .n_kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .window = c->window,
        .scale = scale};
    char what[96];
    snprintf(what, sizeof what, "strands of %d, %d / %d heads of %d, window %d", T, c->heads,
        c->kv_heads, c->head_dim, c->window);
    launch(s, KERNEL_ATTENTION, type, &args, sizeof args, (int64_t)rows * c->heads);
    check_rows(s, what, &out, rows, q_width, q_width, want, 1.1, attention_slack(s, type));
    memcpy(want, out.values, (size_t)(rows * q_width) * sizeof *want);
    for (int r = 0; r < rows; r += s->brief ? 7 : 3) {
        attention_args one = args;
        buffer alone = buffer_result(s, type, q_width, 0);
        one.out = buffer_at(&alone, 0);
        one.q = buffer_at(&q.x, r * q.stride);
        one.contexts = (const attention_context *)buffer_at(&table, 2 * r);
        one.n_rows = 1;
        if (device_launch(
                s->device, KERNEL_ATTENTION, (inset_type)type, &one, sizeof one, c->heads, 1))
            abort();
        check_rows(
            s, "a strand's row alone", &alone, 1, q_width, q_width, want + r * q_width, 0, 0);
        buffer_free(&alone);
    }
    /* the only row that sees the last fork's last position */
    const int last = rows - 1;
    put_number(s, &v, type, (int64_t)(pool - 1) * kv_width, INFINITY);
    put_number(s, &k, type, (int64_t)(pool - 1) * kv_width + (c->head_dim > 1), NAN);
    launch(s, KERNEL_ATTENTION, type, &args, sizeof args, (int64_t)rows * c->heads);
    for (int64_t i = 0; i < c->head_dim * (c->heads / c->kv_heads); i++)
        want[last * q_width + i] = NAN;
    check_rows(s, "strands beside an infinite value", &out, rows, q_width, q_width, want, 0, 0);
    operand_free(&q);
    buffer *all[] = {&k, &v, &list, &table, &slopes, &sinks, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) buffer_free(all[i]);
    free(want);
}

/* ---- attention in the open ---------------------------------------------- */

/* keys and columns: of one sequence, and of the widest; first: the position of the first query. */
typedef struct open_case {
    int heads, kv_heads, head_dim, keys, columns, first, window;
    double softcap;
    bool alibi;
} open_case;
enum { OPEN_ROWS = 3, OPEN_POOL = 20 };

/* A score is rounded after the product, the scale, the division, the hyperbolic tangent and the
 * factor. */
static void case_scores(subject *s, int type, const open_case *c)
{
    const row_shape shape = {OPEN_ROWS, (int64_t)c->heads * c->head_dim, 3, 1, true};
    const int64_t k_stride = (int64_t)c->kv_heads * c->head_dim + 2,
                  width = (int64_t)c->heads * c->columns, stride = width + 1;
    operand q = operand_new(s, type, &shape, 1);
    buffer k = buffer_random(s, type, OPEN_POOL * k_stride, 1, 1),
           keys = buffer_rows(s, c->keys, OPEN_POOL);
    buffer out = buffer_result(s, type, OPEN_ROWS * stride, 1);
    double *want = malloc((size_t)(OPEN_ROWS * width) * sizeof *want);
    const float scale = 1 / sqrtf((float)c->head_dim);
    for (int r = 0; r < OPEN_ROWS; r++)
        for (int h = 0; h < c->heads; h++)
            for (int j = 0; j < c->columns; j++) {
                const int position = c->first + r, group = h / (c->heads / c->kv_heads);
                double sum = 0;
                const bool seen = j <= position && j < c->keys
                                  && (!c->window || j > position - c->window);
                for (int i = 0; i < c->head_dim && seen; i++)
                    sum += operand_row(&q, r)[h * c->head_dim + i]
                           * k.values[(int64_t)keys.values[j] * k_stride + group * c->head_dim + i];
                sum *= scale;
                if (c->softcap > 0) sum = c->softcap * tanh(sum / c->softcap);
                if (c->alibi) sum += slope_of(h) * j;
                want[r * width + h * c->columns + j] = seen ? sum : -INFINITY;
            }
    buffer slopes = buffer_slopes(s, c->heads);
    scores_args args = {buffer_at(&out, 0), buffer_at(&q.x, 0), buffer_at(&k, 0), operand_rows(&q),
        buffer_at(&keys, 0), c->alibi ? buffer_at(&slopes, 0) : NULL, OPEN_ROWS, c->keys,
        c->columns, c->first, stride, q.stride, k_stride, c->heads, c->kv_heads, c->head_dim,
        c->window, scale, (float)c->softcap, -INFINITY};
    launch(s, KERNEL_SCORES, type, &args, sizeof args, (int64_t)OPEN_ROWS * c->heads);
    check_rows(s, "scores", &out, OPEN_ROWS, width, stride, want, c->softcap > 0 ? 5.5 : 2.5, 2e-6);
    operand_free(&q);
    buffer_free(&k);
    buffer_free(&keys);
    buffer_free(&slopes);
    buffer_free(&out);
    free(want);
}

enum softmax_kind { SOFTMAX_PLAIN, SOFTMAX_MASKED, SOFTMAX_NOTHING, SOFTMAX_NAN };

/* Masked: every third column is -inf. Nothing: all are, which PyTorch answers with NaNs. NaN: one
 * column is, and the part becomes NaNs. */
static void case_softmax(subject *s, int type, int64_t groups, int64_t keys, int64_t columns,
    enum softmax_kind kind, bool in_place)
{
    const int64_t rows = 3, width = groups * columns, stride = width + 3;
    buffer x = buffer_new(s, type, rows * stride, 1),
           out = buffer_result(s, type, rows * stride, 1);
    double *want = malloc((size_t)(rows * width) * sizeof *want);
    for (int64_t i = 0; i < rows * stride; i++)
        x.values[i] = as_type(type, 8 * test_uniform(&s->random));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) {
            const bool first = i / columns == 0; /* the other parts stay whole */
            if ((kind == SOFTMAX_MASKED && i % 3 == 1) || (kind == SOFTMAX_NOTHING && first))
                x.values[r * stride + i] = -INFINITY;
            if (kind == SOFTMAX_NAN && i == columns / 2) x.values[r * stride + i] = NAN;
        }
    buffer_send(&x);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < groups; g++) {
            const double *from = x.values + r * stride + g * columns;
            double largest = -INFINITY, sum = 0, *to = want + r * width + g * columns;
            for (int64_t j = 0; j < keys; j++) largest = from[j] > largest ? from[j] : largest;
            if (has_sinks(groups)) {
                largest = sink_of(g) > largest ? sink_of(g) : largest;
                sum = exp(sink_of(g) - largest);
            }
            for (int64_t j = 0; j < keys; j++) sum += to[j] = exp(from[j] - largest);
            for (int64_t j = 0; j < columns; j++) to[j] = j < keys ? to[j] / sum : 0;
        }
    /* gaps between rows must be guards there */
    if (in_place) {
        for (int64_t r = 0; r < rows; r++)
            memset(x.image + x.offset + (size_t)(r * stride + width) * type_sizes[type], GUARD_BYTE,
                (size_t)(stride - width) * type_sizes[type]);
        if (device_upload(s->device, x.block, x.image, x.bytes)) abort();
    }
    buffer *to = in_place ? &x : &out;
    buffer sinks = buffer_sinks(s, type, groups);
    softmax_args args = {buffer_at(to, 0), buffer_at(&x, 0), sinks_at(&sinks), rows, groups, keys,
        columns, stride, stride};
    launch(s, KERNEL_SOFTMAX, type, &args, sizeof args, rows);
    check_rows(
        s, in_place ? "softmax in place" : "softmax", to, rows, width, stride, want, 1.1, 2e-6);
    buffer_free(&x);
    buffer_free(&sinks);
    buffer_free(&out);
    free(want);
}

static void case_mix(subject *s, int type, const open_case *c)
{
    const int64_t in = (int64_t)c->heads * c->columns, width = (int64_t)c->heads * c->head_dim,
                  stride = width + 1, in_stride = in + 2;
    const int64_t v_stride = (int64_t)c->kv_heads * c->head_dim + 3;
    buffer pattern = buffer_random(s, type, OPEN_ROWS * in_stride, 1, 1),
           v = buffer_random(s, type, OPEN_POOL * v_stride, 1, 1);
    buffer rows = buffer_rows(s, c->keys, OPEN_POOL),
           out = buffer_result(s, type, OPEN_ROWS * stride, 1);
    double *want = malloc((size_t)(OPEN_ROWS * width) * sizeof *want);
    for (int r = 0; r < OPEN_ROWS; r++)
        for (int h = 0; h < c->heads; h++)
            for (int i = 0; i < c->head_dim; i++) {
                const int group = h / (c->heads / c->kv_heads);
                double sum = 0;
                for (int j = 0; j < c->keys; j++)
                    sum += pattern.values[r * in_stride + h * c->columns + j]
                           * v.values[(int64_t)rows.values[j] * v_stride + group * c->head_dim + i];
                want[r * width + h * c->head_dim + i] = sum;
            }
    mix_args args = {buffer_at(&out, 0), buffer_at(&pattern, 0), buffer_at(&v, 0),
        buffer_at(&rows, 0), OPEN_ROWS, c->keys, c->columns, stride, in_stride, v_stride, c->heads,
        c->kv_heads, c->head_dim};
    launch(s, KERNEL_MIX, type, &args, sizeof args, OPEN_ROWS);
    check_rows(s, "mix", &out, OPEN_ROWS, width, stride, want, 1.1, 1e-6 * sqrt((double)c->keys));
    buffer_free(&pattern);
    buffer_free(&v);
    buffer_free(&rows);
    buffer_free(&out);
    free(want);
}

static void run_open_cases(subject *s, int type)
{
    static const open_case cases[] = {
        {4, 2, 33, 9, 11, 5, 0, 0, false},
        {4, 2, 12, 9, 11, 5, 0, 0, true},
        {3, 3, 8, 7, 7, 0, 3, 5, false},
        {2, 1, 65, 1, 3, 0, 0, 0, false},
        {1, 1, 1, 5, 5, 4, 2, 0, false},
        {2, 2, 64, 130, 130, 127, 70, 20, false},
    };
    const int n = s->brief ? 3 : (int)(sizeof cases / sizeof *cases);
    for (int i = 0; i < n; i++) {
        case_scores(s, type, &cases[i]);
        case_mix(s, type, &cases[i]);
    }
    for (int kind = SOFTMAX_PLAIN; kind <= SOFTMAX_NAN; kind++)
        case_softmax(s, type, 3, 7, 7, (enum softmax_kind)kind, kind % 2);
    case_softmax(s, type, 2, 1, 1, SOFTMAX_PLAIN, true);
    case_softmax(s, type, 2, 5, 9, SOFTMAX_PLAIN, false);
    case_softmax(s, type, 1, s->brief ? 67 : 515, s->brief ? 67 : 515, SOFTMAX_MASKED, false);
}

/* ---- records ------------------------------------------------------------ */

static bool is_float_type(int type) { return type <= INSET_F64; }

static int64_t cut(int type, int64_t x)
{
    switch (type) {
    case INSET_I32: return (int32_t)x;
    case INSET_I16: return (int16_t)x;
    case INSET_I8: return (int8_t)x;
    case INSET_U8: return (uint8_t)x;
    case INSET_BOOL: return x != 0;
    default: return x;
    }
}

/* A value that a type, or a computation in it, turns another into. */
static double converted(int type, double x)
{
    if (type == INSET_BOOL) return x != 0;
    return is_float_type(type) ? as_type(type, x) : (double)cut(type, (int64_t)x);
}

/* One element as PyTorch computes it. Values are small enough that doubles hold every integer
 * here. */
static double record_element(const record *r, double a, double b)
{
    /* every bit, whatever it is computed in */
    if (r->op == RECORD_COPY && r->a && r->a_type == r->out_type) return a;
    const int compute = r->compute;
    const int constant = (compute == INSET_BF16 || compute == INSET_F16)
                                 && (r->op == RECORD_MULTIPLY || r->op == RECORD_DIVIDE)
                             ? INSET_F32
                             : compute;
    a = converted(r->a ? compute : constant, r->a ? a : r->a_constant);
    b = converted(r->b ? compute : constant, r->b ? b : r->b_constant);
    double x = a;
    if (is_float_type(compute) && compute != INSET_F64) {
        const float u = (float)a, v = (float)b;
        x = r->op == RECORD_ADD        ? u + v
            : r->op == RECORD_SUBTRACT ? u - v
            : r->op == RECORD_MULTIPLY ? u * v
            : r->op == RECORD_DIVIDE   ? u / v
            : r->op == RECORD_NEGATE   ? -u
                                       : u;
    } else {
        x = r->op == RECORD_ADD        ? a + b
            : r->op == RECORD_SUBTRACT ? a - b
            : r->op == RECORD_MULTIPLY ? a * b
            : r->op == RECORD_DIVIDE   ? a / b
            : r->op == RECORD_NEGATE   ? -a
                                       : a;
    }
    return converted(r->out_type, converted(compute, x));
}

enum { RECORDS_TOGETHER = 5 };
typedef struct record_case {
    buffer out, a, b;
    record r;
    double *want;
} record_case;

static buffer record_operand(subject *s, int type, int64_t n)
{
    buffer b = buffer_new(s, type, n, (int64_t)(test_random(&s->random) % 3));
    for (int64_t i = 0; i < n; i++) {
        const double x = 4 * test_uniform(&s->random);
        b.values[i] = is_float_type(type)  ? as_type(type, x)
                      : type == INSET_BOOL ? x > 0
                                           : (double)cut(type, (int64_t)(x * 30000));
    }
    buffer_send(&b);
    return b;
}

static int64_t pick(subject *s, int n, const int64_t *choices)
{
    return choices[test_random(&s->random) % (uint64_t)n];
}

/* A function, or the derivative of one, of which `compute` has values. */
static void choose_function(subject *s, record *r)
{
    static const uint8_t of_integers[] = {RECORD_ABS, RECORD_RELU, RECORD_AT_LEAST, RECORD_AT_MOST};
    if (r->compute == INSET_BOOL) r->compute = INSET_F32;
    r->out_type = r->compute; /* as plans have it */
    r->op = (uint8_t)(RECORD_EXP
                      + test_random(&s->random) % (RECORD_GREATER_EQUAL - RECORD_EXP + 1));
    if (r->op >= RECORD_EQUAL) {
        r->out_type = INSET_BOOL;
        return;
    }
    if (!is_float_type(r->compute)) r->op = of_integers[test_random(&s->random) % 4];
    else if (r->compute != INSET_F64 && test_random(&s->random) % 3 == 0) r->op += RECORD_SLOPE;
}

static double sigmoid_of(double x) { return 1 / (1 + exp(-x)); }

/* A function of one element in double, and its derivative by its formula (erf and tanh from the C
 * library); a and b as `compute` holds them. */
static double function_element(const record *r, double a, double b)
{
    const double pi = 3.14159265358979323846, phi = exp(-a * a / 2) / sqrt(2 * pi),
                 t = tanh(sqrt(2 / pi) * (a + 0.044715 * a * a * a)), s = sigmoid_of(a);
    switch (r->op) {
    case RECORD_EXP:
    case RECORD_SLOPE + RECORD_EXP: return exp(a);
    case RECORD_LOG: return log(a);
    case RECORD_SQRT: return sqrt(a);
    case RECORD_ABS: return fabs(a);
    case RECORD_RELU: return a > 0 ? a : isnan(a) ? a : 0;
    case RECORD_SIGMOID: return s;
    case RECORD_TANH: return tanh(a);
    case RECORD_GELU: return a / 2 * (1 + erf(a / sqrt(2)));
    case RECORD_GELU_TANH: return a / 2 * (1 + t);
    case RECORD_SILU: return a * s;
    case RECORD_AT_LEAST: return a < b ? b : a;
    case RECORD_AT_MOST: return a > b ? b : a;
    case RECORD_EQUAL: return a == b;
    case RECORD_UNEQUAL: return a != b;
    case RECORD_LESS: return a < b;
    case RECORD_LESS_EQUAL: return a <= b;
    case RECORD_GREATER: return a > b;
    case RECORD_GREATER_EQUAL: return a >= b;
    case RECORD_SLOPE + RECORD_LOG: return 1 / a;
    case RECORD_SLOPE + RECORD_SQRT: return 0.5 / sqrt(a);
    case RECORD_SLOPE + RECORD_ABS: return (a > 0) - (a < 0);
    case RECORD_SLOPE + RECORD_RELU: return a > 0;
    case RECORD_SLOPE + RECORD_SIGMOID: return s * (1 - s);
    case RECORD_SLOPE + RECORD_TANH: return 1 - tanh(a) * tanh(a);
    case RECORD_SLOPE + RECORD_GELU: return (1 + erf(a / sqrt(2))) / 2 + a * phi;
    case RECORD_SLOPE + RECORD_GELU_TANH:
        return (1 + t) / 2 + a / 2 * (1 - t * t) * sqrt(2 / pi) * (1 + 3 * 0.044715 * a * a);
    case RECORD_SLOPE + RECORD_SILU: return s * (1 + a * (1 - s));
    case RECORD_SLOPE + RECORD_AT_LEAST: return a >= b;
    default: return a <= b;
    }
}

/* Whether `got` is the function's value to a few units of the type's last place. */
static bool is_function_value(const record *r, double a, double b, double got)
{
    const int compute = r->compute;
    const double want = function_element(r, converted(compute, r->a ? a : r->a_constant),
        converted(compute, r->b ? b : r->b_constant));
    const double place = compute == INSET_F64    ? 1e-13
                         : compute == INSET_BF16 ? 0x1p-8
                         : compute == INSET_F16  ? 0x1p-11
                                                 : 5e-7;
    if (!is_float_type(compute)) return got == cut(compute, (int64_t)want);
    const double there = as_type(compute, want); /* where the type's range ends */
    if (isnan(there) || isinf(there)) return isnan(there) ? isnan(got) : got == there;
    /* beside 0 some are differences of larger numbers, derivatives more so */
    const double beside = r->op > RECORD_SLOPE && compute == INSET_F32 ? 4 : 0.5;
    return fabs(got - want) <= place * (fabs(want) + beside);
}

/* One random record: size, types, strides and constants. */
static void record_case_new(subject *s, record_case *c, bool functions)
{
    static const int64_t rows[] = {1, 2, 3, 5, 0, 17, 130}, columns[] = {1, 3, 16, 31, 64, 100, 0},
                         steps[] = {1, 1, 1, 2, 3};
    record *r = &c->r;
    *r = (record){.rows = (int32_t)pick(s, s->brief ? 4 : 7, rows),
        .columns = (int32_t)pick(s, s->brief ? 4 : 7, columns)};
    if (!s->brief && test_random(&s->random) % 12 == 0)
        r->rows = 2, r->columns = 2 * RECORD_BLOCK_ELEMENTS + 77;
    /* half of them all of one float type */
    const bool plain = test_random(&s->random) % 2;
    const int one = (int)(test_random(&s->random) % 3);
    r->out_type = (uint8_t)(plain ? one : (int)(test_random(&s->random) % INSET_TYPE_COUNT));
    r->a_type = (uint8_t)(plain ? one : (int)(test_random(&s->random) % INSET_TYPE_COUNT));
    r->b_type = (uint8_t)(plain ? one : (int)(test_random(&s->random) % INSET_TYPE_COUNT));
    r->compute = (uint8_t)(plain ? one : (int)(test_random(&s->random) % INSET_TYPE_COUNT));
    r->op = (uint8_t)(test_random(&s->random) % 6);
    if (r->op == RECORD_DIVIDE && !is_float_type(r->compute)) r->op = RECORD_COPY;
    if (r->op == RECORD_SUBTRACT && r->compute == INSET_BOOL) r->op = RECORD_ADD;
    if (r->op == RECORD_NEGATE && r->compute == INSET_BOOL) r->op = RECORD_COPY;
    if (functions) choose_function(s, r);
    r->out_column = pick(s, 5, steps);
    r->out_row = r->out_column * r->columns + (int64_t)(test_random(&s->random) % 2) * 3;
    int64_t *strides[2][2] = {{&r->a_row, &r->a_column}, {&r->b_row, &r->b_column}};
    for (int i = 0; i < 2; i++) {
        *strides[i][1] = test_random(&s->random) % 4 == 0 ? 0 : pick(s, 5, steps);
        *strides[i][0] = test_random(&s->random) % 4 == 0
                             ? 0
                             : r->columns * 3 + (int64_t)(test_random(&s->random) % 3);
    }
    const int64_t most = (int64_t)r->rows * (r->columns * 3 + 3) + 1;
    c->out = buffer_result(s, r->out_type, most, (int64_t)(test_random(&s->random) % 3));
    c->a = record_operand(s, r->a_type, most);
    c->b = record_operand(s, r->b_type, most);
    r->out = buffer_at(&c->out, 0);
    r->a = test_random(&s->random) % 5 ? buffer_at(&c->a, 0) : NULL;
    r->b = test_random(&s->random) % 3 ? buffer_at(&c->b, 0) : NULL;
    r->a_constant = floor(20 * test_uniform(&s->random)) / 8;
    r->b_constant = r->op == RECORD_DIVIDE ? 3.0 : floor(20 * test_uniform(&s->random)) / 8 + 0.1;
    /* no division by the integer 0 */
    if (r->op == RECORD_DIVIDE && r->b && !is_float_type(r->b_type)) r->b = NULL;
}

/* Checks every element of the rectangle, and that everything else in the block is untouched. */
static void record_case_check(subject *s, record_case *c)
{
    const record *r = &c->r;
    CHECK(buffer_fetch(&c->out), "%s: records: written outside the buffer", s->name);
    unsigned char *expected = malloc(c->out.bytes);
    memset(expected, GUARD_BYTE, c->out.bytes);
    for (int64_t i = 0; i < r->rows; i++)
        for (int64_t j = 0; j < r->columns; j++) {
            const double want = record_element(r, c->a.values[i * r->a_row + j * r->a_column],
                c->b.values[i * r->b_row + j * r->b_column]);
            const int64_t at = i * r->out_row + j * r->out_column;
            const double got = c->out.values[at];
            const bool good = r->op > RECORD_NEGATE ? is_function_value(r,
                                  c->a.values[i * r->a_row + j * r->a_column],
                                  c->b.values[i * r->b_row + j * r->b_column], got)
                                                    : got == want || (isnan(got) && isnan(want));
            if (!CHECK(good,
                    "%s: record %d [%d, %d] %s = %s (%d,%d) op %s (%d,%d) in %s: element (%d, %d) "
                    "is %.9g and should be %.9g",
                    s->name, r->op, r->rows, r->columns, type_names[r->out_type],
                    r->a ? type_names[r->a_type] : "constant", (int)r->a_row, (int)r->a_column,
                    r->b ? type_names[r->b_type] : "constant", (int)r->b_row, (int)r->b_column,
                    type_names[r->compute], (int)i, (int)j, got, want))
                goto end;
            const size_t size = type_sizes[r->out_type], byte = c->out.offset + (size_t)at * size;
            memcpy(expected + byte, c->out.image + byte, size);
        }
    CHECK(memcmp(expected, c->out.image, c->out.bytes) == 0,
        "%s: record [%d, %d] of %s: written between its elements", s->name, r->rows, r->columns,
        type_names[r->out_type]);
end:
    free(expected);
}

static void case_records(subject *s, bool functions)
{
    record_case cases[RECORDS_TOGETHER];
    record table[RECORDS_TOGETHER];
    void *on_device;
    for (int i = 0; i < RECORDS_TOGETHER; i++) {
        record_case_new(s, &cases[i], functions);
        table[i] = cases[i].r;
    }
    const int64_t blocks = records_number_blocks(table, RECORDS_TOGETHER);
    if (device_allocate(s->device, sizeof table, &on_device)
        || device_upload(s->device, on_device, table, sizeof table))
        abort();
    records_args args = {on_device, RECORDS_TOGETHER};
    launch(s, functions ? KERNEL_FUNCTIONS : KERNEL_RECORDS, INSET_F32, &args, sizeof args, blocks);
    for (int i = 0; i < RECORDS_TOGETHER; i++) record_case_check(s, &cases[i]);
    device_release(s->device, on_device, sizeof table);
    for (int i = 0; i < RECORDS_TOGETHER; i++) {
        buffer_free(&cases[i].out);
        buffer_free(&cases[i].a);
        buffer_free(&cases[i].b);
    }
}

/* A copy between equal types keeps every bit, of NaNs with a payload too. */
static void case_record_bits(subject *s, int type, int64_t columns)
{
    buffer a = buffer_new(s, type, 3 * columns, 1), out = buffer_result(s, type, 3 * columns, 0);
    const size_t bytes = (size_t)(3 * columns) * type_sizes[type];
    for (size_t i = 0; i < bytes; i++)
        a.image[a.offset + i] = i % 3 ? 0xff : (unsigned char)test_random(&s->random);
    void *on_device;
    record r = {.out = buffer_at(&out, 0),
        .a = buffer_at(&a, 0),
        .out_row = columns,
        .a_row = columns,
        .out_column = 1,
        .a_column = 1,
        .rows = 3,
        .columns = (int32_t)columns,
        .op = RECORD_COPY,
        .out_type = (uint8_t)type,
        .a_type = (uint8_t)type,
        .compute = (uint8_t)type};
    const int64_t blocks = records_number_blocks(&r, 1);
    if (device_upload(s->device, a.block, a.image, a.bytes)
        || device_allocate(s->device, sizeof r, &on_device)
        || device_upload(s->device, on_device, &r, sizeof r))
        abort();
    records_args args = {on_device, 1};
    launch(s, KERNEL_RECORDS, INSET_F32, &args, sizeof args, blocks);
    CHECK(buffer_fetch(&out), "%s: copy of %s: written outside the buffer", s->name,
        type_names[type]);
    CHECK(memcmp(out.image + out.offset, a.image + a.offset, bytes) == 0,
        "%s: a copy of %s [3, %d] changed bits", s->name, type_names[type], (int)columns);
    device_release(s->device, on_device, sizeof r);
    buffer_free(&a);
    buffer_free(&out);
}

/* ---- tables in short form ----------------------------------------------- */

/* Runs of every kind, some of one number and some longer than a block, side by side and
 * interleaved; what no run names keeps its bytes. */
static void case_expand(subject *s)
{
    enum { RUNS = 40, MOST = 700, SOURCE = 900, PLACES = SOURCE + 2 * RUNS * MOST };
    int32_t literals[MOST], start[SOURCE];
    table_run runs[RUNS];
    buffer table = buffer_new(s, INSET_I32, PLACES, 0);
    for (int i = 0; i < MOST; i++) literals[i] = (int32_t)test_random(&s->random);
    for (int i = 0; i < SOURCE; i++)
        table.values[i] = start[i] = (int32_t)(test_random(&s->random) % 100000);
    for (int i = SOURCE; i < PLACES; i++) table.values[i] = -7;
    buffer_send(&table);
    double *want = malloc(PLACES * sizeof *want);
    memcpy(want, table.values, PLACES * sizeof *want);
    for (int i = 0; i < RUNS; i++) {
        table_run *r = &runs[i];
        /* two that lie interleaved, as contexts do */
        bool second = i % 6 == 4, pair = second || i % 6 == 3;
        *r = (table_run){.to = SOURCE + i * 2 * MOST,
            .count = i % 5 == 0 ? 1 : 1 + (int)(test_random(&s->random) % MOST),
            .first = i,
            .step = (int16_t)(i % 7 - 3),
            .stride = pair ? 2 : 1,
            .kind = pair ? TABLE_COUNT : (uint8_t)(i % 3)};
        if (second) r->to = runs[i - 1].to + 1, r->count = runs[i - 1].count;
        if (r->kind != TABLE_COUNT && r->first + r->count > MOST) r->count = MOST - r->first;
        for (int k = 0; k < r->count; k++)
            want[r->to + k * r->stride] = r->kind == TABLE_COUNT    ? r->first + k * r->step
                                          : r->kind == TABLE_REPEAT ? start[r->first + k]
                                                                    : literals[r->first + k];
    }
    buffer short_literals = buffer_integers(s, MOST, literals);
    void *on_device;
    if (device_allocate(s->device, sizeof runs, &on_device)
        || device_upload(s->device, on_device, runs, sizeof runs))
        abort();
    expand_args args = {buffer_at(&table, 0), on_device, buffer_at(&short_literals, 0), RUNS};
    launch(s, KERNEL_EXPAND, INSET_F32, &args, sizeof args, RUNS);
    CHECK(buffer_fetch(&table), "%s: expand: written outside the buffer", s->name);
    for (int i = 0; i < PLACES; i++)
        if (!CHECK(table.values[i] == want[i], "%s: expand: place %d is %d and should be %d",
                s->name, i, (int)table.values[i], (int)want[i]))
            break;
    device_release(s->device, on_device, sizeof runs);
    buffer_free(&short_literals);
    buffer_free(&table);
    free(want);
}

/* ---- records inside kernels --------------------------------------------- */

#include "fused_cases.h"

/* ---- all ---------------------------------------------------------------- */

static void run_shape_cases(subject *s, int type, const row_shape *shape)
{
    case_embed(s, type, shape);
    case_gather(s, type, shape);
    case_layernorm(s, type, shape, 1, true, true);
    case_add_layernorm(s, type, shape);
    case_layernorm(s, type, shape, 3, true, true);
    case_copies(s, type, shape, 1, 4);
    case_copies(s, type, shape, 3, 2);
    case_rmsnorm(s, type, shape, 1, 0);
    case_rmsnorm(s, type, shape, 3, 1);
    case_rmsnorm(s, type, shape, 2, 2);
    for (int when = 0; when <= 2; when++) case_add_rmsnorm(s, type, shape, when);
    case_gate(s, type, shape);
    case_add(s, type, shape, false);
    case_add(s, type, shape, true);
    case_scale(s, type, shape, 0);
    case_scale(s, type, shape, 30);
    case_columns(s, type, shape, true);
    for (int kind = 0; kind <= 5; kind++) case_activation(s, type, shape, kind, kind % 2);
    if (s->brief) return;
    case_layernorm(s, type, shape, 1, true, false);
    case_layernorm(s, type, shape, 1, false, true);
    case_layernorm(s, type, shape, 1, false, false);
    case_rmsnorm(s, type, shape, 3, 0);
    case_norm_scale(s, type, shape, 1, 1, 0);
    case_norm_scale(s, type, shape, 3, 0, 0);
    case_norm_scale(s, type, shape, 1, 0, 1);
    case_norm_scale(s, type, shape, 1, 0, 2);
    case_columns(s, type, shape, false);
    for (int kind = 0; kind <= 5; kind++) case_activation(s, type, shape, kind, !(kind % 2));
}

/* A row's bits do not depend on where it lies: aligned to 16 bytes or not, its sums are added in
 * one order. */
static void case_places(subject *s, int type, int64_t d)
{
    enum { KINDS = 4 };
    double *first = malloc((size_t)(KINDS * 2 * d) * sizeof *first);
    const uint64_t seed = s->random;
    for (int place = 0; place < 2; place++) {
        s->random = seed;
        buffer x = buffer_random(s, type, d, place, 3), y = buffer_random(s, type, d, 0, 3),
               weight = buffer_random(s, type, d, place, 2);
        buffer out = buffer_result(s, type, d, place), norm = buffer_result(s, type, d, 0);
        void *at[] = {buffer_at(&x, 0), buffer_at(&y, 0), buffer_at(&weight, 0), buffer_at(&out, 0),
            buffer_at(&norm, 0)};
        const layernorm_args a0 = {at[3], at[0], NULL, at[2], at[2], 1, d, d, d, 1, 1e-5f};
        const rmsnorm_args a1 = {at[3], at[0], NULL, at[2], 1, d, d, d, 1, 1e-5f, 0, 0};
        const add_layernorm_args a2 = {
            at[3], at[4], at[0], at[1], NULL, NULL, at[2], at[2], 1, d, d, d, d, d, 1e-5f};
        const add_rmsnorm_args a3 = {
            at[3], at[4], at[0], at[1], NULL, NULL, at[2], 1, d, d, d, d, d, 1e-5f, 0, 0};
        const struct {
            kernel_id kernel;
            const void *args;
            size_t size;
        } kinds[KINDS] = {{KERNEL_LAYERNORM, &a0, sizeof a0}, {KERNEL_RMSNORM, &a1, sizeof a1},
            {KERNEL_ADD_LAYERNORM, &a2, sizeof a2}, {KERNEL_ADD_RMSNORM, &a3, sizeof a3}};
        for (int k = 0; k < KINDS; k++) {
            if (device_launch(s->device, kinds[k].kernel, (inset_type)type, kinds[k].args,
                    kinds[k].size, 1, d))
                abort();
            buffer_fetch(&out);
            buffer_fetch(&norm);
            double *kept = first + k * 2 * d;
            if (!place)
                memcpy(kept, out.values, (size_t)d * sizeof *kept),
                    memcpy(kept + d, norm.values, (size_t)d * sizeof *kept);
            else
                CHECK(!memcmp(kept, out.values, (size_t)d * sizeof *kept)
                          && (k < 2 || !memcmp(kept + d, norm.values, (size_t)d * sizeof *kept)),
                    "%s: kernel %d of %s, %d columns: other bits in another place", s->name,
                    (int)kinds[k].kernel, type_names[type], (int)d);
        }
        buffer *all[] = {&x, &y, &weight, &out, &norm};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) buffer_free(all[i]);
    }
    free(first);
}

static void run_attention_cases(subject *s, int type)
{
    static const attention_case attentions[] = {
        {4, 2, 33, 65, 0, 0, true, false},
        {3, 3, 64, 70, 0, 0, false, true},
        {2, 2, 64, 15, 0, 0, false, false},
        {4, 1, 8, 9, 3, 5, false, false},
        {2, 2, 64, 200, 0, 0, false, false},
        {1, 1, 256, 64, 0, 0, true, false},
        {3, 3, 80, 130, 70, 20, false, false},
        {2, 1, 1, 63, 0, 0, false, false},
        {12, 12, 64, 128, 0, 0, false, false},
        {4, 2, 40, 140, 90, 0, true, true},
    };
    static const strand_case strands[] = {
        {4, 2, 16, 15, 3, 0, false},
        {4, 2, 16, 75, 3, 0, true},
        {2, 1, 5, 70, 2, 0, false},
        {2, 2, 64, 140, 2, 0, false},
        {8, 2, 128, 66, 3, 0, false},
        {3, 1, 40, 90, 4, 30, false},
        {71, 1, 8, 12, 2, 0, false},
        {2, 1, 256, 130, 2, 0, false},
        {12, 4, 64, 140, 2, 0, true},
    };
    const int n_attentions = s->brief ? 3 : (int)(sizeof attentions / sizeof *attentions);
    for (int i = 0; i < n_attentions; i++) case_attention(s, type, &attentions[i]);
    for (int i = 0; i < (s->brief ? 2 : (int)(sizeof strands / sizeof *strands)); i++)
        case_strands(s, type, &strands[i]);
}

#include "back_cases.h"
#include "row_function_cases.h"
#include "edge_cases.h"
#include "expert_cases.h"

static void run_kernel_cases(subject *s)
{
    const int n_records = s->brief ? 30 : 200;
    for (int type = 0; type < KERNEL_TYPES; type++) {
        for (int i = 0; i < shape_count(s); i++) run_shape_cases(s, type, &row_shapes[i]);
        for (int64_t d = 24; d < 12000; d = d * 5 + 3) case_places(s, type, d);
        run_attention_cases(s, type);
        run_open_cases(s, type);
        run_metric_cases(s, type);
        run_back_cases(s, type);
        run_row_function_cases(s, type);
        run_edge_cases(s, type);
        run_expert_cases(s, type);
        case_rope(s, type, 3, 10, 6, 0, 0, 0);
        case_rope(s, type, 3, 10, 10, 31, 0, 0);
        case_rope(s, type, 2, 64, 64, 0, 0, 0);
        case_rope(s, type, 3, 10, 6, 0, 1, 0);
        case_rope(s, type, 3, 10, 6, 31, 0, 1);
        case_rope(s, type, 2, 64, 64, 0, 1, 1);
    }
    case_range(s);
    case_expand(s);
    for (int i = 0; i < n_records; i++) case_records(s, false), case_records(s, true);
    for (int type = 0; type < INSET_TYPE_COUNT; type++) {
        case_record_bits(s, type, 7);
        case_record_bits(s, type, 65);
    }
}

/* The comparators notice one wrong element and one wrong byte. */
static void test_comparators(subject *s)
{
    enum { N = 1000 };
    double got[N], want[N];
    for (int i = 0; i < N; i++) got[i] = want[i] = as_type(INSET_F32, 3 * test_uniform(&s->random));
    CHECK(first_difference(got, want, N, INSET_F32, 1.5, 1e-7) == -1, "equal arrays differ");
    got[617] *= 1 + 1e-5;
    CHECK(first_difference(got, want, N, INSET_F32, 1.5, 1e-7) == 617,
        "one wrong element was not noticed");
    got[617] = NAN;
    CHECK(first_difference(got, want, N, INSET_F32, 1.5, 1e-7) == 617, "one NaN was not noticed");
    want[617] = NAN;
    CHECK(first_difference(got, want, N, INSET_F32, 1.5, 1e-7) == -1, "two NaNs differ");
    buffer b = buffer_random(s, INSET_BF16, 33, 1, 1);
    CHECK(buffer_fetch(&b), "whole guards were found broken");
    unsigned char byte = 1;
    if (device_upload(s->device, buffer_at(&b, 33), &byte, 1)) abort();
    CHECK(!buffer_fetch(&b), "a byte written behind the buffer was not noticed");
    buffer_free(&b);
}

/* ---- a device that is nothing but a table of kernels -------------------- */

typedef struct table_device {
    device base;
    kernel_table table;
    /* attention is done by tiles, so many rows a block; 0: as it is */
    int32_t tile_rows;
} table_device;

static inset_status table_allocate(device *d, size_t bytes, void **out)
{
    (void)d;
    *out = malloc(bytes);
    return *out ? INSET_OK : INSET_NO_MEMORY;
}
static void table_release(device *d, void *memory, size_t bytes)
{
    (void)d, (void)bytes;
    free(memory);
}
static inset_status table_copy(device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
    return INSET_OK;
}
/* What cuda/tiles.c does. */
static inset_status table_launch_tiles(
    const table_device *t, kernel_id kernel, inset_type type, const void *args)
{
    tile_attention_args tiles;
    const bool with_records = kernel >= KERNEL_COUNT;
    memset(&tiles, 0, sizeof tiles);
    if (with_records) memcpy(&tiles.fused, args, sizeof tiles.fused);
    memcpy(&tiles.attention, (const char *)args + (with_records ? sizeof tiles.fused : 0),
        sizeof tiles.attention);
    const attention_args *a = &tiles.attention;
    tiles.rows_per_block = tile_attention_most_rows(a) < t->tile_rows ? tile_attention_most_rows(a)
                                                                      : t->tile_rows;
    ((kernel_blocks *)t->table.entry[tile_attention_kernel(a->head_dim)][type])(
        &tiles, 0, tile_attention_blocks(&tiles));
    return INSET_OK;
}

static inset_status table_launch(device *d, kernel_id kernel, inset_type type, const void *args,
    size_t size, int64_t blocks, int64_t work)
{
    (void)size, (void)work;
    const table_device *t = (table_device *)d;
    if (t->tile_rows && kernel % KERNEL_COUNT == KERNEL_ATTENTION)
        return table_launch_tiles(t, kernel, type, args);
    kernel_blocks *run =
        (kernel_blocks *)((table_device *)d)
            ->table.entry[kernel][kernel >= KERNEL_EXPAND && kernel < KERNEL_COUNT ? 0 : type];
    run(args, 0, blocks);
    return INSET_OK;
}
static inset_status table_synchronize(device *d)
{
    (void)d;
    return INSET_OK;
}

/* Runs all cases on one compilation of the kernels. */
__attribute__((unused)) static void run_table(
    const char *name, void (*fill)(kernel_table *), bool brief)
{
    static const device_functions functions = {.allocate = table_allocate,
        .release = table_release,
        .upload = table_copy,
        .download = table_copy,
        .launch = table_launch,
        .synchronize = table_synchronize};
    table_device d = {.base = {.functions = &functions}};
    fill(&d.table);
    subject s = {&d.base, name, brief, 1, false};
    test_comparators(&s);
    check_forms(&s, &d.table);
    run_kernel_cases(&s);
    for (int type = 0; type < KERNEL_TYPES && d.table.entry[KERNEL_GROUPED_PRODUCT][type]; type++)
        run_grouped_cases(&s, type);
    s.tiles = true;
    for (d.tile_rows = d.table.entry[KERNEL_TILE_ATTENTION_64][0] ? 64 : 0; d.tile_rows > 1;
         d.tile_rows /= brief ? 64 : 10)
        for (int type = 0; type < KERNEL_TYPES; type++) run_attention_cases(&s, type);
}

#endif
