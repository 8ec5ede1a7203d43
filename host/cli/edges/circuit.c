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

#include "cli/edges/edges.h"

enum { MOST_SIZES = 256 };

typedef struct circuits {
    session_of_edges s;
    int64_t sizes[MOST_SIZES];
    double metric[MOST_SIZES], faithfulness[MOST_SIZES];
    int n;
    double run, other, cpr, cmd;
    inset_cost cost;             /* of all sizes, where nothing is to be run */
    float *scores;               /* [edges], from the file */
    int64_t n_edges, all, pairs; /* edges there are; places for one; pairs of prompts */
} circuits;

/* What the units of one device read: which circuit they are of, and its edges. */
typedef struct circuit_at_work {
    const circuits *of;
    int64_t size; /* index of sizes; -2: none of the edges; -1: all; MOST_SIZES: not chosen yet */
    unsigned char kept[];
} circuit_at_work;

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

/* Edges kept in none (-2), in all (-1), or in a size. */
static inset_status choose(const circuits *c, inset_edges *e, int64_t i, unsigned char *kept)
{
    const int64_t size = i == -2 ? 0 : i == -1 ? c->n_edges : c->sizes[i];
    /* all of them are all, however they are chosen */
    return inset_edges_choose(
        e, c->scores, size == c->n_edges ? "abs" : c->s.given->by, size, kept);
}

/* One circuit of one pair: those of a circuit follow each other. */
static inset_status run_one(void *of, inset_edges *e, int64_t unit, double *metric)
{
    circuit_at_work *at = of;
    const int64_t i = unit / at->of->pairs - 2;
    if (i != at->size) {
        inset_status status = choose(at->of, e, i, at->kept);
        if (status) return status;
        at->size = i;
    }
    return inset_edges_circuit_pair(e, at->kept, unit % at->of->pairs, metric);
}

static int open_units(const circuits *c, inset_edges *e, units *u)
{
    circuit_at_work *own = malloc(sizeof *own + (size_t)c->all);
    if (!own) return fprintf(stderr, "MemoryError: out of memory on the host\n"), EXIT_MACHINE;
    *own = (circuit_at_work){.of = c, .size = MOST_SIZES};
    *u = (units){.edges = e,
        .n = (c->n + 2) * c->pairs,
        .most = 1,
        .run = run_one,
        .of = own,
        .hash = units_hash(units_hash(units_hash(1, c->scores, (size_t)c->all * sizeof *c->scores),
                               c->sizes, (size_t)c->n * sizeof *c->sizes),
            c->s.given->ablation ? c->s.given->ablation : "",
            c->s.given->ablation ? strlen(c->s.given->ablation) : 0)};
    return units_open(u);
}

static void close_units(units *u)
{
    units_close(u);
    free(u->of);
}

static int same_circuits(void *of, edge_helper *h, work *out)
{
    circuits *c = of;
    if (inset_edges_ablate(h->edges, c->s.given->ablation)) return report(h->context, EXIT_REQUEST);
    const int status = open_units(c, h->edges, &h->units);
    *out = work_of_units(h->context, h->model, &h->units);
    return status;
}

static void end_circuits(edge_helper *h) { close_units(&h->units); }

/* The mean over pairs of a circuit's units. */
static double mean_of(const circuits *c, const units *u, int64_t i)
{
    double sum = 0;
    for (int64_t pair = 0; pair < c->pairs; pair++) sum += u->numbers[(i + 2) * c->pairs + pair];
    return sum / (double)c->pairs;
}

static void take_numbers(circuits *c, const units *u)
{
    c->other = mean_of(c, u, -2);
    c->run = mean_of(c, u, -1);
    for (int i = 0; i < c->n; i++) {
        c->metric[i] = mean_of(c, u, i);
        c->faithfulness[i] = (c->metric[i] - c->other) / (c->run - c->other) + 0.0; /* no -0 */
    }
    take_areas(c, c->n_edges);
}

/* Of all sizes, one after the other. */
static int take_cost(circuits *c)
{
    unsigned char *kept = malloc((size_t)c->all);
    int status = kept ? EXIT_OK : EXIT_MACHINE;
    for (int64_t i = -2; i < c->n && !status; i++) {
        inset_cost cost;
        if (choose(c, c->s.edges, i, kept)) status = report(c->s.context, EXIT_REQUEST);
        else if (inset_edges_circuit_cost(c->s.edges, kept, &cost))
            status = report(c->s.context, EXIT_MACHINE);
        if (status) break;
        cost.rows += c->cost.rows, cost.flops += c->cost.flops;
        if (cost.device_bytes < c->cost.device_bytes) cost.device_bytes = c->cost.device_bytes;
        c->cost = cost;
    }
    free(kept);
    if (!status && session_is_first(&c->s)) show_cost(&c->cost, c->s.given->json);
    return status;
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

/* The edges, what is let go of them, the sizes and the scores. */
static int prepare(circuits *c)
{
    static const char usual[] = "0.1%,0.2%,0.5%,1%,2%,5%,10%,20%,50%,100%";
    const options *given = c->s.given;
    inset_edge_result r;
    int status = session_make_edges(&c->s);
    if (status) return status;
    if (inset_edges_ablate(c->s.edges, given->ablation)) return report(c->s.context, EXIT_REQUEST);
    if (inset_edges_result(c->s.edges, 0, &r)) return report(c->s.context, EXIT_MACHINE);
    if ((status = read_sizes(c, given->sizes ? given->sizes : usual, r.edges))) return status;
    c->n_edges = r.edges, c->all = r.sources * r.destinations, c->pairs = r.pairs;
    c->scores = malloc((size_t)c->all * sizeof *c->scores);
    if (!c->scores)
        return fprintf(stderr, "MemoryError: out of memory on the host\n"), EXIT_MACHINE;
    if (inset_edges_read(c->s.edges, given->edges_from, c->scores))
        return report(c->s.context, EXIT_REQUEST);
    return EXIT_OK;
}

static int show_all(circuits *c, const units *u)
{
    take_numbers(c, u);
    const int status = write_files(c);
    if (status) return status;
    if (c->s.given->json) print_json(c);
    else show(c, c->n_edges);
    return EXIT_OK;
}

static int run(circuits *c)
{
    const work_elsewhere elsewhere = {same_circuits, end_circuits, c};
    units u = {.n = 0};
    int status = prepare(c);
    if (!status && c->s.given->dry_run) return take_cost(c);
    if (!status) status = open_units(c, c->s.edges, &u);
    const work w = work_of_units(c->s.context, c->s.model, &u);
    status = session_work(&c->s, status, &w, &elsewhere);
    if (!status && session_is_first(&c->s)) status = show_all(c, &u);
    close_units(&u);
    return status;
}

static int check_files(session_of_edges *s)
{
    const int status = check_place(s->given, s->given->output);
    return status ? status : check_place(s->given, s->given->plot);
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
    int status = session_open(&c.s, check_files);
    if (!status) status = run(&c);
    free(c.scores);
    return session_close(&c.s, status);
}
