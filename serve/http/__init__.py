"""The HTTP service: contract, errors, routes and the app that holds them."""
