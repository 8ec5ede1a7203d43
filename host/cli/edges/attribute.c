/* attribute.c: `inset attribute --edges`: scores of all edges, as a table, files and drawings. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/edges/edges.h"

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
    return inset_edges_write(s->edges, path, *s->command ? s->command : NULL)
               ? report(s->context, EXIT_MACHINE)
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
    if (given->shard && given->plot)
        return usage_error("attribute", "--plot takes all scores, and --shard makes a part");
    return EXIT_OK;
}

static int check_files(session_of_edges *s)
{
    const options *given = s->given;
    const char *output = s->shard.of ? s->shard.part : given->output;
    int status = check_place(given, output);
    if (!status) status = check_place(given, given->plot);
    if (status || given->dry_run) return status;
    return check_state(given, output, s->state, sizeof s->state);
}

/* On another device there is nothing to make but the edges. */
static int same_edges(void *of, edge_helper *h, work *out)
{
    (void)of;
    *out = work_of_edges(h->context, h->model, h->edges);
    return EXIT_OK;
}

static int show(session_of_edges *s)
{
    bool fine = true;
    inset_edge_result r;
    if (s->given->json) fine = print_json(s->edges, s);
    else
        for (size_t m = 0; s->given->metrics[m] && fine; m++)
            fine = !inset_edges_result(s->edges, m, &r) && show_table(s->edges, &r, s->given->top);
    if (!fine) return fprintf(stderr, "MemoryError: out of memory on the host\n"), EXIT_MACHINE;
    if (s->given->json || !s->n_verified) return EXIT_OK;
    printf("\n%-10s %-12s %12s %12s\n", "verified", "", "estimate", "exact");
    for (size_t i = 0; i < s->n_verified; i++)
        printf("%-10s %-12s %12.5g %12.5g\n", s->verified[i].source, s->verified[i].destination,
            s->verified[i].score, s->verified[i].exact);
    printf("rank correlation %.3f\n", s->rank);
    return EXIT_OK;
}

static int run(session_of_edges *s)
{
    const work_elsewhere elsewhere = {.make = same_edges};
    int status = session_make_edges(s);
    if (!status && s->given->dry_run) {
        inset_cost cost;
        if (inset_edges_cost(s->edges, &cost)) return report(s->context, EXIT_MACHINE);
        if (session_is_first(s)) show_cost(&cost, s->given->json);
        return EXIT_OK;
    }
    const work w = work_of_edges(s->context, s->model, s->edges);
    status = session_work(s, status, &w, &elsewhere);
    if (status || !session_is_first(s)) return status;
    if (s->shard.of) return shard_finish(s->given, &s->shard, s->state, &w, s->seconds);
    if (s->given->verify
        && inset_edges_verify(
            s->edges, (size_t)s->given->verify, &s->verified, &s->n_verified, &s->rank))
        return report(s->context, EXIT_MACHINE);
    if ((status = write_output(s)) || (status = draw(s))) return status;
    return show(s);
}

int command_edges(const options *given, int count, char **arguments)
{
    session_of_edges s = {.given = given};
    int status = check_names(given);
    if (!status) status = shard_read(given, "attribute", &s.shard);
    if (status) return status;
    command_text(count, arguments, s.command, sizeof s.command);
    status = session_open(&s, check_files);
    if (!status) status = run(&s);
    return session_close(&s, status);
}

/* ---- merging ------------------------------------------------------------- */

/* Of `inset merge`. *none: the parts are a sweep's. */
int merge_edges(inset_context *context, const options *given, bool *none)
{
    session_of_edges s = {.given = given, .context = context};
    inset_edge_result r;
    const inset_status found = inset_edges_merge(
        context, given->n_words - 1, given->words + 1, &s.edges);
    *none = found == INSET_TYPE_ERROR;
    if (*none) return EXIT_OK;
    if (found)
        return report(context,
            found == INSET_VALUE_ERROR || found == INSET_USAGE_ERROR ? EXIT_REQUEST : EXIT_MACHINE);
    static options mine;
    mine = *given;
    for (size_t m = 0; m < OPTIONS_MOST_WORDS && !inset_edges_result(s.edges, m, &r); m++)
        mine.metrics[m] = r.metric;
    s.given = &mine;
    mine.output = given->words[0];
    int status = check_names(&mine);
    if (!status) status = write_output(&s);
    if (!status) status = draw(&s);
    return status ? status : show(&s);
}
