/* main.c: `inset COMMAND ...`: which command, and its exit status. */
#include "cli/shared/shared.h"

#include <string.h>

static int help(int count, char **arguments)
{
    const char *name = count > 0 ? arguments[0] : NULL;
    if (!help_print(stdout, name)) return usage_error(NULL, "there is no command '%s'", name);
    return finish_output();
}

/* Commands that run in one process, and write files that several would write at once. */
static int refuse_ranks(const char *name)
{
    bool first;
    if (!ranks_are_several(&first)) return EXIT_OK;
    return usage_error(
        name, "mpirun shares sweeps, attributions, circuits and caches; this runs in one process");
}

typedef enum command {
    RUN,
    CHECK,
    SITES,
    VERSION,
    SWEEP,
    ATTRIBUTE,
    CIRCUIT,
    CACHE,
    TOKENS,
    MERGE,
    N_COMMANDS
} command;
static const char *const names[N_COMMANDS] = {"run", "check", "sites", "version", "sweep",
    "attribute", "circuit", "cache", "tokens", "merge"};

static int start(command which, const options *given, int count, char **arguments)
{
    const char *name = names[which];
    const bool of_edges = given->patch && !strcmp(given->patch, "edges"),
               shared = which == SWEEP || which == ATTRIBUTE || which == CIRCUIT || which == CACHE,
               prints = which == CHECK || which == SITES || which == VERSION || which == TOKENS;
    if (!shared && !prints && refuse_ranks(name)) return EXIT_REQUEST;
    switch (which) {
    case SITES: return command_sites(given);
    case VERSION: return command_version(given);
    case CIRCUIT: return command_circuit(given);
    case CACHE: return command_cache(given);
    case TOKENS: return command_tokens(given);
    case MERGE: return command_merge(given);
    case SWEEP:
    case ATTRIBUTE:
        if (which == SWEEP && of_edges) return command_paths(given);
        return given->edges ? command_edges(given, count, arguments)
                            : command_sweep(given, count, arguments);
    default: return command_run(given, which == CHECK);
    }
}

int main(int count, char **arguments)
{
    static options given;
    if (count < 2) {
        help_print(stderr, NULL);
        return EXIT_REQUEST;
    }
    const char *name = arguments[1];
    if (!strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h"))
        return help(count - 2, arguments + 2);
    if (!strcmp(name, "--version")) name = "version";
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(name, names[i])) continue;
        if (!options_read(name, count - 2, arguments + 2, &given)) return EXIT_REQUEST;
        if (given.help) return help(1, (char **)&name);
        return start((command)i, &given, count - 1, arguments + 1);
    }
    return usage_error(NULL, "there is no command '%s'", name);
}
