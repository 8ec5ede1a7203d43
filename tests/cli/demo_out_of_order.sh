cd ../../demo && inset run -d cpu -m ../tests/fixtures/notebook 4_out_of_order.inset
