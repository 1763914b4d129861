"""The HTTP service: app, middleware, routes, OpenAPI document and console."""
