printf 'with invoke([[1, 2, 3, 4, 5]]):\n    x = layer1.output[:, 0].save()\n' | inset run -d cpu -m ../fixtures/notebook -
