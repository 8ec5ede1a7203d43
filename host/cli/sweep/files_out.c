/* files_out.c: results for programs: JSON on standard output, CSV, npy. (safetensors is the
 * library's.) */
#include "cli/sweep/sweep.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- JSON --------------------------------------------------------------- */

static void print_number(double x)
{
    if (isfinite(x)) printf("%.9g", x);
    else printf("null");
}

/* Nested lists of the axes from `axis` on; returns what follows the numbers used. */
static const float *print_nested(const inset_sweep_result *r, int axis, const float *at)
{
    if (axis == r->n_axes) {
        print_number(*at);
        return at + 1;
    }
    putchar('[');
    for (int64_t i = 0; i < r->axes[axis].count; i++) {
        if (i) printf(", ");
        at = print_nested(r, axis + 1, at);
    }
    putchar(']');
    return at;
}

static void print_labels(const inset_sweep_axis *axis)
{
    putchar('[');
    for (int64_t i = 0; i < axis->count; i++) {
        if (i) printf(", ");
        if (axis->names) print_json_text(stdout, axis->names[i]);
        else printf("%" PRId64, axis->labels[i]);
    }
    putchar(']');
}

/* The tokens of an axis of positions, where they are known. */
static void print_texts(const inset_sweep_result *r)
{
    for (int k = 0; k < r->n_axes; k++) {
        const inset_sweep_axis *axis = &r->axes[k];
        for (int64_t i = 0; axis->texts && i < axis->count; i++) {
            printf("%s", i ? ", " : ",\n     \"tokens\": [");
            print_json_text(stdout, axis->texts[i]);
            if (i + 1 == axis->count) putchar(']');
        }
    }
}

static void print_list(const char *name, const float *x, int64_t count)
{
    printf(",\n     \"%s\": [", name);
    for (int64_t i = 0; i < count; i++) {
        if (i) printf(", ");
        print_number(x[i]);
    }
    putchar(']');
}

static void print_result(const inset_sweep_result *r)
{
    printf("    {\"site\": ");
    print_json_text(stdout, r->site);
    printf(", \"metric\": ");
    print_json_text(stdout, r->metric);
    printf(", \"axes\": [");
    for (int i = 0; i < r->n_axes; i++) printf("%s\"%s\"", i ? ", " : "", r->axes[i].name);
    printf("],\n     \"labels\": [");
    for (int i = 0; i < r->n_axes; i++) {
        if (i) printf(", ");
        print_labels(&r->axes[i]);
    }
    printf("]");
    print_texts(r);
    printf(",\n     \"values\": [");
    for (int64_t pair = 0; pair < r->pairs; pair++) {
        if (pair) printf(",\n       ");
        print_nested(r, 0, r->values + pair * r->points);
    }
    printf("],\n     \"mean\": ");
    print_nested(r, 0, r->mean);
    print_list("clean", r->clean, r->pairs);
    print_list("corrupt", r->corrupt, r->pairs);
    putchar('}');
}

static void print_verified(const inset_verified *v, size_t n, double rank)
{
    printf("],\n  \"rank_correlation\": ");
    if (isfinite(rank)) printf("%.9g", rank);
    else printf("null");
    printf(",\n  \"verified\": [");
    for (size_t i = 0; i < n; i++) {
        printf("%s\n    {\"site\": \"%s\"", i ? "," : "", v[i].site);
        for (int k = 0; k < v[i].n_axes; k++)
            printf(", \"%s\": %" PRId64, v[i].axes[k], v[i].at[k]);
        printf(", \"score\": %.9g, \"exact\": %.9g}", v[i].score, v[i].exact);
    }
}

void sweep_print_json(inset_sweep *sweep, double seconds, bool fast, const inset_verified *verified,
    size_t n_verified, double rank)
{
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    inset_sweep_result r;
    inset_sweep_progress_of(sweep, &is);
    printf("{\n  \"patches\": %" PRId64
           ",\n  \"fast\": %s,\n  \"seconds\": %.6f,\n  \"rows\": %" PRId64
           ",\n  \"flops\": %.0f,\n  \"plans\": %" PRId64 ",\n  \"results\": [",
        is.patches, fast ? "true" : "false", seconds, is.rows, is.flops, is.plans);
    for (size_t i = 0; i < inset_sweep_result_count(sweep) && !inset_sweep_result_at(sweep, i, &r);
         i++) {
        printf(i ? ",\n" : "\n");
        print_result(&r);
    }
    if (n_verified) print_verified(verified, n_verified, rank);
    printf("]\n}\n");
}

/* ---- CSV ---------------------------------------------------------------- */

/* A field, quoted when it has to be. */
static void write_field(FILE *to, const char *text)
{
    if (!strpbrk(text, ",\"\n")) {
        fputs(text, to);
        return;
    }
    fputc('"', to);
    for (; *text; text++) {
        if (*text == '"') fputc('"', to);
        fputc(*text, to);
    }
    fputc('"', to);
}

static void write_numbers(FILE *to, const double *x, int n)
{
    for (int i = 0; i < n; i++) {
        fputc(',', to);
        if (isfinite(x[i])) fprintf(to, "%.9g", x[i]);
    }
    fputc('\n', to);
}

/* Axes as columns; those from USUAL on are there when a result has them. */
static const struct {
    const char *axis, *column;
} columns[] = {{"site", "member"}, {"layer", "layer"}, {"position", "position"}, {"head", "head"},
    {"destination", "destination"}, {"key_value_head", "key_value_head"}, {"feature", "feature"}};
enum { COLUMNS = sizeof columns / sizeof *columns, USUAL = 4 };

static bool any_has_axis(inset_sweep *sweep, const char *name)
{
    inset_sweep_result r;
    for (size_t i = 0; i < inset_sweep_result_count(sweep) && !inset_sweep_result_at(sweep, i, &r);
         i++)
        for (int k = 0; k < r.n_axes; k++)
            if (!strcmp(r.axes[k].name, name)) return true;
    return false;
}

static const inset_sweep_axis *axis_of(const inset_sweep_result *r, const char *name)
{
    for (int k = 0; k < r->n_axes; k++)
        if (!strcmp(r->axes[k].name, name)) return &r->axes[k];
    return NULL;
}

/* Positions have tokens beside them when their prompts were texts. */
static bool any_has_texts(inset_sweep *sweep)
{
    inset_sweep_result r;
    for (size_t i = 0; i < inset_sweep_result_count(sweep) && !inset_sweep_result_at(sweep, i, &r);
         i++)
        for (int k = 0; k < r.n_axes; k++)
            if (r.axes[k].texts) return true;
    return false;
}

static void write_token(FILE *to, const inset_sweep_result *r, int64_t point)
{
    const inset_sweep_axis *axis = axis_of(r, "position");
    if (!axis) axis = axis_of(r, "destination");
    fputc(',', to);
    if (!axis || !axis->texts) return;
    for (int k = r->n_axes - 1; &r->axes[k] != axis; k--) point /= r->axes[k].count;
    write_field(to, axis->texts[point % axis->count]);
}

static void write_rows(FILE *to, const inset_sweep_result *r, const bool *shown, bool tokens)
{
    char label[64];
    for (int64_t i = 0; i < r->pairs * r->points; i++) {
        write_field(to, r->site);
        fputc(',', to);
        write_field(to, r->metric);
        fprintf(to, ",%" PRId64, i / r->points);
        for (int c = 0; c < COLUMNS; c++) {
            if (!shown[c]) continue;
            int64_t below = i % r->points;
            *label = 0;
            for (int k = r->n_axes - 1; k >= 0; below /= r->axes[k--].count)
                if (!strcmp(r->axes[k].name, columns[c].axis))
                    axis_label(&r->axes[k], below % r->axes[k].count, label, sizeof label);
            fprintf(to, ",%s", label);
        }
        if (tokens) write_token(to, r, i % r->points);
        const double numbers[] = {
            r->values[i], r->normalised[i], r->clean[i / r->points], r->corrupt[i / r->points]};
        write_numbers(to, numbers, 4);
    }
}

bool csv_write(inset_sweep *sweep, FILE *to)
{
    inset_sweep_result r;
    bool shown[COLUMNS];
    const bool tokens = any_has_texts(sweep);
    fputs("site,metric,pair", to);
    for (int c = 0; c < COLUMNS; c++) {
        shown[c] = c < USUAL || any_has_axis(sweep, columns[c].axis);
        if (shown[c]) fprintf(to, ",%s", columns[c].column);
    }
    fprintf(to, "%s,value,normalised,clean,corrupt\n", tokens ? ",token" : "");
    for (size_t i = 0; i < inset_sweep_result_count(sweep) && !inset_sweep_result_at(sweep, i, &r);
         i++)
        write_rows(to, &r, shown, tokens);
    return !ferror(to);
}

/* ---- npy ---------------------------------------------------------------- */

/* Version 1: magic, length of the header, a Python dictionary padded so that the data begins at a
 * multiple of 64. */
bool npy_write(inset_sweep *sweep, FILE *to)
{
    inset_sweep_result r;
    char header[512];
    if (inset_sweep_result_at(sweep, 0, &r)) return false;
    int n = snprintf(header, sizeof header,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ",", r.pairs);
    for (int i = 0; i < r.n_axes; i++)
        n += snprintf(header + n, sizeof header - (size_t)n, " %" PRId64 ",", r.axes[i].count);
    n += snprintf(header + n, sizeof header - (size_t)n, "), }");
    while ((10 + n + 1) % 64) header[n++] = ' ';
    header[n++] = '\n';
    fwrite("\x93NUMPY\x01\x00", 8, 1, to);
    fputc(n & 255, to);
    fputc(n >> 8, to);
    fwrite(header, (size_t)n, 1, to);
    fwrite(r.values, sizeof *r.values, (size_t)(r.pairs * r.points), to);
    return !ferror(to);
}
