/* test_file.c: files that are none, the weights of a directory, and running out of memory at every
 * allocation of host/file. */
#include "files.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* ---- what is no regular file -------------------------------------------- */

static void make_strange_files(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    write_text(at("empty"), "");
    mkdir(at("folder"), 0777);
    mkfifo(at("pipe"), 0666);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", at("socket"));
    if (bind(s, (struct sockaddr *)&address, sizeof address)) perror("bind");
    close(s);
    if (symlink("nowhere", at("dangling"))) perror("symlink");
}

static void refuses_strange_files(void)
{
    static const struct {
        const char *name, *words;
        bool json_too;
    } strange[] = {
        {"empty", "empty: is empty", false},
        {"folder", "folder: is a directory, expected a file", true},
        {"pipe", "pipe: is a pipe, expected a file", true},
        {"socket", "socket: is a socket, expected a file", true},
        {"../../../../../../../../../../dev/null", "/dev/null: is a device, expected a file", true},
        {"missing.x", "missing.x: there is no file 'missing.x' in '/", true},
        {"dangling", "dangling: there is no file 'dangling' in '/", true},
        {"nodir/x", "nodir' to look for 'x' in", true},
        {"empty/x", "to look for 'x' in", true},
    };
    make_strange_files();
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        world w;
        safetensors *tensors;
        npy *array;
        json_document *document;
        inset_context *context = world_start(&w);
        check_refused(context, safetensors_open(context, at(strange[i].name), &tensors),
            strange[i].name, strange[i].words);
        check_refused(context, npy_open(context, at(strange[i].name), &array), strange[i].name,
            strange[i].words);
        if (strange[i].json_too)
            check_refused(context, json_open(context, at(strange[i].name), &document),
                strange[i].name, strange[i].words);
        world_end(&w, strange[i].name);
    }
}

static void reads_whole_files(void)
{
    world w;
    char *bytes;
    size_t size;
    inset_context *context = world_start(&w);
    write_text(at("text"), "0123456789");
    CHECK(!file_read(context, at("text"), 10, &bytes, &size) && size == 10
              && !strcmp(bytes, "0123456789"),
        "at the limit");
    memory_free(context, bytes);
    check_refused(context, file_read(context, at("text"), 9, &bytes, &size), "over the limit",
        "text: is longer than 9 bytes, the most that is read of such a file");
    CHECK(!bytes && !size, "nothing is handed out");
    CHECK(!file_read(context, at("empty"), 9, &bytes, &size) && size == 0 && bytes && !*bytes,
        "an empty file");
    memory_free(context, bytes);
    check_refused(context, file_read(context, "/dev/zero", 100000, &bytes, &size), "endless",
        "is longer than 100000 bytes");
    check_refused(context, file_read(context, at("folder"), 9, &bytes, &size), "directory",
        "is a directory, expected a file");
    world_end(&w, "file_read");
}

/* ---- the weights of a directory ----------------------------------------- */

static inset_status open_weights(inset_context *context, const char *path, weight_files **out)
{
    *out = (weight_files *)directory;
    inset_status status = weight_files_open(context, path, out);
    CHECK(!status == !!*out, "out is NULL exactly on failure");
    return status;
}

static void refuses_indices(void)
{
    static const struct {
        const char *name, *index, *words;
    } indices[] = {
        {"broken", "{", "index.json:1:1: string or '}' expected near end of file"},
        {"an array", "[]",
            "index.json: 'weight_map' must be an object that gives each tensor its file"},
        {"no map", "{}", "'weight_map' must be an object"},
        {"empty map", "{\"weight_map\":{}}", "'weight_map' must be an object"},
        {"map is an array", "{\"weight_map\":[\"a\"]}", "'weight_map' must be an object"},
        {"same tensor twice", "{\"weight_map\":{\"a\":\"one\",\"a\":\"two\"}}",
            "duplicate object key near '\"a\"'"},
        {"file is a number", "{\"weight_map\":{\"a\":1}}",
            "index.json: 'weight_map' must give tensor 'a' the name of a file"},
        {"file above", "{\"weight_map\":{\"a\":\"../one\"}}",
            "tensor 'a': '../one' is no plain name of a file in this directory"},
        {"directory above", "{\"weight_map\":{\"a\":\"..\"}}", "tensor 'a': '..' is no plain name"},
        {"this directory", "{\"weight_map\":{\"a\":\".\"}}", "tensor 'a': '.' is no plain name"},
        {"absolute", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}",
            "tensor 'a': '/etc/passwd' is no plain name"},
        {"below", "{\"weight_map\":{\"a\":\"x/one\"}}", "tensor 'a': 'x/one' is no plain name"},
        {"no name", "{\"weight_map\":{\"a\":\"\"}}", "tensor 'a': '?' is no plain name"},
        {"escapes", "{\"weight_map\":{\"a\":\"\\u001b[2J\"}}", "tensor 'a': '?' is no plain name"},
        {"tensor with escapes", "{\"weight_map\":{\"\\u001b\":\"one\"}}",
            "a tensor's name in 'weight_map' must have 1 to 1024 bytes"},
        {"missing shard", "{\"weight_map\":{\"a\":\"one\",\"b\":\"three\"}}",
            "/three: there is no file 'three' in '/"},
        {"broken shard", "{\"weight_map\":{\"a\":\"one\",\"b\":\"broken\"}}",
            "/broken: its header would have"},
        {"in another shard", "{\"weight_map\":{\"a\":\"one\",\"b\":\"one\",\"c\":\"two\"}}",
            "index.json: tensor 'b' should be in 'one', which does not have it"},
        {"in no shard", "{\"weight_map\":{\"a\":\"one\",\"nix\":\"one\"}}",
            "tensor 'nix' should be in 'one', which does not have it"},
        {"in two shards", "{\"weight_map\":{\"a\":\"one\",\"b\":\"again\"}}",
            "tensor 'a' is in two shards, 'one' and 'again'"},
    };
    mkdir(at("shards"), 0777);
    write_safetensors(at("shards/one"), "{" TENSOR("a", "U8", "[2]", 0, 2) "}", 2);
    write_safetensors(at("shards/two"),
        "{" TENSOR("b", "F32", "[1]", 0, 4) "," TENSOR("c", "U8", "[1]", 4, 5) "}", 5);
    write_safetensors(at("shards/again"),
        "{" TENSOR("b", "U8", "[1]", 0, 1) "," TENSOR("a", "U8", "[1]", 1, 2) "}", 2);
    write_text(at("shards/broken"), "0123456789");
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++) {
        world w;
        weight_files *files;
        inset_context *context = world_start(&w);
        write_text(at("shards/model.safetensors.index.json"), indices[i].index);
        check_refused(context, open_weights(context, at("shards"), &files), indices[i].name,
            indices[i].words);
        world_end(&w, indices[i].name);
    }
}

static void reads_shards(void)
{
    world w;
    weight_files *files;
    inset_context *context = world_start(&w);
    write_text(at("shards/model.safetensors.index.json"),
        "{\"metadata\":{\"total_size\":7},\"weight_map\":{\"c\":\"two\",\"b\":\"two\",\"a\":"
        "\"one\"}}");
    NEED(!open_weights(context, at("shards"), &files), "%s", inset_message(context));
    CHECK(weight_files_count(files) == 3 && !weight_files_at(files, 3), "%zu",
        weight_files_count(files));
    const file_tensor *b = weight_files_find(files, "b"), *a = weight_files_find(files, "a");
    NEED(a && b && !weight_files_find(files, "d"), "tensors of both shards");
    CHECK(!memcmp(b->data, "\0\1\2\3", 4) && !memcmp(a->data, "\0\1", 2), "their bytes");
    weight_files_release_pages(files, b);
    weight_files_release_pages(files, a);
    CHECK(
        !memcmp(b->data, "\0\1\2\3", 4) && !memcmp(a->data, "\0\1", 2), "released pages come back");
    weight_files_close(files);

    write_safetensors(at("shards/model.safetensors"), "{" TENSOR("only", "U8", "[2]", 0, 2) "}", 2);
    char slash[512];
    snprintf(slash, sizeof slash, "%s/", at("shards"));
    NEED(!open_weights(context, slash, &files), "%s", inset_message(context));
    CHECK(weight_files_count(files) == 1 && weight_files_find(files, "only"),
        "one file comes before an index");
    weight_files_close(files);
    world_end(&w, "shards");
}

static void refuses_directories(void)
{
    world w;
    weight_files *files;
    inset_context *context = world_start(&w);
    check_refused(context, open_weights(context, at("nodir"), &files), "missing",
        "nodir: there is no such directory");
    check_refused(context, open_weights(context, at("text"), &files), "file",
        "text: is no directory; a model is a directory with config.json");
    check_refused(context, open_weights(context, at("folder"), &files), "empty",
        "folder: has neither model.safetensors nor model.safetensors.index.json");
    write_text(at("folder/pytorch_model.bin"), "x");
    check_refused(context, open_weights(context, at("folder"), &files), "pickled",
        "inset does not read pytorch_model.bin");
    mkdir(at("folder/model.safetensors"), 0777);
    check_refused(context, open_weights(context, at("folder"), &files), "directory",
        "model.safetensors: is a directory, expected a file");
    rmdir(at("folder/model.safetensors"));
    if (symlink("gone", at("folder/model.safetensors"))) perror("symlink");
    check_refused(context, open_weights(context, at("folder"), &files), "dangling",
        "there is no file 'model.safetensors' in '/");
    world_end(&w, "directories");
}

/* ---- allocation failure ------------------------------------------------- */

static const float numbers[] = {1, 2.5f, -3};

static inset_status task_safetensors(inset_context *context)
{
    safetensors *file;
    inset_status status = safetensors_open(context, at("many.safetensors"), &file);
    safetensors_close(file);
    return status;
}

static inset_status task_weights(inset_context *context)
{
    weight_files *files;
    inset_status status = weight_files_open(context, at("shards"), &files);
    weight_files_close(files);
    return status;
}

static inset_status task_npy(inset_context *context)
{
    npy *file;
    inset_status status = npy_open(context, at("array.npy"), &file);
    npy_close(file);
    return status;
}

static inset_status task_json(inset_context *context)
{
    json_document *document;
    inset_status status = json_open(context, at("config.json"), &document);
    json_close(document);
    return status;
}

static inset_status task_read(inset_context *context)
{
    char *bytes;
    size_t size;
    inset_status status = file_read(context, at("config.json"), 1 << 20, &bytes, &size);
    memory_free(context, bytes);
    return status;
}

static inset_status task_write(inset_context *context)
{
    static const uint8_t flags[] = {1, 0, 1};
    static const file_tensor tensors[] = {
        {.name = "flags",
            .type = INSET_BOOL,
            .n_dimensions = 1,
            .shape = {3},
            .data = flags,
            .bytes = 3},
        {.name = "numbers",
            .type = INSET_F32,
            .n_dimensions = 1,
            .shape = {3},
            .data = numbers,
            .bytes = 12},
    };
    const char *const metadata[] = {"format", "pt", NULL};
    inset_status status = safetensors_write(
        context, at("memory.safetensors"), tensors, 2, metadata);
    CHECK(!status == !access(at("memory.safetensors"), F_OK),
        "a file is there exactly when the call succeeded");
    CHECK(!left_behind(), "a temporary file is left");
    return status;
}

/* Each allocation fails in turn, alone and with all that follow, until the call succeeds. */
static void fails_each(
    const char *name, inset_status (*task)(inset_context *context), bool fail_after)
{
    inset_status status = INSET_NO_MEMORY;
    int64_t n = 0;
    while (status && n < 1000) {
        world w;
        inset_context *context = world_start(&w);
        w.memory.fail_at = w.memory.calls + ++n;
        w.memory.fail_after = fail_after;
        status = task(context);
        CHECK(!status || status == INSET_NO_MEMORY, "%s, allocation %lld: status %d", name,
            (long long)n, status);
        CHECK(!status || !strcmp(inset_message(context), "MemoryError: out of memory on the host"),
            "%s: %s", name, inset_message(context));
        world_end(&w, name);
    }
    CHECK(!status && n > 1, "%s: never succeeded, or allocated nothing (%lld)", name, (long long)n);
}

static void runs_out_of_memory(void)
{
    static const struct {
        const char *name;
        inset_status (*task)(inset_context *context);
    } tasks[] = {
        {"safetensors", task_safetensors},
        {"weights", task_weights},
        {"npy", task_npy},
        {"json", task_json},
        {"file_read", task_read},
        {"write", task_write},
    };
    static const char array[] =
        "\x93NUMPY\1\0\x37\0{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}x";
    world w;
    char names[200][16];
    file_tensor many[200];
    inset_context *context = world_start(&w);
    for (int i = 0; i < 200; i++) {
        snprintf(names[i], sizeof names[i], "n%d", i);
        many[i] = (file_tensor){.name = names[i],
            .type = INSET_F32,
            .n_dimensions = 1,
            .shape = {3},
            .data = numbers,
            .bytes = 12};
    }
    CHECK(!safetensors_write(context, at("many.safetensors"), many, 200, NULL), "%s",
        inset_message(context));
    world_end(&w, "many");
    write_text(at("config.json"), "{\"model_type\": \"gpt2\", \"n_layer\": 12}");
    write_file(at("array.npy"), array, sizeof array - 1);
    unlink(at("shards/model.safetensors"));
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++) {
        unlink(at("memory.safetensors"));
        fails_each(tasks[i].name, tasks[i].task, false);
        unlink(at("memory.safetensors"));
        fails_each(tasks[i].name, tasks[i].task, true);
    }
}

int main(void)
{
    if (directory_start()) return 1;
    refuses_strange_files();
    reads_whole_files();
    refuses_indices();
    reads_shards();
    refuses_directories();
    runs_out_of_memory();
    directory_end();
    return test_result();
}
