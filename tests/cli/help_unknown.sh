inset help walk
