/* circuit.c: `inset circuit`: the run with all edges but the strongest carrying the other run's
 * value, for several sizes, and how much of the metric is left.
 *
 *     faithfulness = (m(circuit) - m(other)) / (m(run) - m(other))
 *
 * CPR is the area under it over the share of edges that are kept (trapezoids), CMD that of its
 * distance from 1 (MIB, arXiv 2504.13151). */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/edges.h"

enum { MOST_SIZES = 256 };

typedef struct circuits {
    session_of_edges s;
    int64_t sizes[MOST_SIZES];
    double metric[MOST_SIZES], faithfulness[MOST_SIZES];
    int n;
    double run, other, cpr, cmd;
    inset_cost cost; /* of all sizes, where nothing is to be run */
} circuits;

/* "50,100" or "0.1%,1%". */
static int read_sizes(circuits *c, const char *text, int64_t edges)
{
    for (const char *at = text; *at;) {
        char *end;
        const double number = strtod(at, &end);
        const bool share = *end == '%';
        if (end == at || !isfinite(number) || number < 0 || (share && number > 100)
            || (!share && number != floor(number)))
            return usage_error(
                "circuit", "--sizes: 50,100 or 0.1%%,1%% was expected, found '%s'", text);
        if (c->n == MOST_SIZES)
            return usage_error("circuit", "--sizes: more than %d were given", MOST_SIZES);
        const double size = share ? floor(number / 100 * (double)edges + 0.5) : number;
        c->sizes[c->n++] = size < (double)edges ? (int64_t)size : edges;
        at = end + share;
        if (*at && *at != ',')
            return usage_error(
                "circuit", "--sizes: 50,100 or 0.1%%,1%% was expected, found '%s'", text);
        at += *at == ',';
    }
    return c->n ? EXIT_OK : usage_error("circuit", "--sizes: none were given");
}

/* Areas over the share of edges, from the smallest size to the largest. */
static void take_areas(circuits *c, int64_t edges)
{
    c->cpr = c->cmd = 0;
    for (int i = 1; i < c->n; i++) {
        const double width = (double)(c->sizes[i] - c->sizes[i - 1]) / (double)edges,
                     a = c->faithfulness[i - 1], b = c->faithfulness[i];
        c->cpr += width * (a + b) / 2;
        c->cmd += width * (fabs(1 - a) + fabs(1 - b)) / 2;
    }
}

static void show(const circuits *c, int64_t edges)
{
    printf("%10s %9s %12s %13s\n", "edges", "share", "metric", "faithfulness");
    for (int i = 0; i < c->n; i++)
        printf("%10" PRId64 " %8.3f%% %12.5g %13.4f\n", c->sizes[i],
            100 * (double)c->sizes[i] / (double)edges, c->metric[i], c->faithfulness[i]);
    printf("%10s %9s %12.5g %13d\n%10s %9s %12.5g %13d\n", "all", "", c->run, 1, "none", "",
        c->other, 0);
    if (c->n > 1) printf("CPR %.4f  CMD %.4f\n", c->cpr, c->cmd);
}

static void print_number(double x)
{
    if (isfinite(x)) printf("%.9g", x);
    else printf("null");
}

static void print_json(const circuits *c)
{
    printf("{\n  \"seconds\": %.6f,\n  \"run\": %.9g,\n  \"other\": %.9g,\n  \"CPR\": ",
        c->s.seconds, c->run, c->other);
    print_number(c->cpr);
    printf(",\n  \"CMD\": ");
    print_number(c->cmd);
    printf(",\n  \"circuits\": [");
    for (int i = 0; i < c->n; i++) {
        printf("%s\n    {\"edges\": %" PRId64 ", \"metric\": %.9g, \"faithfulness\": ",
            i ? "," : "", c->sizes[i], c->metric[i]);
        print_number(c->faithfulness[i]);
        printf("}");
    }
    printf("\n  ]\n}\n");
}

/* Edges kept in none, in all, and in each size. */
static int run_sizes(circuits *c, const float *scores, unsigned char *kept, int64_t edges)
{
    inset_edges *e = c->s.edges;
    for (int i = -2; i < c->n; i++) {
        inset_cost cost;
        double *to = i == -2 ? &c->other : i == -1 ? &c->run : &c->metric[i];
        const int64_t size = i == -2 ? 0 : i == -1 ? edges : c->sizes[i];
        /* all of them are all, however they are chosen */
        if (inset_edges_choose(e, scores, size == edges ? "abs" : c->s.given->by, size, kept))
            return report(c->s.context, EXIT_REQUEST);
        if (!c->s.given->dry_run) {
            if (inset_edges_circuit(e, kept, to)) return report(c->s.context, EXIT_MACHINE);
            continue;
        }
        if (inset_edges_circuit_cost(e, kept, &cost)) return report(c->s.context, EXIT_MACHINE);
        cost.rows += c->cost.rows, cost.flops += c->cost.flops; /* one after the other */
        if (cost.device_bytes < c->cost.device_bytes) cost.device_bytes = c->cost.device_bytes;
        c->cost = cost;
    }
    if (c->s.given->dry_run) return EXIT_OK;
    for (int i = 0; i < c->n; i++)
        c->faithfulness[i] = (c->metric[i] - c->other) / (c->run - c->other) + 0.0; /* no -0 */
    take_areas(c, edges);
    return EXIT_OK;
}

static bool write_csv(const void *what, FILE *to)
{
    const circuits *c = what;
    fprintf(to, "edges,metric,faithfulness\n");
    for (int i = 0; i < c->n; i++)
        fprintf(to, "%" PRId64 ",%.9g,%.9g\n", c->sizes[i], c->metric[i], c->faithfulness[i]);
    return !ferror(to);
}

enum { PLOT_WIDTH = 460, PLOT_HEIGHT = 280, PLOT_MARGIN = 50 };

/* Faithfulness over the edges kept, on a logarithmic scale of them. */
static bool write_svg(const void *what, FILE *to)
{
    const circuits *c = what;
    double low = 0, high = 1, left = 0, right = 1;
    for (int i = 0; i < c->n; i++) {
        low = fmin(low, c->faithfulness[i]), high = fmax(high, c->faithfulness[i]);
        right = fmax(right, log10(1 + (double)c->sizes[i]));
    }
#define X(n) \
    (PLOT_MARGIN + (PLOT_WIDTH - 2 * PLOT_MARGIN) * (log10(1 + (double)(n)) - left) / right)
#define Y(f) \
    (PLOT_HEIGHT - PLOT_MARGIN - (PLOT_HEIGHT - 2 * PLOT_MARGIN) * ((f)-low) / (high - low))
    fprintf(to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d "
        "%d\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" "
        "fill=\"white\"/>\n",
        PLOT_WIDTH, PLOT_HEIGHT, PLOT_WIDTH, PLOT_HEIGHT);
    for (int k = 0; k < 2; k++)
        fprintf(to,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ccc\"/><text x=\"%d\" "
            "y=\"%.1f\" text-anchor=\"end\">%d</text>\n",
            PLOT_MARGIN, PLOT_WIDTH - PLOT_MARGIN, Y(k), Y(k), PLOT_MARGIN - 6, Y(k) + 4, k);
    fprintf(to, "<polyline fill=\"none\" stroke=\"#2166ac\" stroke-width=\"2\" points=\"");
    for (int i = 0; i < c->n; i++) fprintf(to, "%.1f,%.1f ", X(c->sizes[i]), Y(c->faithfulness[i]));
    fprintf(to, "\"/>\n");
    for (int i = 0; i < c->n; i++)
        fprintf(to,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"#2166ac\"/><text x=\"%.1f\" y=\"%d\" "
            "text-anchor=\"middle\" font-size=\"10\">%" PRId64 "</text>\n",
            X(c->sizes[i]), Y(c->faithfulness[i]), X(c->sizes[i]),
            PLOT_HEIGHT - PLOT_MARGIN + 16 + 11 * (i % 2), c->sizes[i]);
    fprintf(to,
        "<text x=\"%d\" y=\"20\" text-anchor=\"middle\">faithfulness of the strongest "
        "edges</text>\n"
        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">edges kept</text>\n</svg>\n",
        PLOT_WIDTH / 2, PLOT_WIDTH / 2, PLOT_HEIGHT - 8);
#undef X
#undef Y
    return !ferror(to);
}

static int write_files(const circuits *c)
{
    const options *given = c->s.given;
    int status = given->output ? write_file(given->output, write_csv, c) : EXIT_OK;
    return status || !given->plot ? status : write_file(given->plot, write_svg, c);
}

static int run(circuits *c)
{
    static const char usual[] = "0.1%,0.2%,0.5%,1%,2%,5%,10%,20%,50%,100%";
    const options *given = c->s.given;
    inset_edge_result r;
    int status = open_edges(&c->s);
    if (status) return status;
    if (inset_edges_ablate(c->s.edges, given->ablation)) return report(c->s.context, EXIT_REQUEST);
    if (inset_edges_result(c->s.edges, 0, &r)) return report(c->s.context, EXIT_MACHINE);
    if ((status = read_sizes(c, given->sizes ? given->sizes : usual, r.edges))) return status;
    const size_t all = (size_t)(r.sources * r.destinations);
    float *scores = malloc(all * sizeof *scores);
    unsigned char *kept = malloc(all);
    const double started = now_seconds();
    if (!scores || !kept) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        status = EXIT_MACHINE;
    } else if (inset_edges_read(c->s.edges, given->edges_from, scores)) {
        status = report(c->s.context, EXIT_REQUEST);
    } else {
        status = run_sizes(c, scores, kept, r.edges);
    }
    c->s.seconds = now_seconds() - started;
    if (!status && given->dry_run) {
        show_cost(&c->cost, given->json);
    } else if (!status && !(status = write_files(c))) {
        if (given->json) print_json(c);
        else show(c, r.edges);
    }
    free(scores);
    free(kept);
    return status;
}

int command_circuit(const options *given)
{
    /* the other run is the base's own, ablated */
    options own = *given;
    if (given->ablation && strcmp(given->ablation, "other") && !given->corrupt)
        own.corrupt = given->clean;
    given = &own;
    circuits c = {.s = {.given = given}};
    if (given->output && !ends_with(given->output, ".csv"))
        return usage_error("circuit", "-o: OUT.csv was expected, found '%s'", given->output);
    if (given->plot && !ends_with(given->plot, ".svg"))
        return usage_error("circuit", "--plot: FILE.svg was expected, found '%s'", given->plot);
    int place = check_place(given, given->output);
    if (!place) place = check_place(given, given->plot);
    if (place) return place;
    if (inset_context_create(NULL, &c.s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    int status = run(&c);
    inset_context_free(c.s.context);
    return status ? status : finish_output();
}
