"""Jobs over a store: build, encode, train, export, compact."""
