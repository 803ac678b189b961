"""The report: the numbers of an experiment become JSON, plots and one HTML page.

The console, the JSON and the page show the same summary, so they cannot disagree.
Everything can be rendered again from the results kept in report.json, and the points
of a sweep, or any experiments, can be held side by side:

    python -m kdjax.report runs/gpt_small
    python -m kdjax.report runs/sweep
    python -m kdjax.report runs/a runs/b --output=runs/card
"""

from kdjax.report.card import model_card
from kdjax.report.many import write_card
from kdjax.report.page import write
from kdjax.report.summary import summarise
from kdjax.report.tables import table

__all__ = ["model_card", "summarise", "table", "write", "write_card"]
