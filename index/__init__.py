"""Everything that keeps vectors and finds them; sees arrays, item numbers and an opaque space. Imports nothing of embed or serve."""
