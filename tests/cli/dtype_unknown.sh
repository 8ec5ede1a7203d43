inset run -m ../fixtures/notebook -d cpu --dtype f8 -c pass
