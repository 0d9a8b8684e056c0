"""The HTTP and WebSocket server and its limits on connections."""
