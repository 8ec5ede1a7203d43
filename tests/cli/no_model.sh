inset run -c pass
