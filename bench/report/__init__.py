"""From the analysis to tables, plots and pages."""
