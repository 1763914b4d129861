"""Candidate retrieval: one module for each retriever family, and the model that blends their scores."""
