"""Everything that turns things into vectors: catalogue, encoders, the offline encode job. Imports nothing of index or serve."""
