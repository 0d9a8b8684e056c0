"""Reserved for rate limits and quotas.

Today's limits bound sizes and numbers, not rates. Their values are in contracts/settings/, and in
api/live/limits.py if live subscriptions need them without a setting. They are enforced on bodies in
api/http/bodies.py, and on connections in tidelens/server/admission.py.
"""
