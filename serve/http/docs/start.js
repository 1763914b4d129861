// Swagger UI over this service's own document; nothing comes from elsewhere.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", deepLinking: true, docExpansion: "list" });
