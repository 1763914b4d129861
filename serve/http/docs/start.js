// Swagger UI for the OpenAPI document of this service; nothing is loaded from other hosts.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", deepLinking: true, docExpansion: "list" });
