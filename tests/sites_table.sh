#!/bin/sh
# README's table of families and their named sites, from what `inset sites` prints of the models in tests/fixtures.
#
#     sites_table.sh INSET README --write      puts the table between the marks in README
#     sites_table.sh INSET README              fails when what stands there is another
set -eu
inset=$1 readme=$2 how=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

{
    echo "| \`model_type\` | a block | in its attention | in its MLP | norms with \`.scale\` |"
    echo "|---|---|---|---|---|"
    for family in gpt2 gpt_neo gpt_neox gptj llama mistral qwen2 qwen3 gemma gemma2 gemma3 phi phi3 olmo2 olmo3 smollm3 stablelm starcoder2 bloom granite olmo cohere cohere2 opt mixtral qwen3_moe gpt_oss bert; do
        "$inset" sites "$here/fixtures/$family" | awk -v family="$(sed -n 's/.*"model_type": "\(.*\)".*/\1/p' "$here/fixtures/$family/config.json")" '
            function tell(list, item) { return list (list == "" ? "" : " ") "`" item "`" }
            {
                path = $1
                n = split(path, part, ".")
                site = part[n]
                first = index(path, ".0.")
                if (site == "input" || site == "output" || site == "logits" || (!first && site != "scale")) next
                if (first && block == "") block = substr(path, 1, first - 1)
                module = substr(path, first ? first + 3 : 1)
                if (site == "scale" && path ~ /\.[1-9][0-9]*\./) next
                if (!sub(/\.[^.]*$/, "", module)) in_block = tell(in_block, site)
                else if (site == "scale") norms = tell(norms, module)
                else if (module ~ /attn|attention/) {
                    if (attention == "") attention = module
                    in_attention = tell(in_attention, module == attention ? site : "." module "." site)
                }
                else { mlp = module; in_mlp = tell(in_mlp, site) }
            }
            END { printf "| `%s` | `%s[i]`%s%s | `.%s`: %s | %s%s | %s |\n", family, block, in_block == "" ? "" : ": ", in_block, attention, in_attention,
                         mlp == "" ? "" : "`." mlp "`: ", in_mlp, norms }'
    done
} > "$work/table"

begin='<!-- sites: made by tests/sites_table.sh -->' end='<!-- end of sites -->'
awk -v begin="$begin" -v end="$end" -v table="$work/table" '
    $0 == begin { print; while ((getline line < table) > 0) print line; skipping = 1; found++ }
    $0 == end { skipping = 0; found++ }
    !skipping { print }
    END { exit found != 2 }' "$readme" > "$work/readme" || { echo "$readme: the marks '$begin' and '$end' are not there" >&2; exit 1; }
if [ "$how" = --write ]; then
    cat "$work/readme" > "$readme"
elif ! diff -u "$readme" "$work/readme"; then
    echo "$readme: the table of sites is old; make it with: tests/sites_table.sh INSET README.md --write" >&2
    exit 1
fi
