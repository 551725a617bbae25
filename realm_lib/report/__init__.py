"""What people look at: figures, words, pages, and the explorer in a notebook."""
