"""LoadGen's settings, its logs, and the search for the highest rate: all that needs no process."""
