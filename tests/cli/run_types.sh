inset run -d cpu -m ../fixtures/gpt2 --dtype bf16 -c 'with invoke([[1, 2, 3]]):
    ids = transformer.wte.input.save()
    x = transformer.h[0].output[0, :, :3].save()
z = zeros(2, 3)
z.save()'
