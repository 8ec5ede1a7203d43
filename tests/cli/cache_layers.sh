inset cache -d cpu -m ../fixtures/induction --prompts '[[1]]' --sites z --layers 0,5-7 -o "$SCRATCH/none"
