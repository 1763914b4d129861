"""Turns a catalogue into vectors: catalogue, encoders, encode job, towers. Imports neither index nor serve."""
