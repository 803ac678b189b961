"""The report: the numbers of an experiment become JSON, plots and one HTML page.

The console, the JSON and the page show the same summary, so they cannot disagree.
Everything can be rendered again from the results kept in report.json:

    python -m kdjax.report --workdir=runs/gpt_small
"""

from kdjax.report.card import model_card
from kdjax.report.page import write
from kdjax.report.summary import summarise
from kdjax.report.tables import table

__all__ = ["model_card", "summarise", "table", "write"]
