/* test_cuda.c: the CUDA device on a GPU; skipped, saying why, where none answers. */
#include "device_checks.h"

int main(void)
{
    inset_context *context = NULL;
    device *cuda = NULL;
    if (inset_context_create(NULL, &context)) return 1;
    inset_status status = device_open_cuda(context, 0, &cuda);
    if (status == INSET_DEVICE_ERROR) {
        printf("skipped: %s\n", inset_message(context));
        inset_context_free(context);
        return TEST_SKIP;
    }
    if (WORKS(context, !status)) {
        printf("%s\n", cuda->name);
        check_copies(cuda);
        check_row_bits(cuda);
        WORKS(context, !device_synchronize(cuda));
    }
    device_close(cuda);
    inset_context_free(context);
    return test_result();
}
