"""Reserved for authentication and permissions.

Nothing is authenticated today: a node listens on loopback unless TIDELENS_HOST says otherwise, and
api/http/guard.py refuses the requests of foreign web pages.
"""
