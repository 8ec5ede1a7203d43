inset sites --help
