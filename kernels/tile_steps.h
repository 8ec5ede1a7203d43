/* tile_steps.h: which keys a block of tile_attention.cu takes next: its rows in segments with one
 * list each, and from these the steps, a tile and a run of rows each, in an order that depends on
 * positions alone.
 *
 * Example: rows 0 .. 2 see 70, 71 and 72 keys of one list, row 3 sees 65 of another that begins
 * with the same 64 numbers. Two segments, three steps: keys 0 .. 63 for all four rows, keys 64 ..
 * 71 for rows 0 .. 2, key 64 of the other list for row 3. */
#ifndef INSET_TILE_STEPS_H
#define INSET_TILE_STEPS_H

#include "kernels/tile.h"

namespace KERNEL_NAMESPACE {

/* Rows of the block that follow each other and have the same `first`: rows .. end - 1. Their counts
 * are least .. most, and the first positions that they see lowest .. highest. */
struct segment {
    int32_t first, end, least, most, lowest, highest;
};

/* Rows begin .. end - 1 of the block and the keys from .. n - 1 of a tile, which are all that one
 * of the rows sees; they stand in the tables from `list` on. n 0: there is no more to do. */
struct tile_step {
    int start, begin, end, from, n;
    int64_t list;
    bool partial; /* some row of the block does not see all of the keys */
};

/* Rows row .. row + rows - 1 and query heads head .. head + heads - 1; `stack` tile rows are a
 * row's. */
struct tile_place {
    int64_t row;
    int rows, head, heads, stack, kv_head;
};

/* What all threads of a block know; in shared memory, because registers are for sums. Row i of the
 * block sees low[i] .. high[i] - 1. At each row that begins a segment is that segment. */
struct tile_block {
    tile_place place;
    tile_step steps[2]; /* this step and the next, in turns */
    /* the rows of their keys and of their values; -1 where nothing is to be read */
    int32_t numbers[2][2 * TILE_KEYS];
    int32_t low[TILE_ROWS], high[TILE_ROWS];
    segment segments[TILE_ROWS];
};

DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int larger(int a, int b) { return a > b ? a : b; }

/* The place is known. */
DEVICE_APART void read_contexts(const attention_args &a, tile_block &b)
{
    const int rows = b.place.rows;
    for (int i = threadIdx.x; i < rows; i += BLOCK_THREADS) {
        const attention_context context = a.contexts[b.place.row + i];
        b.high[i] = context.count;
        b.low[i] = a.window > 0 && a.window < context.count ? context.count - a.window : 0;
        b.segments[i].first = context.first;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows; i += BLOCK_THREADS) {
        const int32_t first = b.segments[i].first;
        if (i > 0 && b.segments[i - 1].first == first) continue;
        segment s = {first, i, b.high[i], b.high[i], b.low[i], b.low[i]};
        for (; s.end < rows && b.segments[s.end].first == first; s.end++) {
            s.least = smaller(s.least, b.high[s.end]);
            s.most = larger(s.most, b.high[s.end]);
            s.lowest = smaller(s.lowest, b.low[s.end]);
            s.highest = larger(s.highest, b.low[s.end]);
        }
        b.segments[i].end = s.end; /* not `first`, which others read now */
        b.segments[i].least = s.least;
        b.segments[i].most = s.most;
        b.segments[i].lowest = s.lowest;
        b.segments[i].highest = s.highest;
    }
    __syncthreads();
}

/* Whether two lists agree in n entries. The whole block asks. */
DEVICE_APART bool same_lists(const attention_args &a, int64_t one, int64_t other, int n)
{
    bool differ = false;
    for (int j = threadIdx.x; j < n; j += BLOCK_THREADS)
        differ |= a.key_rows[one + j] != a.key_rows[other + j]
                  || a.value_rows[one + j] != a.value_rows[other + j];
    return !block_any(differ);
}

DEVICE bool is_present(const segment &s, int start)
{
    return s.most > start && s.lowest < start + TILE_KEYS;
}

/* Finds step `turn`, the next from row `begin` of the tile at `start` on; it and its row numbers
 * are there after a barrier. The whole block asks. */
DEVICE_APART void find_step(const attention_args &a, tile_block &b, int turn, int start, int begin)
{
    const int rows = b.place.rows;
    tile_step s = {};
    for (s.start = start;; s.start += TILE_KEYS, begin = 0) {
        bool later = false; /* a row has keys behind this tile */
        for (int i = 0; i < rows; i = b.segments[i].end)
            later |= b.segments[i].most > s.start + TILE_KEYS;
        while (begin < rows && !is_present(b.segments[begin], s.start))
            begin = b.segments[begin].end;
        if (begin < rows || !later) break;
    }
    if (begin < rows) {
        segment run = b.segments[begin];
        bool all = begin == 0;
        while (run.end < rows) {
            const segment next = b.segments[run.end];
            if (is_present(next, s.start)) {
                const int common = smaller(smaller(run.most, next.most) - s.start, TILE_KEYS);
                if (next.first != run.first
                    && !same_lists(
                        a, (int64_t)run.first + s.start, (int64_t)next.first + s.start, common))
                    break;
                if (next.most > run.most) run.first = next.first;
                run.least = smaller(run.least, next.least);
                run.most = larger(run.most, next.most);
                run.lowest = smaller(run.lowest, next.lowest);
                run.highest = larger(run.highest, next.highest);
            } else all = false;
            run.end = next.end;
        }
        s.begin = begin;
        s.end = run.end;
        s.from = larger(run.lowest - s.start, 0);
        s.n = smaller(run.most - s.start, TILE_KEYS);
        s.list = (int64_t)run.first + s.start;
        s.partial = !all || run.end < rows || run.least < s.start + s.n
                    || run.highest > s.start + s.from;
    }
    if (threadIdx.x == 0) b.steps[turn] = s;
    for (int i = threadIdx.x; i < 2 * TILE_KEYS; i += BLOCK_THREADS) {
        const int j = i % TILE_KEYS;
        const int32_t *rows = i < TILE_KEYS ? a.key_rows : a.value_rows;
        b.numbers[turn][i] = j >= s.from && j < s.n ? rows[s.list + j] : -1;
    }
}

} // namespace KERNEL_NAMESPACE

#endif
