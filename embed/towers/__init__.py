"""The two-tower model: items and users in one space. Its network, its training and the trained model."""
