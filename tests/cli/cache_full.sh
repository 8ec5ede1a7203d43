# A disk that is full, here a limit on the size of files: an error with the file's name; the shards that are whole stay, and the same command goes on.
comma=
prompts=$(for i in $(seq 1 40); do printf '%s[%d,%d,%d]' "$comma" $((i % 60)) $((i * i % 60)) $((i * 7 % 60)); comma=,; done)
comma= ; long=$(for i in $(seq 1 100); do printf '%s[1,2,3,4,5,6,7,8,9,%d]' "$comma" $((i % 60)); comma=,; done)
set -- cache -d cpu -m "$PWD/../fixtures/induction" --prompts "[$prompts,$long]" --sites resid_post
cd "$SCRATCH" || exit 1
inset "$@" -o roomy --shard-bytes 40000 | sed 's/in [0-9]* shards/in ... shards/'
(ulimit -f 24; inset "$@" -o tight --shard-bytes 400000) ; echo "exit status $?"
ls tight; grep -c '"file"' tight/cache.json
inset "$@" -o tight --shard-bytes 400000 && ls tight
