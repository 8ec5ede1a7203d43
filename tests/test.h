/* test.h: what every test program shares: a check that counts failures and says which case failed,
 * and files.
 *
 * A test is a plain program:
 *
 *     static void adds(void) { CHECK(1 + 1 == 2, "%d", 1 + 1); }
 *     int main(void) { adds(); return test_result(); }
 *
 * A failed check prints file, line, the condition and the format's text (name the case there) and
 * goes on; NEED returns from the calling void function as well, for what the rest of the function
 * depends on. Exit status 0: all passed; 1: some failed; TEST_SKIP: nothing could be tested. */
#ifndef INSET_TEST_H
#define INSET_TEST_H

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEST_SKIP = 77, TEST_MAX_PRINTED = 40 };

static int test_failures;
static int test_checks;

#define CHECK(condition, ...) test_check(!!(condition), __FILE__, __LINE__, #condition, __VA_ARGS__)
#define NEED(condition, ...)                        \
    do {                                            \
        if (!CHECK(condition, __VA_ARGS__)) return; \
    } while (0)

__attribute__((format(printf, 5, 6), unused)) static bool test_check(
    bool good, const char *file, int line, const char *condition, const char *format, ...)
{
    test_checks++;
    if (good) return true;
    if (test_failures++ < TEST_MAX_PRINTED) {
        va_list list;
        fprintf(stderr, "%s:%d: %s: ", file, line, condition);
        va_start(list, format);
        vfprintf(stderr, format, list);
        va_end(list);
        fputc('\n', stderr);
    }
    return false;
}

/* The exit status; prints the count of failures. */
__attribute__((unused)) static int test_result(void)
{
    if (test_failures) fprintf(stderr, "%d of %d checks failed\n", test_failures, test_checks);
    return test_failures != 0;
}

/* Whether a part of the cases will do: where all of them run without sanitizers. */
__attribute__((unused)) static bool test_is_brief(void)
{
    return getenv("INSET_TEST_BRIEF") != NULL;
}

/* ---- whole files. Tests run in the folder tests/, and name files from there: "fixtures/gpt2"
 * ---- */

/* The bytes of a file, NUL-terminated, to be freed with free(); NULL when it cannot be read. size
 * may be NULL. */
__attribute__((unused)) static char *test_read(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    char *bytes = NULL;
    size_t length = 0, capacity = 0, got = 0;
    if (!file) return NULL;
    do {
        length += got;
        if (capacity < length + 2) {
            capacity = capacity ? 2 * capacity : 4096;
            char *moved = realloc(bytes, capacity);
            if (!moved) {
                free(bytes);
                fclose(file);
                return NULL;
            }
            bytes = moved;
        }
        got = fread(bytes + length, 1, capacity - length - 1, file);
    } while (got);
    fclose(file);
    bytes[length] = 0;
    if (size) *size = length;
    return bytes;
}

/* ---- numbers ------------------------------------------------------------ */

/* |got - want| / |want| over whole arrays of doubles (Euclidean norm); 0 when both are all zeros,
 * NaN when one holds NaN. */
__attribute__((unused)) static double test_relative_error(
    const double *got, const double *want, size_t n)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    if (error == 0) return 0;
    return norm > 0 ? sqrt(error / norm) : INFINITY;
}

/* A small random number generator whose sequence is the same everywhere. */
__attribute__((unused)) static uint64_t test_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
/* In [-1, 1). */
__attribute__((unused)) static double test_uniform(uint64_t *state)
{
    return (double)(test_random(state) >> 11) * 0x1p-52 - 1;
}

#endif
