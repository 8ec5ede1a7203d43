# Times are left out.
inset run -d cpu -m ../fixtures/notebook --json --repeat 3 -c 'with invoke([[1, 2, 3, 4, 5]]):
    x = layer1.output.save()' | sed -E 's/("device": )"cpu.*"/\1"cpu"/; s/("(load|plan|seconds)": )[0-9.e+-]+/\1T/'
