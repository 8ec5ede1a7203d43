/* cpu.c: the CPU as a device: memory is the host's, a kernel launch is a call, spread over threads
 * when there is enough work.
 *
 * A launch of little work runs in the calling thread without waking others: a small model's whole
 * run takes less time than waking a thread. More is cut into runs of blocks that threads take as
 * they get free, since blocks differ (attention's rows have contexts of different length). Which
 * thread does a block changes no bit of it. */
#include "device/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    ALIGNMENT = 64,
    LARGE_BLOCK = 1 << 20, /* from here on memory comes as pages */
    /* elements from which a launch is spread over threads: some ten microseconds' work */
    SPREAD_WORK = 32 << 10,
    SHARES = 8 /* runs of blocks per thread */
};

/* ---- memory ------------------------------------------------------------- */

/* Stands before every block of device memory, in the last bytes before an aligned address. */
typedef struct memory_header {
    void *block;  /* what the context's allocator gave */
    size_t pages; /* bytes mapped, or 0 when the memory is in the block itself */
} memory_header;

static size_t physical_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (size_t)pages * (size_t)size : SIZE_MAX;
}

/* What the system could still give, file caches counted as free. */
static size_t available_memory(void)
{
    char line[256];
    unsigned long long kilobytes = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) return physical_memory();
    while (fgets(line, sizeof line, file) && sscanf(line, "MemAvailable: %llu", &kilobytes) != 1) {}
    fclose(file);
    return kilobytes ? (size_t)kilobytes << 10 : physical_memory();
}

static inset_status memory_refused(inset_context *context, size_t bytes)
{
    return error_set(context, INSET_NO_MEMORY,
        "the CPU device cannot allocate %.1f MiB; the host has %.1f MiB available",
        (double)bytes / (1 << 20), (double)available_memory() / (1 << 20));
}

/* The aligned address in `start` that leaves room for a header, which is filled in. */
static void *memory_place(char *start, void *block, size_t pages)
{
    uintptr_t at = ((uintptr_t)start + sizeof(memory_header) + ALIGNMENT - 1) / ALIGNMENT
                   * ALIGNMENT;
    memory_header *header = (memory_header *)at - 1;
    *header = (memory_header){block, pages};
    return (void *)at;
}

inset_status cpu_memory_new(inset_context *context, size_t bytes, void **out)
{
    const size_t extra = sizeof(memory_header) + ALIGNMENT;
    *out = NULL;
    /* mapping would succeed, touching would not */
    if (bytes > physical_memory() - extra) return memory_refused(context, bytes);
    char *block = memory_new(context, bytes < LARGE_BLOCK ? bytes + extra : 1);
    if (!block) return INSET_NO_MEMORY;
    if (bytes < LARGE_BLOCK) {
        *out = memory_place(block, block, 0);
        return INSET_OK;
    }
    char *pages = mmap(NULL, bytes + extra, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        memory_free(context, block);
        return memory_refused(context, bytes);
    }
#ifdef MADV_HUGEPAGE
    madvise(pages, bytes + extra, MADV_HUGEPAGE); /* only advice: fewer faults on first use */
#endif
    *out = memory_place(pages, block, bytes + extra);
    return INSET_OK;
}

void cpu_memory_free(inset_context *context, void *memory, size_t bytes)
{
    (void)bytes;
    if (!memory) return;
    memory_header header = ((memory_header *)memory)[-1];
    if (header.pages) munmap((char *)memory - ALIGNMENT, header.pages);
    memory_free(context, header.block);
}

/* Bytes of a block of pages of its own; 0: it is a small one. */
static size_t pages_of(const void *memory) { return ((const memory_header *)memory)[-1].pages; }

/* Gives them back; false: there were none. */
static bool drop_spares(device *base)
{
    cpu_device *d = (cpu_device *)base;
    bool dropped = false;
    for (int i = 0; i < CPU_SPARES; i++) {
        dropped |= d->spares[i] != NULL;
        cpu_memory_free(base->context, d->spares[i], 0);
        d->spares[i] = NULL;
    }
    return dropped;
}

/* A spare block that is large enough, and not much larger. */
static void *take_spare(cpu_device *d, size_t bytes)
{
    for (int i = 0; i < CPU_SPARES && bytes >= LARGE_BLOCK; i++) {
        const size_t pages = d->spares[i] ? pages_of(d->spares[i]) : 0;
        if (pages < bytes + sizeof(memory_header) + ALIGNMENT || pages / 2 > bytes) continue;
        void *found = d->spares[i];
        d->spares[i] = NULL;
        return found;
    }
    return NULL;
}

static inset_status cpu_allocate(device *d, size_t bytes, void **out)
{
    if ((*out = take_spare((cpu_device *)d, bytes))) return INSET_OK;
    inset_status status = cpu_memory_new(d->context, bytes, out);
    return status && drop_spares(d) ? cpu_memory_new(d->context, bytes, out) : status;
}

static void cpu_release(device *base, void *memory, size_t bytes)
{
    cpu_device *d = (cpu_device *)base;
    size_t kept = pages_of(memory);
    int place = -1;
    for (int i = 0; i < CPU_SPARES; i++) {
        if (d->spares[i]) kept += pages_of(d->spares[i]);
        else place = i;
    }
#ifndef __SANITIZE_ADDRESS__ /* which is to see what is used after its release */
    if (place >= 0 && pages_of(memory) && kept <= CPU_SPARE_BYTES) {
        d->spares[place] = memory;
        return;
    }
#else
    (void)place, (void)kept;
#endif
    cpu_memory_free(base->context, memory, bytes);
}

static inset_status cpu_copy(device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
    return INSET_OK;
}

static inset_status cpu_upload_as(
    device *d, void *to, inset_type type, const void *from, inset_type from_type, int64_t count)
{
    (void)d;
    if (type == from_type) memcpy(to, from, (size_t)count * type_size(type));
    else elements_convert(type, to, from_type, from, count);
    return INSET_OK;
}

/* Not from the context, which it may outlive. */
static inset_status cpu_share(device *d, size_t bytes, device_share *out)
{
    void *data = NULL;
    if (posix_memalign(&data, ALIGNMENT, bytes ? bytes : 1)) return error_no_memory(d->context);
    *out = (device_share){data, data, free};
    return INSET_OK;
}

static inset_status cpu_zero(device *d, void *at, size_t bytes)
{
    (void)d;
    memset(at, 0, bytes);
    return INSET_OK;
}

/* ---- kernels ------------------------------------------------------------ */

static void run_spread(kernel_blocks *run, const void *args, int64_t blocks, int threads)
{
    int64_t shares = (int64_t)threads * SHARES;
    if (shares > blocks) shares = blocks;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(threads)
#endif
    for (int64_t share = 0; share < shares; share++)
        run(args, blocks * share / shares, blocks * (share + 1) / shares);
}

static inset_status cpu_launch(device *d, kernel_id kernel, inset_type type, const void *args,
    size_t args_size, int64_t blocks, int64_t work)
{
    cpu_device *cpu = (cpu_device *)d;
    (void)args_size;
    kernel_entry entry =
        cpu->kernels.entry[kernel][kernel >= KERNEL_EXPAND && kernel < KERNEL_COUNT ? 0 : type];
    kernel_blocks *run = (kernel_blocks *)entry;
    if (cpu->threads > 1 && work >= SPREAD_WORK && blocks > 1)
        run_spread(run, args, blocks, cpu->threads);
    else run(args, 0, blocks);
    return INSET_OK;
}

static inset_status cpu_synchronize(device *d)
{
    (void)d;
    return INSET_OK;
}

/* The kernels of the widest instruction set that this processor has. */
static const char *choose_kernels(kernel_table *table)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
        kernels_avx512_fill(table);
        return "AVX-512";
    }
    if (__builtin_cpu_supports("avx2")) {
        kernels_avx2_fill(table);
        return "AVX2";
    }
    kernels_baseline_fill(table);
    return "SSE2";
#else
    kernels_baseline_fill(table);
    return "baseline instructions";
#endif
}

/* ---- opening ------------------------------------------------------------ */

static int count_threads(void)
{
#ifdef _OPENMP
    int n = omp_get_max_threads();
    return n > 0 ? n : 1;
#else
    return 1;
#endif
}

/* The processor's name as the system tells it, or "CPU". */
static void read_processor_name(char *name, size_t size)
{
    char line[256];
    snprintf(name, size, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(name, size, "%s", value[1] == ' ' ? value + 2 : value + 1);
        break;
    }
    fclose(file);
}

static void name_device(char *name, size_t size, const char *instructions, int threads)
{
    char processor[64];
    read_processor_name(processor, sizeof processor);
    snprintf(name, size, "cpu: %s, %s, %d thread%s", processor, instructions, threads,
        threads == 1 ? "" : "s");
}

static void cpu_close(device *d)
{
    cpu_device *cpu = (cpu_device *)d;
    cpu_products_close(d->context, cpu->products);
    drop_spares(d);
    memory_free(d->context, cpu);
}

static const device_functions cpu_functions = {
    .close = cpu_close,
    .allocate = cpu_allocate,
    .release = cpu_release,
    .upload = cpu_copy,
    .upload_as = cpu_upload_as,
    .download = cpu_copy,
    .zero = cpu_zero,
    .copy = cpu_copy,
    .share = cpu_share,
    .matrix_create = cpu_matrix_create,
    .matrix_over = cpu_matrix_over,
    .matrix_reverse = cpu_matrix_reverse,
    .matrix_free = cpu_matrix_free,
    .matrix_bytes = cpu_matrix_bytes,
    .widens = cpu_widens,
    .slot_create = cpu_slot_create,
    .slot_free = cpu_slot_free,
    .slot_used = cpu_slot_pass,
    .slot_arrive = cpu_slot_pass,
    .matrix_empty = cpu_matrix_empty,
    .matrix_room = cpu_matrix_room,
    .matrix_put = cpu_matrix_put,
    .matmul = cpu_matmul,
    .matmul_group = cpu_matmul_group,
    .float_products = cpu_float_products,
    .launch = cpu_launch,
    .synchronize = cpu_synchronize,
};

inset_status device_open_cpu(inset_context *context, device **out)
{
    *out = NULL;
    cpu_device *cpu = memory_new(context, sizeof *cpu);
    if (!cpu) return INSET_NO_MEMORY;
    cpu->base.context = context;
    cpu->base.functions = &cpu_functions;
    cpu->base.shares_host_memory = true;
    cpu->base.row_block = 1;
    cpu->base.steady = cpu_products_steady();
    cpu->instructions = choose_kernels(&cpu->kernels);
    cpu->threads = count_threads();
    name_device(cpu->base.name, sizeof cpu->base.name, cpu->instructions, cpu->threads);
    cpu->base.memory_total = physical_memory();
    cpu->base.memory_free = available_memory();
    inset_status status = cpu_products_open(context, &cpu->kernels, cpu->threads, &cpu->products);
    if (status) {
        cpu_close(&cpu->base);
        return status;
    }
    *out = &cpu->base;
    return INSET_OK;
}

void device_describe_cpu(inset_context *context, text *out)
{
    kernel_table kernels;
    char name[128];
    name_device(name, sizeof name, choose_kernels(&kernels), count_threads());
    text_add(context, out, "%s\n", name);
    cpu_products_describe(context, out);
}
