"""Pictures by reference: `file:` under allowed roots, `https:` and `s3:` with their protections.

Anybody who may publish a record may name anything, so nothing here trusts a reference. Connections
go only to addresses that were checked, again at every redirect, and everything has a limit.
"""

from consumers.references.files import read_reference
from consumers.references.limits import ReferenceLimits
from consumers.references.reader import References

__all__ = ["ReferenceLimits", "References", "read_reference"]
