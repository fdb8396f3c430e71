"""Turn a run's journal into tables, plots, pages and the console's summary."""
