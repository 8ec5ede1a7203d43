/* test_safetensors.c: safetensors in and out. Mostly refusals: every table has the bytes of a
 * hostile or broken file and words its message must have. */
#include "files.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* ---- safetensors in ----------------------------------------------------- */

static const struct {
    const char *name, *header;
    size_t data_size;
    const char *words;
} hostile_headers[] = {
    {"empty header", "", 0, "x: header:1:0: '[' or '{' expected near end of file"},
    {"no json", "{]", 0, "x: header:1:2: string or '}' expected near ']'"},
    {"cut json", "{\"a\":{\"dtype\":", 0, "x: header:1:14: unexpected token near end of file"},
    {"array", "[]", 0, "x: the header must be a JSON object without spaces before it"},
    {"spaces before", " {}", 0, "x: the header must be a JSON object without spaces before it"},
    {"text behind", "{} {}", 0, "x: header:1:4: end of file expected near '{'"},
    {"nul in name", "{\"a\\u0000b\":1}", 0, "x: header:1:11: NUL byte in object key not supported"},
    {"not utf-8", "{\"a\xff\":1}", 0, "x: header:1:3: unable to decode byte 0xff"},
    {"escape in name", "{\"a\x1b[2J\":1}", 0, "x: header:1:3: control character 0x1b near '\"a'"},
    {"same name twice", "{" TENSOR("a", "U8", "[1]", 0, 1) "," TENSOR("a", "U8", "[1]", 1, 2) "}",
        2, "duplicate object key near '\"a\"'"},
    {"integer too large",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,1]}}", 1,
        "too big integer"},
    {"control character", "{" TENSOR("a\\u001b", "U8", "[1]", 0, 1) "}", 1,
        "x: tensor 0: its name must have 1 to 1024 bytes and no control characters"},
    {"control character of two bytes",
        "{" TENSOR("a", "U8", "[1]", 0, 1) "," TENSOR("a\\u009b", "U8", "[1]", 1, 2) "}", 2,
        "x: tensor 1: its name must have"},
    {"no name", "{" TENSOR("", "U8", "[1]", 0, 1) "}", 1, "x: tensor 0: its name must have"},
    {"tensor is a number", "{\"a\":1}", 0, "x: tensor 'a' must be an object"},
    {"tensor is null", "{\"a\":null}", 0, "x: tensor 'a' must be an object"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
        "x: tensor 'a': 'dtype' must be a string"},
    {"unknown dtype", "{" TENSOR("a", "F31", "[1]", 0, 4) "}", 4,
        "x: tensor 'a': the format has no dtype 'F31'"},
    {"dtype in small letters", "{" TENSOR("a", "f32", "[1]", 0, 4) "}", 4,
        "the format has no dtype 'f32'"},
    {"dtype with escapes", "{" TENSOR("a", "\\u001b[2J", "[1]", 0, 4) "}", 4,
        "the format has no dtype '?'"},
    {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1,
        "x: tensor 'a': 'shape' must be an array"},
    {"shape is an object", "{" TENSOR("a", "U8", "{}", 0, 1) "}", 1,
        "x: tensor 'a': 'shape' must be an array"},
    {"nine dimensions", "{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1,
        "x: tensor 'a' has 9 dimensions, at most 8 are possible"},
    {"negative extent", "{" TENSOR("a", "U8", "[1,-1]", 0, 1) "}", 1,
        "x: tensor 'a': dimension 1 of its shape is no integer from 0 up"},
    {"real extent", "{" TENSOR("a", "U8", "[1.0]", 0, 1) "}", 1,
        "x: tensor 'a': dimension 0 of its shape is no integer from 0 up"},
    {"text as extent", "{" TENSOR("a", "U8", "[\"1\"]", 0, 1) "}", 1,
        "dimension 0 of its shape is no integer from 0 up"},
    {"product overflows", "{" TENSOR("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0,
        "x: tensor 'a': the product of its shape does not fit 64 bits"},
    {"bytes overflow to 4", "{" TENSOR("a", "F32", "[4611686018427387905]", 0, 4) "}", 4,
        "does not fit 64 bits"},
    {"product overflows beside a 0", "{" TENSOR("a", "F32", "[0,4294967296,4294967296]", 0, 0) "}",
        0, "does not fit 64 bits"},
    {"half a byte", "{" TENSOR("a", "F4", "[3]", 0, 1) "}", 1,
        "x: tensor 'a': 12 bits are no whole bytes"},
    {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1,
        "x: tensor 'a': 'data_offsets' must be two integers, 0 <= begin <= end"},
    {"one offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1]}}", 1,
        "'data_offsets' must be two integers"},
    {"three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1,
        "'data_offsets' must be two integers"},
    {"negative offset", "{" TENSOR("a", "U8", "[1]", -1, 0) "}", 1,
        "'data_offsets' must be two integers"},
    {"real offset", "{" TENSOR("a", "U8", "[1]", 0, 1e0) "}", 1,
        "'data_offsets' must be two integers"},
    {"ends before it begins", "{" TENSOR("a", "U8", "[1]", 1, 0) "}", 1,
        "'data_offsets' must be two integers"},
    {"behind the end", "{" TENSOR("a", "U8", "[3]", 0, 3) "}", 2,
        "x: tensor 'a' ends at byte 3 of the data, the file has 2: is it cut short?"},
    {"far behind the end", "{" TENSOR("a", "U8", "[9223372036854775]", 0, 9223372036854775807) "}",
        2, "x: tensor 'a' ends at byte 9223372036854775807 of the data, the file has 2"},
    {"offsets for fewer", "{" TENSOR("a", "F32", "[2]", 0, 4) "}", 4,
        "x: tensor 'a': its shape needs 8 bytes of F32, its offsets give 4"},
    {"offsets for more", "{" TENSOR("a", "F16", "[1]", 0, 4) "}", 4,
        "x: tensor 'a': its shape needs 2 bytes of F16, its offsets give 4"},
    {"a fourth member",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":1}}", 1,
        "x: tensor 'a' has 4 members, expected dtype, shape, data_offsets"},
    {"overlap", "{" TENSOR("b", "U8", "[2]", 1, 3) "," TENSOR("a", "U8", "[2]", 0, 2) "}", 3,
        "x: tensors 'a' and 'b' overlap at byte 1 of the data"},
    {"same bytes twice", "{" TENSOR("a", "U8", "[2]", 0, 2) "," TENSOR("b", "U8", "[2]", 0, 2) "}",
        2, "overlap at byte 0 of the data"},
    {"empty one inside another",
        "{" TENSOR("a", "U8", "[2]", 0, 2) "," TENSOR("b", "U8", "[0]", 1, 1) "}", 2,
        "x: tensors 'a' and 'b' overlap at byte 1 of the data"},
    {"hole", "{" TENSOR("a", "U8", "[1]", 0, 1) "," TENSOR("b", "U8", "[1]", 3, 4) "}", 4,
        "x: bytes 1 to 3 of the data, before tensor 'b', are in no tensor"},
    {"hole at the start", "{" TENSOR("a", "U8", "[1]", 1, 2) "}", 2,
        "x: bytes 0 to 1 of the data, before tensor 'a', are in no tensor"},
    {"bytes behind", "{" TENSOR("a", "U8", "[1]", 0, 1) "}", 4,
        "x: 3 bytes behind the last tensor are in no tensor"},
    {"data without tensors", "{}", 1, "x: 1 bytes behind the last tensor are in no tensor"},
    {"metadata is a text", "{\"__metadata__\":\"pt\"}", 0,
        "x: '__metadata__' must be an object of strings"},
    {"metadata is null", "{\"__metadata__\":null}", 0,
        "x: '__metadata__' must be an object of strings"},
    {"metadata holds a number", "{\"__metadata__\":{\"format\":\"pt\",\"n\":1}}", 0,
        "x: '__metadata__' must hold strings only, its member 'n' is none"},
    {"metadata with escapes", "{\"__metadata__\":{\"\\u001b[2J\":1}}", 0, "its member '?' is none"},
};

static void refuses_headers(void)
{
    for (size_t i = 0; i < sizeof hostile_headers / sizeof *hostile_headers; i++) {
        char bytes[1024];
        world w;
        safetensors *file = (safetensors *)&w;
        inset_context *context = world_start(&w);
        size_t size = make_safetensors(
            bytes, hostile_headers[i].header, hostile_headers[i].data_size);
        inset_status status = safetensors_parse(context, "x", bytes, size, &file);
        check_refused(context, status, hostile_headers[i].name, hostile_headers[i].words);
        CHECK(!file, "%s: out must be NULL", hostile_headers[i].name);
        world_end(&w, hostile_headers[i].name);
    }
}

static const struct {
    const char *name, *bytes;
    size_t size;
    const char *words;
} hostile_files[] = {
    {"nothing", "", 0,
        "x: has 0 bytes, a safetensors file begins with 8 bytes for the header's length"},
    {"seven bytes", "\0\0\0\0\0\0\0", 7, "x: has 7 bytes"},
    {"header length 2^64-1", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10,
        "x: its header would have 18446744073709551615 bytes, at most 100000000 are allowed: is it "
        "a safetensors file?"},
    {"header length 2^63", "\0\0\0\0\0\0\0\x80{}", 10,
        "x: its header would have 9223372036854775808 bytes"},
    {"100 MB and one", "\x01\xe1\xf5\x05\0\0\0\0{}", 10,
        "x: its header would have 100000001 bytes, at most 100000000"},
    {"100 MB, but not there", "\0\xe1\xf5\x05\0\0\0\0{}", 10,
        "x: its header would have 100000000 bytes, the file has only 2 behind"},
    {"one byte short", "\3\0\0\0\0\0\0\0{}", 10,
        "x: its header would have 3 bytes, the file has only 2 behind the length: is it cut "
        "short?"},
    {"lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:", 54,
        "x: is a pointer of Git LFS, not the file itself"},
};

static void refuses_files(void)
{
    for (size_t i = 0; i < sizeof hostile_files / sizeof *hostile_files; i++) {
        world w;
        safetensors *file;
        inset_context *context = world_start(&w);
        inset_status status = safetensors_parse(
            context, "x", hostile_files[i].bytes, hostile_files[i].size, &file);
        check_refused(context, status, hostile_files[i].name, hostile_files[i].words);
        world_end(&w, hostile_files[i].name);
    }
}

static void reads_safetensors(void)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," TENSOR(
        "odd", "U8", "[3]", 0, 3) "," TENSOR("z \xc3\xa9", "F32", "[2,1]", 3, 11) "," TENSOR("half",
        "F8_E4M3", "[2]", 17, 19) "," TENSOR("none", "BF16", "[0,5]", 19, 19) "," TENSOR("scalar",
        "I16", "[]", 11, 13) "," TENSOR("four", "F4", "[2,4]", 13, 17) "}  ";
    char bytes[1024];
    world w;
    safetensors *file;
    const file_tensor *tensor;
    inset_context *context = world_start(&w);
    size_t size = make_safetensors(bytes, header, 19);
    const char *data = bytes + size - 19;
    NEED(!safetensors_parse(context, "x", bytes, size, &file), "%s", inset_message(context));
    CHECK(safetensors_count(file) == 6, "%zu", safetensors_count(file));
    CHECK(!strcmp(safetensors_at(file, 2)->name, "half") && !safetensors_at(file, 6),
        "the header's order");
    tensor = safetensors_find(file, "z \xc3\xa9");
    NEED(tensor, "a name with a letter of two bytes");
    CHECK(tensor->type == INSET_F32 && tensor->n_dimensions == 2 && tensor->shape[0] == 2
              && tensor->shape[1] == 1 && tensor->bytes == 8 && tensor->data == data + 3,
        "an unaligned tensor");
    tensor = safetensors_find(file, "scalar");
    CHECK(tensor && tensor->n_dimensions == 0 && tensor->bytes == 2 && tensor->data == data + 11,
        "a scalar");
    tensor = safetensors_find(file, "none");
    CHECK(tensor && tensor->bytes == 0 && tensor->shape[1] == 5, "an empty tensor");
    tensor = safetensors_find(file, "half");
    CHECK(tensor && tensor->type == INSET_TYPE_COUNT && type_size(tensor->type) == 0
              && !type_is_float(tensor->type) && !strcmp(tensor->stored_type, "F8_E4M3"),
        "a type inset lacks");
    CHECK(!safetensors_find(file, "hal") && !safetensors_find(file, "__metadata__")
              && !safetensors_find(file, ""),
        "names not there");
    check_refused(context, safetensors_need(file, "half", &tensor), "F8",
        "x: tensor 'half' is of type F8_E4M3, which inset does not read");
    check_refused(context, safetensors_need(file, "hats", &tensor), "no such tensor",
        "x: there is no tensor 'hats' in it; it has 'odd', 'z \xc3\xa9', 'half', 'none', 'scalar', "
        "'four'");
    CHECK(!safetensors_need(file, "odd", &tensor) && tensor->bytes == 3, "safetensors_need");
    safetensors_close(file);
    NEED(!safetensors_parse(context, "x", "\2\0\0\0\0\0\0\0{}", 10, &file),
        "a file without tensors");
    check_refused(context, safetensors_need(file, "a", &tensor), "none",
        "x: there is no tensor 'a' in it; it has none");
    safetensors_close(file);
    world_end(&w, "reads");
}

/* ---- safetensors out ---------------------------------------------------- */

static const float numbers[] = {1, 2.5f, -3};
static const int64_t ids[] = {464, INT64_MIN, 733, 5};
static const uint8_t flags[] = {1, 0, 1};
static const file_tensor good_tensors[] = {
    {.name = "flags",
        .type = INSET_BOOL,
        .n_dimensions = 1,
        .shape = {3},
        .data = flags,
        .bytes = 3},
    {.name = "a \"b\" \\ \n \xc3\xa9",
        .type = INSET_F32,
        .n_dimensions = 2,
        .shape = {3, 1},
        .data = numbers,
        .bytes = 12},
    {.name = "none", .type = INSET_BF16, .n_dimensions = 2, .shape = {0, 7}, .bytes = 0},
    {.name = "ids", .type = INSET_I64, .n_dimensions = 1, .shape = {4}, .data = ids, .bytes = 32},
    {.name = "one", .type = INSET_F64, .n_dimensions = 0, .data = ids, .bytes = 8},
};
enum { N_GOOD = sizeof good_tensors / sizeof *good_tensors };

static void check_round_trip(const file_tensor *tensors, size_t count, const char *const *metadata)
{
    world w;
    safetensors *file;
    inset_context *context = world_start(&w);
    NEED(!safetensors_write(context, at("out.safetensors"), tensors, count, metadata), "%s",
        inset_message(context));
    inset_status status = safetensors_open(context, at("out.safetensors"), &file);
    NEED(!status, "%s", inset_message(context));
    CHECK(safetensors_count(file) == count, "%zu", safetensors_count(file));
    for (size_t i = 0; i < count; i++) {
        const file_tensor *t = safetensors_at(file, i), *want = &tensors[i];
        CHECK(!strcmp(t->name, want->name) && t->type == want->type
                  && t->n_dimensions == want->n_dimensions && t->bytes == want->bytes
                  && !memcmp(t->shape, want->shape, sizeof *t->shape * (size_t)t->n_dimensions),
            "%s", want->name);
        CHECK(!t->bytes || !memcmp(t->data, want->data, t->bytes), "bytes of %s", want->name);
        CHECK((uintptr_t)t->data % type_size(t->type) == 0, "%s is not aligned", want->name);
    }
    safetensors_close(file);
    CHECK(!left_behind(), "a temporary file is left");
    world_end(&w, "round trip");
}

static void round_trips(void)
{
    file_tensor plain[N_GOOD];
    const char *const metadata[] = {"format", "pt", "made \"by\"", "inset\n", NULL};
    memcpy(plain, good_tensors, sizeof plain);
    /* a newline can be written, but is not read back: names go into messages */
    plain[1].name = "a \"b\" \\ \xc3\xa9";
    check_round_trip(plain, N_GOOD, NULL);
    check_round_trip(plain, N_GOOD, metadata);
    check_round_trip(plain, 0, metadata);
    check_round_trip(plain, 0, NULL);

    /* more than the write buffer holds, one by one and at once */
    enum { MANY = 3000, LONG = 1 << 17 };
    static char names[MANY][32];
    static float data[LONG];
    static file_tensor many[MANY + 1];
    for (size_t i = 0; i < LONG; i++) data[i] = (float)i;
    for (size_t i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "t%zu", i);
        many[i] = (file_tensor){.name = names[i],
            .type = INSET_F32,
            .n_dimensions = 1,
            .shape = {(int64_t)(i % 17)},
            .data = data + i,
            .bytes = i % 17 * 4};
    }
    many[MANY] = (file_tensor){.name = "long",
        .type = INSET_F32,
        .n_dimensions = 1,
        .shape = {LONG},
        .data = data,
        .bytes = sizeof data};
    check_round_trip(many, MANY + 1, NULL);
}

/* The data keeps the order given while that leaves every tensor aligned. */
static void keeps_order(void)
{
    world w;
    safetensors *file;
    inset_context *context = world_start(&w);
    const file_tensor half = {.name = "half",
        .type = INSET_F16,
        .n_dimensions = 1,
        .shape = {2},
        .data = ids,
        .bytes = 4};
    file_tensor tensors[] = {good_tensors[1], half, good_tensors[3]};
    tensors[0].name = "first";
    NEED(!safetensors_write(context, at("out.safetensors"), tensors, 3, NULL), "%s",
        inset_message(context));
    NEED(!safetensors_open(context, at("out.safetensors"), &file), "%s", inset_message(context));
    CHECK(safetensors_at(file, 0)->data < safetensors_at(file, 1)->data
              && safetensors_at(file, 1)->data < safetensors_at(file, 2)->data,
        "in the order given");
    safetensors_close(file);
    world_end(&w, "order");
}

static void refuses_tensors(void)
{
    static const struct {
        const char *name;
        file_tensor tensor;
        const char *words;
    } tensors[] = {
        {"no name", {.type = INSET_F32, .data = numbers, .bytes = 4},
            "a tensor cannot have the name ''"},
        {"empty name", {.name = "", .type = INSET_F32, .data = numbers, .bytes = 4},
            "a tensor cannot have the name ''"},
        {"metadata", {.name = "__metadata__", .type = INSET_F32, .data = numbers, .bytes = 4},
            "a tensor cannot have the name '__metadata__'"},
        {"type", {.name = "a", .type = INSET_TYPE_COUNT, .data = numbers, .bytes = 4},
            "tensor 'a': type 10 with 0 dimensions cannot be written"},
        {"bytes",
            {.name = "a",
                .type = INSET_F32,
                .n_dimensions = 1,
                .shape = {2},
                .data = numbers,
                .bytes = 4},
            "tensor 'a': its shape does not go with its 4 bytes"},
        {"overflow",
            {.name = "a",
                .type = INSET_F32,
                .n_dimensions = 2,
                .shape = {1ll << 62, 4},
                .data = numbers,
                .bytes = 0},
            "tensor 'a': its shape does not go with its 0 bytes"},
        {"negative",
            {.name = "a",
                .type = INSET_I8,
                .n_dimensions = 2,
                .shape = {-1, -4},
                .data = numbers,
                .bytes = 4},
            "tensor 'a': its shape does not go with its 4 bytes"},
        {"no data", {.name = "a", .type = INSET_F32, .bytes = 4},
            "tensor 'a': its shape does not go with its 4 bytes"},
        {"same name", {.name = "flags", .type = INSET_F32, .data = numbers, .bytes = 4},
            "duplicate object key near '\"flags\"'"},
        {"not utf-8", {.name = "a\xff", .type = INSET_F32, .data = numbers, .bytes = 4},
            "unable to decode byte 0xff"},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        world w;
        inset_context *context = world_start(&w);
        file_tensor both[] = {good_tensors[0], tensors[i].tensor};
        check_refused(context, safetensors_write(context, at("refused.safetensors"), both, 2, NULL),
            tensors[i].name, tensors[i].words);
        CHECK(access(at("refused.safetensors"), F_OK) && !left_behind(),
            "%s: something was written", tensors[i].name);
        world_end(&w, tensors[i].name);
    }
}

static void refuses_places(void)
{
    static const struct {
        const char *name, *words;
    } places[] = {
        {"folder", "folder: is a directory, expected a file or a new name"},
        {"pipe", "pipe: is no regular file, expected a file or a new name"},
        {"../../../../../../../../../../dev/null",
            "/dev/null: is no regular file, expected a file or a new name"},
        {"nodir/out", "to write it to"},
        {"text/out", "cannot be written: Not a directory"},
        {"new/", "to write it to"},
    };
    mkdir(at("folder"), 0777);
    mkfifo(at("pipe"), 0666);
    write_text(at("text"), "text");
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        world w;
        inset_context *context = world_start(&w);
        check_refused(context,
            safetensors_write(context, at(places[i].name), good_tensors, N_GOOD, NULL),
            places[i].name, places[i].words);
        CHECK(!left_behind(), "%s: a temporary file is left", places[i].name);
        world_end(&w, places[i].name);
    }
}

/* A disk that is full, as a limit on the size of files: the old file stays, the temporary one
 * goes. */
static void survives_full_disk(void)
{
    world w;
    size_t before, after;
    struct rlimit limit, small;
    inset_context *context = world_start(&w);
    NEED(!safetensors_write(context, at("full.safetensors"), good_tensors, 1, NULL), "%s",
        inset_message(context));
    char *old = test_read(at("full.safetensors"), &before);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    small = (struct rlimit){100, limit.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    inset_status status = safetensors_write(
        context, at("full.safetensors"), good_tensors, N_GOOD, NULL);
    setrlimit(RLIMIT_FSIZE, &limit);
    check_refused(
        context, status, "full disk", "full.safetensors: cannot be written: File too large");
    char *now = test_read(at("full.safetensors"), &after);
    CHECK(
        old && now && before == after && !memcmp(old, now, before), "the old file stays as it was");
    CHECK(!left_behind(), "a temporary file is left");
    free(old);
    free(now);
    world_end(&w, "full disk");
}

static void follows_links(void)
{
    world w;
    struct stat about;
    inset_context *context = world_start(&w);
    write_text(at("real"), "old");
    if (symlink("real", at("link"))) perror("symlink");
    NEED(!safetensors_write(context, at("link"), good_tensors, 1, NULL), "%s",
        inset_message(context));
    CHECK(!lstat(at("link"), &about) && S_ISLNK(about.st_mode), "the link is still one");
    CHECK(!stat(at("real"), &about) && about.st_size > 3, "what it points to was replaced");
    NEED(!chdir(directory), "chdir");
    CHECK(!safetensors_write(context, "bare", good_tensors, 1, NULL) && !access(at("bare"), F_OK),
        "a bare name: %s", inset_message(context));
    world_end(&w, "links");
}

int main(void)
{
    if (directory_start()) return 1;
    refuses_headers();
    refuses_files();
    reads_safetensors();
    round_trips();
    keeps_order();
    refuses_tensors();
    refuses_places();
    survives_full_disk();
    follows_links();
    directory_end();
    return test_result();
}
