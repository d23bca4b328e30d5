"""A self-contained HTML page around coloured texts."""

from __future__ import annotations

from html import escape

from faststeer.diagnostics.token_text import printable

# No script may run and nothing is loaded, whatever the texts contain.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html_page(title: str, style: str, body: str) -> str:
    """Return a page without scripts or external resources.

    Args:
        title: of the page, and its heading; escaped here.
        style: CSS besides the colours and the font that all pages have.
        body: HTML below the heading, escaped by the caller.
    """
    shown = escape(printable(title))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{shown}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; padding: 0 1rem; color: #111; background: #fff; }}
h1 {{ font-size: 1.2rem; line-height: 1.3; overflow-wrap: anywhere; }}
{style}</style>
</head>
<body>
<h1>{shown}</h1>
{body}
</body>
</html>
"""
