"""LoadGen drives the arms: its blocks, and what it runs before them."""
