inset attribute -d cpu -m ../fixtures/induction --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --direction noise --edges --patch z
