inset help >/dev/full
