/* terminal.c: heat maps made of characters.
 *
 * A cell shows its number when a row of numbers fits the terminal, else a square of colour, or
 * without colours one character: 1 to 9 for tenths of the scale above 0, a to i below. Colours run
 * from blue over white to red and bring their own background, so that they look alike on a dark and
 * on a light terminal. */
#include "cli/sweep/sweep.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

typedef enum colours { COLOURS_NONE, COLOURS_256, COLOURS_24_BIT } colours;
/* LABEL: the least width of what stands left of a panel */
enum { CELL_NUMBER = 6, CELL_SQUARE = 2, LABEL = 10 };

static colours find_colours(void)
{
    const char *term = getenv("TERM"), *more = getenv("COLORTERM"), *none = getenv("NO_COLOR");
    if (!isatty(STDOUT_FILENO) || !term || !strcmp(term, "dumb") || (none && *none))
        return COLOURS_NONE;
    return more && (!strcmp(more, "truecolor") || !strcmp(more, "24bit")) ? COLOURS_24_BIT
                                                                          : COLOURS_256;
}

static int64_t terminal_width(void)
{
    struct winsize size;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 100;
}

/* Blue (33, 102, 172) over white to red (178, 24, 43), at x from -1 to 1. */
static void colour_at(double x, int out[3])
{
    static const int ends[2][3] = {{33, 102, 172}, {178, 24, 43}};
    for (int i = 0; i < 3; i++) out[i] = (int)lround(247 + (ends[x > 0][i] - 247) * fabs(x));
}

/* The nearest of the 6 x 6 x 6 colours of a 256-colour terminal. */
static int nearest_256(const int rgb[3])
{
    int index = 16;
    for (int i = 0, weight = 36; i < 3; i++, weight /= 6)
        index += weight * (rgb[i] < 48 ? 0 : rgb[i] < 115 ? 1 : (rgb[i] - 35) / 40);
    return index;
}

static void start_colour(colours have, double x)
{
    int rgb[3];
    colour_at(x, rgb);
    const char *text = fabs(x) > 0.6 ? "97" : "30";
    if (have == COLOURS_24_BIT) printf("\033[48;2;%d;%d;%d;%sm", rgb[0], rgb[1], rgb[2], text);
    else if (have == COLOURS_256) printf("\033[48;5;%d;%sm", nearest_256(rgb), text);
}

static char character_at(double x)
{
    int tenths = (int)lround(fabs(x) * 10);
    if (tenths > 9) tenths = 9;
    return tenths == 0 ? '.' : (char)(x > 0 ? '0' + tenths : 'a' + tenths - 1);
}

static void draw_cell(colours have, double value, double scale, int width)
{
    double x = value / scale;
    char text[32];
    if (!isfinite(value)) {
        printf("%*s", width, have ? "" : " ");
        return;
    }
    if (width == CELL_NUMBER) panel_number(value, scale, text, sizeof text);
    else snprintf(text, sizeof text, "%c", have ? ' ' : character_at(x));
    start_colour(have, x);
    printf("%*s", width, text);
    if (have) printf("\033[0m");
}

/* Labels above the columns; where they would touch, only some. */
static void draw_column_labels(const panel *p, int width, int side)
{
    char label[64];
    int64_t free_from = 0;
    int at = 0;
    printf("%*s ", side, "");
    for (int64_t i = 0; i < p->columns; i++) {
        axis_label(p->column_axis, i, label, sizeof label);
        int64_t end = (i + 1) * width, start = end - (int64_t)strlen(label);
        if (start < free_from) continue;
        printf("%*s", (int)(end - at), label);
        at = (int)end;
        free_from = end + 1;
    }
    putchar('\n');
}

/* Terminal columns of a text in UTF-8, if each code point takes one. */
static int text_columns(const char *text)
{
    int n = 0;
    for (; *text; text++) n += (*text & 0xc0) != 0x80;
    return n;
}

/* As wide as the rows' names and labels. */
static int side_of(const panel *p)
{
    char label[64];
    int side = p->row_axis ? (int)strlen(p->row_axis->name) : 0;
    for (int64_t i = 0; p->row_axis && p->row_axis->texts && i < p->rows; i++) {
        axis_label_with_text(p->row_axis, i, label, sizeof label);
        if (text_columns(label) > side) side = text_columns(label);
    }
    return side > LABEL ? side : LABEL;
}

/* The tokens of the columns, under the map. */
static void draw_words(const panel *p, int side, int64_t columns)
{
    char label[64];
    int64_t at = columns;
    for (int64_t i = 0; p->column_axis && p->column_axis->texts && i < p->columns; i++) {
        axis_label_with_text(p->column_axis, i, label, sizeof label);
        const int width = text_columns(label) + 2;
        const bool begins = at + width > columns;
        if (begins) printf("%s%*s", i ? "\n" : "", side + 1, "");
        printf("%s%s", begins ? "" : "  ", label);
        at = (begins ? side + 1 : at) + width;
        if (i + 1 == p->columns) putchar('\n');
    }
}

static void draw_panel(const panel *p, double scale, colours have, int64_t columns)
{
    char label[64];
    int side = side_of(p);
    int width = side + 1 + p->columns * CELL_NUMBER <= columns ? CELL_NUMBER : CELL_SQUARE;
    printf("\n%s\n", p->title);
    if (p->column_axis || p->row_axis)
        printf("%*s%s%s\n", side, p->row_axis ? p->row_axis->name : "", p->column_axis ? " " : "",
            p->column_axis ? p->column_axis->name : "");
    if (p->column_axis) draw_column_labels(p, width, side);
    for (int64_t i = 0; i < p->rows; i++) {
        axis_label_with_text(p->row_axis, i, label, sizeof label);
        printf("%*s%s ", side - text_columns(label), "", label);
        for (int64_t k = 0; k < p->columns; k++)
            draw_cell(have, p->values[i * p->columns + k], scale, width);
        putchar('\n');
    }
    draw_words(p, side, columns);
    if (width != CELL_NUMBER && !have)
        printf("%*s 1 to 9: tenths of %.3g above 0; a to i: below 0\n", LABEL, "", scale);
    if (width != CELL_NUMBER && have) {
        printf("%*s %.3g ", LABEL, "", -scale);
        for (int i = -6; i <= 6; i++) {
            start_colour(have, i / 6.0);
            printf("  \033[0m");
        }
        printf(" %.3g\n", scale);
    }
}

static double mean_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

void terminal_draw(const panels *p)
{
    colours have = find_colours();
    int64_t columns = terminal_width();
    for (size_t i = 0; i < p->count; i++) {
        const panel *at = &p->at[i];
        draw_panel(at, panel_scale(p, at), have, columns);
        double clean = mean_of(at->result->clean, at->result->pairs),
               corrupt = mean_of(at->result->corrupt, at->result->pairs);
        if (panel_is_normalised(at))
            printf("%*s 0: as the corrupt run (%.4g), 1: as the clean run (%.4g)\n", LABEL, "",
                corrupt, clean);
        else printf("%*s change from the clean run (%.4g)\n", LABEL, "", clean);
    }
}
