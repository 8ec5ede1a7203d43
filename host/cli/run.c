/* run.c: `inset run` and `inset check`: a script from its text to saved values, or to what a run of
 * it would take. */
#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_SCRIPT = 1 << 28 }; /* bytes */

typedef struct session {
    const options *given;
    inset_context *context;
    inset_model *model;
    inset_trace *trace;
    inset_plan *plan;
    char *text; /* the script, when it was read from a file */
    size_t length;
    double load, planning, fastest; /* seconds */
} session;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the script --------------------------------------------------------- */

static int script_error(const session *s, const char *what)
{
    fprintf(stderr, "FileError: %s: %s\n", s->given->script, what);
    return EXIT_REQUEST;
}

/* Everything that comes from `file` into s->text. */
static int read_all(session *s, FILE *file)
{
    size_t capacity = 0, got = 1;
    while (got) {
        if (s->length + 1 >= capacity) {
            capacity = capacity ? 2 * capacity : 1 << 16;
            char *moved = capacity > LONGEST_SCRIPT ? NULL : realloc(s->text, capacity);
            if (!moved)
                return script_error(s,
                    capacity > LONGEST_SCRIPT ? "a script of more than 256 MiB" : "out of memory");
            s->text = moved;
        }
        got = fread(s->text + s->length, 1, capacity - s->length - 1, file);
        s->length += got;
    }
    return ferror(file) ? script_error(s, strerror(errno)) : EXIT_OK;
}

static int read_script(session *s)
{
    if (s->given->text) return EXIT_OK;
    bool standard_input = !strcmp(s->given->script, "-");
    FILE *file = standard_input ? stdin : fopen(s->given->script, "rb");
    if (!file) return script_error(s, strerror(errno));
    int status = read_all(s, file);
    if (!standard_input) fclose(file);
    return status;
}

/* The folder of the script, where files that it loads are looked up; "" for the working
 * directory. */
static bool script_directory(const session *s, char *out, size_t size)
{
    const char *slash = s->given->text || !s->given->script ? NULL : strrchr(s->given->script, '/');
    size_t length = !slash ? 0 : slash == s->given->script ? 1 : (size_t)(slash - s->given->script);
    if (length >= size) return false;
    memcpy(out, s->given->script ? s->given->script : "", length);
    out[length] = 0;
    return true;
}

static int record_script(session *s, bool again)
{
    char directory[PATH_MAX];
    const options *given = s->given;
    if (!script_directory(s, directory, sizeof directory))
        return script_error(s, "the path is too long");
    const char *name = given->text                   ? "<command>"
                       : !strcmp(given->script, "-") ? "<stdin>"
                                                     : given->script;
    inset_status status = inset_trace_create(s->model, &s->trace);
    if (!status) status = inset_trace_again(s->trace, again);
    if (!status)
        status = inset_script(s->trace, name, directory, given->text ? given->text : s->text,
            given->text ? strlen(given->text) : s->length);
    if (!status) return EXIT_OK;
    return report(s->context, status == INSET_NO_MEMORY ? EXIT_MACHINE : EXIT_REQUEST);
}

/* ---- plan and run ------------------------------------------------------- */

static int make_plan(session *s)
{
    inset_plan_options wanted = INSET_PLAN_OPTIONS;
    wanted.no_share = s->given->no_share;
    wanted.explain = s->given->explain;
    wanted.memory_limit = (size_t)s->given->memory;
    double start = now();
    int exit_status = record_script(s, false);
    if (exit_status) return exit_status;
    inset_status status = inset_plan_create(s->trace, &wanted, &s->plan);
    if (status == INSET_NO_MEMORY) { /* gradients can do with less */
        inset_trace_free(s->trace);
        s->trace = NULL;
        if ((exit_status = record_script(s, true))) return exit_status;
        status = inset_plan_create(s->trace, &wanted, &s->plan);
    }
    s->planning = now() - start;
    if (!status) return EXIT_OK;
    return report(s->context,
        status == INSET_NO_MEMORY || status == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST);
}

static int run_plan(session *s)
{
    for (int64_t i = 0; i <= s->given->repeat; i++) {
        double start = now();
        if (inset_run(s->plan)) return report(s->context, EXIT_MACHINE);
        double seconds = now() - start;
        if (i == 0 || seconds < s->fastest) s->fastest = seconds;
    }
    return EXIT_OK;
}

/* Whether a file can be made where the output is to go: found out before the run, not after it. */
static int check_output(const options *given)
{
    struct stat found;
    char folder[PATH_MAX];
    if (!given->output) return EXIT_OK;
    const char *slash = strrchr(given->output, '/'), *wrong = NULL;
    size_t length = !slash ? 0 : slash == given->output ? 1 : (size_t)(slash - given->output);
    if (length >= sizeof folder) wrong = "the path is too long";
    snprintf(folder, sizeof folder, "%.*s", (int)length, length ? given->output : "");
    if (!wrong && stat(length ? folder : ".", &found)) wrong = strerror(errno);
    else if (!wrong && !S_ISDIR(found.st_mode)) wrong = strerror(ENOTDIR);
    else if (!wrong && stat(given->output, &found) == 0 && S_ISDIR(found.st_mode))
        wrong = strerror(EISDIR);
    else if (!wrong && access(length ? folder : ".", W_OK)) wrong = strerror(errno);
    if (!wrong) return EXIT_OK;
    fprintf(stderr, "FileError: %s: %s\n", given->output, wrong);
    return EXIT_MACHINE;
}

/* ---- what is printed ---------------------------------------------------- */

static int print_saved(session *s)
{
    inset_tensor tensor;
    const char *name;
    for (size_t i = 0; i < inset_saved_count(s->plan); i++) {
        if (inset_saved_at(s->plan, i, &name, &tensor)) return report(s->context, EXIT_MACHINE);
        printf("%s: ", name);
        print_tensor(stdout, &tensor);
        putchar('\n');
    }
    return EXIT_OK;
}

static void print_json_saved(session *s)
{
    inset_tensor tensor;
    const char *name;
    printf("  \"saved\": [");
    for (size_t i = 0; i < inset_saved_count(s->plan); i++) {
        if (inset_saved_describe(s->plan, i, &name, &tensor)) break;
        printf("%s\n    {\"name\": ", i ? "," : "");
        print_json_text(stdout, name);
        printf(", \"dtype\": \"%s\", \"shape\": ", inset_type_name(tensor.type));
        print_shape(stdout, &tensor);
        putchar('}');
    }
    printf("]\n");
}

static void print_json(session *s, bool only_check)
{
    inset_statistics is = INSET_STATISTICS;
    inset_plan_statistics(s->plan, &is);
    printf("{\n  \"model_type\": ");
    print_json_text(stdout, inset_model_kind(s->model));
    printf(",\n  \"device\": ");
    print_json_text(stdout, inset_model_device(s->model));
    printf(",\n  \"dtype\": \"%s\",\n  \"fast\": %s,\n  \"load\": %.9f,\n  \"plan\": %.9f,\n",
        inset_type_name(inset_model_type(s->model)), s->given->fast ? "true" : "false", s->load,
        s->planning);
    if (!only_check)
        printf("  \"seconds\": %.9f,\n  \"runs\": %lld,\n", s->fastest,
            (long long)s->given->repeat + 1);
    printf("  \"invokes\": %lld,\n  \"sequences\": %lld,\n  \"records\": %lld,\n",
        (long long)is.invokes, (long long)is.sequences, (long long)is.records);
    printf("  \"rows\": %lld,\n  \"rows_unshared\": %lld,\n  \"flops\": %.0f,\n  "
           "\"flops_unshared\": %.0f,\n",
        (long long)is.rows, (long long)is.rows_unshared, is.flops, is.flops_unshared);
    printf("  \"steps\": %lld,\n  \"launches\": %lld,\n  \"copies\": %lld,\n  \"passes\": %lld,\n",
        (long long)is.steps, (long long)is.launches, (long long)is.copies, (long long)is.passes);
    printf("  \"first_copies\": %lld,\n  \"later_launches\": %lld,\n", (long long)is.first_copies,
        (long long)is.later_launches);
    printf("  \"fused_records\": %lld,\n  \"fused_launches\": %lld,\n  \"alone_records\": %lld,\n  "
           "\"alone_launches\": %lld,\n",
        (long long)is.fused_records, (long long)is.fused_launches, (long long)is.alone_records,
        (long long)is.alone_launches);
    printf("  \"cudnn_sequences\": %lld,\n", (long long)is.whole_sequences);
    if (is.coming_bytes)
        printf("  \"coming_bytes\": %lld,\n  \"copied_bytes\": %lld,\n", (long long)is.coming_bytes,
            (long long)is.copied_bytes);
    printf("  \"bytes\": %lld,\n  \"table_bytes\": %lld,\n  \"saved_bytes\": %lld,\n  "
           "\"weight_bytes\": %lld,\n",
        (long long)is.arena_bytes, (long long)is.table_bytes, (long long)is.saved_bytes,
        (long long)is.weight_bytes);
    print_json_saved(s);
    printf("}\n");
}

/* "1.23 GB"; powers of ten. */
static const char *scaled(double number, const char *unit, char *out, size_t size)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    int i = 0;
    for (; number >= 999.5 && i < 6; i++) number /= 1000;
    snprintf(out, size, i ? "%.3g %s%s" : "%.0f %s%s", number, prefixes[i], unit);
    return out;
}

/* What the first run takes, and what one with other inputs takes behind it. */
static void print_cost(const char *what, int64_t first, int64_t later)
{
    printf("%-10s %lld", what, (long long)first);
    if (later != first) printf(", then %lld a run", (long long)later);
    putchar('\n');
}

/* FLOPs a byte copied, below which a GPU waits for copies: 400 TFLOP/s against 50 GB/s (an H100
 * over PCIe 5). */
enum { BALANCED = 8000 };

static void print_coming(const inset_statistics *is)
{
    char a[32], b[32];
    const double each = is->copied_bytes ? is->flops / (double)is->copied_bytes : 0;
    printf("streamed   %s of the weights do not stay; a run copies %s\n",
        scaled((double)is->coming_bytes, "B", a, sizeof a),
        scaled((double)is->copied_bytes, "B", b, sizeof b));
    if (each)
        printf("           %.3g FLOPs a byte: on an H100 over PCIe 5 (%d) %s bound it\n", each,
            BALANCED, each < BALANCED ? "copies" : "products");
}

static void print_check(session *s)
{
    inset_statistics is = INSET_STATISTICS;
    inset_tensor tensor;
    const char *name;
    char a[32], b[32];
    inset_plan_statistics(s->plan, &is);
    printf("model      %s, %s, on %s\n", inset_model_kind(s->model),
        inset_type_name(inset_model_type(s->model)), inset_model_device(s->model));
    if (s->given->fast)
        printf("fast       on: on a GPU the last bits of a number may depend on what is computed "
               "beside it%s\n",
            inset_model_type(s->model) == INSET_F32
                ? ", and factors of fp32 products are rounded to TF32's 10 bits"
                : "");
    printf("trace      %lld records in %lld invokes of %lld sequences\n", (long long)is.records,
        (long long)is.invokes, (long long)is.sequences);
    printf("rows       %lld (%lld if every invoke ran whole and alone)\n", (long long)is.rows,
        (long long)is.rows_unshared);
    printf("FLOPs      %s (%s)\n", scaled(is.flops, "", a, sizeof a),
        scaled(is.flops_unshared, "", b, sizeof b));
    printf("steps      %lld\npasses     %lld\n", (long long)is.steps, (long long)is.passes);
    print_cost("launches", is.launches, is.later_launches);
    print_cost("copies", is.first_copies, is.copies);
    printf("applied    %lld rectangles of records inside %lld steps, %lld in %lld launches of "
           "their own\n",
        (long long)is.fused_records, (long long)is.fused_launches, (long long)is.alone_records,
        (long long)is.alone_launches);
    if (is.blocks_again)
        printf("again      %lld blocks, for want of memory: run a second time before they go "
               "backwards\n",
            (long long)is.blocks_again);
    if (is.whole_sequences)
        printf("attention  cuDNN for %lld sequences, own kernel for the rest\n",
            (long long)is.whole_sequences);
    else if (!strncmp(inset_model_device(s->model), "cuda", 4)) printf("attention  own kernel\n");
    printf("memory     %s beside %s of weights\n", scaled((double)is.arena_bytes, "B", a, sizeof a),
        scaled((double)is.weight_bytes, "B", b, sizeof b));
    if (is.coming_bytes) print_coming(&is);
    printf("tables     %s\n", scaled((double)is.table_bytes, "B", a, sizeof a));
    printf("saved      %s\n", scaled((double)is.saved_bytes, "B", a, sizeof a));
    for (size_t i = 0;
         i < inset_saved_count(s->plan) && !inset_saved_describe(s->plan, i, &name, &tensor); i++) {
        printf("  %s  %s ", name, inset_type_name(tensor.type));
        print_shape(stdout, &tensor);
        putchar('\n');
    }
}

/* ---- the commands ------------------------------------------------------- */

/* Which device `auto` took: for people, so only on a terminal or when asked for. */
static void say_device(const session *s)
{
    bool automatic = !s->given->device || !strcmp(s->given->device, "auto");
    if (s->given->verbose || (automatic && isatty(STDERR_FILENO)))
        fprintf(stderr, "on %s\n", inset_model_device(s->model));
}

static int load(session *s)
{
    int status = EXIT_OK;
    double start = now();
    s->model = open_model(s->context, s->given, s->given->device, &status);
    s->load = now() - start;
    if (s->model) say_device(s);
    return status;
}

static int check(session *s)
{
    if (s->given->explain) fputs(inset_plan_explanation(s->plan), stdout);
    else if (s->given->json) print_json(s, true);
    else print_check(s);
    return EXIT_OK;
}

static int run(session *s)
{
    int status = run_plan(s);
    if (status) return status;
    if (s->given->output && inset_saved_write(s->plan, s->given->output))
        return report(s->context, EXIT_MACHINE);
    if (s->given->verbose)
        fprintf(stderr, "load %.3g s, plan %.3g s, run %.3g s\n", s->load, s->planning, s->fastest);
    if (s->given->json) print_json(s, false);
    else if (!s->given->output) return print_saved(s);
    return EXIT_OK;
}

int command_run(const options *given, bool only_check)
{
    session s = {.given = given};
    if (inset_context_create(NULL, &s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    int status = read_script(&s);
    if (!status) status = load(&s);
    if (!status) status = make_plan(&s);
    if (!status) status = check_output(given);
    if (!status) status = only_check ? check(&s) : run(&s);
    inset_context_free(s.context);
    free(s.text);
    return status ? status : finish_output();
}
