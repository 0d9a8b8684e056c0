"""Reserved for rate limits and quotas.

Today's limits bound sizes and numbers, not rates. Those that an operator sets are in
contracts/settings/, the fixed ones of live subscriptions in api/live/limits.py. Bodies are bounded
in api/http/bodies.py, connections in tidelens/server/admission.py.
"""
