"""The report card: many experiments, or the points of a sweep, side by side.

python -m kdjax.report runs/sweep
python -m kdjax.report runs/a runs/b --output=runs/card
"""

from kdjax.report.many.page import write_card

__all__ = ["write_card"]
