/* type.c: element types on the host. */
#include "base/base.h"

#include <math.h>
#include <string.h>

static const struct {
    size_t size;
    const char *name, *torch;
    bool is_float;
} types[INSET_TYPE_COUNT + 1] = {
    [INSET_F32] = {4, "f32", "torch.float32", true},
    [INSET_BF16] = {2, "bf16", "torch.bfloat16", true},
    [INSET_F16] = {2, "f16", "torch.float16", true},
    [INSET_F64] = {8, "f64", "torch.float64", true},
    [INSET_I64] = {8, "i64", "torch.int64", false},
    [INSET_I32] = {4, "i32", "torch.int32", false},
    [INSET_I16] = {2, "i16", "torch.int16", false},
    [INSET_I8] = {1, "i8", "torch.int8", false},
    [INSET_U8] = {1, "u8", "torch.uint8", false},
    [INSET_BOOL] = {1, "bool", "torch.bool", false},
    [INSET_TYPE_COUNT] = {0, "another type", "another type",
        false}, /* a type of a file that inset does not have */
};

size_t type_size(inset_type type) { return types[type].size; }
const char *type_name(inset_type type) { return types[type].name; }
const char *type_torch_name(inset_type type) { return types[type].torch; }
bool type_is_float(inset_type type) { return types[type].is_float; }

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

uint16_t bf16_from_float(float x)
{
    uint32_t bits = bits_of(x);
    /* a NaN stays one */
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float bf16_to_float(uint16_t x) { return float_of((uint32_t)x << 16); }

uint16_t f16_from_float(float x)
{
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    /* rounds to infinity */
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    /* subnormal: let fp32 addition round */
    if (rest < 0x38800000) {
        float tiny = float_of(rest) + 0.5f;
        return (uint16_t)(sign | (bits_of(tiny) - 0x3f000000));
    }
    rest += 0xfff + (rest >> 13 & 1);
    return (uint16_t)(sign | ((rest - 0x38000000) >> 13));
}

float f16_to_float(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 0x3ff;
    if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f;
    return sign ? -tiny : tiny;
}

double element_get(inset_type type, const void *element)
{
    union {
        float f;
        double d;
        int64_t i64;
        int32_t i32;
        int16_t i16;
        int8_t i8;
        uint8_t u8;
        uint16_t u16;
    } u;
    memcpy(&u, element, type_size(type));
    switch (type) {
    case INSET_F32: return u.f;
    case INSET_BF16: return bf16_to_float(u.u16);
    case INSET_F16: return f16_to_float(u.u16);
    case INSET_F64: return u.d;
    case INSET_I64: return (double)u.i64;
    case INSET_I32: return u.i32;
    case INSET_I16: return u.i16;
    case INSET_I8: return u.i8;
    case INSET_BOOL: return u.u8 != 0;
    default: return u.u8;
    }
}

/* A double as an integer without undefined behaviour: out of range gives the end of the range, NaN
 * gives 0. Narrower types keep the low bits. */
static int64_t integer_of(double x)
{
    if (isnan(x)) return 0;
    if (x >= 9223372036854775807.0) return INT64_MAX;
    if (x <= -9223372036854775808.0) return INT64_MIN;
    return (int64_t)x;
}

void element_put(inset_type type, void *element, double value)
{
    union {
        float f;
        double d;
        int64_t i64;
        int32_t i32;
        int16_t i16;
        int8_t i8;
        uint8_t u8;
        uint16_t u16;
    } u;
    switch (type) {
    case INSET_F32: u.f = (float)value; break;
    case INSET_BF16: u.u16 = bf16_from_float((float)value); break;
    case INSET_F16: u.u16 = f16_from_float((float)value); break;
    case INSET_F64: u.d = value; break;
    case INSET_I64: u.i64 = integer_of(value); break;
    case INSET_I32: u.i32 = (int32_t)integer_of(value); break;
    case INSET_I16: u.i16 = (int16_t)integer_of(value); break;
    case INSET_I8: u.i8 = (int8_t)integer_of(value); break;
    case INSET_BOOL: u.u8 = value != 0; break;
    default: u.u8 = (uint8_t)integer_of(value); break;
    }
    memcpy(element, &u, type_size(type));
}

void elements_convert(
    inset_type type, void *to, inset_type from_type, const void *from, int64_t count)
{
    enum { BLOCK = 256 };
    float block[BLOCK];
    for (int64_t done = 0; done < count; done += BLOCK) {
        int n = (int)(count - done < BLOCK ? count - done : BLOCK);
        const char *source = (const char *)from + (size_t)done * type_size(from_type);
        char *target = (char *)to + (size_t)done * type_size(type);
        uint16_t half;
        switch (from_type) {
        case INSET_F32: memcpy(block, source, (size_t)n * 4); break;
        case INSET_BF16:
            for (int i = 0; i < n; i++)
                memcpy(&half, source + 2 * i, 2), block[i] = bf16_to_float(half);
            break;
        case INSET_F16:
            for (int i = 0; i < n; i++)
                memcpy(&half, source + 2 * i, 2), block[i] = f16_to_float(half);
            break;
        default:
            for (int i = 0; i < n; i++)
                block[i] = (float)element_get(from_type, source + (size_t)i * type_size(from_type));
        }
        switch (type) {
        case INSET_F32: memcpy(target, block, (size_t)n * 4); break;
        case INSET_BF16:
            for (int i = 0; i < n; i++)
                half = bf16_from_float(block[i]), memcpy(target + 2 * i, &half, 2);
            break;
        case INSET_F16:
            for (int i = 0; i < n; i++)
                half = f16_from_float(block[i]), memcpy(target + 2 * i, &half, 2);
            break;
        default:
            for (int i = 0; i < n; i++)
                element_put(type, target + (size_t)i * type_size(type), block[i]);
        }
    }
}
