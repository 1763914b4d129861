"""The two towers: items and shoppers in one space; their model, their training, and what is trained."""
