inset attribute -d none -m ../fixtures/llama --clean '[[3,7,11,2]]' --corrupt '[[3,7,20,2]]' --metric logit_diff:3,7 --edges
