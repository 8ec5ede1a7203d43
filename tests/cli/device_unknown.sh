inset run -m ../fixtures/notebook -d gpu -c pass
