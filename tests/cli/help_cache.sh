inset help cache
