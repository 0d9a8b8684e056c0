"""Live subscriptions: the WebSocket and event-stream endpoints, their sessions and messages."""
