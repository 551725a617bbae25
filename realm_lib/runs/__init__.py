"""A run: its folder, files, seeds and weights; its notebooks under papermill; its comparison with a reference."""
