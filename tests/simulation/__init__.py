"""Both ends of Holdfast in one process under a clock turned by hand; see `play`."""
