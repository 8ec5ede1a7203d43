inset run -m
