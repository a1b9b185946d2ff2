"""The demo blog: a small blog site with many accounts, as a target to try onelane with and for tests.

It behaves like real ones (sign-in form, CSRF tokens, sessions that expire, a rich-text editor that updates late,
repeated slugs that get a ``-2``) and says on every page that it is a demo. It imports no part of the service but
`companion`.
"""
