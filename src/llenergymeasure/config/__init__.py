"""What the user asked for: the models, and how a file, flags and defaults become one of them."""
