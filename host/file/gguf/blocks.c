/* blocks.c: blocks of quantised numbers as fp32 (llama.cpp's ggml-quants.c; the order of
 * operations is that of the Python package `gguf`, so that the bits are too).
 *
 * Plain blocks have 32 numbers, a scale d and perhaps an offset m, and 4, 5 or 8 bits a number. K
 * blocks have 256, in groups of 16 or 32 with scales of their own, which are small integers times
 * the block's. */
#include <string.h>

#include "file/gguf/gguf.h"

static const gguf_block blocks[] = {{GGUF_F32, "F32", 1, 4}, {GGUF_F16, "F16", 1, 2},
    {GGUF_BF16, "BF16", 1, 2}, {GGUF_Q4_0, "Q4_0", 32, 18}, {GGUF_Q4_1, "Q4_1", 32, 20},
    {GGUF_Q5_0, "Q5_0", 32, 22}, {GGUF_Q5_1, "Q5_1", 32, 24}, {GGUF_Q8_0, "Q8_0", 32, 34},
    {GGUF_Q2_K, "Q2_K", 256, 84}, {GGUF_Q3_K, "Q3_K", 256, 110}, {GGUF_Q4_K, "Q4_K", 256, 144},
    {GGUF_Q5_K, "Q5_K", 256, 176}, {GGUF_Q6_K, "Q6_K", 256, 210}, {GGUF_Q8_K, "Q8_K", 256, 292}};

const gguf_block *gguf_block_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if ((uint32_t)blocks[i].type == type) return &blocks[i];
    return NULL;
}

static float half_at(const uint8_t *b)
{
    uint16_t x;
    memcpy(&x, b, sizeof x);
    return f16_to_float(x);
}

/* Q4_0, Q4_1, Q5_0, Q5_1: [d] [m] [fifth bits] [low nibbles of 0 to 15, high ones of 16 to 31]. */
static void widen_plain(const uint8_t *b, bool offset, bool five, float *out)
{
    const float d = half_at(b), m = offset ? half_at(b + 2) : 0;
    uint32_t fifth = 0;
    b += offset ? 4 : 2;
    if (five) memcpy(&fifth, b, sizeof fifth), b += 4;
    for (int i = 0; i < 32; i++) {
        int q = i < 16 ? b[i] & 15 : b[i - 16] >> 4;
        if (five) q |= (int)(fifth >> i & 1) << 4;
        if (offset) out[i] = d * (float)q + m;
        else out[i] = d * (float)(q - (five ? 16 : 8));
    }
}

static void widen_q8_0(const uint8_t *b, float *out)
{
    const float d = half_at(b);
    for (int i = 0; i < 32; i++) out[i] = (float)(int8_t)b[2 + i] * d;
}

/* Scales 16 (4 bits: scale and minimum), then 2 bits a number, d, dmin. */
static void widen_q2_k(const uint8_t *b, float *out)
{
    const uint8_t *scales = b, *q = b + 16;
    const float d = half_at(b + 80), least = half_at(b + 82);
    for (int i = 0; i < 256; i++) {
        const uint8_t s = scales[i / 16];
        const int bits = q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        out[i] = d * (float)(s & 15) * (float)bits - least * (float)(s >> 4);
    }
}

/* Third bits 32, then 2 bits a number, scales 12 (6 bits each), d. */
static void widen_q3_k(const uint8_t *b, float *out)
{
    const uint8_t *third = b, *q = b + 32, *scales = b + 96;
    const float d = half_at(b + 108);
    for (int i = 0; i < 256; i++) {
        const int g = i / 16, low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4,
                  high = scales[8 + g % 4] >> (g / 4 * 2) & 3,
                  bits = q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3,
                  missing = !(third[i % 32] >> (i / 32) & 1);
        out[i] = d * (float)((low | high << 4) - 32) * (float)(bits - (missing << 2));
    }
}

/* The scale and the minimum of group g of 8, 6 bits each in 12 bytes. */
static void scale_of(const uint8_t *s, int g, int *scale, int *least)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *least = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
        *least = s[g + 4] >> 4 | (s[g] >> 6) << 4;
    }
}

/* Q4_K: d, dmin, scales 12, 4 bits a number; Q5_K has fifth bits, 32, before these. */
static void widen_q45_k(const uint8_t *b, bool five, float *out)
{
    const float d = half_at(b), least = half_at(b + 2);
    const uint8_t *fifth = b + 16, *q = b + (five ? 48 : 16);
    for (int g = 0; g < 8; g++) {
        int scale, minimum;
        scale_of(b + 4, g, &scale, &minimum);
        const float by = d * (float)scale, less = least * (float)minimum;
        for (int i = 0; i < 32; i++) {
            int bits = q[g / 2 * 32 + i] >> (g % 2 * 4) & 15;
            if (five) bits |= (fifth[i] >> g & 1) << 4;
            out[32 * g + i] = by * (float)bits - less;
        }
    }
}

/* Low 4 bits 128, high 2 bits 64, scales 16 (signed), d. */
static void widen_q6_k(const uint8_t *b, float *out)
{
    const uint8_t *low = b, *high = b + 128, *scales = b + 192;
    const float d = half_at(b + 208);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, in = i % 128,
                  bits = (low[half * 64 + in % 64] >> (in / 64 * 4) & 15)
                         | (high[half * 32 + in % 32] >> (in / 32 * 2) & 3) << 4;
        out[i] = d * (float)(int8_t)scales[i / 16] * (float)(bits - 32);
    }
}

static void widen_q8_k(const uint8_t *b, float *out)
{
    float d;
    memcpy(&d, b, sizeof d);
    for (int i = 0; i < 256; i++) out[i] = d * (float)(int8_t)b[4 + i];
}

static void widen_block(gguf_type type, const uint8_t *b, float *out)
{
    uint16_t half;
    switch (type) {
    case GGUF_F32: memcpy(out, b, sizeof *out); break;
    case GGUF_F16: *out = half_at(b); break;
    case GGUF_BF16: memcpy(&half, b, sizeof half), *out = bf16_to_float(half); break;
    case GGUF_Q4_0:
    case GGUF_Q4_1: widen_plain(b, type == GGUF_Q4_1, false, out); break;
    case GGUF_Q5_0:
    case GGUF_Q5_1: widen_plain(b, type == GGUF_Q5_1, true, out); break;
    case GGUF_Q8_0: widen_q8_0(b, out); break;
    case GGUF_Q2_K: widen_q2_k(b, out); break;
    case GGUF_Q3_K: widen_q3_k(b, out); break;
    case GGUF_Q4_K:
    case GGUF_Q5_K: widen_q45_k(b, type == GGUF_Q5_K, out); break;
    case GGUF_Q6_K: widen_q6_k(b, out); break;
    case GGUF_Q8_K: widen_q8_k(b, out); break;
    }
}

void gguf_widen(gguf_type type, const void *from, int64_t count, float *out)
{
    const gguf_block *block = gguf_block_of(type);
    const uint8_t *b = from;
    for (int64_t i = 0; block && i < count; i += block->numbers, b += block->bytes)
        widen_block(type, b, out + i);
}
