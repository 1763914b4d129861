"""Everything that keeps vectors and finds them, by number and opaque space. Imports no embed, no serve."""
