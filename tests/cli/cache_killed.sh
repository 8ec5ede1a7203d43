# Killed twenty times at some moment, ever further on, and begun again each time, a cache has the bytes of one that was not.
prompts=$(for i in $(seq 1 150); do printf '%s[%d' "$comma" $((i % 60)); for k in $(seq 1 $((i * i % 11))); do printf ',%d' $(((i * k) % 60)); done; printf ']'; comma=,; done)
set -- cache -d cpu -m "$PWD/../fixtures/induction" --prompts "[$prompts]" --sites resid_post,z,mlp_out --batch 12 --shard-bytes 60000
cd "$SCRATCH" || exit 1
inset "$@" -o kept_whole
for i in $(seq 1 20); do
    inset "$@" -o kept_parts > shown 2>&1 & running=$!
    while kill -0 $running && [ ! -e "kept_parts/$(printf %05d $((i * 3 / 2))).safetensors" ]; do :; done 2> /dev/null
    sleep "0.00$((i * 7 % 10))"
    kill -KILL $running 2> /dev/null
    wait $running 2> /dev/null
done
inset "$@" -o kept_parts > shown && head -n 1 shown
diff -r kept_whole kept_parts && echo "the same bytes"
