/* test_cuda.c: the CUDA device on a GPU; skipped, saying why, where none answers. */
#include "device_checks.h"
#include "test.h"

int main(void)
{
    inset_context *context = NULL;
    device *cuda = NULL, *cpu = NULL;
    if (inset_context_create(NULL, &context)) return 1;
    inset_status status = device_open_cuda(context, 0, &cuda);
    if (status == INSET_DEVICE_ERROR) {
        printf("skipped: %s\n", inset_message(context));
        inset_context_free(context);
        return TEST_SKIP;
    }
    if (CHECK(!status && !device_open_cpu(context, &cpu), "%s", inset_message(context))) {
        printf("%s\n", cuda->name);
        check_copies(cuda);
        check_products(cuda);
        check_row_bits(cuda);
        check_kernels(cuda, cpu);
        CHECK(!device_synchronize(cuda), "%s", inset_message(context));
    }
    device_close(cpu);
    device_close(cuda);
    CHECK(context->live_blocks - !!context->message.bytes - !!context->sentence.bytes <= 2, "%lld blocks are left", (long long)context->live_blocks);
    inset_context_free(context);
    return test_result();
}
