inset version | head -n 1
