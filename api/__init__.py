"""The Starlette app: search, live subscriptions, items, health, and the page."""
