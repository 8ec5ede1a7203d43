inset run -m ../fixtures/notebook -d cpu nowhere.inset
