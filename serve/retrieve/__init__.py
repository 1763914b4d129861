"""From a question to candidates: query vectors, search in each space, fusion."""
