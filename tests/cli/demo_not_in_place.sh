inset run -d cpu -m ../fixtures/notebook ../../demo/2_not_in_place.inset
