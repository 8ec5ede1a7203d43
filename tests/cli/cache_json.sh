printf '[11,3,42]\n[7,55]\n' > "$SCRATCH/prompts.jsonl"
inset cache -d cpu -m ../fixtures/induction --prompts "$SCRATCH/prompts.jsonl" --sites resid_pre -o "$SCRATCH/cache_json" --json | sed 's/\("seconds"\|"planning"\|"running"\|"waiting"\): [0-9.]*/\1: .../'
