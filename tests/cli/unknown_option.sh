inset run -m ../fixtures/notebook --turbo x.inset
