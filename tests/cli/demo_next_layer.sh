inset run -d cpu -m ../fixtures/notebook ../../demo/3_next_layer.inset
