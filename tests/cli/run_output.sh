# What is written is read back: names, order, numbers. A refused run leaves what was there alone, and makes nothing.
model=$PWD/../fixtures/notebook
mkdir "$SCRATCH/files"
cd "$SCRATCH/files"
inset run -d cpu -m "$model" -o out.safetensors -c 'with invoke([[1, 2, 3, 4, 5]]):
    layer1.output[:] = 2
    second = layer1.output.save()
    first = layer2.input[:, :3].save()'
inset run -d cpu -m "$model" -c 'x = load("out.safetensors", "second")
x.save()
y = load("out.safetensors", "first")
y.save()'
inset run -d cpu -m "$model" -o refused.safetensors -c 'with invoke([[1, 2, 3, 4, 5]]):
    x = layer3.output.save()'
echo "exit status $?"
inset run -d cpu -m "$model" -o refused.safetensors -c 'x = load("nowhere.safetensors", "x")
x.save()' 2>/dev/null
echo "exit status $?"
ls
