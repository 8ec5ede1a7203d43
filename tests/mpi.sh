#!/bin/sh
# mpi.sh BUILD [KILLS]: one sweep by several processes. Run in tests/. 77: there is no MPI.
#
#   equal      1, 2, 3 and 4 ranks, shards and two devices: the same file to the last byte, as one process has it where it is cut alike
#   attribution, features    the same
#   caches     1, 2, 3 and 4 ranks, and shards: the same folder as one process makes
#   killed     a rank killed at a random time, KILLS times (6), each time resumed with another number of ranks: the same file, the same folder
#   refusals   a bad option, a model that is not there, output that exists: told once, exit status as without MPI
build=$1 kills=${2:-6}
inset=$build/inset
command -v mpirun > /dev/null && [ -e "$build/inset_mpi.so" ] || { echo "no MPI"; exit 77; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
# last bits do not depend on threads where there is one; a container's root may start jobs; two cores have four ranks
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_base_warn_component_unused=0
# Open MPI leaves memory behind when it ends; leaks of ours are test_shared_sweeps's to find
export ASAN_OPTIONS="detect_leaks=0:${ASAN_OPTIONS:-}"
failures=0
fail() { echo "mpi.sh: $*" >&2; failures=$((failures + 1)); }
same() { cmp -s "$1" "$2" || fail "$3: $2 is not $1"; }

prompts() { # N TOKEN: N prompts of 7 tokens; TOKEN at the third place
  awk -v n="$1" -v t="$2" 'BEGIN { printf "["; for (i = 0; i < n; i++) printf "%s[%d,%d,%d,%d,%d,%d,%d]", i ? "," : "", i % 30, 2, t, i % 7, (i * 3) % 31, 5, i % 11; print "]" }'
}
prompts 40 9 > "$scratch/clean"
prompts 40 31 > "$scratch/corrupt"

with() { # KIND: the command behind `inset`
  case $1 in
    sweep) set -- sweep -m fixtures/gpt2 --patch resid_pre,z --memory 300K --metric logit_diff:11,12 ;;
    attribution) set -- attribute -m fixtures/llama --patch resid_pre,z --steps 3 --metric logit:7 ;;
    features) set -- sweep -m fixtures/gpt2 --patch features:fixtures/features/relu/sae.safetensors@resid_pre.1 --metric logit:7 --metric kl ;;
  esac
  printf '%s ' "$@"
}
jobs() { # RANKS ARGUMENT...: mpirun may hang where a rank is killed while it starts
  ranks=$1; shift
  if [ "$ranks" -gt 0 ]; then timeout -k 5 100 mpirun -n "$ranks" "$inset" "$@"; else "$inset" "$@"; fi > "$scratch/stdout" 2> "$scratch/stderr"
}
random() { od -An -N2 -tu2 /dev/urandom | tr -d ' '; }
kill_one() { # COMMAND OUT: one of its ranks, the third at most
  one=$(pgrep -f "^$inset $1 .*$2" | sed -n "$(($(random) % 3 + 1))p")
  [ -n "$one" ] && kill -9 "$one" 2> /dev/null
}
run() { # KIND OUT RANKS OPTION...: by mpirun; RANKS 0: without
  kind=$1 out=$2 ranks=$3; shift 3
  # shellcheck disable=SC2046
  set -- $(with "$kind") --clean "$(cat "$scratch/clean")" --corrupt "$(cat "$scratch/corrupt")" -o "$out" "$@"
  jobs "$ranks" "$@"
}

for kind in sweep attribution features; do
  run $kind "$scratch/$kind.safetensors" 1 || { cat "$scratch/stderr"; fail "$kind: one rank"; }
  for n in 2 3 4; do
    run $kind "$scratch/$kind.$n.safetensors" $n || { cat "$scratch/stderr"; fail "$kind: $n ranks"; }
    same "$scratch/$kind.safetensors" "$scratch/$kind.$n.safetensors" "$kind, $n ranks"
  done
  run $kind "$scratch/$kind.d.safetensors" 0 -d cpu,cpu || fail "$kind: two devices"
  same "$scratch/$kind.safetensors" "$scratch/$kind.d.safetensors" "$kind, two devices"
  for k in 1 2 3; do run $kind "$scratch/$kind.s.safetensors" $((k % 2 * 2)) --shard $k/3 || { cat "$scratch/stderr"; fail "$kind: shard $k"; }; done
  "$inset" merge "$scratch/$kind.s.safetensors" "$scratch/$kind.s.safetensors".*-of-3 > /dev/null || fail "$kind: merge"
  same "$scratch/$kind.safetensors" "$scratch/$kind.s.safetensors" "$kind, shards"
done

# ---- not shared ----
pair="--clean 3,7,11 --corrupt 3,8,11 --metric logit:7"
for what in "attribute --edges $pair" "sweep --patch edges --edges m0->logits $pair"; do
  # shellcheck disable=SC2086
  mpirun -n 2 "$inset" $what -m fixtures/gpt2 > "$scratch/stdout" 2> "$scratch/stderr" && fail "$what: runs in two ranks"
  [ "$(grep -c 'this runs in one process' "$scratch/stderr")" = 1 ] || fail "$what in two ranks: $(cat "$scratch/stderr")"
done

# ---- caches: the same folder to the last byte ----
cache() { # OUT RANKS OPTION...
  out=$1 ranks=$2; shift 2
  set -- cache -m fixtures/gpt2 --sites resid_post,z --prompts "$(cat "$scratch/clean")" --shard-bytes 20K -o "$out" "$@"
  jobs "$ranks" "$@"
}
same_folder() { diff -r "$1" "$2" > /dev/null || fail "$3: $2 is not $1"; }
cache "$scratch/cache" 0 || { cat "$scratch/stderr"; fail "cache"; }
for n in 1 2 3 4; do
  cache "$scratch/cache.$n" $n || { cat "$scratch/stderr"; fail "cache: $n ranks"; }
  same_folder "$scratch/cache" "$scratch/cache.$n" "cache, $n ranks"
  [ "$(wc -l < "$scratch/stdout")" = 1 ] || fail "cache, $n ranks: $(cat "$scratch/stdout")"
done
for k in 2 3 1; do cache "$scratch/cache.s" $((k % 2 * 2)) --shard $k/3 || { cat "$scratch/stderr"; fail "cache: shard $k"; }; done
same_folder "$scratch/cache" "$scratch/cache.s" "cache, shards"
mpirun -n 3 "$inset" cache -m fixtures/gpt2 --sites nonsense --prompts '[[3, 7, 11]]' -o "$scratch/cache.n" > "$scratch/stdout" 2> "$scratch/stderr" && fail "a cache of nonsense"
[ "$(grep -c nonsense "$scratch/stderr")" = 1 ] || { cat "$scratch/stderr"; fail "a cache of nonsense: told once"; }

# ---- killed ----
prompts 700 9 > "$scratch/clean"
prompts 700 31 > "$scratch/corrupt"
run sweep "$scratch/long.safetensors" 2 || fail "the long sweep"
cut=0
for i in $(seq "$kills"); do
  out=$scratch/killed.safetensors
  rm -f "$out" "$out.partial"
  run sweep "$out" $((2 + i % 3)) &
  sleep "0.$((100 + $(random) % 900))"
  kill_one sweep "$out"
  wait $!; status=$?
  [ -e "$out" ] && { same "$scratch/long.safetensors" "$out" "not killed in time"; continue; }
  [ $status -eq 124 ] || grep -q "exited on signal 9" "$scratch/stderr" || { cat "$scratch/stderr"; fail "killed: nothing is said"; }
  cut=$((cut + 1))
  resume=; [ -e "$out.partial" ] && resume=--resume
  run sweep "$out" $((1 + i % 4)) $resume || { cat "$scratch/stderr"; fail "resumed: $i"; }
  same "$scratch/long.safetensors" "$out" "killed and resumed with $((1 + i % 4)) ranks"
done
echo "$cut of $kills killed in the middle"
[ "$cut" -gt 0 ] || fail "no rank was killed in time"

cache "$scratch/cache.long" 0 || fail "the long cache"
for i in $(seq "$kills"); do
  rm -rf "$scratch/cache.killed"
  cache "$scratch/cache.killed" $((2 + i % 3)) &
  sleep "0.$((100 + $(random) % 900))"
  kill_one cache "$scratch/cache.killed"
  wait $!
  cache "$scratch/cache.killed" $((i % 4)) || { cat "$scratch/stderr"; fail "cache resumed: $i"; }
  same_folder "$scratch/cache.long" "$scratch/cache.killed" "cache killed and resumed with $((i % 4)) ranks"
done

# ---- refusals ----
refused() { # STATUS TEXT OPTION...: by three ranks
  wanted=$1 says=$2; shift 2
  mpirun -n 3 "$inset" sweep "$@" > "$scratch/stdout" 2> "$scratch/stderr"; status=$?
  [ $status -eq "$wanted" ] || fail "$says: exit status $status, $wanted was expected"
  [ "$(grep -c "$says" "$scratch/stderr")" -eq 1 ] || { cat "$scratch/stderr"; fail "'$says' was expected once"; }
}
refused 1 "fixtures/none" -m fixtures/none --clean '[[1, 2]]' --corrupt '[[1, 3]]' --patch z --metric logit:7
refused 2 "is no metric" -m fixtures/gpt2 --clean '[[1, 2]]' --corrupt '[[1, 3]]' --patch z --metric nonsense:7
refused 1 "it exists" -m fixtures/gpt2 --clean '[[1, 2]]' --corrupt '[[1, 3]]' --patch z --metric logit:7 -o "$scratch/sweep.safetensors"

[ $failures -eq 0 ]
