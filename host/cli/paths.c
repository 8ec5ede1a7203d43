/* paths.c: `inset sweep --patch edges`: edges, or paths of them, patched one by one, as a table, as
 * CSV and as JSON. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/edges.h"

typedef struct session_of_paths {
    session_of_edges s;
    const inset_edge_effect *found;
    size_t n;
    double run, other; /* the metric of the patched run and of the other, mean over the pairs */
} session_of_paths;

/* ---- what was asked for ------------------------------------------------- */

/* The paths themselves, or what a file has of them. To be freed; NULL: a message was printed. */
static char *read_list(const char *given, int *status)
{
    static const char all[] = "*->*";
    FILE *file = given && !strstr(given, "->") ? fopen(given, "rb") : NULL;
    if (given && !file && !strstr(given, "->")) {
        *status = usage_error("sweep",
            "--edges: SOURCE->DESTINATION, or a file of them, was expected, found '%s'", given);
        return NULL;
    }
    size_t n = 0, capacity = 1 << 16;
    char *text = file ? malloc(capacity) : strdup(given ? given : all);
    while (file && text) {
        n += fread(text + n, 1, capacity - n - 1, file);
        if (n + 1 < capacity) break;
        char *grown = realloc(text, capacity *= 2);
        if (!grown) free(text);
        text = grown;
    }
    if (text && file) text[n] = 0;
    if (text && file && strlen(text) != n) {
        *status = usage_error("sweep", "--edges: %s is no text", given);
        free(text), text = NULL;
    } else if (!text) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        *status = EXIT_MACHINE;
    }
    if (file) fclose(file);
    return text;
}

static int check_options(const options *given)
{
    const struct {
        const char *name, *value;
    } none[] = {{"--by", given->by}, {"--layers", given->layers}, {"--positions", given->positions},
        {"--heads", given->heads}, {"--source", given->source}, {"--plot", given->plot}};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        if (none[i].value)
            return usage_error(
                "sweep", "%s is of places; edges are named by --edges", none[i].name);
    if (given->metrics[1])
        return usage_error(
            "sweep", "edges are patched for one metric, found a second: %s", given->metrics[1]);
    if (given->resume) return usage_error("sweep", "--resume goes on with a sweep of places");
    if (given->output && !ends_with(given->output, ".csv"))
        return usage_error(
            "sweep", "-o: OUT.csv was expected with --patch edges, found '%s'", given->output);
    return check_place(given, given->output);
}

/* ---- what is shown ------------------------------------------------------ */

static bool write_csv(const void *what, FILE *to)
{
    const session_of_paths *p = what;
    fprintf(to, "path,effect\n");
    for (size_t i = 0; i < p->n; i++)
        fprintf(to, "%s,%.9g\n", p->found[i].path, p->found[i].effect);
    return !ferror(to);
}

/* Of the way from the patched run's metric to the other's; NaN where the two are equal. */
static double share(const session_of_paths *p, double effect)
{
    return p->other != p->run ? effect / (p->other - p->run) : NAN;
}

static void print_json(const session_of_paths *p)
{
    printf("{\n  \"seconds\": %.6f,\n  \"metric\": ", p->s.seconds);
    print_json_text(stdout, p->s.given->metrics[0]);
    printf(",\n  \"run\": %.9g,\n  \"other\": %.9g,\n  \"paths\": [", p->run, p->other);
    for (size_t i = 0; i < p->n; i++)
        printf("%s\n    {\"path\": \"%s\", \"effect\": %.9g}", i ? "," : "", p->found[i].path,
            p->found[i].effect);
    printf("\n  ]\n}\n");
}

static int by_size(const void *a, const void *b)
{
    const inset_edge_effect *x = *(const inset_edge_effect *const *)a,
                            *y = *(const inset_edge_effect *const *)b;
    if (fabs(x->effect) != fabs(y->effect)) return fabs(x->effect) > fabs(y->effect) ? -1 : 1;
    return (x > y) - (x < y);
}

static int show(const session_of_paths *p)
{
    const inset_edge_effect **list = malloc((p->n + 1) * sizeof *list);
    if (!list) return fprintf(stderr, "MemoryError: out of memory on the host\n"), EXIT_MACHINE;
    for (size_t i = 0; i < p->n; i++) list[i] = &p->found[i];
    qsort(list, p->n, sizeof *list, by_size);
    int width = 8;
    const size_t n = p->n < (size_t)p->s.given->top ? p->n : (size_t)p->s.given->top;
    for (size_t i = 0; i < n; i++)
        if ((int)strlen(list[i]->path) > width) width = (int)strlen(list[i]->path);
    printf("%s: %.5g, and %.5g in the other run; %zu path%s\n\n%-*s %12s %8s\n",
        p->s.given->metrics[0], p->run, p->other, p->n, p->n == 1 ? "" : "s", width, "path",
        "effect", "share");
    for (size_t i = 0; i < n; i++)
        printf("%-*s %12.5g %7.2f%%\n", width, list[i]->path, list[i]->effect,
            100 * share(p, list[i]->effect));
    free(list);
    return EXIT_OK;
}

/* ---- the command -------------------------------------------------------- */

/* A circuit of all edges is the run, one of none the other. */
static inset_status take_ends(session_of_paths *p)
{
    inset_edge_result r;
    inset_status status = inset_edges_result(p->s.edges, 0, &r);
    if (status) return status;
    const size_t n = (size_t)(r.sources * r.destinations);
    unsigned char *kept = calloc(n, 1);
    if (!kept) return INSET_NO_MEMORY;
    status = inset_edges_circuit(p->s.edges, kept, &p->other);
    memset(kept, 1, n);
    if (!status) status = inset_edges_circuit(p->s.edges, kept, &p->run);
    free(kept);
    return status;
}

static int run(session_of_paths *p)
{
    const options *given = p->s.given;
    int status = open_edges(&p->s);
    char *text = status ? NULL : read_list(given->edge_list, &status);
    if (!text) return status;
    const double started = now_seconds();
    if (given->dry_run) {
        inset_cost cost;
        const inset_status refused = inset_edges_patch_cost(p->s.edges, text, given->freeze, &cost);
        free(text);
        if (!refused) return show_cost(&cost, given->json), EXIT_OK;
        return report(p->s.context, refused == INSET_NO_MEMORY ? EXIT_MACHINE : EXIT_REQUEST);
    }
    inset_status done = inset_edges_patch(p->s.edges, text, given->freeze, &p->found, &p->n);
    free(text);
    if (!done) done = take_ends(p);
    p->s.seconds = now_seconds() - started;
    if (done)
        return report(p->s.context,
            done == INSET_NO_MEMORY || done == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST);
    if (given->output && (status = write_file(given->output, write_csv, p))) return status;
    if (!given->json) return show(p);
    print_json(p);
    return EXIT_OK;
}

int command_paths(const options *given)
{
    session_of_paths p = {.s = {.given = given}};
    int status = check_options(given);
    if (status) return status;
    if (inset_context_create(NULL, &p.s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    status = run(&p);
    inset_context_free(p.s.context);
    return status ? status : finish_output();
}
