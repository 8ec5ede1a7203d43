#!/bin/sh
# mpi.sh BUILD [KILLS]: sweeps, edges and caches by several processes. Run in tests/. 77: there is no MPI.
#
#   equal      1, 2, 3 and 4 ranks, shards and two devices: the same file to the last byte, as one process has it where it is cut alike
#   attribution, features, edges, circuit, paths    the same; of the last two no shards
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
    edges) set -- attribute -m fixtures/llama --edges --per-pair --steps 2 --metric logit:7 --metric logit_diff:1,2 ;;
    circuit) set -- circuit -m fixtures/gpt2 --edges-from "$scratch/scores.safetensors" --sizes 3,10%,50% --by greedy --metric logit:7 ;;
    paths) set -- sweep -m fixtures/gpt2 --patch edges --metric logit:7 ;;
    features) set -- sweep -m fixtures/gpt2 --patch features:fixtures/features/relu/sae.safetensors@resid_pre.1 --metric logit:7 --metric kl ;;
  esac
  printf '%s ' "$@"
}
jobs() { # RANKS ARGUMENT...: mpirun may hang where a rank is killed while it starts
  ranks=$1; shift
  if [ "$ranks" -gt 0 ]; then timeout -k 5 60 mpirun -n "$ranks" "$inset" "$@"; else "$inset" "$@"; fi > "$scratch/stdout" 2> "$scratch/stderr"
}
random() { od -An -N2 -tu2 /dev/urandom | tr -d ' '; }
kill_one() { # COMMAND OUT: one of its ranks
  # shellcheck disable=SC2046
  set -- $(pgrep -f "^$inset $1 .*$2")
  [ $# -gt 0 ] || return
  shift $(($(random) % $#))
  kill -9 "$1" 2> /dev/null
}
run() { # KIND OUT RANKS OPTION...: by mpirun; RANKS 0: without
  kind=$1 out=$2 ranks=$3; shift 3
  # shellcheck disable=SC2046
  set -- $(with "$kind") --clean "$(cat "$scratch/clean")" --corrupt "$(cat "$scratch/corrupt")" -o "$out" "$@"
  jobs "$ranks" "$@"
}

shared() { # KIND ENDING: by 1 to 4 ranks, and by two devices
  for n in 1 2 3 4; do
    run "$1" "$scratch/$1.$n.$2" $n || { cat "$scratch/stderr"; fail "$1: $n ranks"; }
    same "$scratch/$1.1.$2" "$scratch/$1.$n.$2" "$1, $n ranks"
  done
  run "$1" "$scratch/$1.d.$2" 0 -d cpu,cpu || fail "$1: two devices"
  same "$scratch/$1.1.$2" "$scratch/$1.d.$2" "$1, two devices"
}
shards() { # KIND
  for k in 1 2 3; do run "$1" "$scratch/$1.s.safetensors" $((k % 2 * 2)) --shard $k/3 || { cat "$scratch/stderr"; fail "$1: shard $k"; }; done
  "$inset" merge "$scratch/$1.s.safetensors" "$scratch/$1.s.safetensors".*-of-3 > /dev/null || fail "$1: merge"
  same "$scratch/$1.1.safetensors" "$scratch/$1.s.safetensors" "$1, shards"
}
for kind in sweep attribution features; do shared $kind safetensors; shards $kind; done

# ---- edges: more pairs, so that there are some chunks; a circuit's and a path's numbers are those of one process ----
prompts 100 9 > "$scratch/clean"
prompts 100 31 > "$scratch/corrupt"
shared edges safetensors
shards edges
prompts 5 9 > "$scratch/clean"
prompts 5 31 > "$scratch/corrupt"
"$inset" attribute --edges -m fixtures/gpt2 --clean "$(cat "$scratch/clean")" --corrupt "$(cat "$scratch/corrupt")" --metric logit:7 -o "$scratch/scores.safetensors" > /dev/null || fail "scores"
for kind in circuit paths; do
  shared $kind csv
  run $kind "$scratch/$kind.0.csv" 0 || fail "$kind: one process"
  same "$scratch/$kind.0.csv" "$scratch/$kind.1.csv" "$kind, one process"
done

# ---- not shared ----
mpirun -n 2 "$inset" run -m fixtures/gpt2 -c 'with invoke([[1, 2]]):' > "$scratch/stdout" 2> "$scratch/stderr" && fail "run: runs in two ranks"
[ "$(grep -c 'this runs in one process' "$scratch/stderr")" = 1 ] || fail "run in two ranks: $(cat "$scratch/stderr")"

# ---- caches: the same folder to the last byte ----
prompts 40 9 > "$scratch/clean"
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
# Machines differ: a rank is killed at some time of what a whole run took just now.
whole_run() { # COMMAND...: sets `took`, in hundredths of a second
  began=$(date +%s%N)
  "$@" || return 1
  took=$((($(date +%s%N) - began) / 10000000))
}
wait_some() { some=$(($(random) % (took * 6 / 10) + 20)); sleep "$((some / 100)).$(printf %02d $((some % 100)))"; }
killed() { # KIND COMMAND: the whole is in KIND.long.safetensors
  cut=0
  for i in $(seq "$kills"); do
    out=$scratch/$1.killed.safetensors
    rm -f "$out" "$out.partial"
    run "$1" "$out" $((2 + i % 3)) &
    wait_some
    kill_one "$2" "$out"
    wait $!; status=$?
    [ -e "$out" ] && { same "$scratch/$1.long.safetensors" "$out" "$1 not killed in time"; continue; }
    [ $status -eq 124 ] || grep -q "exited on signal 9" "$scratch/stderr" || { cat "$scratch/stderr"; fail "$1 killed: nothing is said"; }
    cut=$((cut + 1))
    resume=; [ -e "$out.partial" ] && resume=--resume
    run "$1" "$out" $((1 + i % 4)) $resume || { cat "$scratch/stderr"; fail "$1 resumed: $i"; }
    same "$scratch/$1.long.safetensors" "$out" "$1 killed and resumed with $((1 + i % 4)) ranks"
  done
  echo "$1: $cut of $kills killed in the middle"
  [ "$cut" -gt 0 ] || fail "$1: no rank was killed in time"
}
prompts 1500 9 > "$scratch/clean"
prompts 1500 31 > "$scratch/corrupt"
whole_run run sweep "$scratch/sweep.long.safetensors" 2 || fail "the long sweep"
killed sweep sweep

whole_run cache "$scratch/cache.long" 2 || fail "the long cache"
for i in $(seq "$kills"); do
  rm -rf "$scratch/cache.killed"
  cache "$scratch/cache.killed" $((2 + i % 3)) &
  wait_some
  kill_one cache "$scratch/cache.killed"
  wait $!
  cache "$scratch/cache.killed" $((i % 4)) || { cat "$scratch/stderr"; fail "cache resumed: $i"; }
  same_folder "$scratch/cache.long" "$scratch/cache.killed" "cache killed and resumed with $((i % 4)) ranks"
done

whole_run run edges "$scratch/edges.long.safetensors" 2 || fail "the long edges"
killed edges attribute

# ---- refusals ----
refused() { # STATUS TEXT OPTION...: by three ranks
  wanted=$1 says=$2; shift 2
  mpirun -n 3 "$inset" sweep "$@" > "$scratch/stdout" 2> "$scratch/stderr"; status=$?
  [ $status -eq "$wanted" ] || fail "$says: exit status $status, $wanted was expected"
  [ "$(grep -c "$says" "$scratch/stderr")" -eq 1 ] || { cat "$scratch/stderr"; fail "'$says' was expected once"; }
}
refused 1 "fixtures/none" -m fixtures/none --clean '[[1, 2]]' --corrupt '[[1, 3]]' --patch z --metric logit:7
refused 2 "is no metric" -m fixtures/gpt2 --clean '[[1, 2]]' --corrupt '[[1, 3]]' --patch z --metric nonsense:7
refused 2 "is no path" -m fixtures/gpt2 --clean '[[1, 2]]' --corrupt '[[1, 3]]' --patch edges --edges 'm1->m0' --metric logit:7
refused 1 "it exists" -m fixtures/gpt2 --clean '[[1, 2]]' --corrupt '[[1, 3]]' --patch z --metric logit:7 -o "$scratch/sweep.1.safetensors"

[ $failures -eq 0 ]
