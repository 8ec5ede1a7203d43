inset run -m ../fixtures/notebook -d cpu -o nowhere/out.safetensors -c 'with invoke([[1, 2, 3, 4, 5]]):
    x = layer1.output.save()'
