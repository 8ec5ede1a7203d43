inset sweep -d cpu -m ../fixtures/induction --clean '[[1, 2, 3], [4, 5]]' --corrupt '[[1, 2, 4], [4]]' --patch z --metric kl
