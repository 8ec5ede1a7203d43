/* plain_attention.cc: attention's plain kernel for blocks of one thread, which the library's own
 * compilation has blocks of queries in place of: what test_attention_rows.c compares these with. */
#define PLAIN_ATTENTION
#include "kernels/attention.cu"

#define JOIN(a, b) a##b
#define FILL(name) JOIN(name, _fill)

extern "C" void FILL(KERNEL_NAMESPACE)(kernel_table *table)
{
    KERNEL_NAMESPACE::attention_entries(table);
}
