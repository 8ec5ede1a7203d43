inset help
