inset sweep -d cpu -m ../fixtures/llama --clean '[[11,3,42]]' --corrupt '[[11,50,42]]' --patch v --heads 2: --metric kl
