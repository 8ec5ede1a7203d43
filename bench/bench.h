/* bench.h: what the benchmark programs share: a clock, and lines of samples that `run` puts into
 * tables.
 *
 * A program prints one line a sample, "BENCHMARK WHO CASE NUMBER" (times in seconds unless the
 * benchmark says otherwise), so that the samples of several programs and rounds can be mixed and
 * sorted by the shell. */
#ifndef INSET_BENCH_H
#define INSET_BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

__attribute__((unused)) static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the samples. */
__attribute__((unused)) static double median(double *samples, size_t n)
{
    qsort(samples, n, sizeof *samples, ascending);
    return n % 2 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
}

/* A line of /proc/self/status in bytes, "VmHWM" for the most memory the process has had; 0 where
 * there is no such thing. */
__attribute__((unused)) static double process_bytes(const char *key)
{
    char line[256];
    double kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
            kilobytes = atof(line + strlen(key) + 1);
    fclose(file);
    return kilobytes * 1024;
}

/* The prompt that all benchmarks use, here and in the Python ones. */
__attribute__((unused)) static void fill_prompt(int64_t *tokens, int n)
{
    for (int i = 0; i < n; i++) tokens[i] = (int64_t)(7919 * (i + 1)) % 50257;
}

#endif
