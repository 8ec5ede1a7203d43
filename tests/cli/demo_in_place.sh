inset run -d cpu -m ../fixtures/notebook ../../demo/1_in_place.inset
