inset help sweep
