inset
