"""The plots of reports and report cards, as PNG files in memory."""
