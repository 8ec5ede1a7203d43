/* options.c: arguments, and the help that names them.
 *
 * One table holds every option: its names, whether it takes a word, and the commands that know
 * it. */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
    IN_RUN = 1,
    IN_CHECK = 2,
    IN_SITES = 4,
    IN_VERSION = 8,
    IN_SWEEP = 16,
    IN_ATTRIBUTE = 32,
    IN_CIRCUIT = 64,
    IN_CACHE = 128,
    IN_TOKENS = 256,
    IN_MERGE = 512
};
typedef enum option_kind { FLAG, WORD, WORDS, COUNT, BYTES } option_kind;

typedef struct option {
    const char *brief, *full, *word; /* "-m", "--model", "MODEL" */
    option_kind kind;
    unsigned commands;
    size_t at; /* in struct options */
    const char *help;
} option;

#define AT(field) offsetof(options, field)
static const option known[] = {
    {"-m", "--model", "MODEL", WORD,
        IN_RUN | IN_CHECK | IN_SITES | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_CACHE | IN_TOKENS,
        AT(model), "a Hugging Face directory, config.json and *.safetensors, or FILE.gguf"},
    {"-o", "--output", "FILE", WORD, IN_RUN, AT(output),
        "write the saved values to this safetensors file"},
    {NULL, "--prompts", "PROMPTS", WORD, IN_CACHE, AT(prompts),
        "[[464, 412], ...], FILE.npy, FILE.safetensors:NAME ([prompt, position], -1 behind a "
        "prompt's end),\n"
        "                         FILE.json (lists in a list) or FILE.jsonl (a list a line)"},
    {NULL, "--sites", "SITE,...", WORD, IN_CACHE, AT(sites),
        "resid_pre, resid_mid, resid_post, attn_out, mlp_out; in the MLP pre, up, post; per head "
        "z, q, k, v, ...;\n"
        "                         and paths, with * for any name or index: "
        "'transformer.h[*].mlp.output'"},
    {NULL, "--layers", "LIST", WORD, IN_CACHE, AT(layers),
        "of the short names: 0,3,5-7 or 4:9; by default all"},
    {NULL, "--positions", "LIST", WORD, IN_CACHE, AT(positions),
        "-1, 0,4:9 or all, the default; negative ones count from each prompt's end"},
    {NULL, "--dtype", "TYPE", WORD, IN_CACHE, AT(kept_dtype),
        "f32, f16 or bf16: of what is written; by default the model's"},
    {NULL, "--model-dtype", "TYPE", WORD, IN_CACHE, AT(dtype),
        "f32, bf16 or f16: convert the weights; else as the files have them"},
    {"-o", "--output", "FOLDER", WORD, IN_CACHE, AT(output),
        "the shards and cache.json; the same command goes on with what was begun there"},
    {NULL, "--shard-bytes", "BYTES", BYTES, IN_CACHE, AT(shard_bytes),
        "most bytes of a shard, which is what an interruption loses; by default 512M"},
    {NULL, "--batch", "TOKENS", COUNT, IN_CACHE, AT(batch),
        "of prompts that go through together; by default 2048, on a GPU 16384"},
    {NULL, "--clean", "PROMPTS", WORD, IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT, AT(clean),
        "a text, [\"a text\", ...], FILE.txt, [[464, 412], ...], FILE.npy or "
        "FILE.safetensors:NAME"},
    {NULL, "--corrupt", "PROMPTS", WORD, IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT, AT(corrupt),
        "as many, each as long as its clean prompt"},
    {NULL, "--patch", "SITE,...", WORD, IN_SWEEP | IN_ATTRIBUTE, AT(patch),
        "resid_pre, resid_mid, resid_post, attn_out, mlp_out, block_every; in the MLP pre, up, "
        "post;\n"
        "                         of experts router, expert_weights;\n"
        "                         per head z, q, k, v, rot_q, rot_k, pattern, scores, result, "
        "q_input, k_input, v_input,\n"
        "                         also as attn_head_out_by_pos, ...; or edges; or\n"
        "                         features:SAE.safetensors@resid_pre.8 (or another site and "
        "layer)"},
    {NULL, "--by", "AXIS,...", WORD, IN_SWEEP | IN_ATTRIBUTE, AT(by),
        "of layer, position, head; of features position, feature. The others are patched at all "
        "their\n"
        "                         places at once. A pattern's position is its destination; heads "
        "of k "
        "and v are\n"
        "                         key_value_head where shared"},
    {NULL, "--metric", "METRIC", WORDS, IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT, AT(metrics),
        "logit_diff:A,B  logit:A  probability:A  log_probability:A  rank:A  kl, [@POSITION];\n"
        "                         may be given several times. A is a token, \" Mary\", 11+12, or a "
        "file of one a pair"},
    {NULL, "--layers", "RANGE", WORD, IN_SWEEP | IN_ATTRIBUTE, AT(layers),
        "4:9, -5: or 3, as Python slices"},
    {NULL, "--positions", "RANGE", WORD, IN_SWEEP | IN_ATTRIBUTE, AT(positions), NULL},
    {NULL, "--heads", "RANGE", WORD, IN_SWEEP | IN_ATTRIBUTE, AT(heads), NULL},
    {NULL, "--features", "RANGE", WORD, IN_SWEEP | IN_ATTRIBUTE, AT(features), "of an SAE"},
    {NULL, "--source", "SOURCE", WORD, IN_SWEEP | IN_ATTRIBUTE, AT(source),
        "what is put there: clean (the other run's value), zero, mean:PROMPTS, "
        "resample[:PROMPTS],\n"
        "                         or a tensor, FILE.npy or FILE.safetensors:NAME"},
    {NULL, "--direction", "WAY", WORD, IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT, AT(direction),
        "denoise: the corrupt run is patched; noise: the clean run"},
    {NULL, "--seed", "N", COUNT, IN_SWEEP | IN_ATTRIBUTE, AT(seed), "of resample"},
    {NULL, "--steps", "N", COUNT, IN_ATTRIBUTE | IN_CIRCUIT, AT(steps),
        "integrated gradients: the mean over N runs with embeddings between corrupt and clean"},
    {NULL, "--ends", NULL, FLAG, IN_ATTRIBUTE | IN_CIRCUIT, AT(ends),
        "the mean of the clean and the corrupt run's gradients"},
    {NULL, "--relp", NULL, FLAG, IN_ATTRIBUTE | IN_CIRCUIT, AT(relp),
        "relevance patching: --rules ln,identity,half"},
    {NULL, "--rules", "RULE,...", WORD, IN_ATTRIBUTE | IN_CIRCUIT, AT(rules),
        "local slopes: ln (a norm's scale is constant), identity (an activation's is a(x)/x), "
        "half\n"
        "                         (each factor of a gate gets half), pattern (attention is "
        "constant)"},
    {NULL, "--verify", "N", COUNT, IN_ATTRIBUTE, AT(verify),
        "patch the N points with the largest scores, and show both numbers"},
    {NULL, "--dry-run", NULL, FLAG, IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT, AT(dry_run),
        "plan it, say what it would take, and run nothing; with -d none a config.json is enough "
        "(a sweep: of --patch edges)"},
    {NULL, "--edges", NULL, FLAG, IN_ATTRIBUTE, AT(edges),
        "scores of all edges from a writer of the stream to a later reader, in place of --patch"},
    {NULL, "--edges", "PATHS", WORD, IN_SWEEP, AT(edge_list),
        "with --patch edges: which, 'a0.h1->a1.h2<q>, m0->logits', or FILE of them; a0 stands for\n"
        "                         all heads of layer 0, 0 for all of it, * for all there is; by "
        "default all\n"
        "                         edges"},
    {NULL, "--freeze", NULL, FLAG, IN_SWEEP, AT(freeze),
        "with --patch edges: path patching; all that is not on the path keeps the base run's\n"
        "                         value, and what the last step changes reaches the logits "
        "directly. Paths\n"
        "                         may be longer, 'a0.h1->a1.h0<k>->a2.h3<v>', and go together, "
        "'a0.h1+a0.h2->m1'"},
    {NULL, "--top", "N", COUNT, IN_SWEEP | IN_ATTRIBUTE, AT(top),
        "with edges: how many of the strongest are shown and drawn (20)"},
    {NULL, "--per-pair", NULL, FLAG, IN_ATTRIBUTE, AT(per_pair),
        "with --edges: keep each pair's scores in OUT.safetensors"},
    {NULL, "--edges-from", "FILE", WORD, IN_CIRCUIT, AT(edges_from),
        "scores that attribute --edges -o FILE wrote; what they were made by (--steps, --ends,\n"
        "                         --relp) may stand here, too, and decides nothing"},
    {NULL, "--sizes", "N,...", WORD, IN_CIRCUIT, AT(sizes),
        "how many of the strongest edges are kept: 50,100 or 0.1%,1%; by default\n"
        "                         0.1,0.2,0.5,1,2,5,10,20,50,100 %"},
    {NULL, "--ablation", "WHAT", WORD, IN_CIRCUIT, AT(ablation),
        "what the other edges carry: other (the other run's value), zero, or mean:PROMPTS (by\n"
        "                         position); --corrupt is not needed then"},
    {NULL, "--by", "WAY", WORD, IN_CIRCUIT, AT(by),
        "score: the largest; abs: the largest in size; greedy: one by one, those whose reader\n"
        "                         leads to the logits already"},
    {NULL, "--star", NULL, FLAG, IN_ATTRIBUTE, AT(star), "AtP*: --qk and --graddrop"},
    {NULL, "--qk", NULL, FLAG, IN_ATTRIBUTE, AT(qk), "the softmax exact, for q and k"},
    {NULL, "--graddrop", NULL, FLAG, IN_ATTRIBUTE, AT(graddrop),
        "the mean size of scores with each layer's outputs dropped in turn"},
    {"-o", "--output", "OUT", WORD, IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT, AT(output),
        "write the results as .safetensors, .npy or .csv"},
    {NULL, "--plot", "FILE", WORD, IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_MERGE, AT(plot),
        "draw the results as FILE.svg; of edges also FILE.dot, for Graphviz, or FILE.json, which\n"
        "                         EAP-IG's Graph.from_json reads"},
    {NULL, "--force", NULL, FLAG, IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_MERGE, AT(force),
        "replace output that exists, start an unfinished sweep anew"},
    {NULL, "--resume", NULL, FLAG, IN_SWEEP | IN_ATTRIBUTE, AT(resume),
        "go on with a sweep that was ended before it was done (OUT.partial is what it did)"},
    {NULL, "--shard", "N/OF", WORD, IN_SWEEP | IN_ATTRIBUTE | IN_CACHE, AT(shard),
        "3/16: run the third of sixteen parts, as OUT.3-of-16; inset merge puts them together. Of "
        "a\n"
        "                         cache all go to one folder, and need no merge"},
    {NULL, "--memory", "BYTES", BYTES,
        IN_RUN | IN_CHECK | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_CACHE, AT(memory),
        "what a run may take beside the weights: 300M, 2G; less memory, more chunks"},
    {NULL, "--weights", "BYTES", BYTES,
        IN_RUN | IN_CHECK | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_CACHE, AT(weights),
        "what weights may take on the device, 40G: layers beyond it are brought when a run comes "
        "to\n"
        "                         them; by default all that fit stay"},
    {"-c", NULL, "TEXT", WORD, IN_RUN | IN_CHECK, AT(text),
        "the script itself, in place of a file"},
    {"-d", "--device", "DEVICE", WORD, IN_RUN | IN_CHECK | IN_CIRCUIT | IN_CACHE, AT(device),
        "auto (CUDA when a device answers), cpu or cuda:N"},
    {"-d", "--device", "DEVICE", WORD, IN_SWEEP | IN_ATTRIBUTE, AT(device),
        "auto (CUDA when a device answers), cpu or cuda:N; several, cuda:0,cuda:1 or cuda:all,\n"
        "                         share the work"},
    {NULL, "--dtype", "TYPE", WORD, IN_RUN | IN_CHECK | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT,
        AT(dtype), "f32, bf16 or f16: convert the weights; else as the files have them"},
    {NULL, "--no-share", NULL, FLAG,
        IN_RUN | IN_CHECK | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_CACHE, AT(no_share),
        "compute every invoke on its own; the same numbers"},
    {NULL, "--fast", NULL, FLAG,
        IN_RUN | IN_CHECK | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_CACHE, AT(fast),
        "the fastest way on a GPU, even where the last bits of a number then depend on\n"
        "                         what is computed beside it, and with TF32 for fp32 products; on "
        "the CPU it\n"
        "                         changes nothing"},
    {NULL, "--ungroup", NULL, FLAG,
        IN_RUN | IN_CHECK | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_CACHE, AT(ungroup),
        "a k and a v for each query head, where several share one"},
    {NULL, "--explain", NULL, FLAG, IN_CHECK, AT(explain),
        "print the plan itself: which rows there are, and which of them every step computes"},
    {NULL, "--repeat", "N", COUNT, IN_RUN, AT(repeat), "run the plan N times more"},
    {NULL, "--json", NULL, FLAG,
        IN_RUN | IN_CHECK | IN_SITES | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_CACHE | IN_TOKENS
            | IN_MERGE,
        AT(json), "print an object for programs"},
    {NULL, "--verbose", NULL, FLAG, IN_RUN | IN_CHECK, AT(verbose),
        "say which device was chosen, and the times"},
    {"-h", "--help", NULL, FLAG,
        IN_RUN | IN_CHECK | IN_SITES | IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT | IN_CACHE | IN_TOKENS
            | IN_VERSION | IN_MERGE,
        AT(help), "print this"},
};

typedef struct command {
    const char *name, *usage, *about;
    unsigned bit;
} command;
static const command commands[] = {
    {"run",
        "inset run -m MODEL [-o OUT.safetensors] [-d DEVICE] [--dtype TYPE] [--no-share] [--fast] "
        "[--repeat N] [--json] SCRIPT",
        "check a trace script, run it, and write or print what it saves", IN_RUN},
    {"check",
        "inset check -m MODEL [-d DEVICE] [--dtype TYPE] [--no-share] [--fast] [--json] SCRIPT",
        "everything but the run: what would run, and what it would need", IN_CHECK},
    {"sweep",
        "inset sweep -m MODEL --clean PROMPTS --corrupt PROMPTS --patch SITE[,SITE...] [--by "
        "AXIS[,AXIS...]] --metric METRIC\n"
        "                   [--metric ...] [-o OUT] [--json] [--plot FILE.svg]",
        "patch every point of a grid, one run a point, and show what that does to a metric",
        IN_SWEEP},
    {"attribute",
        "inset attribute -m MODEL --clean PROMPTS --corrupt PROMPTS --patch SITE[,SITE...] [--by "
        "AXIS[,AXIS...]] --metric METRIC\n"
        "                   [--steps N | --ends | --relp | --star] [-o OUT] [--json] [--plot "
        "FILE.svg]",
        "estimate from gradients what every patch of a sweep would do", IN_ATTRIBUTE},
    {"circuit",
        "inset circuit -m MODEL --clean PROMPTS --corrupt PROMPTS --metric METRIC --edges-from "
        "FILE\n"
        "                   [--sizes N,...] [--by abs|score|greedy] [--json]",
        "run with all edges but the strongest carrying the other run's value", IN_CIRCUIT},
    {"cache",
        "inset cache -m MODEL --prompts PROMPTS --sites SITE[,SITE...] [--layers LIST] "
        "[--positions LIST] [--dtype TYPE] -o FOLDER",
        "keep what sites hold in the runs of many prompts, as safetensors shards", IN_CACHE},
    {"merge", "inset merge OUT PART... [--json] [--plot FILE.svg] [--force]",
        "put the parts together that inset sweep or attribute --shard wrote", IN_MERGE},
    {"sites", "inset sites MODEL [--json]",
        "every site of a model in execution order, with its shape", IN_SITES},
    {"tokens", "inset tokens -m MODEL TEXT [--json]",
        "the tokens of a text by the model's tokenizer.json, with their ids", IN_TOKENS},
    {"version", "inset version", "inset's version, the devices that answer, the libraries",
        IN_VERSION},
};
enum { N_OPTIONS = sizeof known / sizeof *known, N_COMMANDS = sizeof commands / sizeof *commands };

static const command *find_command(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

int usage_error(const char *name, const char *format, ...)
{
    va_list list;
    if (ranks_are_silent()) return EXIT_REQUEST;
    fprintf(stderr, "inset%s%s: ", name ? " " : "", name ? name : "");
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, "\nTry: inset help%s%s\n", name ? " " : "", name ? name : "");
    return EXIT_REQUEST;
}

/* ---- help --------------------------------------------------------------- */

static void print_command_help(FILE *to, const command *c)
{
    fprintf(to, "usage: %s\n\n%s\n\n", c->usage, c->about);
    if (c->bit & (IN_RUN | IN_CHECK))
        fprintf(to, "  %-22s %s\n", "SCRIPT", "the trace script; - reads it from standard input");
    for (int i = 0; i < N_OPTIONS; i++) {
        const option *o = &known[i];
        char names[64];
        if (!(o->commands & c->bit)) continue;
        snprintf(names, sizeof names, "%s%s%s%s%s", o->brief ? o->brief : "",
            o->brief && o->full ? ", " : "", o->full ? o->full : "", o->word ? " " : "",
            o->word ? o->word : "");
        fprintf(to, "  %-22s %s\n", names, o->help ? o->help : "the same");
    }
    fprintf(to, "\nExit status: 0 on success; 2 for bad usage and for whatever the script itself "
                "asks for, a file it loads included;\n"
                "1 for the model's directory, the output, the device and memory.\n");
}

bool help_print(FILE *to, const char *name)
{
    if (name) {
        const command *c = find_command(name);
        if (!c) return false;
        print_command_help(to, c);
        return true;
    }
    fprintf(to, "inset sets values inside a running transformer.\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  inset %-9s %s\n", commands[i].name, commands[i].about);
    fprintf(
        to, "  inset %-9s %s\n\nMore about one of them: inset help COMMAND\n", "help", "this page");
    return true;
}

/* ---- arguments ---------------------------------------------------------- */

/* The option that `argument` names; *value is what follows an = in it, or NULL. */
static const option *find_option(const char *argument, unsigned bit, const char **value)
{
    const char *equals = strncmp(argument, "--", 2) ? NULL : strchr(argument, '=');
    size_t length = equals ? (size_t)(equals - argument) : strlen(argument);
    *value = equals ? equals + 1 : NULL;
    for (int i = 0; i < N_OPTIONS; i++) {
        const option *o = &known[i];
        if (!(o->commands & bit)) continue;
        if (o->brief && !strcmp(argument, o->brief)) return o;
        if (o->full && strlen(o->full) == length && !strncmp(argument, o->full, length)) return o;
    }
    return NULL;
}

static bool read_count(const char *word, int64_t *out)
{
    char *end;
    errno = 0;
    long long number = strtoll(word, &end, 10);
    *out = number;
    return *word && !*end && !errno && number >= 0 && number <= 1000000000;
}

/* "300M", "1.5G", or bytes. */
static bool read_bytes(const char *word, size_t *out)
{
    static const char units[] = "KMGT";
    char *end;
    double number = strtod(word, &end);
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (end == word || (*end && (!unit || end[1]))) return false;
    for (; unit && unit >= units; unit--) number *= 1024;
    *out = number >= 1 && number < 1e18 ? (size_t)number : 0;
    return *out > 0;
}

/* Stores one option; false with a message when its word is missing or none. */
static bool store(
    const char *name, const option *o, const char *called, const char *word, options *out)
{
    char *field = (char *)out + o->at;
    if (o->kind == FLAG) {
        if (word) return usage_error(name, "%s takes no value", called), false;
        *(bool *)field = true;
        return true;
    }
    if (!word) return usage_error(name, "%s needs a value: %s", called, o->word), false;
    if (o->kind == WORD) {
        *(const char **)field = word;
        return true;
    }
    if (o->kind == WORDS) {
        const char **list = (const char **)field;
        size_t n = 0;
        while (list[n]) n++;
        if (n == OPTIONS_MOST_WORDS)
            return usage_error(name, "%s was given more than %d times", called, OPTIONS_MOST_WORDS),
                   false;
        list[n] = word;
        return true;
    }
    if (o->kind == BYTES) {
        if (read_bytes(word, (size_t *)field)) return true;
        return usage_error(
                   name, "%s: bytes such as 300M or 2G were expected, found '%s'", called, word),
               false;
    }
    if (read_count(word, (int64_t *)field)) return true;
    return usage_error(
               name, "%s: a number from 0 to 1000000000 was expected, found '%s'", called, word),
           false;
}

/* A word that is no option: the script, or the model of `sites`. */
static bool store_word(const char *name, unsigned bit, const char *word, options *out)
{
    if (bit & IN_MERGE) {
        if (out->n_words == OPTIONS_MOST_PARTS)
            return usage_error(name, "more than %d files", OPTIONS_MOST_PARTS), false;
        out->words[out->n_words++] = word;
        return true;
    }
    const char **field = bit & (IN_RUN | IN_CHECK | IN_TOKENS) ? &out->script
                         : bit & IN_SITES                      ? &out->model
                                                               : NULL;
    if (!field) return usage_error(name, "'%s' was not expected", word), false;
    if (*field) return usage_error(name, "'%s' was not expected behind '%s'", word, *field), false;
    *field = word;
    return true;
}

static bool sweep_complete(const char *name, const options *given)
{
    if (!given->model) return usage_error(name, "which model? -m MODEL"), false;
    if (!given->clean) return usage_error(name, "which prompts? --clean PROMPTS"), false;
    if (!strcmp(name, "circuit") && !given->edges_from)
        return usage_error(
                   name, "which edges? --edges-from FILE, which attribute --edges -o FILE wrote"),
               false;
    if (!given->patch && !given->edges && strcmp(name, "circuit"))
        return usage_error(name, "which site? --patch resid_pre, for example"), false;
    if (!given->metrics[0])
        return usage_error(name, "which metric? --metric logit_diff:A,B, for example"), false;
    if (given->output && !*given->output)
        return usage_error(name, "-o needs the name of a file"), false;
    if (given->resume && !given->output)
        return usage_error(name, "--resume goes on with what -o OUT was to become; which?"), false;
    return true;
}

static bool cache_complete(const char *name, const options *given)
{
    const char *missing = !given->model     ? "which model? -m MODEL"
                          : !given->prompts ? "which prompts? --prompts PROMPTS"
                          : !given->sites   ? "which sites? --sites resid_post, for example"
                          : !given->output || !*given->output ? "where to? -o FOLDER"
                                                              : NULL;
    if (missing) usage_error(name, "%s", missing);
    return !missing;
}

static bool options_complete(const char *name, unsigned bit, const options *given)
{
    if (given->help || bit & (IN_VERSION | IN_MERGE)) return true;
    if (bit & (IN_SWEEP | IN_ATTRIBUTE | IN_CIRCUIT)) return sweep_complete(name, given);
    if (bit & IN_CACHE) return cache_complete(name, given);
    if (!given->model)
        return usage_error(
                   name, "which model? %s", bit & IN_SITES ? "inset sites MODEL" : "-m MODEL"),
               false;
    if (bit & IN_SITES) return true;
    if (bit & IN_TOKENS && !given->script) return usage_error(name, "which text?"), false;
    if (!given->script && !given->text)
        return usage_error(name, "which script? A file, - for standard input, or -c TEXT"), false;
    if (given->script && given->text)
        return usage_error(name, "a script file and -c TEXT were both given"), false;
    if (given->output && !*given->output)
        return usage_error(name, "-o needs the name of a file"), false;
    return true;
}

bool options_read(const char *name, int count, char **arguments, options *out)
{
    unsigned bit = find_command(name)->bit;
    bool only_words = false;
    *out = (options){.steps = -1, .top = 20};
    for (int i = 0; i < count; i++) {
        const char *argument = arguments[i], *word;
        if (only_words || argument[0] != '-' || !argument[1]) {
            if (!store_word(name, bit, argument, out)) return false;
            continue;
        }
        if (!strcmp(argument, "--")) {
            only_words = true;
            continue;
        }
        const option *o = find_option(argument, bit, &word);
        if (!o) return usage_error(name, "there is no option %s", argument), false;
        if (!word && o->kind != FLAG && i + 1 < count) word = arguments[++i];
        if (!store(name, o, argument, word, out)) return false;
    }
    return options_complete(name, bit, out);
}
