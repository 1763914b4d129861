"""Languages that text analysis supports."""

import Stemmer

LANGUAGES = ("none", *Stemmer.algorithms())
