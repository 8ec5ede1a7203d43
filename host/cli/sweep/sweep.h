/* sweep.h: `inset sweep` and `inset attribute`, and `inset merge`.
 *
 *     sweep.c     from options to the last chunk, shared as cli/shared/ has it
 *     merge.c     shards put together
 *     show.c      results, by files_out.c, terminal.c and svg.c; these by panels.c
 *                 and features.c */
#ifndef INSET_CLI_SWEEP_H
#define INSET_CLI_SWEEP_H

#include "cli/shared/shared.h"

typedef enum file_kind { FILE_SAFETENSORS, FILE_NPY, FILE_CSV, FILE_NONE } file_kind;

typedef struct sweep_session {
    const options *given;
    inset_context *context;
    inset_model *model;
    inset_sweep *sweep;
    bool estimates; /* inset attribute */
    file_kind kind; /* of -o */
    char command[8192], version[32];
    bool shared; /* several run it */
    shard shard;
    char state[PATH_MAX]; /* where what is done is kept, OUT.partial */
    const inset_verified *verified;
    size_t n_verified;
    double rank;
    double seconds; /* from the loaded model to the last patch */
} sweep_session;

/* ---- show.c ---- */
/* What -o's name asks for. */
int sweep_find_kind(sweep_session *s, const char *command);
int sweep_write(sweep_session *s);      /* -o */
int sweep_show(const sweep_session *s); /* --plot, --json or the terminal */
/* ---- sweep.c ---- */
/* The session's sweep on a model; state: the state file, or NULL. */
inset_status sweep_create_on(
    const sweep_session *s, inset_model *model, const char *state, inset_sweep **out);
/* sweep.c: what --dry-run says */
void show_cost(const inset_cost *c, bool json);
/* ---- sweep.c: options as the library has them; rules: a place for their text ---- */
inset_sweep_options sweep_options(const options *given, const char *version);
inset_attribution_options attribution_options(
    const options *given, const inset_sweep_options *runs, char *rules, size_t size);

/* Results as panels of rows and columns: the last two axes, one panel for each place on the axes
 * before them. */
typedef struct panel {
    const inset_sweep_result *result;
    const float *values; /* [rows, columns] */
    int64_t rows, columns;
    /* NULL: there is none, and one row or column */
    const inset_sweep_axis *row_axis, *column_axis;
    /* "resid_pre  logit_diff:11,12", and the places on the other axes */
    char title[256];
} panel;

/* What the panel of the strongest features of a result points to. */
typedef struct strongest {
    float *values; /* [features, positions] */
    int64_t *labels;
    inset_sweep_axis axis;
} strongest;
/* features.c: are there more features than a panel shows? */
bool panel_wants_strongest(const inset_sweep_result *r);
/* The features that do most, as rows; values: one a point. False: out of memory. Freed with
 * strongest_free. */
bool panel_of_strongest(
    const inset_sweep_result *r, const float *values, panel *out, strongest *kept);
void strongest_free(strongest *kept);

/* The panels of all results, values normalised where there is something to normalise by and else
 * their change from the clean run's mean; freed with panels_free. NULL when memory is out. */
typedef struct panels {
    panel *at;
    size_t count;
    float *changes; /* [all points]: for results without normalised values */
    inset_sweep_result *results;
    size_t n_results;
    strongest *strongest; /* [n_results] */
} panels;
bool panels_make(inset_sweep *sweep, panels *out);
void panels_free(panels *p);
/* The largest absolute value of the panels with this panel's metric, at least a little above 0: the
 * ends of its colour scale. */
double panel_scale(const panels *p, const panel *of);
bool panel_is_normalised(const panel *p);
/* A value with as many decimals as its scale wants, "0.98"; no "-0.00". */
void panel_number(double value, double scale, char *out, size_t size);
/* "7", "-2" or "mlp_out": place i of an axis; "" without an axis. */
void axis_label(const inset_sweep_axis *axis, int64_t i, char *out, size_t size);
/* The same with the token that stands there, "7 ' Mary'", where it is known. */
void axis_label_with_text(const inset_sweep_axis *axis, int64_t i, char *out, size_t size);

/* The heat map on standard output, in colour when it is a terminal that has them. */
void terminal_draw(const panels *p);
/* The pictures as one SVG; false when it could not be written, errno says why. */
bool svg_write(const panels *p, FILE *to);

/* The object of --json, on standard output. */
void sweep_print_json(inset_sweep *sweep, double seconds, bool fast, const inset_verified *verified,
    size_t n_verified, double rank);
/* One line a pair and point; one array, [pair, axes...]: false when something could not be
 * written. */
bool csv_write(inset_sweep *sweep, FILE *to);
bool npy_write(inset_sweep *sweep, FILE *to);

#endif
