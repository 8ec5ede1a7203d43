#!/bin/sh
# Runs the traces of nnsight's "Setting" notebook on its two-layer model and shows each script and what it prints; the last of them is
# refused, and that it is, is part of the demo. Then sweeps a small model that does induction.  INSET: the program, build/inset unless set.
set -eu
cd "$(dirname "$0")/.."
inset=${INSET:-build/inset}
model=tests/fixtures/notebook

show() {
    printf '\n$ inset run -m %s %s\n' "$model" "$1"
    sed 's/^/    /' "$1"
    echo
}

for script in demo/1_in_place.inset demo/2_not_in_place.inset demo/3_next_layer.inset; do
    show $script
    "$inset" run -d cpu -m $model $script
done

show demo/4_out_of_order.inset
status=0
"$inset" run -d cpu -m $model demo/4_out_of_order.inset 2>&1 || status=$?
if [ $status -ne 2 ]; then
    echo "the last trace should have been refused with exit status 2, found $status" >&2
    exit 1
fi

# Where the answer comes from, in a model that was trained to answer "... A B ... A" with B.
set -- sweep -m tests/fixtures/induction --clean '[[11, 3, 42, 7, 55, 20, 33, 9, 3]]' --corrupt '[[11, 50, 42, 7, 55, 20, 33, 9, 3]]' \
    --patch resid_pre,z --metric logit_diff:42,55
printf '\n$ inset'
for word; do
    case $word in *[!a-zA-Z0-9/_,:.=-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
done
printf '\n\n'
"$inset" "$@" -d cpu
