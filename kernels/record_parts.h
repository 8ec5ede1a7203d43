/* record_parts.h: which part of which record a block of a launch of records does: up to
 * RECORD_BLOCK_ELEMENTS elements of one record (records_number_blocks cuts them). */
#ifndef INSET_RECORD_PARTS_H
#define INSET_RECORD_PARTS_H

#include "kernels/record.h"

namespace KERNEL_NAMESPACE {

/* A part of a record: rows first_row .. + rows, columns first_column .. + columns. */
struct rectangle {
    int64_t first_row, first_column;
    int rows, columns;
};

DEVICE bool starts_by(const records_args &a, int64_t i, int64_t block)
{
    return a.records[i].first_block <= block;
}

/* The last record that starts at or before the block. */
DEVICE const record *find_record(const records_args &a, int64_t block)
{
    int64_t low = 0, high = a.n_records;
    const int64_t last = high - 1, blocks_before_last = a.records[last].first_block;
    const int64_t guess = blocks_before_last > 0 ? block * last / blocks_before_last : 0;
    if (guess < last && starts_by(a, guess, block) && !starts_by(a, guess + 1, block))
        return a.records + guess;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (starts_by(a, middle, block)) low = middle;
        else high = middle;
    }
    return a.records + low;
}

DEVICE rectangle find_rectangle(const record &r, int64_t block)
{
    const int64_t local = block - r.first_block;
    if (r.columns > RECORD_BLOCK_ELEMENTS) {
        const int64_t cut = (r.columns + RECORD_BLOCK_ELEMENTS - 1) / RECORD_BLOCK_ELEMENTS,
                      first = local % cut * RECORD_BLOCK_ELEMENTS;
        const int64_t whole = RECORD_BLOCK_ELEMENTS;
        const int64_t left = r.columns - first;
        return rectangle{local / cut, first, 1, (int)(left < whole ? left : whole)};
    }
    const int64_t together = r.columns > 0 ? RECORD_BLOCK_ELEMENTS / r.columns : 1,
                  first = local * together, left = r.rows - first;
    return rectangle{first, 0, (int)(left < together ? left : together), r.columns};
}

/* The block's record into shared memory: in registers it would take too many. */
DEVICE void bring_record(record *here, const records_args &a, int64_t block)
{
    const int words = sizeof(record) / sizeof(uint64_t);
    const record *found = find_record(a, block);
    for (int i = threadIdx.x; i < words; i += blockDim.x)
        ((uint64_t *)here)[i] = ((const uint64_t *)found)[i];
    __syncthreads();
}

/* The plain body, f(a, b) of each element: any types, any strides. */
template <typename F>
DEVICE void apply_plain(const record &r, const rectangle &part, F f)
{
    const unsigned n = (unsigned)(part.rows * part.columns), columns = (unsigned)part.columns;
    const number a_constant = read_constant(r.compute, r.op, r.a_constant),
                 b_constant = read_constant(r.compute, r.op, r.b_constant);
    ONE_BY_ONE for (unsigned e = threadIdx.x; e < n; e += blockDim.x)
    {
        const int64_t i = part.first_row + e / columns, j = part.first_column + e % columns;
        const number a = r.a ? read_element(r.compute, r.a_type, r.a, i * r.a_row + j * r.a_column)
                             : a_constant;
        const number b = r.b ? read_element(r.compute, r.b_type, r.b, i * r.b_row + j * r.b_column)
                             : b_constant;
        write_element(r.compute, f(a, b), r.out_type, r.out, i * r.out_row + j * r.out_column);
    }
}

} // namespace KERNEL_NAMESPACE

#endif
