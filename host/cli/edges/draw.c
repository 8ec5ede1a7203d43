/* draw.c: the strongest edges as a drawing by layer, for Graphviz, and as the JSON that
 * EAP-IG's Graph.from_json reads. A node is a head or an MLP, whatever of it reads. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/edges/edges.h"

/* "a3.h1<q>" -> "a3.h1", in `out`. */
static void node_of(const char *reader, char *out, size_t size)
{
    snprintf(out, size, "%.*s", (int)strcspn(reader, "<"), reader);
}

typedef struct place {
    char name[24];
    int row, column; /* row 0 at the bottom */
    bool shown;
} place;

typedef struct layout {
    place *at;
    int n, rows, columns;
} layout;

/* Rows from the input up: a layer's heads, its MLP, at last the logits. */
static bool lay_out(const inset_edge_result *r, layout *l)
{
    l->at = calloc((size_t)r->sources + 1, sizeof *l->at);
    if (!l->at) return false;
    int row = 0, column = 0;
    for (int64_t i = 0; i < r->sources; i++) {
        const char *name = r->source_names[i];
        const bool head = name[0] == 'a', again = head && i && r->source_names[i - 1][0] == 'a';
        if (i && !again) row++, column = 0;
        place *p = &l->at[l->n++];
        snprintf(p->name, sizeof p->name, "%s", name);
        p->row = row, p->column = column++;
        if (column > l->columns) l->columns = column;
    }
    place *last = &l->at[l->n++];
    snprintf(last->name, sizeof last->name, "logits");
    last->row = row + 1;
    l->rows = row + 2;
    return true;
}

static place *find(layout *l, const char *name)
{
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->at[i].name, name)) return &l->at[i];
    return &l->at[0];
}

enum { CELL_X = 74, CELL_Y = 58, MARGIN = 40 };

static double x_of(const layout *l, const place *p)
{
    int in_row = 0;
    for (int i = 0; i < l->n; i++) in_row += l->at[i].row == p->row;
    return MARGIN + CELL_X * (p->column + 0.5 * (l->columns - in_row) + 0.5);
}

static double y_of(const layout *l, const place *p)
{
    return MARGIN + CELL_Y * (l->rows - 1 - p->row + 0.5);
}

static void write_edges(
    FILE *to, const inset_edge_result *r, layout *l, const int64_t *list, int64_t n)
{
    const double most = n ? fabs((double)r->mean[list[0]]) : 1;
    for (int64_t i = n; i-- > 0;) {
        char name[24];
        node_of(r->destination_names[list[i] % r->destinations], name, sizeof name);
        place *a = find(l, r->source_names[list[i] / r->destinations]), *b = find(l, name);
        const double score = (double)r->mean[list[i]], share = most > 0 ? fabs(score) / most : 0,
                     x0 = x_of(l, a), y0 = y_of(l, a) - 11, x1 = x_of(l, b), y1 = y_of(l, b) + 11;
        a->shown = b->shown = true;
        fprintf(to,
            "<path d=\"M%.1f %.1f C%.1f %.1f %.1f %.1f %.1f %.1f\" fill=\"none\" stroke=\"%s\" "
            "stroke-width=\"%.2f\" stroke-opacity=\"%.2f\"><title>%s to ",
            x0, y0, x0, (y0 + y1) / 2, x1, (y0 + y1) / 2, x1, y1, score < 0 ? "#b2182b" : "#2166ac",
            0.6 + 3.4 * share, 0.35 + 0.6 * share, a->name);
        for (const char *c = r->destination_names[list[i] % r->destinations]; *c; c++)
            fputs(*c == '<' ? "&lt;" : *c == '>' ? "&gt;" : (char[2]){*c, 0}, to);
        fprintf(to, ": %.4g</title></path>\n", score);
    }
}

bool edges_svg_write(const void *drawing, FILE *to)
{
    const edge_drawing *d = drawing;
    inset_edge_result r;
    layout l = {0};
    if (inset_edges_result(d->edges, 0, &r)) return false;
    int64_t n = d->top, *list = edges_strongest(d->edges, &r, &n);
    if (!list || !lay_out(&r, &l)) {
        free(list);
        return false;
    }
    const int width = 2 * MARGIN + CELL_X * l.columns, height = 2 * MARGIN + CELL_Y * l.rows;
    fprintf(to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d "
        "%d\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" "
        "fill=\"white\"/>\n",
        width, height, width, height);
    write_edges(to, &r, &l, list, n);
    for (int i = 0; i < l.n; i++)
        fprintf(to,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"56\" height=\"22\" rx=\"5\" fill=\"%s\" "
            "stroke=\"%s\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" "
            "fill=\"%s\">%s</text>\n",
            x_of(&l, &l.at[i]) - 28, y_of(&l, &l.at[i]) - 11, l.at[i].shown ? "#f7f7f7" : "white",
            l.at[i].shown ? "#444" : "#ddd", x_of(&l, &l.at[i]), y_of(&l, &l.at[i]) + 4,
            l.at[i].shown ? "#000" : "#bbb", l.at[i].name);
    fprintf(to, "</svg>\n");
    free(l.at);
    free(list);
    return !ferror(to);
}

bool dot_write(const void *drawing, FILE *to)
{
    const edge_drawing *d = drawing;
    inset_edge_result r;
    if (inset_edges_result(d->edges, 0, &r)) return false;
    int64_t n = d->top, *list = edges_strongest(d->edges, &r, &n);
    if (!list) return false;
    const double most = n ? fabs((double)r.mean[list[0]]) : 1;
    fprintf(to, "digraph circuit {\n  rankdir=BT;\n  node [shape=box, style=rounded];\n");
    for (int64_t i = 0; i < n; i++) {
        const char *reader = r.destination_names[list[i] % r.destinations],
                   *part = strchr(reader, '<');
        const double score = (double)r.mean[list[i]];
        char name[24];
        node_of(reader, name, sizeof name);
        fprintf(to, "  \"%s\" -> \"%s\" [label=\"%.*s %.3g\", color=\"%s\", penwidth=%.2f];\n",
            r.source_names[list[i] / r.destinations], name, part ? 1 : 0, part ? part + 1 : "",
            score, score < 0 ? "#b2182b" : "#2166ac",
            most > 0 ? 0.6 + 3.4 * fabs(score) / most : 1);
    }
    fprintf(to, "}\n");
    free(list);
    return !ferror(to);
}

/* {"cfg": {...}, "nodes": {name: {"in_graph": b}}, "edges": {"u->v": {"score": x, "in_graph": b}}};
 * what is in the graph are the strongest edges, and the nodes at their ends. */
static void write_graph(
    FILE *to, inset_edges *e, const inset_edge_result *r, const unsigned char *kept, layout *nodes)
{
    bool first = true;
    fprintf(to,
        "{\"cfg\": {\"n_layers\": %d, \"n_heads\": %d, \"parallel_attn_mlp\": %s, \"d_model\": "
        "%d},\n"
        "\"nodes\": {",
        r->layers, r->heads, r->parallel ? "true" : "false", r->width);
    for (int i = 0; i < nodes->n; i++)
        fprintf(to, "%s\"%s\": {\"in_graph\": %s}", i ? ", " : "", nodes->at[i].name,
            nodes->at[i].shown ? "true" : "false");
    fprintf(to, "},\n\"edges\": {");
    for (int64_t i = 0; i < r->sources * r->destinations; i++) {
        if (!inset_edge_exists(e, i / r->destinations, i % r->destinations)) continue;
        fprintf(to, "%s\n\"%s->%s\": {\"score\": %.9g, \"in_graph\": %s}", first ? "" : ",",
            r->source_names[i / r->destinations], r->destination_names[i % r->destinations],
            (double)r->mean[i], kept[i] ? "true" : "false");
        first = false;
    }
    fprintf(to, "}}\n");
}

bool graph_json_write(const void *drawing, FILE *to)
{
    const edge_drawing *d = drawing;
    inset_edge_result r;
    layout nodes = {0};
    if (inset_edges_result(d->edges, 0, &r)) return false;
    int64_t n = d->top, *list = edges_strongest(d->edges, &r, &n);
    unsigned char *kept = calloc((size_t)(r.sources * r.destinations), 1);
    const bool fine = list && kept && lay_out(&r, &nodes);
    for (int64_t i = 0; i < n && fine; i++) {
        char name[24];
        kept[list[i]] = 1;
        node_of(r.destination_names[list[i] % r.destinations], name, sizeof name);
        find(&nodes, name)->shown = true;
        find(&nodes, r.source_names[list[i] / r.destinations])->shown = true;
    }
    if (fine) write_graph(to, d->edges, &r, kept, &nodes);
    free(nodes.at);
    free(list);
    free(kept);
    return fine && !ferror(to);
}
