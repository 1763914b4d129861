"""Everything that answers: releases, retrieval, the HTTP service and the command line."""
