inset cache -d cpu -m ../fixtures/induction --prompts '[[1]]' --sites resid_pots -o "$SCRATCH/none"
