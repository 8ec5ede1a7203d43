/* svg.c: heat maps as one SVG, a panel a site and metric.
 *
 * Colour is laid over whatever is behind the picture: red above 0, blue below, more opaque the
 * further from 0, so that 0 is the page's own background, light or dark. Text and lines are a grey
 * that reads on both. Every cell has its place and number as a tooltip. */
#include "cli/sweep/sweep.h"

#include <math.h>
#include <string.h>

enum {
    PAGE = 1100, /* width that panels are set in */
    MARGIN_LEFT = 64,
    MARGIN_TOP = 44,
    MARGIN_RIGHT = 84,
    MARGIN_BOTTOM = 50, /* of a panel, for titles, labels and the scale */
    BIGGEST_CELL = 40,
    SMALLEST_CELL = 7,
    CELL_WITH_NUMBER = 30,
    TEXT = 12, /* pixels */
    BAR = 12,
    BAR_STEPS = 41
};
#define GREY "#7b8794"
#define ABOVE "#d6453d"
#define BELOW "#3273c6"

typedef struct layout {
    double cell, width, height, left;
} layout;

static void write_escaped(FILE *to, const char *text)
{
    for (; *text; text++) {
        if (*text == '<') fputs("&lt;", to);
        else if (*text == '>') fputs("&gt;", to);
        else if (*text == '&') fputs("&amp;", to);
        else if (*text == '"') fputs("&quot;", to);
        else fputc(*text, to);
    }
}

static void write_text(
    FILE *to, double x, double y, const char *anchor, const char *extra, const char *text)
{
    fprintf(to, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, extra);
    write_escaped(to, text);
    fputs("</text>\n", to);
}

static double text_width(const char *text) { return 0.6 * TEXT * (double)strlen(text); }

/* Of the widest of an axis's labels where they are tokens; 0: they are not. */
static double tokens_width(const inset_sweep_axis *axis, int64_t count)
{
    double most = 0;
    char label[64];
    for (int64_t i = 0; axis && axis->texts && i < count; i++) {
        axis_label_with_text(axis, i, label, sizeof label);
        if (text_width(label) > most) most = text_width(label);
    }
    return most;
}

/* Room that tokens under the columns take, turned. */
static double words_height(const panel *p) { return tokens_width(p->column_axis, p->columns); }

/* Room to the left of the rows. */
static double left_of(const panel *p)
{
    const double most = tokens_width(p->row_axis, p->rows);
    return most > 0 ? MARGIN_LEFT - 30 + most : MARGIN_LEFT;
}

static layout panel_layout(const panel *p)
{
    double cell = 720.0 / (double)p->columns, by_rows = 720.0 / (double)p->rows;
    if (by_rows < cell) cell = by_rows;
    if (cell > BIGGEST_CELL) cell = BIGGEST_CELL;
    if (cell < SMALLEST_CELL) cell = SMALLEST_CELL;
    double wide = left_of(p) + cell * (double)p->columns, title = text_width(p->title) + 16;
    if (title > wide) wide = title;
    double tall = cell * (double)p->rows;
    return (layout){cell, wide + MARGIN_RIGHT,
        MARGIN_TOP + (tall < 80 ? 80 : tall) + MARGIN_BOTTOM + words_height(p), left_of(p)};
}

static void write_cell(
    FILE *to, const panel *p, const layout *l, int64_t row, int64_t column, double scale)
{
    char a[64], b[64], number[32];
    double value = p->values[row * p->columns + column], x = l->left + l->cell * (double)column,
           y = MARGIN_TOP + l->cell * (double)row;
    axis_label_with_text(p->row_axis, row, a, sizeof a);
    axis_label_with_text(p->column_axis, column, b, sizeof b);
    if (!isfinite(value)) {
        fprintf(to,
            "<path d=\"M%.1f %.1fl%.1f %.1f\" stroke=\"" GREY "\" stroke-opacity=\".5\"/>\n", x,
            y + l->cell, l->cell, -l->cell);
        return;
    }
    double strength = fabs(value) / scale;
    fprintf(to,
        "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\" "
        "fill-opacity=\"%.3f\"><title>",
        x, y, l->cell, l->cell, value > 0 ? ABOVE : BELOW, strength);
    if (p->row_axis) {
        fprintf(to, "%s ", p->row_axis->name);
        write_escaped(to, a);
        fputs(", ", to);
    }
    if (p->column_axis) {
        fprintf(to, "%s ", p->column_axis->name);
        write_escaped(to, b);
        fputs(": ", to);
    }
    fprintf(to, "%.4g</title></rect>\n", value);
    if (l->cell < CELL_WITH_NUMBER) return;
    panel_number(value, scale, number, sizeof number);
    write_text(to, x + l->cell / 2, y + l->cell / 2 + 4, "middle",
        strength > 0.45 ? " font-size=\"11\" fill=\"#fff\"" : " font-size=\"11\"", number);
}

/* Labels of a side; as many as there is room for. */
static void write_labels(FILE *to, const inset_sweep_axis *axis, int64_t count, const layout *l,
    bool below, double bottom)
{
    char label[64];
    double free_from = -1e9;
    for (int64_t i = 0; axis && i < count; i++) {
        axis_label_with_text(axis, i, label, sizeof label);
        double middle = l->cell * ((double)i + 0.5),
               half = below && !axis->texts ? text_width(label) / 2 : TEXT / 2.0;
        if (middle - half < free_from) continue;
        free_from = middle + half + 3;
        if (below && axis->texts) {
            char turned[96];
            snprintf(turned, sizeof turned, " transform=\"rotate(-90 %.1f %.1f)\"",
                l->left + middle + 4, bottom + 6);
            write_text(to, l->left + middle + 4, bottom + 6, "end", turned, label);
        } else if (below) write_text(to, l->left + middle, bottom + 16, "middle", "", label);
        else write_text(to, l->left - 6, MARGIN_TOP + middle + 4, "end", "", label);
    }
}

/* The colour scale at the right, from `scale` down to its negative. */
static void write_scale(FILE *to, const panel *p, const layout *l, double scale)
{
    char number[32];
    double x = l->left + l->cell * (double)p->columns + 16, height = l->cell * (double)p->rows,
           step;
    if (height < 80) height = 80;
    step = height / BAR_STEPS;
    for (int i = 0; i < BAR_STEPS; i++) {
        double at = 1 - 2.0 * i / (BAR_STEPS - 1);
        fprintf(to,
            "<rect x=\"%.1f\" y=\"%.2f\" width=\"%d\" height=\"%.2f\" fill=\"%s\" "
            "fill-opacity=\"%.3f\"/>\n",
            x, MARGIN_TOP + step * i, BAR, step, at > 0 ? ABOVE : BELOW, fabs(at));
    }
    fprintf(to,
        "<rect x=\"%.1f\" y=\"%d\" width=\"%d\" height=\"%.1f\" fill=\"none\" stroke=\"" GREY
        "\"/>\n",
        x, MARGIN_TOP, BAR, height);
    for (int i = -1; i <= 1; i++) {
        snprintf(number, sizeof number, "%.3g", i * scale);
        write_text(to, x + BAR + 5, MARGIN_TOP + height * (1 - i) / 2 + 4, "start", "", number);
    }
}

static void write_panel(
    FILE *to, const panel *p, const layout *l, double scale, double left, double top)
{
    double width = l->cell * (double)p->columns, height = l->cell * (double)p->rows;
    char turned[96];
    fprintf(to, "<g transform=\"translate(%.1f %.1f)\">\n", left, top);
    write_text(to, 8, 16, "start", " font-weight=\"bold\"", p->title);
    write_text(to, 8, 33, "start", " font-size=\"11\"",
        panel_is_normalised(p) ? "0: as the corrupt run, 1: as the clean run"
                               : "change from the clean run");
    for (int64_t i = 0; i < p->rows; i++)
        for (int64_t k = 0; k < p->columns; k++) write_cell(to, p, l, i, k, scale);
    fprintf(to,
        "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"" GREY
        "\"/>\n",
        (int)l->left, MARGIN_TOP, width, height);
    write_labels(to, p->row_axis, p->rows, l, false, 0);
    write_labels(to, p->column_axis, p->columns, l, true, MARGIN_TOP + height);
    if (p->column_axis)
        write_text(to, l->left + width / 2, MARGIN_TOP + height + 35 + words_height(p), "middle",
            "", p->column_axis->name);
    if (p->row_axis) {
        /* not up into the title */
        double length = text_width(p->row_axis->name),
               middle = MARGIN_TOP + (length > height ? length : height) / 2;
        snprintf(turned, sizeof turned, " transform=\"rotate(-90 18 %.1f)\"", middle);
        write_text(to, 18, middle, "middle", turned, p->row_axis->name);
    }
    write_scale(to, p, l, scale);
    fputs("</g>\n", to);
}

/* Whether a result has several panels: these begin a line. */
static bool leads(const inset_sweep_result *r) { return r->n_axes > 2; }

/* Sets panels in rows as words in lines; `to` NULL only measures. */
static void set_panels(const panels *all, FILE *to, double *page_width, double *page_height)
{
    double left = 0, top = 0, line = 0, widest = 0;
    for (size_t i = 0; i < all->count; i++) {
        layout l = panel_layout(&all->at[i]);
        bool new_line = i && all->at[i].result != all->at[i - 1].result
                        && (leads(all->at[i - 1].result) || leads(all->at[i].result));
        if (left > 0 && (new_line || left + l.width > PAGE)) {
            top += line;
            left = line = 0;
        }
        if (to) write_panel(to, &all->at[i], &l, panel_scale(all, &all->at[i]), left, top);
        left += l.width;
        if (l.height > line) line = l.height;
        if (left > widest) widest = left;
    }
    *page_width = widest;
    *page_height = top + line;
}

bool svg_write(const panels *p, FILE *to)
{
    double width, height;
    set_panels(p, NULL, &width, &height);
    fprintf(to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 "
        "%.0f %.0f\" font-family=\"system-ui, "
        "sans-serif\" font-size=\"%d\" fill=\"" GREY "\">\n",
        width, height, width, height, (int)TEXT);
    set_panels(p, to, &width, &height);
    fputs("</svg>\n", to);
    return !ferror(to);
}
