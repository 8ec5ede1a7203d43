/* test_kernels.c: every kernel against plain loops (kernel_cases.h): on the device named by the
 * argument or INSET_TEST_DEVICE, "cpu" without one, and, on the CPU, on each instruction set's
 * kernels that this processor can run. */
#include "kernel_cases.h"

/* False when the device is not there. */
static bool run_device(const char *name)
{
    inset_context *context;
    device *d;
    if (inset_context_create(NULL, &context)) abort();
    inset_status status = device_open(context, name, &d);
    const bool there = status != INSET_DEVICE_ERROR || !strcmp(name, "cpu");
    if (!there) printf("skipped: %s\n", inset_message(context));
    else if (CHECK(status == INSET_OK, "opening %s: %s", name, inset_message(context))) {
        subject s = {d, name, test_is_brief(), 1, d->is_cuda};
        test_comparators(&s);
        run_kernel_cases(&s);
        device_close(d);
    }
    CHECK(context->live_blocks == 0 || context->message.bytes || context->sentence.bytes,
        "%d blocks left", (int)context->live_blocks);
    inset_context_free(context);
    return there;
}

int main(int count, char **arguments)
{
    const char *name = count > 1 ? arguments[1] : getenv("INSET_TEST_DEVICE");
    if (!run_device(name ? name : "cpu")) return TEST_SKIP;
    if (!name) {
        run_table("baseline kernels", kernels_baseline_fill, test_is_brief());
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2"))
            run_table("AVX2 kernels", kernels_avx2_fill, test_is_brief());
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
            run_table("AVX-512 kernels", kernels_avx512_fill, test_is_brief());
#endif
    }
    return test_result();
}
