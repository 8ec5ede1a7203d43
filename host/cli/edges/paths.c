/* paths.c: `inset sweep --patch edges`: edges, or paths of them, patched one by one, as a table, as
 * CSV and as JSON. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/edges/edges.h"

enum { PATHS_A_UNIT = 256 };

typedef struct session_of_paths {
    session_of_edges s;
    char *text;               /* the paths, as they were given */
    inset_edge_effect *found; /* [n] */
    size_t n;
    int64_t pairs;
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
    if (given->shard)
        return usage_error("sweep",
            "--shard takes places, as in --patch resid_pre; edges are named, "
            "so give each job its own --edges");
    return EXIT_OK;
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

/* ---- the work ----------------------------------------------------------- */

/* Units: the other run of each pair and the patched run (circuits without edges, and of all), then
 * 256 paths of a pair each. */
static inset_status run_end(const session_of_paths *p, inset_edges *e, int64_t unit, double *metric)
{
    inset_edge_result r;
    inset_status status = inset_edges_result(e, 0, &r);
    if (status) return status;
    const size_t n = (size_t)(r.sources * r.destinations);
    unsigned char *kept = malloc(n);
    if (!kept) return INSET_NO_MEMORY;
    memset(kept, unit >= p->pairs, n);
    status = inset_edges_circuit_pair(e, kept, unit % p->pairs, metric);
    free(kept);
    return status;
}

static size_t paths_in(const session_of_paths *p, int64_t group)
{
    const size_t first = (size_t)group * PATHS_A_UNIT;
    return p->n - first < PATHS_A_UNIT ? p->n - first : PATHS_A_UNIT;
}

static inset_status run_some(void *of, inset_edges *e, int64_t unit, double *effects)
{
    const session_of_paths *p = of;
    if (unit < 2 * p->pairs) return run_end(p, e, unit, effects);
    unit -= 2 * p->pairs;
    const int64_t group = unit / p->pairs;
    return inset_edges_patch_pair(e, p->text, p->s.given->freeze, unit % p->pairs,
        (size_t)group * PATHS_A_UNIT, paths_in(p, group), effects);
}

static int64_t groups_of(const session_of_paths *p)
{
    return (int64_t)((p->n + PATHS_A_UNIT - 1) / PATHS_A_UNIT);
}

static int open_units(session_of_paths *p, inset_edges *e, units *u)
{
    *u = (units){.edges = e,
        .n = (2 + groups_of(p)) * p->pairs,
        .most = p->n < PATHS_A_UNIT ? (int64_t)p->n : PATHS_A_UNIT,
        .run = run_some,
        .of = p,
        .hash = units_hash(p->s.given->freeze != 0, p->text, strlen(p->text))};
    return units_open(u);
}

static int same_paths(void *of, edge_helper *h, work *out)
{
    const int status = open_units(of, h->edges, &h->units);
    *out = work_of_units(h->context, h->model, &h->units);
    return status;
}

static void end_paths(edge_helper *h) { units_close(&h->units); }

/* Means over the pairs, summed in their order as inset_edges_patch does. */
static void take_numbers(session_of_paths *p, const units *u)
{
    const double pairs = (double)p->pairs;
    for (size_t i = 0; i < p->n; i++) p->found[i].effect = 0;
    for (int64_t unit = 0; unit < u->n; unit++) {
        const double *numbers = u->numbers + unit * u->most;
        const int64_t group = unit / p->pairs - 2;
        if (group == -2) p->other += *numbers / pairs;
        else if (group == -1) p->run += *numbers / pairs;
        else
            for (size_t i = 0; i < paths_in(p, group); i++)
                p->found[(size_t)group * PATHS_A_UNIT + i].effect += numbers[i] / pairs;
    }
}

/* ---- the command -------------------------------------------------------- */

static int fail(const session_of_paths *p, inset_status status)
{
    return report(p->s.context,
        status == INSET_NO_MEMORY || status == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST);
}

static int prepare(session_of_paths *p)
{
    inset_edge_result r;
    const char *const *names;
    int status = session_make_edges(&p->s);
    if (status || !(p->text = read_list(p->s.given->edge_list, &status))) return status;
    inset_status found = inset_edges_paths(p->s.edges, p->text, p->s.given->freeze, &names, &p->n);
    if (!found) found = inset_edges_result(p->s.edges, 0, &r);
    if (found) return fail(p, found);
    p->pairs = r.pairs;
    if (!(p->found = malloc((p->n + 1) * sizeof *p->found))) return fail(p, INSET_NO_MEMORY);
    for (size_t i = 0; i < p->n; i++) p->found[i] = (inset_edge_effect){names[i], 0};
    return EXIT_OK;
}

static int take_cost(session_of_paths *p)
{
    inset_cost cost;
    const inset_status status = inset_edges_patch_cost(
        p->s.edges, p->text, p->s.given->freeze, &cost);
    if (status) return fail(p, status);
    if (session_is_first(&p->s)) show_cost(&cost, p->s.given->json);
    return EXIT_OK;
}

static int run(session_of_paths *p)
{
    const work_elsewhere elsewhere = {same_paths, end_paths, p};
    units u = {.n = 0};
    int status = prepare(p);
    if (!status && p->s.given->dry_run) return take_cost(p);
    if (!status) status = open_units(p, p->s.edges, &u);
    const work w = work_of_units(p->s.context, p->s.model, &u);
    status = session_work(&p->s, status, &w, &elsewhere);
    if (!status && session_is_first(&p->s)) {
        take_numbers(p, &u);
        if (p->s.given->output) status = write_file(p->s.given->output, write_csv, p);
        if (!status && p->s.given->json) print_json(p);
        else if (!status) status = show(p);
    }
    units_close(&u);
    return status;
}

static int check_files(session_of_edges *s) { return check_place(s->given, s->given->output); }

int command_paths(const options *given)
{
    session_of_paths p = {.s = {.given = given}};
    int status = check_options(given);
    if (status) return status;
    status = session_open(&p.s, check_files);
    if (!status) status = run(&p);
    free(p.found);
    free(p.text);
    return session_close(&p.s, status);
}
