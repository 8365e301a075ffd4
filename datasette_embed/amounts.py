"""Amounts: rows, money, sizes and durations, as people read them on pages and in terminals.

Layer 0: imports nothing.
"""

from __future__ import annotations


def rows_text(number: int) -> str:
    """Return a number of rows: ``1 row``, ``5,673 rows``."""
    return "1 row" if number == 1 else f"{number:,} rows"


def money_text(dollars: float) -> str:
    """Return an amount of money; what is less than a cent is said to be."""
    return "under $0.01" if 0 < dollars < 0.01 else f"${dollars:,.2f}"


def about_money_text(dollars: float) -> str:
    """Return an amount that is reckoned, not known: ``about $0.12``, ``under $0.01``."""
    text = money_text(dollars)
    return text if text.startswith("under") else f"about {text}"


def price_text(dollars: float) -> str:
    """Return the price of a model: ``$0.10 per million tokens``, ``$0.005 per million tokens``."""
    whole = f"{dollars:,.2f}"
    return f"${whole if float(whole.replace(',', '')) == dollars else dollars} per million tokens"


def size_text(size: float) -> str:
    """Return a size in units of 1,000 bytes, as an estimate says it."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1_000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1_000
    return f"{size:,.1f} GB"


def duration_text(seconds: float) -> str:
    """Return a duration: ``12 s``, ``5 min``, ``2 h 10 min``, ``3 days``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{max(1, whole)} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{hours // 24} days"
