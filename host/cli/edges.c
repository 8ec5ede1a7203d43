/* edges.c: `inset attribute --edges`: scores of all edges, as a table, files and drawings. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/edges.h"

/* ---- the strongest ------------------------------------------------------ */

static const float *compared;

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    const float p = fabsf(compared[x]), q = fabsf(compared[y]);
    return p != q ? (p > q ? -1 : 1) : (x > y) - (x < y);
}

int64_t *edges_strongest(inset_edges *e, const inset_edge_result *r, int64_t *n)
{
    const int64_t one = r->sources * r->destinations;
    int64_t *list = malloc((size_t)(r->positions * r->edges + 1) * sizeof *list), there = 0;
    for (int64_t i = 0; list && i < r->positions * one; i++)
        if (inset_edge_exists(e, i % one / r->destinations, i % r->destinations)) list[there++] = i;
    compared = r->mean;
    if (list) qsort(list, (size_t)there, sizeof *list, by_size);
    if (*n > there) *n = there;
    return list;
}

/* The sum of the sizes of all scores, of which a row shows its share. */
static double total_size(const inset_edge_result *r)
{
    double sum = 0;
    const int64_t n = r->positions * r->sources * r->destinations;
    for (int64_t i = 0; i < n; i++) sum += fabs((double)r->mean[i]);
    return sum;
}

static bool show_table(inset_edges *e, const inset_edge_result *r, int64_t top)
{
    int64_t n = top, *list = edges_strongest(e, r, &n);
    const double all = total_size(r);
    if (!list) return false;
    printf("%s: %" PRId64 " edges, mean over %" PRId64 " pair%s\n\n", r->metric, r->edges, r->pairs,
        r->pairs == 1 ? "" : "s");
    printf("%-10s %-12s %s%12s %8s\n", "source", "destination", r->positions > 1 ? "position " : "",
        "score", "share");
    for (int64_t i = 0; i < n; i++) {
        const int64_t one = r->sources * r->destinations, at = list[i] % one;
        const double score = (double)r->mean[list[i]];
        printf("%-10s %-12s ", r->source_names[at / r->destinations],
            r->destination_names[at % r->destinations]);
        if (r->positions > 1) printf("%-8" PRId64 " ", list[i] / one);
        printf("%12.5g %7.2f%%\n", score, all > 0 ? 100 * fabs(score) / all : 0);
    }
    free(list);
    return true;
}

static void print_verified(const inset_verified_edge *v, size_t n, double rank)
{
    printf("  \"verified\": [");
    for (size_t i = 0; i < n; i++)
        printf("%s\n    {\"source\": \"%s\", \"destination\": \"%s\", \"score\": %.9g, \"exact\": "
               "%.9g}",
            i ? "," : "", v[i].source, v[i].destination, v[i].score, v[i].exact);
    printf("],\n  \"rank_correlation\": ");
    if (isfinite(rank)) printf("%.6f,\n", rank);
    else printf("null,\n");
}

static bool print_json(inset_edges *e, const session_of_edges *s)
{
    inset_edge_result r;
    printf("{\n  \"seconds\": %.6f,\n", s->seconds);
    if (s->n_verified) print_verified(s->verified, s->n_verified, s->rank);
    printf("  \"results\": [");
    for (size_t m = 0; s->given->metrics[m]; m++) {
        if (inset_edges_result(e, m, &r)) return false;
        int64_t n = s->given->top, *list = edges_strongest(e, &r, &n);
        if (!list) return false;
        printf("%s\n    {\"metric\": ", m ? "," : "");
        print_json_text(stdout, r.metric);
        printf(
            ", \"pairs\": %" PRId64 ", \"edges\": %" PRId64 ", \"strongest\": [", r.pairs, r.edges);
        const int64_t one = r.sources * r.destinations;
        for (int64_t i = 0; i < n; i++) {
            printf("%s\n      {\"source\": \"%s\", \"destination\": \"%s\", ", i ? "," : "",
                r.source_names[list[i] % one / r.destinations],
                r.destination_names[list[i] % r.destinations]);
            if (r.positions > 1) printf("\"position\": %" PRId64 ", ", list[i] / one);
            printf("\"score\": %.9g}", (double)r.mean[list[i]]);
        }
        printf("]}");
        free(list);
    }
    printf("\n  ]\n}\n");
    return true;
}

/* ---- files -------------------------------------------------------------- */

static bool write_csv(const void *what, FILE *to)
{
    inset_edges *e = (inset_edges *)(uintptr_t)what;
    inset_edge_result r;
    bool by_position = false;
    for (size_t m = 0; !inset_edges_result(e, m, &r); m++) {
        const int64_t one = r.sources * r.destinations;
        by_position = r.positions > 1;
        if (!m) fprintf(to, "metric,%ssource,destination,score\n", by_position ? "position," : "");
        for (int64_t i = 0; i < r.positions * one; i++) {
            const int64_t at = i % one;
            if (!inset_edge_exists(e, at / r.destinations, at % r.destinations)) continue;
            fprintf(to, "\"%s\",", r.metric);
            if (by_position) fprintf(to, "%" PRId64 ",", i / one);
            fprintf(to, "%s,%s,%.9g\n", r.source_names[at / r.destinations],
                r.destination_names[at % r.destinations], (double)r.mean[i]);
        }
    }
    return !ferror(to);
}

static int write_output(session_of_edges *s)
{
    const char *path = s->given->output;
    if (!path) return EXIT_OK;
    if (ends_with(path, ".csv")) {
        int status = write_file(path, write_csv, s->edges);
        if (!status) remove(s->state);
        return status;
    }
    return inset_edges_write(s->edges, path, s->command) ? report(s->context, EXIT_MACHINE)
                                                         : EXIT_OK;
}

static int draw(session_of_edges *s)
{
    const char *path = s->given->plot;
    const edge_drawing d = {s->edges, s->given->top};
    inset_edge_result r;
    if (!path) return EXIT_OK;
    if (inset_edges_result(s->edges, 0, &r)) return report(s->context, EXIT_MACHINE);
    if (ends_with(path, ".json") && r.key_value_heads != r.heads)
        return usage_error("attribute",
            "--plot: the package's graphs have a k and a v for each head, and this model's %d "
            "heads "
            "share %d: FILE.svg or FILE.dot",
            r.heads, r.key_value_heads);
    return write_file(path,
        ends_with(path, ".dot")    ? dot_write
        : ends_with(path, ".json") ? graph_json_write
                                   : edges_svg_write,
        &d);
}

/* ---- the command -------------------------------------------------------- */

static int check_names(const options *given)
{
    if (given->output && !ends_with(given->output, ".safetensors")
        && !ends_with(given->output, ".csv"))
        return usage_error("attribute",
            "-o: OUT.safetensors or OUT.csv was expected with --edges, found '%s'", given->output);
    if (given->plot && !ends_with(given->plot, ".svg") && !ends_with(given->plot, ".dot")
        && !ends_with(given->plot, ".json"))
        return usage_error("attribute",
            "--plot: FILE.svg, FILE.dot or FILE.json was expected with --edges, found '%s'",
            given->plot);
    if (given->by && (given->plot || given->verify))
        return usage_error(
            "attribute", "--plot and --verify take one score an edge: leave out --by");
    if (given->steps == 0)
        return usage_error(
            "attribute", "--steps: one or more were expected, found 0; leave it out for EAP");
    int status = check_place(given, given->output);
    return status ? status : check_place(given, given->plot);
}

int open_edges(session_of_edges *s)
{
    int status = EXIT_OK;
    char rules[256];
    inset_sweep_options runs = sweep_options(s->given, s->version);
    if (s->given->edges_from) runs.by = NULL; /* of `circuit`: how edges are chosen */
    if (s->given->edges && s->given->output) runs.state = s->state;
    if (!s->given->edges) runs.patch = NULL; /* of `sweep`: "edges" */
    const inset_attribution_options all = attribution_options(s->given, &runs, rules, sizeof rules);
    s->model = open_model(s->context, s->given, s->given->device, &status);
    if (!s->model) return status;
    inset_status made = inset_edges_create(s->model, &all, s->given->per_pair, &s->edges);
    if (!made) return EXIT_OK;
    return report(s->context,
        made == INSET_NO_MEMORY || made == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST);
}

static int run(session_of_edges *s)
{
    inset_edge_result r;
    int status = open_edges(s);
    if (status) return status;
    if (s->given->dry_run) {
        inset_cost cost;
        if (inset_edges_cost(s->edges, &cost)) return report(s->context, EXIT_MACHINE);
        return show_cost(&cost, s->given->json), EXIT_OK;
    }
    const double started = now_seconds();
    while (!inset_edges_done(s->edges))
        if (inset_edges_step(s->edges)) return report(s->context, EXIT_MACHINE);
    s->seconds = now_seconds() - started;
    if (s->given->verify
        && inset_edges_verify(
            s->edges, (size_t)s->given->verify, &s->verified, &s->n_verified, &s->rank))
        return report(s->context, EXIT_MACHINE);
    if ((status = write_output(s)) || (status = draw(s))) return status;
    bool fine = true;
    if (s->given->json) fine = print_json(s->edges, s);
    else
        for (size_t m = 0; s->given->metrics[m] && fine; m++)
            fine = !inset_edges_result(s->edges, m, &r) && show_table(s->edges, &r, s->given->top);
    if (!fine) return fprintf(stderr, "MemoryError: out of memory on the host\n"), EXIT_MACHINE;
    if (!s->given->json && s->n_verified) {
        printf("\n%-10s %-12s %12s %12s\n", "verified", "", "estimate", "exact");
        for (size_t i = 0; i < s->n_verified; i++)
            printf("%-10s %-12s %12.5g %12.5g\n", s->verified[i].source, s->verified[i].destination,
                s->verified[i].score, s->verified[i].exact);
        printf("rank correlation %.3f\n", s->rank);
    }
    return EXIT_OK;
}

int command_edges(const options *given, int count, char **arguments)
{
    session_of_edges s = {.given = given};
    int status = check_names(given);
    if (!status && !given->dry_run)
        status = check_state(given, given->output, s.state, sizeof s.state);
    if (status) return status;
    command_text(count, arguments, s.command, sizeof s.command);
    model_version(given->model, s.version, sizeof s.version);
    if (inset_context_create(NULL, &s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    status = run(&s);
    inset_context_free(s.context);
    return status ? status : finish_output();
}
