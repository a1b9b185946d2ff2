"""The public tools for publishers: browser pages, forms, a target's options, and comparable text.

Importing this module loads Playwright. A publisher that uses only HTTP imports `text_option` and `list_option` from
`actors.options`, and everything else from `actors` and `actors.markdown`.
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
