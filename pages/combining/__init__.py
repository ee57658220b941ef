"""What the pages Ensemble and Cascade have of their own."""
