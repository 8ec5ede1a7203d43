# Killed or interrupted after its first chunks, a sweep goes on and writes the same bytes as one that was not.
model=$PWD/../fixtures/induction
mkdir "$SCRATCH/killed" && cd "$SCRATCH/killed" || exit 1
clean=$(for i in $(seq 1 12); do printf '%s[11,3,42,7,55,20,33,9,%d]' "$comma" $((i % 40)); comma=,; done)
corrupt=$(printf %s "$clean" | sed 's/11,3,/11,50,/g')
set -- sweep -d cpu -m "$model" --clean "[$clean]" --corrupt "[$corrupt]" --patch resid_pre,z --by layer,position --metric logit_diff:42,55 --memory 2M
inset "$@" -o whole.safetensors > shown
for signal in KILL INT TERM; do
    inset "$@" -o parts.safetensors > shown & running=$!
    while kill -0 $running && [ ! -s parts.safetensors.partial ]; do :; done 2> /dev/null
    kill -$signal $running 2> /dev/null
    wait $running 2> /dev/null
    inset "$@" -o parts.safetensors --resume --force > shown && cmp whole.safetensors parts.safetensors && echo "$signal: the same"
    rm -f parts.safetensors
done
ls
