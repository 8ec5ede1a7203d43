inset help run
