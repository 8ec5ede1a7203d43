/* test_cli.c: the command line, as data. Each tests/cli/NAME.sh is run by sh in that folder with
 * `inset` on its PATH; what it prints must be NAME.stdout and NAME.stderr to the byte, and its exit
 * status NAME.exit. A file that is not there stands for nothing printed, and 0.
 *
 *     test_cli [--write] [NAME ...]     --write makes the files from what was printed, to be
 *                                       reviewed as a change */
#include "test.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_CASES = 512 };

static bool writing;
/* where this program lies, below a build folder: `inset` is in the folder above */
static char build[4096];

static void find_build(const char *program)
{
    char *self = realpath(program, NULL), *slash = self ? strrchr(self, '/') : NULL;
    if (!CHECK(slash, "%s was not found", program)) exit(1);
    snprintf(build, sizeof build, "%.*s/..", (int)(slash - self), self);
    free(self);
}

/* Runs a case; its output is in `scratch`/stdout and stderr afterwards. */
static int run_case(const char *name, const char *scratch)
{
    char command[16384];
    snprintf(command, sizeof command,
        "cd cli && PATH='%s':\"$PATH\" SCRATCH='%s' LC_ALL=C sh ./%s.sh >'%s/stdout' 2>'%s/stderr' "
        "</dev/null",
        build, scratch, name, scratch, scratch);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void write_expected(const char *path, const char *text)
{
    if (!*text) {
        remove(path);
        return;
    }
    FILE *file = fopen(path, "wb");
    NEED(file, "%s cannot be written", path);
    fputs(text, file);
    fclose(file);
}

/* The first line in which two texts differ, from 1, and where it begins in each. */
static int first_difference(const char **a, const char **b)
{
    const char *start_a = *a, *start_b = *b;
    int line = 1;
    for (const char *x = *a, *y = *b; *x && *x == *y; x++, y++) {
        if (*x != '\n') continue;
        line++;
        start_a = x + 1;
        start_b = y + 1;
    }
    *a = start_a;
    *b = start_b;
    return line;
}

static void compare(const char *name, const char *kind, const char *found)
{
    char path[8192];
    snprintf(path, sizeof path, "cli/%s.%s", name, kind);
    if (writing) {
        write_expected(path, found);
        return;
    }
    char *expected = test_read(path, NULL);
    const char *a = expected ? expected : "", *b = found;
    int line = first_difference(&a, &b);
    CHECK(!strcmp(expected ? expected : "", found),
        "%s.%s:%d: expected\n    %.*s\nfound\n    %.*s\n(the whole: sh tests/cli/%s.sh)", name,
        kind, line, (int)strcspn(a, "\n"), a, (int)strcspn(b, "\n"), b, name);
    free(expected);
}

static void check_case(const char *name, const char *scratch)
{
    static const char *const kinds[] = {"stdout", "stderr"};
    char path[8192], status[16];
    int found = run_case(name, scratch);
    CHECK(found < 126, "%s: killed or not found (exit status %d)", name, found);
    snprintf(status, sizeof status, "%d\n", found);
    compare(name, "exit", found ? status : "");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", scratch, kinds[i]);
        char *text = test_read(path, NULL);
        compare(name, kinds[i], text ? text : "");
        free(text);
    }
}

/* The names of all cases, sorted. */
static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}
static int list_cases(char **names)
{
    int count = 0;
    DIR *directory = opendir("cli");
    if (!directory) return 0;
    for (struct dirent *entry; (entry = readdir(directory)) && count < MOST_CASES;) {
        const char *dot = strrchr(entry->d_name, '.');
        if (dot && !strcmp(dot, ".sh"))
            names[count++] = strndup(entry->d_name, (size_t)(dot - entry->d_name));
    }
    closedir(directory);
    qsort(names, (size_t)count, sizeof *names, compare_names);
    return count;
}

int main(int count, char **arguments)
{
    char *names[MOST_CASES], scratch[] = "/tmp/inset-cli-XXXXXX", command[64];
    int first = 1, cases;
    if (count > 1 && !strcmp(arguments[1], "--write")) writing = first++;
    find_build(arguments[0]);
    if (!CHECK(mkdtemp(scratch), "no scratch folder")) return test_result();
    for (int i = first; i < count; i++) check_case(arguments[i], scratch);
    if (first == count) {
        CHECK((cases = list_cases(names)) > 0, "there are no cases");
        for (int i = 0; i < cases; i++) {
            check_case(names[i], scratch);
            free(names[i]);
        }
    }
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    CHECK(system(command) == 0, "%s was not removed", scratch);
    return test_result();
}
