/* test_cuda_standin.c: the CUDA device on the stand-in: what every device must do, each call
 * failing in turn, what opening refuses, how products are chosen; and that the stand-in notices the
 * mistakes it is there to notice. */
#define _GNU_SOURCE /* dladdr */
#include "device/cuda/cuda.h"
#include "device_checks.h"
#include "failing_allocator.h"
#include "standin/standin.h"
#include "test.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

static inset_context *new_context(failing_allocator *memory)
{
    inset_context *context = NULL;
    if (inset_context_create(memory ? failing_allocator_interface(memory) : NULL, &context))
        abort();
    return context;
}

/* A library that only a folder of INSET_CUDA_LIBRARIES has is found there, and nowhere else. */
static void finds_shared_libraries(void)
{
    char folder[] = "/tmp/inset-shared-XXXXXX", link[64], folders[80];
    Dl_info libc;
    NEED(mkdtemp(folder) && dladdr((void *)(uintptr_t)strtol, &libc), "no folder");
    snprintf(link, sizeof link, "%s/libinset_nowhere.so.1", folder);
    snprintf(folders, sizeof folders, "/nowhere::%s", folder);
    NEED(!symlink(libc.dli_fname, link), "no link to %s", libc.dli_fname);
    CHECK(!cuda_shared_open("libinset_nowhere.so.1"), "found without its folder");
    setenv("INSET_CUDA_LIBRARIES", folders, 1);
    CHECK(!cuda_shared_open("libinset_elsewhere.so.1"), "found what is nowhere");
    void *opened = cuda_shared_open("libinset_nowhere.so.1");
    CHECK(opened && dlsym(opened, "strtol"), "not found in %s: %s", folders, dlerror());
    if (opened) dlclose(opened);
    unsetenv("INSET_CUDA_LIBRARIES");
    unlink(link);
    rmdir(folder);
}

/* At the end of a case nothing is left over and nothing went wrong. */
static void expect_clean(const char *name)
{
    CHECK(standin_live() == 0, "%s: %lld allocations and handles are left", name,
        (long long)standin_live());
    CHECK(!*standin_problems(), "%s: %s", name, standin_problems());
    standin_reset();
}

static void expect_problem(const char *name, const char *words)
{
    CHECK(strstr(standin_problems(), words), "%s: expected '%s', noted: '%s'", name, words,
        standin_problems());
    standin_reset();
}

static void does_what_devices_do(void)
{
    inset_context *context = new_context(NULL);
    device *cuda = NULL;
    if (WORKS(context, !device_open_cuda(context, 0, &cuda))) {
        check_copies(cuda);
        check_row_bits(cuda);
    }
    device_close(cuda);
    inset_context_free(context);
    expect_clean("device checks");
}

/* ---- opening ------------------------------------------------------------ */

static void refuses_to_open(const char *name, int index, inset_status expected, const char *words)
{
    inset_context *context = new_context(NULL);
    device *d = NULL;
    CHECK(device_open_cuda(context, index, &d) == expected && !d
              && strstr(inset_message(context), words),
        "%s: %s", name, inset_message(context));
    device_close(d);
    inset_context_free(context);
    expect_clean(name);
}

static void opening(void)
{
    standin_machine(0, 9, 0, 1 << 30, 100, 13000);
    refuses_to_open("no GPU", 0, INSET_DEVICE_ERROR,
        "no CUDA device answers: no CUDA-capable device is detected");
    standin_machine(0, 9, 0, 1 << 30, 35, 12020);
    refuses_to_open("old driver", 0, INSET_DEVICE_ERROR,
        "the driver is for CUDA 12.2, this build of inset needs 13.0");
    standin_machine(0, 9, 0, 1 << 30, 35, 0);
    refuses_to_open("no driver", 0, INSET_DEVICE_ERROR, "this machine has no CUDA driver");
    standin_machine(2, 9, 0, 1 << 30, 0, 13000);
    refuses_to_open("index", 2, INSET_DEVICE_ERROR, "this machine has 2 CUDA devices");
    standin_machine(1, 7, 5, 1 << 30, 0, 13000);
    refuses_to_open("old GPU", 0, INSET_DEVICE_ERROR, "compute capability 7.5; inset needs 8.0");
    standin_without_products(true);
    refuses_to_open("no cuBLASLt", 0, INSET_DEVICE_ERROR, "cuBLASLt");
    standin_machine(1, 9, 0, 1 << 20, 0, 13000);
    refuses_to_open(
        "no room", 0, INSET_NO_MEMORY, "4194304 bytes were asked for, 1048576 of 1048576 are free");
}

/* "auto": the CPU where there is no GPU that inset runs on, and only there. */
static void chosen(const char *name, inset_status expected, const char *words)
{
    device *d = NULL;
    inset_context *context = NULL;
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status status = device_open(context, "auto", &d);
    CHECK(status == expected && strstr(d ? d->name : inset_message(context), words), "%s: %s", name,
        d ? d->name : inset_message(context));
    device_close(d);
    inset_context_free(context);
    expect_clean(name);
}

static void choosing(void)
{
    standin_machine(0, 9, 0, 1 << 30, 100, 13000);
    chosen("no GPU", INSET_OK, "cpu");
    standin_machine(0, 9, 0, 1 << 30, 35, 0);
    chosen("no driver", INSET_OK, "cpu");
    standin_machine(1, 7, 5, 1 << 30, 0, 13000);
    chosen("old GPU", INSET_OK, "cpu");
    standin_machine(0, 9, 0, 1 << 30, 35, 12020);
    chosen("old driver", INSET_DEVICE_ERROR, "To run on the CPU all the same");
    standin_machine(0, 9, 0, 1 << 30, 700, 13000);
    chosen("a broken process", INSET_DEVICE_ERROR, "To run on the CPU all the same");
    standin_machine(1, 9, 0, 1 << 30, 0, 13000);
    chosen("a GPU", INSET_OK, "cuda:0");
    standin_without_products(true);
    chosen("no cuBLASLt", INSET_DEVICE_ERROR, "cuBLASLt");
    standin_without_products(false);
}

/* What is free counts when it is asked, and some is left. */
static void memory_is_asked_again(void)
{
    inset_context *context = NULL;
    device *d = NULL;
    void *held = NULL;
    size_t before = 0, after = 0;
    standin_machine(1, 9, 0, 1 << 28, 0, 13000);
    NEED(!inset_context_create(NULL, &context) && !device_open(context, "cuda", &d), "no device");
    WORKS(context, !d->functions->memory_left(d, &before));
    WORKS(context, !device_allocate(d, 1 << 27, &held));
    WORKS(context, !d->functions->memory_left(d, &after));
    CHECK(before < (1 << 28) && before > (1 << 27) && after < before - (1 << 26), "%zu and %zu",
        before, after);
    device_release(d, held, 1 << 27);
    device_close(d);
    inset_context_free(context);
    expect_clean("memory that is left");
}

static void out_of_memory_has_both_figures(void)
{
    inset_context *context = new_context(NULL);
    device *d = NULL;
    void *memory = NULL;
    standin_machine(1, 9, 0, 16 << 20, 0, 13000);
    if (WORKS(context, !device_open_cuda(context, 0, &d))) {
        CHECK(device_allocate(d, 13 << 20, &memory) == INSET_NO_MEMORY && !memory, "it was there");
        WORKS(context, strstr(inset_message(context),
                           "13631488 bytes were asked for, 12582912 of 16777216 are free"));
        WORKS(context, !device_allocate(d, 12 << 20, &memory));
        device_release(d, memory, 12 << 20);
    }
    device_close(d);
    inset_context_free(context);
    expect_clean("out of memory");
}

static void describes_itself(void)
{
    inset_context *context = new_context(NULL);
    text out = {0};
    device_describe_cuda(context, &out);
    const char line[] = "cuda:0: stand-in on host memory, 4.0 GiB, 4.0 free (CUDA 13.0, driver "
                        "13.0, cuBLASLt 13.1.0, cuDNN 9.19.0)\n";
    CHECK(out.bytes && strcmp(out.bytes, line) == 0, "%s", out.bytes);
    text_clear(&out);
    standin_machine(0, 9, 0, 1 << 30, 100, 13000);
    device_describe_cuda(context, &out);
    CHECK(out.length == 0, "%s", out.bytes);
    text_free(context, &out);
    inset_context_free(context);
    expect_clean("describe");
}

/* ---- failures ----------------------------------------------------------- */

/* A product and a kernel once more, captured, and replayed. */
static inset_status use_graph(device *d, const matrix *m, void *x, void *y, const scale_args *args)
{
    device_graph *graph = NULL;
    inset_status status = device_capture_begin(d);
    if (status) return status;
    status = device_matmul(d, m, x, 6, y, 8, 3);
    if (!status) status = device_launch(d, KERNEL_SCALE, INSET_BF16, args, sizeof *args, 3, 24);
    inset_status ended = device_capture_end(d, status ? NULL : &graph);
    if (!status) status = ended;
    if (!status) status = device_replay(d, graph);
    device_graph_free(d, graph);
    return status;
}

/* Two downloads under way at once; the first is waited for while the second is not yet there. */
static inset_status use_landings(device *d, const float *x, const void *memory, size_t bytes)
{
    device_landing *landings[2] = {NULL, NULL};
    const void *at = NULL;
    inset_status status = INSET_OK;
    for (int i = 0; i < 2 && !status; i++) status = device_landing_create(d, &landings[i]);
    for (int i = 0; i < 2 && !status; i++)
        status = device_landing_start(d, landings[i], memory, bytes - 4 * (size_t)i);
    for (int i = 0; i < 2 && !status; i++) {
        status = device_landing_wait(d, landings[i], &at);
        if (!status) CHECK(!memcmp(at, x, bytes - 4 * (size_t)i), "landing %d has other bytes", i);
    }
    /* again, larger, and given up */
    for (int i = 0; i < 2 && !status; i++)
        status = device_landing_start(d, landings[1], memory, i ? bytes : 4);
    for (int i = 0; i < 2; i++) device_landing_free(d, landings[i]);
    return status;
}

/* A bit of everything that a run does: open, weights, copies, a product, a kernel, results back. */
static inset_status use_device(device *d)
{
    enum { IN = 6, OUT = 8, ROWS = 3, PADDED = 32 };
    float weight[IN * OUT], bias[OUT] = {1}, x[PADDED * IN], y[PADDED * OUT];
    for (int i = 0; i < IN * OUT; i++) weight[i] = (float)i;
    for (int i = 0; i < PADDED * IN; i++) x[i] = (float)i;
    matrix *m = NULL;
    void *memory = NULL, *result = NULL;
    inset_status status = device_matrix_create(
        d, INSET_BF16, IN, OUT, weight, INSET_F32, true, bias, INSET_F32, &m);
    if (!status) status = device_allocate(d, sizeof x, &memory);
    if (!status) status = device_allocate(d, sizeof y, &result);
    if (!status) status = device_upload(d, memory, x, sizeof x);
    if (!status) status = device_zero(d, result, sizeof y);
    if (!status) status = device_matmul(d, m, memory, IN, result, OUT, ROWS);
    scale_args args = {result, result, NULL, ROWS, OUT, OUT, OUT, 2, 0};
    if (!status)
        status = device_launch(d, KERNEL_SCALE, INSET_BF16, &args, sizeof args, ROWS, ROWS * OUT);
    if (!status) status = use_graph(d, m, memory, result, &args);
    if (!status) status = use_landings(d, x, memory, sizeof x);
    if (!status) status = device_download(d, y, result, sizeof y);
    if (!status) status = device_synchronize(d);
    device_release(d, result, sizeof y);
    device_release(d, memory, sizeof x);
    device_matrix_free(d, m);
    return status;
}

static inset_status open_and_use(inset_context *context)
{
    device *d = NULL;
    inset_status status = device_open_cuda(context, 0, &d);
    if (!status) status = use_device(d);
    device_close(d);
    return status;
}

static void each_call_fails(void)
{
    const int64_t apart = test_is_brief() ? 5 : 1;
    int64_t failed = 0;
    for (int64_t n = 1;; n += apart) {
        inset_context *context = new_context(NULL);
        char name[64];
        snprintf(name, sizeof name, "call %lld fails", (long long)n);
        standin_fail_call(n);
        inset_status status = open_and_use(context);
        const bool all = standin_counted().calls < n;
        if (status) {
            failed++;
            CHECK(status == INSET_DEVICE_ERROR || status == INSET_NO_MEMORY, "%s: status %d", name,
                status);
            CHECK(strstr(inset_message(context), "cuda:0"), "%s: %s", name, inset_message(context));
        }
        CHECK(!all || !status, "%s: %s", name, inset_message(context));
        inset_context_free(context);
        expect_clean(name);
        if (all || test_failures) break;
    }
    CHECK(failed > 60 / apart, "only %lld calls could fail", (long long)failed);
}

/* A device goes on after a call that failed: what is copied next arrives whole. */
static void goes_on_after_a_failure(void)
{
    enum { BYTES = 9 << 20 };
    inset_context *context = new_context(NULL);
    device *d = NULL;
    void *memory = NULL;
    unsigned char *bytes = malloc(BYTES);
    if (!WORKS(context, !device_open_cuda(context, 0, &d) && !device_allocate(d, BYTES, &memory)))
        abort();
    bool failed = true;
    for (int64_t n = 1; failed && !test_failures; n++) {
        memset(bytes, 1, BYTES);
        standin_fail_call(n);
        failed = device_upload(d, memory, bytes, BYTES) || device_download(d, bytes, memory, BYTES);
        standin_fail_call(0);
        memset(bytes, (int)(n % 100) + 2, BYTES);
        WORKS(context, !device_upload(d, memory, bytes, BYTES));
        memset(bytes, 0, BYTES);
        WORKS(context, !device_download(d, bytes, memory, BYTES));
        size_t wrong = 0;
        for (size_t i = 0; i < BYTES; i++) wrong += bytes[i] != n % 100 + 2;
        CHECK(wrong == 0 && !*standin_problems(), "after call %lld failed %zu bytes are wrong; %s",
            (long long)n, wrong, standin_problems());
        CHECK(n < 100, "it never ends");
    }
    free(bytes);
    device_release(d, memory, BYTES);
    device_close(d);
    inset_context_free(context);
    expect_clean("after a failure");
}

static void each_operation_breaks(void)
{
    for (int64_t n = 1; !test_failures; n += test_is_brief() ? 5 : 1) {
        inset_context *context = new_context(NULL);
        char name[64];
        snprintf(name, sizeof name, "operation %lld breaks the device", (long long)n);
        standin_break(n);
        inset_status status = open_and_use(context);
        if (status)
            CHECK(strstr(inset_message(context), "an illegal memory access was encountered"),
                "%s: %s", name, inset_message(context));
        standin_mend();
        inset_context_free(context);
        expect_clean(name);
        if (!status) break;
        CHECK(n < 1000, "it never ends");
    }
}

static void each_device_allocation_fails(void)
{
    inset_status status = INSET_NO_MEMORY;
    for (int64_t n = 1; status && !test_failures; n++) {
        inset_context *context = new_context(NULL);
        standin_fail_allocation(n);
        status = open_and_use(context);
        CHECK(!status
                  || (status == INSET_NO_MEMORY
                      && strstr(inset_message(context), "bytes were asked for")),
            "allocation %lld: %s", (long long)n, inset_message(context));
        CHECK(!status || n < 20, "it never ends");
        inset_context_free(context);
        expect_clean("allocations fail");
    }
}

static void each_host_allocation_fails(void)
{
    inset_status status = INSET_NO_MEMORY;
    for (int64_t n = 1; status && !test_failures; n++) {
        failing_allocator memory = {0};
        inset_context *context = new_context(&memory);
        memory.fail_at = memory.calls + n;
        status = open_and_use(context);
        memory.fail_at = 0;
        CHECK(!status || status == INSET_NO_MEMORY, "allocation %lld: %s", (long long)n,
            inset_message(context));
        CHECK(n < 100, "it never ends");
        inset_context_free(context);
        CHECK(memory.live == 0 && memory.damaged == 0, "allocation %lld: %lld blocks are left",
            (long long)n, (long long)memory.live);
        expect_clean("host allocations fail");
    }
}

/* ---- products ----------------------------------------------------------- */

typedef struct opened {
    inset_context *context;
    device *d;
} opened;

static opened open_device(void)
{
    opened o = {new_context(NULL), NULL};
    WORKS(o.context, !device_open_cuda(o.context, 0, &o.d));
    return o;
}

static void close_device(opened o, const char *name)
{
    device_close(o.d);
    inset_context_free(o.context);
    expect_clean(name);
}

static matrix *some_matrix(opened o, int64_t in, int64_t out)
{
    float *weight = calloc((size_t)(in * out), sizeof *weight);
    matrix *m = NULL;
    for (int64_t i = 0; i < in * out; i++) weight[i] = (float)(i % 13) / 7 - 1;
    WORKS(o.context, !device_matrix_create(
                         o.d, INSET_F32, in, out, weight, INSET_F32, true, NULL, INSET_F32, &m));
    free(weight);
    return m;
}

/* The first candidate that works at every height and gives a row the same bits everywhere is
 * taken. */
static void takes_the_steady_algorithm(
    int refused, int tall_only, int unsteady, int uneven, bool steady)
{
    char name[64];
    snprintf(name, sizeof name, "candidates %d %d %d %d", refused, tall_only, unsteady, uneven);
    opened o = open_device();
    standin_candidates(refused, tall_only, unsteady, uneven);
    matrix *m = o.d ? some_matrix(o, 96, 20) : NULL;
    if (m) {
        const cuda_device *d = (cuda_device *)o.d;
        CHECK(d->n_choices == 1 && d->choices[0].steady == steady, "%s: steady is %d", name,
            d->choices[0].steady);
        if (steady) check_row_bits(o.d);
    }
    device_matrix_free(o.d, m);
    close_device(o, name);
}

/* A row of a matrix made by some_matrix has the same bits at heights of all kinds. */
static void check_some_row(device *d, const matrix *m, int64_t in, int64_t out)
{
    static const int64_t heights[] = {1, 2, 33, 64, 65, 300, 1100, 3000};
    float alone[64];
    for (size_t h = 0; h < sizeof heights / sizeof *heights; h++)
        check_row(d, m, INSET_F32, in, out, heights[h], alone);
}

/* Attention goes by tiles where a block may have the shared memory for them, and as it is
 * elsewhere: which, the card and the head's width say. */
static void attention_fits_the_card(int shared_bytes, int head_dim, bool tiles)
{
    enum { BYTES = 256 * 4 };
    standin_shared(shared_bytes);
    opened o = open_device();
    void *x = NULL, *out = NULL, *table = NULL;
    /* a list of one row; a context, from there on, of one key */
    const int32_t numbers[3] = {0, 0, 1};
    float sent[256], got[256] = {0};
    for (int i = 0; i < 256; i++) sent[i] = (float)i;
    if (o.d) {
        WORKS(o.context, !device_allocate(o.d, BYTES, &x) && !device_allocate(o.d, BYTES, &out)
                             && !device_allocate(o.d, sizeof numbers, &table)
                             && !device_upload(o.d, x, sent, BYTES)
                             && !device_upload(o.d, table, numbers, sizeof numbers));
        const attention_args args = {out, x, x, x, NULL, table, table,
            (const attention_context *)((const int32_t *)table + 1), NULL, NULL, 1, head_dim,
            head_dim, head_dim, head_dim, 1, 1, head_dim, 0, 0.01f, 0};
        WORKS(o.context, !device_launch(o.d, KERNEL_ATTENTION, INSET_F32, &args, sizeof args, 1, 1)
                             && !device_download(o.d, got, out, (size_t)head_dim * sizeof *got));
        CHECK(!memcmp(sent, got, (size_t)head_dim * sizeof *got), "one key's value is the result");
        CHECK((standin_counted().kernels[KERNEL_ATTENTION] == 0) == tiles, "%d bytes, heads of %d",
            shared_bytes, head_dim);
    }
    device_release(o.d, x, BYTES);
    device_release(o.d, out, BYTES);
    device_release(o.d, table, sizeof numbers);
    close_device(o, "attention");
}

/* Lower heights take what is faster there, if it gives the bits of the tallest's; a row then keeps
 * its bits at all heights. */
static void takes_what_is_faster(
    int unsteady, int uneven, int quick_first, int quick_count, bool everywhere)
{
    char name[64];
    snprintf(
        name, sizeof name, "quick %d, %d of %d %d", quick_first, quick_count, unsteady, uneven);
    opened o = open_device();
    standin_candidates(0, 0, unsteady, uneven);
    standin_quick(quick_first, quick_count);
    matrix *m = o.d ? some_matrix(o, 96, 20) : NULL;
    if (m) {
        const product_choice *choice = ((cuda_device *)o.d)->choices;
        /* what is not steady may be at some heights */
        const bool all = choice->faster == PRODUCT_HEIGHTS - 1;
        CHECK(choice->steady && all == everywhere, "%s: steady %d, %d heights", name,
            choice->steady, choice->faster);
        check_some_row(o.d, m, 96, 20);
    }
    device_matrix_free(o.d, m);
    close_device(o, name);
}

/* A fast device does not ask whether rows keep their bits. */
static void takes_the_first_when_fast(void)
{
    opened o = open_device();
    standin_candidates(1, 0, 3, 0);
    if (o.d) o.d->fast = true;
    matrix *m = o.d ? some_matrix(o, 96, 20) : NULL;
    if (m) {
        const product_choice *choice = ((cuda_device *)o.d)->choices;
        CHECK(choice->pinned && !choice->steady, "pinned %d, steady %d", choice->pinned,
            choice->steady);
    }
    device_matrix_free(o.d, m);
    close_device(o, "fast");
}

/* No candidate can do every height: cuBLASLt chooses at each call, and nothing is promised about
 * bits. */
static void leaves_the_choice_where_nothing_fits(void)
{
    opened o = open_device();
    void *x = NULL, *y = NULL;
    standin_candidates(3, 5, 0, 0);
    matrix *m = o.d ? some_matrix(o, 32, 16) : NULL;
    if (m) {
        const product_choice *choice = ((cuda_device *)o.d)->choices;
        CHECK(!choice->pinned && !choice->steady, "pinned %d, steady %d", choice->pinned,
            choice->steady);
        WORKS(o.context, !device_allocate(o.d, 32 * 128, &x) && !device_allocate(o.d, 32 * 64, &y)
                             && !device_zero(o.d, x, 32 * 128));
        WORKS(o.context, !device_matmul(o.d, m, x, 32, y, 16, 2) && !device_synchronize(o.d));
        CHECK(standin_counted().unpinned == 1, "%lld products without an algorithm",
            (long long)standin_counted().unpinned);
    }
    device_release(o.d, x, 32 * 128);
    device_release(o.d, y, 32 * 64);
    device_matrix_free(o.d, m);
    close_device(o, "nothing fits");
}

/* Layers of one shape share a choice; rows in an unusual place get one of their own, and
 * descriptors, when they first occur. */
static void chooses_once_a_shape(void)
{
    enum { BYTES = 32 * 65 * 4 + 4 };
    opened o = open_device();
    if (!o.d) return;
    matrix *first = some_matrix(o, 64, 32), *second = some_matrix(o, 64, 32),
           *third = some_matrix(o, 32, 64);
    void *x = NULL, *y = NULL;
    CHECK(standin_counted().heuristics == 2 * PRODUCT_HEIGHTS, "%lld heuristics",
        (long long)standin_counted().heuristics);
    WORKS(o.context, !device_allocate(o.d, BYTES, &x) && !device_allocate(o.d, BYTES, &y)
                         && !device_zero(o.d, x, BYTES));
    const standin_counts before = standin_counted();
    for (int i = 0; i < 3; i++) WORKS(o.context, !device_matmul(o.d, second, x, 64, y, 32, 5 + i));
    CHECK(standin_counted().products - before.products == 3
              && standin_counted().heuristics == before.heuristics,
        "three calls are three products");
    CHECK(standin_counted().descriptor_writes == before.descriptor_writes,
        "a product wrote descriptors");
    WORKS(o.context, !device_matmul(o.d, first, (char *)x + 4, 64, y, 32, 5)
                         && !device_matmul(o.d, second, x, 65, y, 33, 5));
    const standin_counts unusual = standin_counted();
    CHECK(unusual.heuristics == before.heuristics + PRODUCT_HEIGHTS,
        "rows that are not aligned: %lld more",
        (long long)(unusual.heuristics - before.heuristics));
    WORKS(o.context, !device_matmul(o.d, first, (char *)x + 4, 64, y, 32, 5)
                         && !device_matmul(o.d, second, x, 65, y, 33, 7));
    CHECK(standin_counted().descriptor_writes == unusual.descriptor_writes,
        "rows that occurred before wrote descriptors");
    WORKS(o.context, device_matmul(o.d, first, x, 63, y, 32, 2) == INSET_DEVICE_ERROR
                         && strstr(inset_message(o.context), "overlap"));
    CHECK(!device_matmul(o.d, first, x, 0, y, 0, 1), "one row needs no stride: %s",
        inset_message(o.context));
    WORKS(o.context, !device_synchronize(o.d));
    device_matrix_free(o.d, first);
    device_matrix_free(o.d, second);
    device_matrix_free(o.d, third);
    device_release(o.d, x, BYTES);
    device_release(o.d, y, BYTES);
    close_device(o, "choices");
}

/* ---- copies ------------------------------------------------------------- */

/* What fits the staging memory's half goes up as one copy, however full the half is. */
static void uploads_in_one_copy(void)
{
    enum { MOST = 5 << 20 };
    static const int64_t sizes[] = {3 << 20, 2 << 20, 1, 4 << 20, 100, (4 << 20) - 8, 5 << 20},
                         copies[] = {1, 1, 1, 1, 1, 1, 2};
    opened o = open_device();
    void *memory = NULL;
    char *host = calloc(1, MOST);
    if (!o.d) return;
    WORKS(o.context, host && !device_allocate(o.d, MOST, &memory));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t before = standin_counted().copies_up;
        WORKS(o.context, !device_upload(o.d, memory, host, (size_t)sizes[i]));
        CHECK(standin_counted().copies_up - before == copies[i], "%lld bytes: %lld copies",
            (long long)sizes[i], (long long)(standin_counted().copies_up - before));
    }
    device_release(o.d, memory, MOST);
    free(host);
    close_device(o, "copies");
}

/* Rows are full blocks and the smallest height that holds the rest; wide rows have shorter
 * blocks. */
static void runs_at_listed_heights(void)
{
    static const struct {
        int64_t width, rows, products, padded;
    } cases[] = {
        {4, 1, 1, 32},
        {4, 32, 1, 32},
        {4, 33, 1, 64},
        {4, 257, 1, 384},
        {4, 1025, 1, 1536},
        {4, 4096, 1, 4096},
        {4, 4097, 2, 4128},
        {4, 10000, 3, 10240},
        {40000, 700, 1, 768},
        {40000, 769, 2, 800},
    };
    opened o = open_device();
    if (!o.d) return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t in = 2, out = cases[i].width,
                      padded = device_padded_rows(o.d, INSET_F32, in, out, cases[i].rows);
        const size_t x_bytes = (size_t)(padded * in) * 4, y_bytes = (size_t)(padded * out) * 4;
        void *x = NULL, *y = NULL;
        matrix *m = some_matrix(o, in, out);
        CHECK(padded == cases[i].padded, "%lld rows are padded to %lld", (long long)cases[i].rows,
            (long long)padded);
        if (m
            && WORKS(o.context,
                !device_allocate(o.d, x_bytes, &x) && !device_allocate(o.d, y_bytes, &y))) {
            const standin_counts before = standin_counted();
            WORKS(o.context,
                !device_matmul(o.d, m, x, in, y, out, cases[i].rows) && !device_synchronize(o.d));
            const standin_counts after = standin_counted();
            CHECK(after.products - before.products == cases[i].products
                      && after.product_rows - before.product_rows == padded,
                "%lld rows: %lld products of %lld", (long long)cases[i].rows,
                (long long)(after.products - before.products),
                (long long)(after.product_rows - before.product_rows));
        }
        device_release(o.d, x, x_bytes);
        device_release(o.d, y, y_bytes);
        device_matrix_free(o.d, m);
    }
    close_device(o, "heights");
}

/* A GELU behind the product is allowed where it has the bits of the kernel, and then has them. */
static void fuses_gelu(inset_type type, standin_gelu rounding, bool expected)
{
    enum { IN = 48, OUT = 24, ROWS = 7, PADDED = 32 };
    char name[64];
    snprintf(name, sizeof name, "a GELU of %s that rounds in way %d", type_name(type), rounding);
    opened o = open_device();
    standin_gelu_rounding(rounding);
    const size_t size = type_size(type);
    void *x = NULL, *y = NULL, *fused = NULL, *rows = random_elements(type, PADDED * IN, 3),
         *weight = random_elements(type, IN * OUT, 4);
    void *bias = random_elements(type, OUT, 5);
    char got[PADDED * OUT * 4], want[PADDED * OUT * 4];
    matrix *m = NULL;
    bool allowed = !expected;
    if (o.d
        && WORKS(
            o.context, !device_matrix_create(o.d, type, IN, OUT, weight, type, true, bias, type, &m)
                           && !device_matrix_gelu(o.d, m, &allowed)
                           && !device_allocate(o.d, PADDED * IN * size, &x)
                           && !device_allocate(o.d, 2 * PADDED * OUT * size, &y)
                           && !device_allocate(o.d, PADDED * OUT * size, &fused)
                           && !device_upload(o.d, x, rows, PADDED * IN * size))) {
        void *activated = (char *)y + PADDED * OUT * size;
        const activation_args args = {.out = activated,
            .x = y,
            .n_rows = ROWS,
            .width = OUT,
            .out_stride = OUT,
            .x_stride = OUT,
            .kind = 1};
        CHECK(allowed == expected, "%s: allowed is %d", name, allowed);
        WORKS(o.context, !device_matmul(o.d, m, x, IN, y, OUT, ROWS)
                             && !device_launch(
                                 o.d, KERNEL_ACTIVATION, type, &args, sizeof args, ROWS, ROWS * OUT)
                             && !device_matmul_gelu(o.d, m, x, IN, fused, OUT, ROWS)
                             && !device_download(o.d, want, activated, ROWS * OUT * size)
                             && !device_download(o.d, got, fused, ROWS * OUT * size));
        CHECK(!memcmp(got, want, ROWS * OUT * size) == expected, "%s: the bits are %s", name,
            expected ? "others" : "the same");
    }
    device_release(o.d, x, 0);
    device_release(o.d, y, 0);
    device_release(o.d, fused, 0);
    device_matrix_free(o.d, m);
    free(rows);
    free(weight);
    free(bias);
    close_device(o, name);
}

/* ---- launches ----------------------------------------------------------- */

static void counts_launches_and_refuses_grids(void)
{
    opened o = open_device();
    void *memory = NULL;
    if (!o.d) return;
    WORKS(o.context, !device_allocate(o.d, 4000, &memory) && !device_zero(o.d, memory, 4000));
    const scale_args args = {memory, (char *)memory + 2000, NULL, 5, 10, 10, 10, 2, 0};
    for (int i = 0; i < 4; i++)
        WORKS(o.context, !device_launch(o.d, KERNEL_SCALE, INSET_F16, &args, sizeof args, 5, 50));
    WORKS(o.context, !device_launch(o.d, KERNEL_SCALE, INSET_F16, &args, sizeof args, 0, 0));
    CHECK(standin_counted().launches == 4 && standin_counted().kernels[KERNEL_SCALE] == 4,
        "%lld launches", (long long)standin_counted().launches);
    WORKS(o.context,
        device_launch(o.d, KERNEL_SCALE, INSET_F16, &args, sizeof args, (int64_t)1 << 31, 50)
                == INSET_DEVICE_ERROR
            && strstr(inset_message(o.context), "2147483648 blocks"));
    CHECK(device_launch(o.d, KERNEL_SCALE, INSET_I64, &args, sizeof args, 5, 50)
              == INSET_DEVICE_ERROR,
        "a kernel for i64");
    device_release(o.d, memory, 4000);
    close_device(o, "launches");
}

/* ---- the stand-in itself ------------------------------------------------ */

/* Runs in a child; says whether it died of touching what it may not. */
static bool dies(void (*mistake)(device *d, char *memory))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        opened o = open_device();
        void *memory = NULL;
        if (!freopen("/dev/null", "w", stderr) || !o.d || device_allocate(o.d, 512, &memory))
            _exit(0);
        mistake(o.d, memory);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    /* a sanitizer exits */
    return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0);
}

static void reads_device_memory(device *d, char *memory)
{
    (void)d;
    volatile char *p = memory;
    if (*p) *p = 0;
}

static void scale_of(device *d, char *out, char *x)
{
    const scale_args args = {out, x, NULL, 1, 128, 128, 128, 2, 0};
    if (!device_launch(d, KERNEL_SCALE, INSET_F32, &args, sizeof args, 1, 128))
        device_synchronize(d);
}

static void kernel_writes_behind(device *d, char *memory) { scale_of(d, memory + 4, memory); }

static void kernel_reads_freed(device *d, char *memory)
{
    void *other = NULL;
    if (device_allocate(d, 512, &other)) return;
    device_release(d, memory, 512);
    scale_of(d, other, memory);
}

static void notices_what_dies(void)
{
    CHECK(dies(reads_device_memory), "the host read device memory");
    CHECK(dies(kernel_writes_behind), "a kernel wrote behind an allocation");
    CHECK(dies(kernel_reads_freed), "a kernel read freed memory");
}

static void notices_mistakes(void)
{
    opened o = open_device();
    if (!o.d) return;
    cuda_device *d = (cuda_device *)o.d;
    const cuda_library *l = &d->library;
    void *memory = NULL, *freed = NULL, *pinned = NULL;
    char host[600] = {0};
    WORKS(o.context, !device_allocate(o.d, 500, &memory) && !device_allocate(o.d, 500, &freed)
                         && !l->cudaMallocHost(&pinned, 600));
    memset(pinned, 0, 600);
    device_release(o.d, freed, 500);

    l->cudaMemcpyAsync(freed, pinned, 10, CUDA_HOST_TO_DEVICE, d->stream);
    CHECK(strstr(standin_problems(), "memory that was freed"), "a copy to freed memory: %s",
        standin_problems());
    l->cudaFree(freed);
    expect_problem("freed twice", "was freed before");
    l->cudaMemcpyAsync(memory, pinned, 501, CUDA_HOST_TO_DEVICE, d->stream);
    expect_problem("too long a copy", "501 bytes from byte 0 of an allocation of 500");
    l->cudaMemcpyAsync(memory, host, 10, CUDA_HOST_TO_DEVICE, d->stream);
    expect_problem("a copy from unpinned memory", "is no pinned memory");
    l->cudaMemcpyAsync(memory, pinned, 10, CUDA_DEVICE_TO_HOST, d->stream);
    expect_problem("the wrong direction", "is no device memory");

    l->cudaMemcpyAsync(memory, pinned, 10, CUDA_HOST_TO_DEVICE, d->stream);
    ((char *)pinned)[3] = 1;
    l->cudaStreamSynchronize(d->stream);
    expect_problem("a buffer changed too early", "changed a buffer before its copy");

    l->cudaMemsetAsync(memory, 7, 500, d->stream);
    l->cudaMemcpyAsync(pinned, memory, 500, CUDA_DEVICE_TO_HOST, d->stream);
    CHECK(((char *)pinned)[3] != 7, "a copy was there before anybody waited");
    l->cudaStreamSynchronize(d->stream);
    CHECK(((char *)pinned)[3] == 7, "a copy did not run");
    CHECK(!*standin_problems(), "%s", standin_problems());

    cuda_event event = NULL;
    l->cudaEventCreateWithFlags(&event, CUDA_EVENT_NO_TIMING);
    l->cudaEventRecord(event, d->stream);
    l->cudaMemcpyAsync(pinned, memory, 500, CUDA_DEVICE_TO_HOST, d->stream);
    l->cudaEventSynchronize(event);
    CHECK(((char *)pinned)[3] != 7, "waiting for an event ran what came after it");
    l->cudaEventDestroy(event);
    l->cudaEventSynchronize(event);
    expect_problem("a freed event", "the handle was freed before");

    cuda_graph graph = NULL;
    l->cudaStreamBeginCapture(d->stream, CUDA_CAPTURE_THREAD_LOCAL);
    l->cudaMemsetAsync(memory, 9, 500, d->stream);
    l->cudaStreamSynchronize(d->stream);
    CHECK(l->cudaStreamEndCapture(d->stream, &graph) == 901 && !graph,
        "a wait did not spoil a capture");
    expect_problem("a wait in a capture", "cudaStreamSynchronize while a stream captures");
    l->cudaStreamEndCapture(d->stream, &graph);
    expect_problem("no capture", "nothing is captured");
    standin_peek(pinned, memory, 500);
    CHECK(((char *)pinned)[3] == 7, "what was captured ran");

    const scale_args args = {0};
    l->launch(d->kernels.entry[KERNEL_SCALE][0], &args, sizeof args - 8, 1, 32, 0, d->stream);
    expect_problem("too few arguments", "bytes of arguments");
    l->launch(d->kernels.entry[KERNEL_SCALE][0], &args, sizeof args, 1, 33, 0, d->stream);
    expect_problem("an odd block", "blocks of 33 threads");
    l->cudaSetDevice(7);
    expect_problem("an error left behind", "was not taken back");

    /* 500 bytes end 12 before the page does */
    gather_args beside = {(char *)memory + 504, memory, NULL, 1, 1, 1, 1};
    WORKS(o.context, !device_launch(o.d, KERNEL_GATHER, INSET_F32, &beside, sizeof beside, 1, 1)
                         && !device_synchronize(o.d));
    expect_problem("a byte beside", "behind an allocation of 500");
    l->cudaFreeHost(pinned);
    CHECK(standin_live() > 0, "an open device holds nothing");

    /* The byte beside stays, so it is noted again when the memory is freed. */
    device_release(o.d, memory, 500);
    expect_problem("a byte beside, freed", "behind an allocation of 500");
    close_device(o, "mistakes");
}

int main(void)
{
    does_what_devices_do();
    opening();
    choosing();
    memory_is_asked_again();
    out_of_memory_has_both_figures();
    describes_itself();
    takes_the_steady_algorithm(0, 0, 0, 0, true);
    takes_the_steady_algorithm(2, 1, 3, 1, true);
    takes_the_steady_algorithm(0, 7, 0, 0, true);
    takes_the_steady_algorithm(0, 0, 0, 7, true);
    takes_the_steady_algorithm(0, 2, 6, 0, false);
    takes_the_steady_algorithm(0, 0, 0, 8, false);
    attention_fits_the_card(227 << 10, 64, true);
    attention_fits_the_card(99 << 10, 128, true);
    attention_fits_the_card(99 << 10, 200, false);
    attention_fits_the_card(48 << 10, 64, false);
    takes_what_is_faster(0, 0, 3, 2, true);
    takes_what_is_faster(3, 0, 0, 3, false);
    takes_what_is_faster(0, 2, 0, 2, false);
    takes_the_first_when_fast();
    leaves_the_choice_where_nothing_fits();
    chooses_once_a_shape();
    uploads_in_one_copy();
    runs_at_listed_heights();
    for (int type = 0; type < 3; type++) {
        fuses_gelu((inset_type)type, GELU_ONCE, type == INSET_F32);
        fuses_gelu((inset_type)type, GELU_AS_KERNEL, true);
        fuses_gelu((inset_type)type, GELU_OTHERWISE, false);
    }
    finds_shared_libraries();
    counts_launches_and_refuses_grids();
    notices_mistakes();
    notices_what_dies();
    each_call_fails();
    goes_on_after_a_failure();
    each_operation_breaks();
    each_device_allocation_fails();
    each_host_allocation_fails();
    return test_result();
}
