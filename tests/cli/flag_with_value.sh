inset run -m ../fixtures/notebook --json=yes -c pass
