"""Candidate retrieval: one module for each retriever, and the linear score model that adds up their scores."""
