"""Pictures by reference: `file:` under allowed roots, `https:` and `s3:` with their protections.

Whoever may publish a record may name anything, so nothing here trusts a reference: what is
connected to is what was checked, at every redirect anew, and everything has a limit.
"""

from consumers.references.files import read_reference
from consumers.references.limits import ReferenceLimits
from consumers.references.reader import References

__all__ = ["ReferenceLimits", "References", "read_reference"]
