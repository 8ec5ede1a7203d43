/* driver.c: runs a fuzz target in the ordinary tests: first over its corpus, then over a fixed
 * number of mutations of it. No clock and no chance is involved, so a failure comes back in the
 * next run.
 *
 *     fuzz_NAME CORPUS_DIRECTORY [COUNT [FIRST]]      COUNT mutations (20000), from number FIRST
 *     (0) on
 *
 * When a target fails, the number of the mutation is printed; `fuzz_NAME CORPUS_DIRECTORY 1 NUMBER`
 * runs that one alone and leaves it in the file `fuzz-input`, which goes into the corpus once the
 * fault is mended.
 *
 * To add a target: write tests/fuzz/fuzz_NAME.c with LLVMFuzzerTestOneInput and fuzz_target (see
 * fuzz.h and fuzz_npy.c, the shortest), put a few small inputs, good ones and bad ones, into
 * tests/fuzz/corpus/NAME/ (make_corpus.py makes those that a program has to make), and build:
 * fuzz.cmake finds it. The same file serves libFuzzer: see fuzz.cmake. */
#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST_SEEDS = 4096, MOST_BYTES = 1 << 16, MUTATIONS = 20000 };

typedef struct input {
    uint8_t *bytes;
    size_t size;
} input;
typedef struct corpus {
    char *names[MOST_SEEDS];
    input seeds[MOST_SEEDS];
    size_t count;
} corpus;

static char current[512]; /* what runs now, for the message of a crash */

static void say_current(void) { fprintf(stderr, "while running %s\n", current); }
static void say_current_and_die(int number)
{
    say_current();
    signal(number, SIG_DFL);
    raise(number);
}
/* Present when a sanitizer is linked, which then handles signals itself. */
extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void watch_for_crashes(void)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    signal(SIGABRT, say_current_and_die);
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(say_current);
        return;
    }
    for (size_t i = 0; i < sizeof crashes / sizeof *crashes; i++)
        signal(crashes[i], say_current_and_die);
}

/* ---- the corpus --------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool read_seed(const char *directory, const char *name, input *seed)
{
    char path[4096];
    struct stat about;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &about)
        || !(seed->bytes = malloc((size_t)about.st_size + 1))) {
        perror(path);
        if (file) fclose(file);
        return false;
    }
    seed->size = fread(seed->bytes, 1, (size_t)about.st_size, file);
    fclose(file);
    return true;
}

/* The files in the order of their names: that of the directory is not the same everywhere. */
static bool read_corpus(const char *directory, corpus *c)
{
    struct dirent *entry;
    DIR *folder = opendir(directory);
    if (!folder) {
        perror(directory);
        return false;
    }
    while ((entry = readdir(folder)) && c->count < MOST_SEEDS)
        if (entry->d_name[0] != '.') c->names[c->count++] = strdup(entry->d_name);
    closedir(folder);
    qsort(c->names, c->count, sizeof *c->names, by_name);
    for (size_t i = 0; i < c->count; i++)
        if (!read_seed(directory, c->names[i], &c->seeds[i])) return false;
    if (!c->count) fprintf(stderr, "%s: no inputs\n", directory);
    return c->count > 0;
}

/* ---- mutations ---------------------------------------------------------- */

typedef struct mutator {
    uint64_t state;
    uint8_t bytes[MOST_BYTES];
    size_t size;
} mutator;

static uint64_t random_bits(mutator *m)
{
    m->state ^= m->state << 13;
    m->state ^= m->state >> 7;
    return m->state ^= m->state << 17;
}

static size_t below(mutator *m, size_t limit) { return limit ? random_bits(m) % limit : 0; }

/* Replaces `old` bytes at `at` by the given ones, as far as there is room. */
static void replace(mutator *m, size_t at, size_t old, const void *bytes, size_t size)
{
    if (at > m->size) at = m->size;
    if (old > m->size - at) old = m->size - at;
    if (m->size - old + size > MOST_BYTES) return;
    memmove(m->bytes + at + size, m->bytes + at + old, m->size - at - old);
    memmove(m->bytes + at, bytes, size);
    m->size = m->size - old + size;
}

static const char *pick_word(mutator *m)
{
    size_t count = 0;
    while (fuzz_target.words[count]) count++;
    return count ? fuzz_target.words[below(m, count)] : "";
}

/* The decimal number at or behind `at`, replaced by one that is likely to be at the edge of
 * something. */
static void change_number(mutator *m, size_t at)
{
    static const char *const numbers[] = {"0", "1", "2", "3", "-1", "8", "9", "255", "65536",
        "2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808",
        "18446744073709551616", "1e3", "0.5"};
    size_t end;
    char near[24];
    while (at < m->size && (m->bytes[at] < '0' || m->bytes[at] > '9')) at++;
    for (end = at; end < m->size && m->bytes[end] >= '0' && m->bytes[end] <= '9';) end++;
    const char *number = numbers[below(m, sizeof numbers / sizeof *numbers)];
    if (below(m, 2) && end - at < 9) { /* or by a neighbour of what was there */
        snprintf(near, sizeof near, "%.*s", (int)(end - at), (const char *)m->bytes + at);
        snprintf(near, sizeof near, "%lld", atoll(near) + (long long)below(m, 9) - 4);
        number = near;
    }
    replace(m, at, end - at, number, strlen(number));
}

static void mutate_once(mutator *m, const input *other)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, ' ', '\n', '"', '\'', '\\', '[', ']',
        '{', '}', '(', ')', ',', ':', '-', '.'};
    size_t at = below(m, m->size + 1), length = below(m, below(m, 4) ? 8 : 128);
    uint8_t byte = below(m, 2) ? edges[below(m, sizeof edges)] : (uint8_t)random_bits(m);
    const char *word = pick_word(m);
    switch (below(m, 9)) {
    case 0:
        if (at < m->size) m->bytes[at] ^= (uint8_t)(1 << below(m, 8));
        break;
    case 1: replace(m, at, 1, &byte, 1); break;
    case 2: replace(m, at, 0, &byte, 1); break;
    case 3: replace(m, at, length, "", 0); break;
    case 4: replace(m, at, below(m, 2) ? strlen(word) : 0, word, strlen(word)); break;
    case 5: change_number(m, at); break;
    case 6: /* a piece of this one once more */
        if (length > m->size - at) length = m->size - at;
        replace(m, below(m, m->size + 1), 0, m->bytes + at, length);
        break;
    case 7: /* the end of another one */
        length = below(m, other->size + 1);
        replace(m, at, m->size, other->bytes + other->size - length, length);
        break;
    case 8:
        if (!below(m, 4)) m->size = at;
        break;
    }
}

/* Mutation `number`, which depends on the number and the corpus alone. */
static void mutate(mutator *m, const corpus *c, uint64_t number)
{
    m->state = (number + 1) * 0x9e3779b97f4a7c15u;
    for (int i = 0; i < 4; i++) random_bits(m);
    const input *seed = &c->seeds[below(m, c->count)];
    m->size = seed->size < MOST_BYTES ? seed->size : MOST_BYTES;
    memcpy(m->bytes, seed->bytes, m->size);
    for (size_t times = 1 + below(m, 4); times; times--)
        mutate_once(m, &c->seeds[below(m, c->count)]);
    if (fuzz_target.repair && below(m, 4)) fuzz_target.repair(m->bytes, m->size);
}

/* ---- running ------------------------------------------------------------ */

/* In a block of just that size, so that reading past its end is seen. */
static bool run(const uint8_t *bytes, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact) return false;
    memcpy(exact, bytes, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return true;
}

static bool keep(const mutator *m)
{
    FILE *file = fopen("fuzz-input", "wb");
    bool good = file && fwrite(m->bytes, 1, m->size, file) == m->size;
    if (!file || fclose(file) || !good) perror("fuzz-input");
    return good;
}

static int run_all(
    const char *directory, const corpus *c, uint64_t count, uint64_t first, bool keep_input)
{
    static mutator m;
    for (size_t i = 0; i < c->count; i++) {
        snprintf(current, sizeof current, "%s/%s", directory, c->names[i]);
        if (!run(c->seeds[i].bytes, c->seeds[i].size)) return 1;
    }
    for (uint64_t n = first; n < first + count; n++) {
        snprintf(current, sizeof current, "mutation %llu of %s", (unsigned long long)n, directory);
        mutate(&m, c, n);
        if (keep_input && !keep(&m)) return 1;
        if (!run(m.bytes, m.size)) return 1;
    }
    printf("%zu inputs and %llu mutations of them\n", c->count, (unsigned long long)count);
    return 0;
}

int main(int argc, char **argv)
{
    static corpus c;
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s CORPUS_DIRECTORY [COUNT [FIRST]]\n", argv[0]);
        return 2;
    }
    watch_for_crashes();
    int status = !read_corpus(argv[1], &c);
    if (!status)
        status = run_all(argv[1], &c, argc > 2 ? strtoull(argv[2], NULL, 10) : MUTATIONS,
            argc > 3 ? strtoull(argv[3], NULL, 10) : 0, argc > 3);
    for (size_t i = 0; i < c.count; i++) {
        free(c.names[i]);
        free(c.seeds[i].bytes);
    }
    return status;
}
