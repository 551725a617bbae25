"""What several tests need: servers, processes, made-up policies, a browser."""
