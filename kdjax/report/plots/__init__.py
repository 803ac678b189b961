"""The plots of the report, as PNG files in memory."""

from kdjax.report.plots.calibration import calibration
from kdjax.report.plots.canvas import styles
from kdjax.report.plots.curves import curves
from kdjax.report.plots.entropy import entropy

__all__ = ["calibration", "curves", "entropy", "styles"]
