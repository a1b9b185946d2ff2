"""The demo blog: a small blog site with many accounts, to try onelane on and to test it against.

It behaves as real ones do (sign-in form, CSRF tokens, sessions that end, a rich-text editor with a will of its own,
doubled slugs that get a ``-2``) and says on every page that it is a demo. Of the service it knows `companion` alone,
which serves it.
"""
