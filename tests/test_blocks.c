/* test_blocks.c: every kernel with blocks of real threads, so that mistakes between the threads of
 * a block show without a GPU: wrong sharing of a row in the numbers, a missing barrier under
 * ThreadSanitizer (test_blocks_tsan). Links neither OpenMP nor oneDNN. */
#include "kernel_cases.h"

int main(void)
{
    run_table("blocks of threads", kernels_threads_fill, true);
    return test_result();
}
