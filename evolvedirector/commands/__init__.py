"""One file per word of the command line beyond those of Lightning; imported only when called."""
