/* main.c: `inset COMMAND ...`: which command, and its exit status. */
#include "cli/cli.h"
#include "cli/sweep/several.h"

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
    if (!first) return EXIT_REQUEST;
    return usage_error(
        name, "mpirun shares sweeps and attributions of places; this runs in one process");
}

int main(int count, char **arguments)
{
    static const char *const names[] = {"run", "check", "sites", "version", "sweep", "attribute",
        "circuit", "cache", "tokens", "merge"};
    static options given;
    if (count < 2) {
        help_print(stderr, NULL);
        return EXIT_REQUEST;
    }
    const char *name = arguments[1];
    if (!strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h"))
        return help(count - 2, arguments + 2);
    if (!strcmp(name, "--version")) name = "version";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i])) continue;
        if (!options_read(name, count - 2, arguments + 2, &given)) return EXIT_REQUEST;
        if (given.help) return help(1, (char **)&name);
        const bool edges = given.edges || (given.patch && !strcmp(given.patch, "edges"));
        const bool shared = (i == 4 || i == 5) && !edges, writes = i == 0 || i >= 4;
        if (writes && !shared && refuse_ranks(name)) return EXIT_REQUEST;
        if (i == 2) return command_sites(&given);
        if (i == 6) return command_circuit(&given);
        if (i == 7) return command_cache(&given);
        if (i == 8) return command_tokens(&given);
        if (i == 9) return command_merge(&given);
        if (edges && given.shard)
            return usage_error(name, "--shard takes places, as in --patch resid_pre, not edges");
        if (i == 4 && given.patch && !strcmp(given.patch, "edges")) return command_paths(&given);
        if (given.edges) return command_edges(&given, count - 1, arguments + 1);
        if (i >= 4) return command_sweep(&given, count - 1, arguments + 1);
        return i == 3 ? command_version(&given) : command_run(&given, i == 1);
    }
    return usage_error(NULL, "there is no command '%s'", name);
}
