/* expand.cu: row tables from their short form, before the first run of a plan: a number of runs
 * becomes as many row numbers as there are rows. One block a run; any block size. */
#include "kernels/grid.h"

namespace KERNEL_NAMESPACE {

KERNEL(expand, expand_args a)
{
    const table_run run = a.runs[blockIdx.x];
    int32_t *RESTRICT to = a.table + run.to;
    if (run.kind == TABLE_COUNT) {
        for (int i = threadIdx.x; i < run.count; i += blockDim.x)
            to[(int64_t)i * run.stride] = run.first + i * run.step;
        return;
    }
    const int32_t *RESTRICT from = (run.kind == TABLE_REPEAT ? a.table : a.literals) + run.first;
    for (int i = threadIdx.x; i < run.count; i += blockDim.x) to[i] = from[i];
}

void expand_entries(kernel_table *table)
{
    KERNEL_ENTRY(table, KERNEL_EXPAND, 0, expand_args, expand);
}

} // namespace KERNEL_NAMESPACE
