/* products.h: the heights at which a device runs matrix products: what the planner leaves room for
 * and the device fills. Plain C.
 *
 * A device whose row block is above 1 runs a product of n rows as full blocks of the tallest
 * height, then what is left as one product of the smallest height that holds it. The rows in
 * between are padding: of x they are read and of y they are written, whatever lies there. So the
 * shapes that occur are few and known when a model is opened: each was seen to give a row the same
 * bits, and has its descriptors.
 *
 * Which heights: below some 200 rows a 16-bit product takes as long as its weight takes to read, so
 * padding costs nothing and powers of two do. From 256 on rows cost time, and a height is at most
 * one and a half times the one before, so that never more than a third of what is computed is
 * padding; the tile of a product, 128 rows, would pad in any case. The tallest has to fill a GPU
 * with narrow products too: 4096 rows of GPT-2's 768 columns are 96 tiles of 128 x 256. Wide
 * products fill it with fewer, and a block of theirs would be large, so a block's rows have at most
 * PRODUCT_BLOCK_BYTES: as tiles of 16-bit numbers some two thousand. */
#ifndef INSET_PRODUCTS_H
#define INSET_PRODUCTS_H

#include <stdint.h>

enum { PRODUCT_HEIGHTS = 12, PRODUCT_TALLEST = 4096, PRODUCT_BLOCK_BYTES = 128 << 20 };
static const int32_t product_heights[PRODUCT_HEIGHTS] = {
    32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, PRODUCT_TALLEST};

/* How many of the heights products with these rows take, the smallest first. widest: bytes of a row
 * of x or of y, whichever has more. */
static inline int product_count_heights(int64_t widest)
{
    int n = PRODUCT_HEIGHTS;
    while (n > 1 && product_heights[n - 1] * widest > PRODUCT_BLOCK_BYTES) n--;
    return n;
}

/* Which of the first n heights the next block of a product has that `rows` rows are left of. */
static inline int product_next_height(int n, int64_t rows)
{
    int i = 0;
    while (i < n - 1 && product_heights[i] < rows) i++;
    return i;
}

/* Rows that a product of `rows` rows reads and writes. row_block: the device's; 0 or 1 where it
 * pads nothing. */
static inline int64_t product_padded(int32_t row_block, int64_t rows, int64_t widest)
{
    const int n = product_count_heights(widest);
    const int64_t left = rows % product_heights[n - 1];
    if (row_block <= 1 || !left) return rows;
    return rows - left + product_heights[product_next_height(n, left)];
}

/* As how many products the device runs it. */
static inline int64_t product_count_blocks(int32_t row_block, int64_t rows, int64_t widest)
{
    const int64_t tallest = product_heights[product_count_heights(widest) - 1];
    return row_block <= 1 ? rows > 0 : (rows + tallest - 1) / tallest;
}

#endif
