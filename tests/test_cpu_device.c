/* test_cpu_device.c: opening devices by name, memory, and each allocation failing in turn while the
 * CPU device opens and takes matrices. */
#include "device/cpu/cpu.h"
#include "failing_allocator.h"
#include "test.h"

static void test_names(void)
{
    static const char *const bad[] = {
        "", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:99999"};
    inset_context *context;
    device *d;
    if (inset_context_create(NULL, &context)) abort();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(device_open(context, bad[i], &d) == INSET_USAGE_ERROR, "'%s' was taken for a device",
            bad[i]);
        CHECK(d == NULL && strstr(inset_message(context), bad[i]), "%s", inset_message(context));
    }
    CHECK(device_open(context, "cpu", &d) == INSET_OK && !d->is_cuda && d->shares_host_memory, "%s",
        inset_message(context));
    CHECK(strncmp(d->name, "cpu: ", 5) == 0 && strstr(d->name, "thread"), "%s", d->name);
    CHECK(d->memory_free > 0 && d->memory_free <= d->memory_total, "%zu of %zu bytes free",
        d->memory_free, d->memory_total);
    device_close(d);
    device_close(NULL);
    text description = {0};
    device_describe(context, &description);
    CHECK(description.bytes && strstr(description.bytes, "cpu: ")
              && strstr(description.bytes, "oneDNN "),
        "%s", description.bytes);
    text_free(context, &description);
    inset_context_free(context);
}

static void test_memory(void)
{
    static const size_t sizes[] = {0, 1, 63, 1000, (1 << 20) - 1, 1 << 20, (3 << 20) + 5};
    failing_allocator memory = {0};
    inset_context *context;
    device *d;
    if (inset_context_create(failing_allocator_interface(&memory), &context)
        || device_open(context, "cpu", &d))
        abort();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *block;
        NEED(device_allocate(d, sizes[i], &block) == INSET_OK, "%zu bytes: %s", sizes[i],
            inset_message(context));
        CHECK((uintptr_t)block % 64 == 0, "%zu bytes at %p", sizes[i], block);
        memset(block, 0x77, sizes[i]);
        unsigned char *copy = malloc(sizes[i] + 1);
        device_zero(d, block, sizes[i] / 2);
        device_download(d, copy, block, sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            if (!CHECK(copy[k] == (k < sizes[i] / 2 ? 0 : 0x77), "%zu bytes: byte %zu is %d",
                    sizes[i], k, copy[k]))
                break;
        free(copy);
        device_release(d, block, sizes[i]);
    }
    void *block = &memory;
    CHECK(device_allocate(d, (size_t)1 << 60, &block) == INSET_NO_MEMORY && !block,
        "2^60 bytes were given");
    CHECK(strstr(inset_message(context), "1099511627776.0 MiB"), "%s", inset_message(context));
    CHECK(device_allocate(d, SIZE_MAX, &block) == INSET_NO_MEMORY, "all bytes were given");
    device_close(d);
    inset_context_free(context);
    CHECK(memory.live == 0 && memory.damaged == 0, "%d blocks left, %d damaged", (int)memory.live,
        (int)memory.damaged);
}

/* Opens the device, makes a matrix of each kind, multiplies; the first failure. */
static inset_status run_all(inset_context *context)
{
    static const float weight[64 * 96 + 1], bias[96];
    static const int64_t ins[] = {5, 64, 64};
    float x[3 * 64] = {0}, y[3 * 96];
    device *d;
    matrix *m = NULL;
    inset_status status = device_open_cpu(context, &d);
    if (status) return status;
    for (int i = 0; i < 6 && !status; i++) {
        const inset_type type = (inset_type)(i % 3);
        status = device_matrix_create(d, type, ins[i / 2], i < 2 ? 10 : 96,
            (const char *)weight + (i == 4 ? 1 : 0), INSET_F32, i % 2, bias, INSET_F32, &m);
        if (!status) status = device_matmul(d, m, x, 64, y, 96, 3);
        device_matrix_free(d, m);
        m = NULL;
    }
    device_close(d);
    return status;
}

static void test_allocations(void)
{
    bool done = false;
    for (int64_t n = 1; n < 200 && !done; n++) {
        failing_allocator memory = {0};
        inset_context *context;
        if (inset_context_create(failing_allocator_interface(&memory), &context)) abort();
        memory.fail_at = memory.calls + n;
        const int64_t live = memory.live;
        inset_status status = run_all(context);
        done = memory.calls < memory.fail_at;
        CHECK(status == (done ? INSET_OK : INSET_NO_MEMORY), "allocation %d failing: %s", (int)n,
            inset_status_name(status));
        memory.fail_at = 0;
        if (done) CHECK(memory.live == live, "%d blocks left", (int)(memory.live - live));
        inset_context_free(context);
        CHECK(memory.live == 0 && memory.damaged == 0,
            "allocation %d failing: %d blocks left, %d damaged", (int)n, (int)memory.live,
            (int)memory.damaged);
    }
    CHECK(done, "never got through");
}

int main(void)
{
    test_names();
    test_memory();
    test_allocations();
    return test_result();
}
