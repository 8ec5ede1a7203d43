inset run -m ../fixtures/notebook --repeat -1 -c pass
