/* fused.h: a step's kernel with records: the same body, and then the records of the row that its
 * block has just written (fused_records in kernels.h). Which of the two forms runs is chosen when
 * the plan is made, so a step without records pays nothing, and a row without records in a step
 * that has some pays one load of 8 bytes. */
#ifndef INSET_FUSED_H
#define INSET_FUSED_H

#include "kernels/record.h"

namespace KERNEL_NAMESPACE {

template <typename A>
struct with_records {
    fused_records fused;
    A args;
};

template <int BYTES>
struct element;
template <>
struct element<4> {
    typedef uint32_t bits;
};
template <>
struct element<2> {
    typedef uint16_t bits;
};

/* Columns first .. first + n of row i of a record. */
template <typename T>
DEVICE void apply_record(const record &r, int64_t i, int64_t first, int n)
{
    if (r.op != RECORD_COPY || !r.a) calculate_row<T>(r, i, first, n);
    else if (r.a_type == type_number<T>::is) {
        if (lies_by_sixteen(r, i, first, sizeof(T))) copy_row_by_sixteen(r, i, first, n, sizeof(T));
        else copy_row<typename element<sizeof(T)>::bits>(r, i, first, n);
    } else if (r.a_type == F32) convert_row<T, T, float>(r, i, first, n);
    else if (r.a_type == BF16) convert_row<T, T, bf16>(r, i, first, n);
    else convert_row<T, T, f16>(r, i, first, n);
}

/* All records of a row that its block alone has written. */
template <typename T>
DEVICE_APART void apply_records(const fused_records &f, int64_t row)
{
    const int64_t at = row - f.first_row;
    if (at < 0 || at >= f.n_rows) return;
    const int32_t first = f.lists[at], end = f.lists[at + 1];
    if (first == end) return;
    __syncthreads(); /* the row is whole */
    for (int32_t i = first; i < end; i++) {
        const record &r = f.records[f.lists[i]];
        if (r.after) __syncthreads();
        apply_record<T>(r, row - r.first_row, 0, r.columns);
    }
}

/* The same where a row has `parts` blocks, and this one has written columns part * width .. +
 * width; those without an operand of the row are the first one's. */
template <typename T>
DEVICE_APART void apply_records_part(const fused_records &f, int64_t row, int part, int width)
{
    const int64_t at = row - f.first_row;
    if (at < 0 || at >= f.n_rows) return;
    const int32_t first = f.lists[at], end = f.lists[at + 1];
    if (first == end) return;
    __syncthreads();
    for (int32_t i = first; i < end; i++) {
        const record &r = f.records[f.lists[i]];
        if (r.after) __syncthreads();
        int from = 0, to = r.columns;
        if (r.first_column >= 0) {
            const int before = part * width - r.first_column;
            from = before > 0 ? before : 0;
            to = before + width < to ? before + width : to;
        } else if (part > 0) continue;
        if (from < to) apply_record<T>(r, row - r.first_row, from, to - from);
    }
}

/* Both forms of a kernel with one block a row: NAME calls NAME_row<T>(args, row), NAME_with_records
 * the records after it. */
#define ROW_KERNEL(name, args_type)                                 \
    template <typename T>                                           \
    KERNEL(name, args_type a)                                       \
    {                                                               \
        name##_row<T>(a, blockIdx.x);                               \
    }                                                               \
    template <typename T>                                           \
    ROOMY_KERNEL(name##_with_records, with_records<args_type> a, 5) \
    {                                                               \
        name##_row<T>(a.args, blockIdx.x);                          \
        apply_records<T>(a.fused, blockIdx.x);                      \
    }

/* Both forms into a table, in the three storage types. */
#define BOTH_ENTRIES(table, id, args_type, name) \
    (KERNEL_ENTRIES(table, id, args_type, name), \
        KERNEL_ENTRIES(table, KERNEL_COUNT + id, with_records<args_type>, name##_with_records))

} // namespace KERNEL_NAMESPACE

#endif
