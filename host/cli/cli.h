/* cli.h: the command line, a user of inset.h like any other: nothing here includes what is inside
 * the library.
 *
 * One file a command (run.c: run and check, sites.c, version.c, sweep/), the command's arguments in
 * options.c, and what several commands print in print.c. main.c only chooses. */
#ifndef INSET_CLI_H
#define INSET_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "inset.h"

/* What the process ends with. */
enum {
    EXIT_OK = 0,
    EXIT_MACHINE = 1, /* the model's directory, the output, the device, memory */
    EXIT_REQUEST = 2  /* bad usage, and whatever the script asks for */
};

enum { OPTIONS_MOST_WORDS = 64, OPTIONS_MOST_PARTS = 4096 };

typedef struct options {
    const char *model;  /* -m */
    const char *output; /* -o */
    const char *device; /* -d; NULL: auto */
    const char *dtype;  /* --dtype */
    const char *script; /* the file, "-" for standard input, or NULL */
    const char *text;   /* -c: the script itself, or NULL */
    int64_t repeat;     /* --repeat */
    bool no_share, fast, ungroup, json, verbose, help, explain;
    /* sweep */
    const char *clean, *corrupt, *patch, *by, *layers, *positions, *heads, *features, *source,
        *direction, *plot;
    const char *metrics[OPTIONS_MOST_WORDS + 1]; /* ends with NULL */
    int64_t seed;
    size_t memory, weights; /* bytes; 0: what there is */
    bool force, resume;
    const char *shard;                         /* "3/16" */
    const char *words[OPTIONS_MOST_PARTS + 1]; /* of merge: OUT, PART ...; ends with NULL */
    size_t n_words;
    /* attribute */
    const char *rules;
    int64_t steps, verify;
    bool has_steps, ends, star, qk, graddrop, relp;
    /* attribute --edges, circuit */
    bool edges, per_pair, dry_run;
    int64_t top;
    const char *edges_from, *sizes, *ablation, *edge_list;
    bool freeze;
    /* cache */
    const char *prompts, *sites, *kept_dtype;
    int64_t batch;
    size_t shard_bytes;
} options;

/* Reads the arguments behind the command's name. False: they make no sense, and standard error says
 * why. */
bool options_read(const char *command, int count, char **arguments, options *out);
/* Prints what `inset help` or `inset help COMMAND` prints; command NULL: all. False when there is
 * no such command. */
bool help_print(FILE *to, const char *command);
/* "inset run: ..." and where to find help, on standard error; returns EXIT_REQUEST. */
int usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The commands: return the exit status. */
int command_run(const options *given, bool only_check);
int command_sites(const options *given);
int command_version(const options *given);
/* arguments: as they were, for the metadata */
int command_sweep(const options *given, int count, char **arguments);
int command_merge(const options *given);
int command_edges(const options *given, int count, char **arguments);
int command_paths(const options *given);
int command_circuit(const options *given);
int command_cache(const options *given);
int command_tokens(const options *given);

inset_model_options model_options(const options *given, const char *device);
/* Opens the model that the options name. On failure the message is printed and *status is the exit
 * status. */
inset_model *open_model(
    inset_context *context, const options *given, const char *device, int *status);
/* A command that needs the model and no device: opens it, has `show` print, and gives the exit
 * status. */
int show_model(const options *given,
    int (*show)(inset_context *context, inset_model *model, const options *given));
/* Is this a process of mpirun's that is not the first? It says nothing: the first does, of itself
 * and of others (shared/ranks.c). */
bool ranks_are_silent(void);
/* Prints the context's message on standard error and returns the exit status given. */
int report(inset_context *context, int status);
/* EXIT_OK when all that was printed went out, else EXIT_MACHINE and a message. */
int finish_output(void);

/* ---- files.c ---- */
int file_error(const char *path, const char *what); /* "FileError: ...", EXIT_MACHINE */
bool ends_with(const char *text, const char *end);
/* Whether a file can be made at `path` (NULL: none is wanted), and none is there that must not be
 * replaced. */
int check_place(const options *given, const char *path);
/* Where what is done is kept, OUT.partial; refuses or removes what was left there, unless it is to
 * be resumed. */
int check_state(const options *given, const char *output, char *state, size_t size);
/* The command for the metadata, so that an interrupted and resumed one, or one under another name,
 * gives the same file. */
void command_text(int count, char **arguments, char *out, size_t size);
/* A hash of a model directory's config and of blocks of its weights. */
void model_version(const char *directory, char *out, size_t size);
/* Writes through `write` to another name, which then takes the place of `path`. */
int write_file(const char *path, bool (*write)(const void *what, FILE *to), const void *what);

/* A tensor as PyTorch prints it by default: "tensor([[0.1000, ...]])". */
void print_tensor(FILE *to, const inset_tensor *tensor);
/* A text as a JSON string, quotes included. */
void print_json_text(FILE *to, const char *text);
/* "[batch, position, 48]" or, as JSON, ["batch", "position", 48]. */
void print_shape(FILE *to, const inset_tensor *tensor);

#endif
