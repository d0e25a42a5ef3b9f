"""Lines and tables as HTML, for notebooks."""

from collections.abc import Sequence
from html import escape

from featcache.core.formatting import Lines, Table, printable

_LEFT = ' style="text-align:left"'


def html_lines(title: str, parts: Lines) -> str:
    """Return lines and tables below a title as HTML; whatever is in them is text."""
    shown = [_table(part) if isinstance(part, Table) else f"<div>{_text(part)}</div>" for part in parts if part]
    return f"<div><b>{_text(title)}</b>{''.join(shown)}</div>"


def _table(table: Table) -> str:
    head = [f"<thead>{_row(table.columns, 'th')}</thead>"] if table.columns else []
    return f"<table>{''.join([*head, '<tbody>', *(_row(row, 'td') for row in table.rows), '</tbody>'])}</table>"


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}{_LEFT}>{_text(cell)}</{tag}>' for cell in cells)}</tr>"


def _text(text: str) -> str:
    return escape(printable(text))
