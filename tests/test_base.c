/* test_base.c: memory, arenas, tables, texts, messages, and element types: what everything else
 * stands on. */
#include "world.h"

static bool all_zero(const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (((const char *)bytes)[i]) return false;
    return true;
}

/* ---- context and blocks ------------------------------------------------- */

static void contexts(void)
{
    inset_context *context = (inset_context *)&context;
    failing_allocator memory = {.fail_at = 1};
    CHECK(inset_context_create(failing_allocator_interface(&memory), &context) == INSET_NO_MEMORY
              && !context,
        "no memory for the context");
    CHECK(inset_context_create(NULL, NULL) == INSET_USAGE_ERROR, "nowhere to put it");
    CHECK(!strcmp(inset_message(NULL), ""), "a message without a context");
    inset_context_free(NULL);
    NEED(!inset_context_create(NULL, &context), "with realloc and free");
    CHECK(!strcmp(inset_message(context), ""), "nothing failed yet");
    void *block = memory_new(context, 100);
    CHECK(block && all_zero(block, 100), "zeroed");
    memory_free(context, block);
    inset_context_free(context);
}

static void blocks(void)
{
    world w;
    inset_context *context = world_start(&w);
    char *block = memory_new(context, 10), *none = memory_new(context, 0),
         *copy = memory_text(context, "abcdef", 3);
    CHECK(block && all_zero(block, 10) && none && !strcmp(copy, "abc") && context->live_blocks == 3,
        "three blocks");
    memset(block, 1, 10);
    block = memory_resize(context, block, 10, 1000);
    CHECK(block && block[9] == 1 && all_zero(block + 10, 990), "what is added is zeroed");
    block = memory_resize(context, block, 1000, 5);
    CHECK(block && block[4] == 1 && context->live_blocks == 3, "made smaller");
    w.memory.fail_at = w.memory.calls + 1;
    CHECK(
        !memory_resize(context, block, 5, 1000) && block[4] == 1, "a block that cannot grow stays");
    CHECK(!strcmp(inset_message(context), "MemoryError: out of memory on the host"), "%s",
        inset_message(context));
    memory_free(context, block);
    memory_free(context, none);
    memory_free(context, copy);
    memory_free(context, NULL);
    block = memory_resize(context, NULL, 0, 8);
    CHECK(block && all_zero(block, 8), "resizing nothing makes a block");
    memory_free(context, block);
    CHECK(!memory_new(context, SIZE_MAX) && context->status == INSET_NO_MEMORY,
        "no block is that large");
    world_end(&w, "blocks");
}

static void arrays(void)
{
    world w;
    inset_context *context = world_start(&w);
    int32_t *items = NULL;
    size_t capacity = 0;
    for (int32_t i = 0; i < 1000; i++) {
        NEED(array_reserve(context, &items, &capacity, (size_t)i + 1, sizeof *items), "item %d", i);
        CHECK(capacity > (size_t)i && items[i] == 0, "item %d: capacity %zu", i, capacity);
        items[i] = i + 1;
    }
    CHECK(items[0] == 1 && items[999] == 1000 && w.memory.calls < 40,
        "%lld allocations for 1000 items", (long long)w.memory.calls);
    size_t before = capacity;
    const int32_t *held = items;
    CHECK(array_reserve(context, &items, &capacity, 1000, sizeof *items) && items == held,
        "nothing moves when there is room");
    CHECK(!array_reserve(context, &items, &capacity, SIZE_MAX / 2, sizeof *items) && items == held
              && capacity == before,
        "too many");
    CHECK(!array_reserve(context, &items, &capacity, SIZE_MAX, 1) && items == held, "all there is");
    w.memory.fail_at = w.memory.calls + 1;
    CHECK(!array_reserve(context, &items, &capacity, before + 1, sizeof *items) && items == held
              && capacity == before && items[999] == 1000,
        "a failure changes nothing");
    memory_free(context, items);
    world_end(&w, "arrays");
}

/* ---- arena -------------------------------------------------------------- */

static void arenas(void)
{
    world w;
    uint64_t random = 1;
    inset_context *context = world_start(&w);
    arena a;
    arena_start(&a, context);
    CHECK(w.memory.calls == 1, "starting one allocates nothing");
    enum { N = 2000 };
    static unsigned char *pieces[N];
    static size_t sizes[N];
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < N; i++) {
            sizes[i] = test_random(&random) % (i % 100 ? 200 : 50000);
            pieces[i] = arena_new(&a, sizes[i]);
            NEED(pieces[i], "piece %zu", i);
            CHECK((uintptr_t)pieces[i] % 16 == 0, "piece %zu is not aligned to 16", i);
            CHECK(all_zero(pieces[i], sizes[i]), "round %d, piece %zu is not zeroed", round, i);
            memset(pieces[i], (int)(i % 255 + 1), sizes[i]);
        }
        for (size_t i = 0; i < N; i++)
            for (size_t b = 0; b < sizes[i]; b++)
                if (pieces[i][b] != i % 255 + 1) {
                    CHECK(false, "piece %zu was overwritten", i);
                    break;
                }
        arena_free(&a);
    }
    int64_t before = w.memory.calls;
    CHECK(arena_new(&a, 4000) && w.memory.calls == before, "a block kept for reuse is taken again");
    CHECK(!strcmp(arena_text(&a, "abcdef", 4), "abcd")
              && !memcmp(arena_copy(&a, "xyz", 3), "xyz", 3) && arena_copy(&a, NULL, 0),
        "copies");
    CHECK(!arena_new(&a, SIZE_MAX) && !arena_new(&a, SIZE_MAX - 20), "too large");
    CHECK(context->status == INSET_NO_MEMORY, "and says so");
    CHECK(arena_new(&a, 10), "it works on after a failure");
    arena_free(&a);
    arena_free(&a);
    world_end(&w, "arena");
}

static void arena_failures(void)
{
    world w;
    inset_context *context = world_start(&w);
    arena a;
    arena_start(&a, context);
    w.memory.fail_at = w.memory.calls + 1;
    CHECK(!arena_new(&a, 8) && context->status == INSET_NO_MEMORY, "the first block");
    char *piece = arena_new(&a, 8);
    NEED(piece, "the next try");
    piece[0] = 1;
    w.memory.fail_at = w.memory.calls + 1;
    CHECK(!arena_new(&a, 1 << 20) && piece[0] == 1 && arena_new(&a, 8), "a later block");
    arena_free(&a);
    world_end(&w, "arena failures");
}

/* ---- table -------------------------------------------------------------- */

/* Hashes with so few different values that chains are long and wrap around the end. */
static void tables(void)
{
    enum { N = 3000, HASHES = 700 };
    world w;
    table t = {0};
    static int found[N];
    inset_context *context = world_start(&w);
    size_t cursor = 0;
    CHECK(table_next(&t, 5, &cursor) == -1, "an empty table");
    for (int32_t i = 0; i < N; i++)
        NEED(table_add(context, &t, UINT64_MAX - (uint64_t)(i % HASHES), i), "entry %d", i);
    CHECK(t.count == N, "%zu", t.count);
    for (uint64_t h = 0; h < HASHES; h++) {
        int32_t index;
        cursor = 0;
        while ((index = table_next(&t, UINT64_MAX - h, &cursor)) >= 0) {
            CHECK((uint64_t)index % HASHES == h, "hash %llu gives entry %d", (unsigned long long)h,
                index);
            found[index]++;
        }
    }
    for (int i = 0; i < N; i++) CHECK(found[i] == 1, "entry %d was found %d times", i, found[i]);
    cursor = 0;
    CHECK(table_next(&t, 12345, &cursor) == -1, "a hash that is not there");
    while (t.count * 3 < t.capacity * 2) table_add(context, &t, 1, 0);
    size_t count = t.count;
    w.memory.fail_at = w.memory.calls + 1;
    cursor = 0;
    CHECK(!table_add(context, &t, 99999, 77) && t.count == count
              && table_next(&t, 99999, &cursor) == -1,
        "a table that cannot grow stays");
    table_free(context, &t);
    table_free(context, &t);
    world_end(&w, "table");
}

static void hashes(void)
{
    static const char text[] = "transformer.h.11.attn.c_attn.weight", start[] = "transform";
    for (size_t a = 0; a < sizeof text; a++)
        for (size_t b = 0; b < a; b++)
            CHECK(hash_bytes(0, text, a) != hash_bytes(0, text, b), "%zu and %zu bytes", a, b);
    CHECK(hash_bytes(0, text, 9) == hash_bytes(0, start, 9), "the same bytes");
    char shifted[64];
    memcpy(shifted + 3, text, sizeof text);
    CHECK(hash_bytes(7, text, sizeof text) == hash_bytes(7, shifted + 3, sizeof text),
        "whatever the alignment");
    CHECK(hash_bytes(7, text, sizeof text) != hash_bytes(8, text, sizeof text), "seeds");
    CHECK(hash_bytes(0, "", 0) == hash_bytes(0, text, 0), "nothing");
}

/* ---- texts and messages ------------------------------------------------- */

static void texts(void)
{
    world w;
    text t = {0};
    char expected[2000] = "";
    inset_context *context = world_start(&w);
    for (int i = 0; i < 300; i++) {
        text_add(context, &t, "%d,", i);
        sprintf(expected + strlen(expected), "%d,", i);
    }
    CHECK(t.length == strlen(expected) && !strcmp(t.bytes, expected), "%s", t.bytes);
    size_t length = t.length;
    w.memory.fail_at = w.memory.calls + 1;
    text_add(context, &t, "%5000d", 1);
    CHECK(t.length == length && !strcmp(t.bytes, expected),
        "a text that cannot grow keeps what it has");
    text_clear(&t);
    CHECK(t.length == 0 && !*t.bytes, "cleared");
    text_free(context, &t);
    CHECK(!t.bytes && !t.length, "freed");
    text_free(context, &t);
    text_clear(&t);
    world_end(&w, "texts");
}

static void messages(void)
{
    world w;
    inset_context *context = world_start(&w);
    CHECK(error_set(context, INSET_SHAPE_ERROR, "[%d] and [%d]", 2, 3) == INSET_SHAPE_ERROR,
        "the status comes back");
    CHECK(!strcmp(inset_message(context), "ShapeError: [2] and [3]"), "%s", inset_message(context));
    error_help(context, "try %s", "this");
    error_help(context, "or that");
    error_place(context, "a.inset:1:2\n    x\n    ^\n");
    error_place(context, "a.inset:3:4\n    x\n    ^\n");
    CHECK(!strcmp(inset_message(context),
              "a.inset:3:4\n    x\n    ^\ntry this\nor that\nShapeError: [2] and [3]"),
        "%s", inset_message(context));
    CHECK(!strcmp(inset_message(context),
              "a.inset:3:4\n    x\n    ^\ntry this\nor that\nShapeError: [2] and [3]"),
        "asked for twice");
    error_set(context, INSET_NAME_ERROR, "%s", "x");
    CHECK(!strcmp(inset_message(context), "NameError: x"), "a new message drops place and help: %s",
        inset_message(context));
    CHECK(error_no_memory(context) == INSET_NO_MEMORY, "no memory");
    CHECK(!strcmp(inset_message(context), "MemoryError: out of memory on the host"), "%s",
        inset_message(context));
    world_end(&w, "messages");

    context = world_start(&w);
    w.memory.fail_at = w.memory.calls + 1;
    w.memory.fail_after = true;
    CHECK(error_set(context, INSET_NAME_ERROR, "x") == INSET_NAME_ERROR && *inset_message(context),
        "a message without memory for it");
    world_end(&w, "messages without memory");
    for (int s = INSET_OK; s <= INSET_USAGE_ERROR; s++)
        CHECK(strcmp(inset_status_name((inset_status)s), "Error"), "status %d has a name", s);
    CHECK(!strcmp(inset_status_name((inset_status)99), "Error"), "no such status");
}

/* The edit distance by its definition, for short texts. */
static int slow_distance(const char *a, const char *b)
{
    if (!*a) return (int)strlen(b);
    if (!*b) return (int)strlen(a);
    if (*a == *b) return slow_distance(a + 1, b + 1);
    int drop = slow_distance(a + 1, b), add = slow_distance(a, b + 1),
        change = slow_distance(a + 1, b + 1);
    int least = drop < add ? drop : add;
    return 1 + (change < least ? change : least);
}

static void distances(void)
{
    uint64_t random = 2;
    for (int i = 0; i < 300; i++) {
        char a[7] = "", b[7] = "";
        for (uint64_t n = test_random(&random) % 7, k = 0; k < n; k++)
            a[k] = "abc"[test_random(&random) % 3];
        for (uint64_t n = test_random(&random) % 7, k = 0; k < n; k++)
            b[k] = "abc"[test_random(&random) % 3];
        int limit = (int)(test_random(&random) % 7), want = slow_distance(a, b);
        CHECK(text_distance(a, b, limit) == (want <= limit ? want : limit + 1),
            "%s, %s, limit %d: %d, expected %d", a, b, limit, text_distance(a, b, limit), want);
    }
    char longest[100];
    memset(longest, 'a', 99);
    longest[99] = 0;
    CHECK(text_distance(longest, longest + 1, 5) == 6, "too long to compare");
    CHECK(text_distance(longest + 35, longest + 36, 5) == 1, "64 letters");
}

/* ---- handles ------------------------------------------------------------ */

typedef struct thing {
    handle handle;
    inset_context *context;
    int number;
} thing;
static int freed[8], n_freed;

static void free_thing(void *object)
{
    thing *t = object;
    handle_free_owned(t->context, t);
    handle_remove(t->context, &t->handle);
    freed[n_freed++] = t->number;
    memory_free(t->context, t);
}

static thing *make_thing(inset_context *context, void *owner, int number)
{
    thing *t = memory_new(context, sizeof *t);
    t->context = context;
    t->number = number;
    handle_add(context, &t->handle, owner, t, free_thing);
    return t;
}

/* What was made from a thing goes before it; what is left goes with the context, newest first. */
static void handles(void)
{
    world w;
    inset_context *context = world_start(&w);
    thing *one = make_thing(context, NULL, 1), *two = make_thing(context, one, 2),
          *other = make_thing(context, NULL, 3);
    make_thing(context, two, 4);
    make_thing(context, other, 5);
    free_thing(one);
    CHECK(n_freed == 3 && freed[0] == 4 && freed[1] == 2 && freed[2] == 1, "%d freed: %d %d %d",
        n_freed, freed[0], freed[1], freed[2]);
    handle never = {0};
    handle_remove(context, &never);
    inset_context_free(context);
    CHECK(n_freed == 5 && freed[3] == 5 && freed[4] == 3, "%d freed: %d %d", n_freed, freed[3],
        freed[4]);
    CHECK(w.memory.live == 0, "%lld blocks left", (long long)w.memory.live);
}

/* ---- 16-bit floats ------------------------------------------------------ */

typedef struct half {
    const char *name;
    int fraction_bits, least_exponent, greatest_exponent; /* of normal numbers */
    uint16_t (*from)(float);
    float (*to)(uint16_t);
} half;

static const half halves[] = {{"bf16", 7, -126, 127, bf16_from_float, bf16_to_float},
    {"f16", 10, -14, 15, f16_from_float, f16_to_float}};

/* What the bits mean, by the definition. */
static double slow_decode(const half *h, uint16_t bits)
{
    int fraction = bits & ((1 << h->fraction_bits) - 1),
        exponent = (bits & 0x7fff) >> h->fraction_bits;
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == h->greatest_exponent * 2 + 1) return fraction ? NAN : sign * INFINITY;
    if (!exponent) return sign * ldexp(fraction, h->least_exponent - h->fraction_bits);
    return sign
           * ldexp(fraction + (1 << h->fraction_bits),
               exponent - h->greatest_exponent - h->fraction_bits);
}

/* The nearest number of the type, the even one of two; computed in double, where every quotient and
 * difference here is exact. */
static double slow_round(const half *h, double x)
{
    int exponent;
    if (x == 0 || !isfinite(x)) return x;
    frexp(x, &exponent);
    if (exponent - 1 > h->least_exponent) exponent -= 1;
    else exponent = h->least_exponent;
    double quantum = ldexp(1, exponent - h->fraction_bits), n = fabs(x) / quantum, whole = floor(n);
    if (n - whole > 0.5 || (n - whole == 0.5 && fmod(whole, 2) == 1)) whole += 1;
    double result = whole * quantum;
    if (result >= ldexp(1, h->greatest_exponent + 1)) result = INFINITY;
    return copysign(result, x);
}

static bool same_double(double a, double b)
{
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static void check_rounding(const half *h, float x)
{
    double got = h->to(h->from(x)), want = slow_round(h, x);
    CHECK(same_double(got, want), "%s of %a: %a, expected %a", h->name, (double)x, got, want);
}

static void half_values(void)
{
    for (size_t k = 0; k < 2; k++) {
        const half *h = &halves[k];
        for (uint32_t bits = 0; bits < 65536; bits++) {
            float x = h->to((uint16_t)bits);
            CHECK(same_double(x, slow_decode(h, (uint16_t)bits)), "%s %04x is %a", h->name, bits,
                (double)x);
            if (isnan(x))
                CHECK(isnan(h->to(h->from(x))), "%s %04x: a NaN stays one", h->name, bits);
            else CHECK(h->from(x) == bits, "%s %04x comes back as %04x", h->name, bits, h->from(x));
        }
    }
}

/* Every tie between neighbours, and the floats right below and above it; then floats of all
 * sizes. */
static void half_rounding(void)
{
    for (size_t k = 0; k < 2; k++) {
        const half *h = &halves[k];
        uint64_t random = 3;
        for (uint32_t bits = 0; bits < 65535; bits++) {
            double low = slow_decode(h, (uint16_t)bits),
                   high = slow_decode(h, (uint16_t)(bits + 1));
            if (!isfinite(low) || isnan(high) || bits == 0x7fff) continue;
            /* as if there were one more */
            if (isinf(high)) high = copysign(ldexp(1, h->greatest_exponent + 1), high);
            float tie = (float)((low + high) / 2);
            check_rounding(h, tie);
            check_rounding(h, nextafterf(tie, -INFINITY));
            check_rounding(h, nextafterf(tie, INFINITY));
        }
        for (int i = 0; i < 200000; i++) {
            uint32_t bits = (uint32_t)test_random(&random);
            float x;
            memcpy(&x, &bits, sizeof x);
            check_rounding(h, x);
        }
        static const float ends[] = {0, -0.0f, INFINITY, -INFINITY, 0x1.fffffep127f, 0x1p-149f,
            -0x1p-149f, 65504, 65519.99f, 65520, 1};
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) check_rounding(h, ends[i]);
        for (uint32_t bits = 0x7f800001; bits < 0x80000000; bits += 0x1234) {
            float x;
            memcpy(&x, &bits, sizeof x);
            CHECK(isnan(h->to(h->from(x))) && isnan(h->to(h->from(-x))), "%s of the NaN %08x",
                h->name, bits);
        }
    }
}

/* ---- elements ----------------------------------------------------------- */

static void elements(void)
{
    static const struct {
        inset_type type;
        double in, out;
    } puts[] = {
        {INSET_F32, 0.1, (double)0.1f},
        {INSET_F64, 0.1, 0.1},
        {INSET_BF16, 0.1, 0.10009765625},
        {INSET_F16, 0.1, 0.0999755859375},
        {INSET_F32, 1e300, INFINITY},
        {INSET_F16, 70000, INFINITY},
        {INSET_BF16, -1e39, -INFINITY},
        {INSET_F32, NAN, NAN},
        {INSET_F16, NAN, NAN},
        {INSET_F32, -0.0, -0.0},
        {INSET_I64, 4503599627370497.0, 4503599627370497.0},
        {INSET_I64, -2.9, -2},
        {INSET_I64, 1e30, 0x1p63},
        {INSET_I64, -1e30, -0x1p63},
        {INSET_I64, NAN, 0},
        {INSET_I32, 2.9, 2},
        {INSET_I32, -2147483648.0, -2147483648.0},
        {INSET_I32, NAN, 0},
        {INSET_I16, -32768, -32768},
        {INSET_I16, 1.5, 1},
        {INSET_I8, -128, -128},
        {INSET_I8, 127.9, 127},
        {INSET_U8, 255, 255},
        {INSET_U8, 0.9, 0},
        {INSET_BOOL, 0, 0},
        {INSET_BOOL, -3.5, 1},
        {INSET_BOOL, 0.1, 1},
        {INSET_BOOL, NAN, 1},
    };
    for (size_t i = 0; i < sizeof puts / sizeof *puts; i++) {
        unsigned char bytes[24];
        size_t size = type_size(puts[i].type);
        memset(bytes, 0xee, sizeof bytes);
        element_put(puts[i].type, bytes + 5, puts[i].in); /* unaligned */
        double got = element_get(puts[i].type, bytes + 5);
        CHECK(same_double(got, puts[i].out), "%s of %a: %a, expected %a", type_name(puts[i].type),
            puts[i].in, got, puts[i].out);
        CHECK(bytes[4] == 0xee && bytes[5 + size] == 0xee, "%s: a neighbour was written",
            type_name(puts[i].type));
    }
    CHECK(element_get(INSET_BOOL, "\7") == 1 && element_get(INSET_U8, "\xff") == 255
              && element_get(INSET_I8, "\xff") == -1,
        "as stored");
}

static void types(void)
{
    static const char *const names[] = {
        "f32", "bf16", "f16", "f64", "i64", "i32", "i16", "i8", "u8", "bool"};
    static const size_t sizes[] = {4, 2, 2, 8, 8, 4, 2, 1, 1, 1};
    for (int t = 0; t < INSET_TYPE_COUNT; t++)
        CHECK(!strcmp(type_name((inset_type)t), names[t]) && type_size((inset_type)t) == sizes[t]
                  && type_is_float((inset_type)t) == (t < 4)
                  && !strncmp(type_torch_name((inset_type)t), "torch.", 6),
            "%s", names[t]);
    CHECK(type_size(INSET_TYPE_COUNT) == 0 && !type_is_float(INSET_TYPE_COUNT)
              && type_name(INSET_TYPE_COUNT) && type_torch_name(INSET_TYPE_COUNT),
        "a type inset does not have");
}

int main(void)
{
    contexts();
    blocks();
    arrays();
    arenas();
    arena_failures();
    tables();
    hashes();
    texts();
    messages();
    distances();
    handles();
    half_values();
    half_rounding();
    elements();
    types();
    return test_result();
}
