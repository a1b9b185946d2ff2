"""The demo blog: a small blog site with many accounts, to try onelane on and to test it against.

It behaves as real ones do (sign-in form, CSRF tokens, sessions that end, a rich-text editor with a will of its own,
doubled slugs that get a ``-2``) and says on every page that it is a demo. It imports nothing else of this package.
"""

from .app import create_app
from .faults import FAULT_KINDS, Faults
from .store import BlogStore, StoredPost

__all__ = ["FAULT_KINDS", "BlogStore", "Faults", "StoredPost", "create_app"]
