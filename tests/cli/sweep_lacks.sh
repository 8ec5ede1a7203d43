inset sweep -d cpu -m ../fixtures/gpt2 --clean '[[11,3,42]]' --corrupt '[[11,50,42]]' --patch rot_k --metric kl
