/* table.cu: one compilation's table. Each family's file puts its own kernels in. */
#include "kernels/grid.h"

namespace KERNEL_NAMESPACE {
void embed_entries(kernel_table *table);
void norm_entries(kernel_table *table);
void pointwise_entries(kernel_table *table);
void rope_entries(kernel_table *table);
void attention_entries(kernel_table *table);
void tile_attention_entries(kernel_table *table);
void columns_entries(kernel_table *table);
void scores_entries(kernel_table *table);
void metrics_entries(kernel_table *table);
void copies_entries(kernel_table *table);
void experts_entries(kernel_table *table);
void grouped_entries(kernel_table *table);
void back_entries(kernel_table *table);
void open_back_entries(kernel_table *table);
void edges_entries(kernel_table *table);
void records_entries(kernel_table *table);
void functions_entries(kernel_table *table);
void row_functions_entries(kernel_table *table);
void expand_entries(kernel_table *table);
} // namespace KERNEL_NAMESPACE

/* The fill function is named after the namespace: kernels_avx2 -> kernels_avx2_fill. */
#define JOIN(a, b) a##b
#define FILL(name) JOIN(name, _fill)

extern "C" void FILL(KERNEL_NAMESPACE)(kernel_table *table)
{
    using namespace KERNEL_NAMESPACE;
    for (int kernel = 0; kernel < KERNEL_ALL; kernel++)
        for (int type = 0; type < KERNEL_TYPES; type++) table->entry[kernel][type] = 0;
    embed_entries(table);
    norm_entries(table);
    pointwise_entries(table);
    rope_entries(table);
    attention_entries(table);
#if defined(__CUDACC__) || !defined(__AVX2__)
    tile_attention_entries(table);
    grouped_entries(table);
#endif
    columns_entries(table);
    scores_entries(table);
    metrics_entries(table);
    copies_entries(table);
    experts_entries(table);
    back_entries(table);
    open_back_entries(table);
    edges_entries(table);
    records_entries(table);
    functions_entries(table);
    row_functions_entries(table);
    expand_entries(table);
}
