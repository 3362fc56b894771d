"""sfumato inside any ASGI application, or as one."""
