"""The public tools for publishers: pages of a browser, forms, options of a target, and text that can be compared.

Importing this module loads Playwright; a publisher that speaks HTTP alone takes `text_option` and `list_option` from
`actors.options` and the rest of what it needs from `actors` and `actors.markdown`.
"""

from .clients.browser import Browser, page_errors
from .clients.publishers.pages import Pages, fill_in, paste_html
from .markdown import comparable, plain_text, render
from .options import list_option, text_option

__all__ = [
    "Browser",
    "Pages",
    "comparable",
    "fill_in",
    "list_option",
    "page_errors",
    "paste_html",
    "plain_text",
    "render",
    "text_option",
]
