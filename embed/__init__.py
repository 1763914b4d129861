"""Everything that turns things into vectors: catalogue, encoders, encode job. Imports no index, no serve."""
