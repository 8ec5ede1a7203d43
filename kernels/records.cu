/* records.cu: applies a table of records, the elementwise operations that interventions are made
 * of, in one launch.
 *
 * A block does up to RECORD_BLOCK_ELEMENTS elements of one record (records_number_blocks cuts
 * them); it finds its record by first_block, at first where it would be if all records had as many
 * blocks, which they mostly have, and then by bisection. Any block size. Operands have any strides
 * and any types, so there is a plain body, which decides types an element at a time, and beside it
 * fast ones for what nearly all records are: a copy between equal types, a copy of rows between
 * float types, and an operation between rows or constants of one float type. All give the same bits
 * (record.h). */
#include "kernels/packs.h"
#include "kernels/record_parts.h"

namespace KERNEL_NAMESPACE {

/* ---- rows --------------------------------------------------------------- */

template <typename U>
DEVICE void copy_elements(const record &r, const rectangle &part)
{
    for (int row = 0; row < part.rows && part.columns >= 32; row++)
        copy_row<U>(r, part.first_row + row, part.first_column, part.columns);
    if (part.columns >= 32) return;
    /* narrow: threads share rows too */
    const unsigned n = (unsigned)(part.rows * part.columns), columns = (unsigned)part.columns;
    for (unsigned e = threadIdx.x; e < n; e += blockDim.x) {
        const int64_t i = part.first_row + e / columns, j = part.first_column + e % columns;
        ((U *)r.out)[i * r.out_row + j * r.out_column] = ((
            const U *)r.a)[i * r.a_row + j * r.a_column];
    }
}

/* 16 bytes an access where every row allows it. */
DEVICE void copy_part(const record &r, const rectangle &part)
{
    const int size = type_bytes(r.out_type);
    if (part.columns >= 64 && lies_by_sixteen(r, part.first_row, part.first_column, size)
        && lies_by_sixteen(r, part.first_row + (part.rows > 1), part.first_column, size)) {
        for (int row = 0; row < part.rows; row++)
            copy_row_by_sixteen(r, part.first_row + row, part.first_column, part.columns, size);
        return;
    }
    switch (size) {
    case 8: copy_elements<uint64_t>(r, part); break;
    case 4: copy_elements<uint32_t>(r, part); break;
    case 2: copy_elements<uint16_t>(r, part); break;
    default: copy_elements<uint8_t>(r, part); break;
    }
}

template <typename O, typename C, typename A>
DEVICE void convert_rows(const record &r, const rectangle &part)
{
    for (int row = 0; row < part.rows; row++)
        convert_row<O, C, A>(r, part.first_row + row, part.first_column, part.columns);
}
template <typename O, typename C>
DEVICE void convert_from(const record &r, const rectangle &part)
{
    if (r.a_type == F32) convert_rows<O, C, float>(r, part);
    else if (r.a_type == BF16) convert_rows<O, C, bf16>(r, part);
    else convert_rows<O, C, f16>(r, part);
}
template <typename O>
DEVICE void convert_through(const record &r, const rectangle &part)
{
    if (r.compute == F32) convert_from<O, float>(r, part);
    else if (r.compute == BF16) convert_from<O, bf16>(r, part);
    else convert_from<O, f16>(r, part);
}
DEVICE void convert_part(const record &r, const rectangle &part)
{
    if (r.out_type == F32) convert_through<float>(r, part);
    else if (r.out_type == BF16) convert_through<bf16>(r, part);
    else convert_through<f16>(r, part);
}

/* The commonest operations of a row with a row or a constant, by packs. False, with nothing done,
 * for others. */
template <typename T>
DEVICE bool calculate_packs(const record &r, int64_t i, int64_t first, int n)
{
    if (!moves_sixteen() || !r.a || r.a_column != 1 || (r.b && r.b_column != 1)) return false;
    T *out = (T *)r.out + i * r.out_row + first;
    const T *a = (const T *)r.a + i * r.a_row + first,
            *b = r.b ? (const T *)r.b + i * r.b_row + first : nullptr, *none = nullptr;
    const float constant = b ? 0.0f : read_constant(type_number<T>::is, r.op, r.b_constant).f;
    switch (r.op) {
    case RECORD_ADD:
        map_packs(
            out, a, b, none, n, [=](float x, float y, float) { return x + (b ? y : constant); });
        return true;
    case RECORD_SUBTRACT:
        map_packs(
            out, a, b, none, n, [=](float x, float y, float) { return x - (b ? y : constant); });
        return true;
    case RECORD_MULTIPLY:
        map_packs(
            out, a, b, none, n, [=](float x, float y, float) { return x * (b ? y : constant); });
        return true;
    default: return false;
    }
}

template <typename T>
DEVICE void calculate_rows(const record &r, const rectangle &part)
{
    for (int row = 0; row < part.rows; row++)
        if (!calculate_packs<T>(r, part.first_row + row, part.first_column, part.columns))
            calculate_row<T>(r, part.first_row + row, part.first_column, part.columns);
}

/* Whole rows of one float type: out runs along its row, each operand runs along its own, or stands
 * still, or is a constant. */
DEVICE bool is_plain_rows(const record &r, const rectangle &part)
{
    const int type = r.compute;
    return type <= F16 && r.out_type == type && r.out_column == 1 && part.columns >= 16
           && (!r.a || (r.a_type == type && (r.a_column == 0 || r.a_column == 1)))
           && (!r.b || (r.b_type == type && (r.b_column == 0 || r.b_column == 1)));
}

DEVICE bool is_conversion(const record &r, const rectangle &part)
{
    return r.op == RECORD_COPY && r.a && r.a_type <= F16 && r.out_type <= F16 && r.compute <= F16
           && r.a_column == 1 && r.out_column == 1 && part.columns >= 16;
}

ROOMY_KERNEL(records, records_args a, 5)
{
    SHARED(record, here, 1);
    bring_record(here, a, blockIdx.x);
    const record &r = *here;
    const rectangle part = find_rectangle(r, blockIdx.x);
    if (r.op == RECORD_COPY && r.a && r.a_type == r.out_type) copy_part(r, part);
    else if (is_conversion(r, part)) convert_part(r, part);
    else if (!is_plain_rows(r, part))
        apply_plain(r, part, [&](number a, number b) { return calculate(r.compute, r.op, a, b); });
    else if (r.compute == F32) calculate_rows<float>(r, part);
    else if (r.compute == BF16) calculate_rows<bf16>(r, part);
    else calculate_rows<f16>(r, part);
}

void records_entries(kernel_table *table)
{
    KERNEL_ENTRY(table, KERNEL_RECORDS, 0, records_args, records);
}

} // namespace KERNEL_NAMESPACE
