/* records.cu: applies a table of records, the elementwise operations that interventions are made of, in one launch.
 *
 * A block does up to RECORD_BLOCK_ELEMENTS elements of one record (records_number_blocks cuts them); it finds its record by bisection
 * over first_block. Any block size. Operands have any strides and any types, so there is a plain body, which decides types an element at a
 * time, and beside it fast ones for what nearly all records are: a copy between equal types, a copy of rows between float types, and an operation
 * between rows or constants of one float type. All give the same bits.
 *
 * Arithmetic is PyTorch's: floats up to 32 bits compute in fp32, f64 in double, integers and bool in wrapping 64-bit integers
 * cut to their type at the end. */
#include "kernels/grid.h"

namespace KERNEL_NAMESPACE {

/* The values of inset_type. */
enum { F32, BF16, F16, F64, I64, I32, I16, I8, U8, BOOL };

DEVICE int type_bytes(int type)
{
    return type == F64 || type == I64 ? 8 : type == F32 || type == I32 ? 4 : type == BF16 || type == F16 || type == I16 ? 2 : 1;
}

/* ---- one element of any type -------------------------------------------------------------------------------------------------- */

/* Truncates; what no 64-bit integer holds becomes the smallest, as x86 has it. */
DEVICE int64_t truncated(double x) { return x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : INT64_MIN; }

DEVICE int64_t cut_integer(int type, int64_t x)
{
    switch (type) {
    case I32: return (int32_t)x;
    case I16: return (int16_t)x;
    case I8: return (int8_t)x;
    case U8: return (uint8_t)x;
    case BOOL: return x != 0;
    default: return x;
    }
}

/* A number in one of the three arithmetics: `f` is used by F32, BF16 and F16, `d` by F64, `i` by integers. */
struct number { float f; double d; int64_t i; };
enum arithmetic { IN_FLOAT, IN_DOUBLE, IN_INTEGER };

DEVICE arithmetic arithmetic_of(int type) { return type <= F16 ? IN_FLOAT : type == F64 ? IN_DOUBLE : IN_INTEGER; }

DEVICE float rounded_float(int type, float x)
{
    return type == BF16 ? load(store<bf16>(x)) : type == F16 ? load(store<f16>(x)) : x;
}

/* A float, a double or an integer, as `compute` holds it. */
DEVICE number from_float(int compute, float x)
{
    number n = {rounded_float(compute, x), x, 0};
    if (arithmetic_of(compute) == IN_INTEGER)
        n.i = compute == BOOL ? x != 0.0f : cut_integer(compute, truncated(x));
    return n;
}
DEVICE number from_double(int compute, double x)
{
    number n = {rounded_float(compute, (float)x), x, 0};
    if (arithmetic_of(compute) == IN_INTEGER)
        n.i = compute == BOOL ? x != 0.0 : cut_integer(compute, truncated(x));
    return n;
}
DEVICE number from_integer(int compute, int64_t x)
{
    number n = {rounded_float(compute, (float)x), (double)x, cut_integer(compute, x)};
    return n;
}

DEVICE number read_element(int compute, int type, const void *p, int64_t at)
{
    switch (type) {
    case F32: return from_float(compute, ((const float *)p)[at]);
    case BF16: return from_float(compute, load(((const bf16 *)p)[at]));
    case F16: return from_float(compute, load(((const f16 *)p)[at]));
    case F64: return from_double(compute, ((const double *)p)[at]);
    case I64: return from_integer(compute, ((const int64_t *)p)[at]);
    case I32: return from_integer(compute, ((const int32_t *)p)[at]);
    case I16: return from_integer(compute, ((const int16_t *)p)[at]);
    case I8: return from_integer(compute, ((const int8_t *)p)[at]);
    case U8: return from_integer(compute, ((const uint8_t *)p)[at]);
    default: return from_integer(compute, ((const uint8_t *)p)[at] != 0);
    }
}

/* A constant operand. PyTorch rounds a Python number to a 16-bit tensor's type in sums, and keeps it in fp32 in products and quotients. */
DEVICE number read_constant(int compute, int op, double x)
{
    const bool kept = (compute == BF16 || compute == F16) && (op == RECORD_MULTIPLY || op == RECORD_DIVIDE);
    return from_double(kept ? (int)F32 : compute, x);
}

DEVICE float calculate(int op, float a, float b)
{
    switch (op) {
    case RECORD_ADD: return a + b;
    case RECORD_SUBTRACT: return a - b;
    case RECORD_MULTIPLY: return a * b;
    case RECORD_DIVIDE: return a / b;
    case RECORD_NEGATE: return -a;
    default: return a;
    }
}
DEVICE double calculate(int op, double a, double b)
{
    switch (op) {
    case RECORD_ADD: return a + b;
    case RECORD_SUBTRACT: return a - b;
    case RECORD_MULTIPLY: return a * b;
    case RECORD_DIVIDE: return a / b;
    case RECORD_NEGATE: return -a;
    default: return a;
    }
}
/* Unsigned, where overflow wraps. The host turns integer division into a float one; here it would give 0. */
DEVICE int64_t calculate(int op, int64_t a, int64_t b)
{
    const uint64_t x = (uint64_t)a, y = (uint64_t)b;
    switch (op) {
    case RECORD_ADD: return (int64_t)(x + y);
    case RECORD_SUBTRACT: return (int64_t)(x - y);
    case RECORD_MULTIPLY: return (int64_t)(x * y);
    case RECORD_DIVIDE: return 0;
    case RECORD_NEGATE: return (int64_t)(0 - x);
    default: return a;
    }
}

DEVICE number calculate(int compute, int op, number a, number b)
{
    number n = {0.0f, 0.0, 0};
    switch (arithmetic_of(compute)) {
    case IN_FLOAT: n.f = rounded_float(compute, calculate(op, a.f, b.f)); break;
    case IN_DOUBLE: n.d = calculate(op, a.d, b.d); break;
    case IN_INTEGER: n.i = cut_integer(compute, calculate(op, a.i, b.i)); break;
    }
    return n;
}

DEVICE void write_element(int compute, number n, int type, void *p, int64_t at)
{
    const arithmetic in = arithmetic_of(compute);
    const float f = in == IN_FLOAT ? n.f : in == IN_DOUBLE ? (float)n.d : (float)n.i;
    const double d = in == IN_FLOAT ? (double)n.f : in == IN_DOUBLE ? n.d : (double)n.i;
    switch (type) {
    case F32: ((float *)p)[at] = f; return;
    case BF16: ((bf16 *)p)[at] = store<bf16>(f); return;
    case F16: ((f16 *)p)[at] = store<f16>(f); return;
    case F64: ((double *)p)[at] = d; return;
    case BOOL: ((uint8_t *)p)[at] = in == IN_INTEGER ? n.i != 0 : d != 0.0; return;
    }
    const int64_t i = in == IN_INTEGER ? n.i : truncated(d);
    switch (type) {
    case I64: ((int64_t *)p)[at] = i; return;
    case I32: ((int32_t *)p)[at] = (int32_t)i; return;
    case I16: ((int16_t *)p)[at] = (int16_t)i; return;
    case I8: ((int8_t *)p)[at] = (int8_t)i; return;
    case U8: ((uint8_t *)p)[at] = (uint8_t)i; return;
    }
}

/* ---- what one block does ------------------------------------------------------------------------------------------------------ */

/* A part of a record: rows first_row .. + rows, columns first_column .. + columns. */
struct rectangle { int64_t first_row, first_column; int rows, columns; };

DEVICE const record *find_record(const records_args &a, int64_t block)
{
    int64_t low = 0, high = a.n_records;           /* the last record that starts at or before the block */
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (a.records[middle].first_block <= block)
            low = middle;
        else
            high = middle;
    }
    return a.records + low;
}

DEVICE rectangle find_rectangle(const record &r, int64_t block)
{
    const int64_t local = block - r.first_block;
    if (r.columns > RECORD_BLOCK_ELEMENTS) {
        const int64_t cut = (r.columns + RECORD_BLOCK_ELEMENTS - 1) / RECORD_BLOCK_ELEMENTS, first = local % cut * RECORD_BLOCK_ELEMENTS;
        const int64_t whole = RECORD_BLOCK_ELEMENTS;
        const int64_t left = r.columns - first;
        return rectangle{local / cut, first, 1, (int)(left < whole ? left : whole)};
    }
    const int64_t together = r.columns > 0 ? RECORD_BLOCK_ELEMENTS / r.columns : 1, first = local * together, left = r.rows - first;
    return rectangle{first, 0, (int)(left < together ? left : together), r.columns};
}

/* The plain body: any types, any strides. */
DEVICE void apply_plain(const record &r, const rectangle &part)
{
    const unsigned n = (unsigned)(part.rows * part.columns), columns = (unsigned)part.columns;
    const number a_constant = read_constant(r.compute, r.op, r.a_constant), b_constant = read_constant(r.compute, r.op, r.b_constant);
    for (unsigned e = threadIdx.x; e < n; e += blockDim.x) {
        const int64_t i = part.first_row + e / columns, j = part.first_column + e % columns;
        const number a = r.a ? read_element(r.compute, r.a_type, r.a, i * r.a_row + j * r.a_column) : a_constant;
        const number b = r.b ? read_element(r.compute, r.b_type, r.b, i * r.b_row + j * r.b_column) : b_constant;
        write_element(r.compute, calculate(r.compute, r.op, a, b), r.out_type, r.out, i * r.out_row + j * r.out_column);
    }
}

/* Copies elements of one size, whatever they are, bit by bit. */
template <typename U>
DEVICE void copy_elements(const record &r, const rectangle &part)
{
    for (int row = 0; row < part.rows && part.columns >= 32; row++) {
        const int64_t i = part.first_row + row;
        U *RESTRICT out = (U *)r.out + i * r.out_row + part.first_column * r.out_column;
        const U *RESTRICT a = (const U *)r.a + i * r.a_row + part.first_column * r.a_column;
        const int64_t out_column = r.out_column, a_column = r.a_column;
        if (out_column == 1 && a_column == 1)
            for (int j = threadIdx.x; j < part.columns; j += blockDim.x)
                out[j] = a[j];
        else
            for (int j = threadIdx.x; j < part.columns; j += blockDim.x)
                out[j * out_column] = a[j * a_column];
    }
    if (part.columns >= 32)
        return;
    const unsigned n = (unsigned)(part.rows * part.columns), columns = (unsigned)part.columns;     /* narrow: threads share rows too */
    for (unsigned e = threadIdx.x; e < n; e += blockDim.x) {
        const int64_t i = part.first_row + e / columns, j = part.first_column + e % columns;
        ((U *)r.out)[i * r.out_row + j * r.out_column] = ((const U *)r.a)[i * r.a_row + j * r.a_column];
    }
}

DEVICE void copy_part(const record &r, const rectangle &part)
{
    switch (type_bytes(r.out_type)) {
    case 8: copy_elements<uint64_t>(r, part); break;
    case 4: copy_elements<uint32_t>(r, part); break;
    case 2: copy_elements<uint16_t>(r, part); break;
    default: copy_elements<uint8_t>(r, part); break;
    }
}

/* Rows of one float type into another, rounded to a third between them. */
template <typename O, typename C, typename A>
DEVICE void convert_rows(const record &r, const rectangle &part)
{
    for (int row = 0; row < part.rows; row++) {
        const int64_t i = part.first_row + row;
        O *RESTRICT out = (O *)r.out + i * r.out_row + part.first_column;
        const A *RESTRICT a = (const A *)r.a + i * r.a_row + part.first_column;
        for (int j = threadIdx.x; j < part.columns; j += blockDim.x)
            out[j] = store<O>(load(store<C>(load(a[j]))));
    }
}
template <typename O, typename C>
DEVICE void convert_from(const record &r, const rectangle &part)
{
    if (r.a_type == F32)
        convert_rows<O, C, float>(r, part);
    else if (r.a_type == BF16)
        convert_rows<O, C, bf16>(r, part);
    else
        convert_rows<O, C, f16>(r, part);
}
template <typename O>
DEVICE void convert_through(const record &r, const rectangle &part)
{
    if (r.compute == F32)
        convert_from<O, float>(r, part);
    else if (r.compute == BF16)
        convert_from<O, bf16>(r, part);
    else
        convert_from<O, f16>(r, part);
}
DEVICE void convert_part(const record &r, const rectangle &part)
{
    if (r.out_type == F32)
        convert_through<float>(r, part);
    else if (r.out_type == BF16)
        convert_through<bf16>(r, part);
    else
        convert_through<f16>(r, part);
}

/* One row of one float type: a and b are rows, or NULL for one value along the row. */
template <typename T, typename F>
DEVICE void calculate_row(T *RESTRICT out, const T *RESTRICT a, const T *RESTRICT b, float a_value, float b_value, int n, F f)
{
    if (a && b)
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<T>(f(load(a[j]), load(b[j])));
    else if (a)
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<T>(f(load(a[j]), b_value));
    else if (b)
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<T>(f(a_value, load(b[j])));
    else
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<T>(f(a_value, b_value));
}

template <typename T>
DEVICE void calculate_rows(const record &r, const rectangle &part)
{
    for (int row = 0; row < part.rows; row++) {
        const int64_t i = part.first_row + row;
        T *out = (T *)r.out + i * r.out_row + part.first_column;
        const T *a = r.a ? (const T *)r.a + i * r.a_row + part.first_column * r.a_column : 0;
        const T *b = r.b ? (const T *)r.b + i * r.b_row + part.first_column * r.b_column : 0;
        const float a_value = a ? load(*a) : read_constant(r.compute, r.op, r.a_constant).f;
        const float b_value = b ? load(*b) : read_constant(r.compute, r.op, r.b_constant).f;
        a = r.a_column ? a : 0;
        b = r.b_column ? b : 0;
        switch (r.op) {
        case RECORD_COPY: calculate_row(out, a, b, a_value, b_value, part.columns, [](float x, float) { return x; }); break;
        case RECORD_ADD: calculate_row(out, a, b, a_value, b_value, part.columns, [](float x, float y) { return x + y; }); break;
        case RECORD_SUBTRACT: calculate_row(out, a, b, a_value, b_value, part.columns, [](float x, float y) { return x - y; }); break;
        case RECORD_MULTIPLY: calculate_row(out, a, b, a_value, b_value, part.columns, [](float x, float y) { return x * y; }); break;
        case RECORD_DIVIDE: calculate_row(out, a, b, a_value, b_value, part.columns, [](float x, float y) { return x / y; }); break;
        case RECORD_NEGATE: calculate_row(out, a, b, a_value, b_value, part.columns, [](float x, float) { return -x; }); break;
        }
    }
}

/* Whole rows of one float type: out runs along its row, each operand runs along its own, or stands still, or is a constant. */
DEVICE bool is_plain_rows(const record &r, const rectangle &part)
{
    const int type = r.compute;
    return type <= F16 && r.out_type == type && r.out_column == 1 && part.columns >= 16
        && (!r.a || (r.a_type == type && (r.a_column == 0 || r.a_column == 1)))
        && (!r.b || (r.b_type == type && (r.b_column == 0 || r.b_column == 1)));
}

DEVICE bool is_conversion(const record &r, const rectangle &part)
{
    return r.op == RECORD_COPY && r.a && r.a_type <= F16 && r.out_type <= F16 && r.compute <= F16 && r.a_column == 1 && r.out_column == 1
        && part.columns >= 16;
}

KERNEL(records, records_args a)
{
    const record r = *find_record(a, blockIdx.x);
    const rectangle part = find_rectangle(r, blockIdx.x);
    if (r.op == RECORD_COPY && r.a && r.a_type == r.out_type)
        copy_part(r, part);
    else if (is_conversion(r, part))
        convert_part(r, part);
    else if (!is_plain_rows(r, part))
        apply_plain(r, part);
    else if (r.compute == F32)
        calculate_rows<float>(r, part);
    else if (r.compute == BF16)
        calculate_rows<bf16>(r, part);
    else
        calculate_rows<f16>(r, part);
}

void records_entries(kernel_table *table)
{
    KERNEL_ENTRY(table, KERNEL_RECORDS, 0, records_args, records);
}

}
