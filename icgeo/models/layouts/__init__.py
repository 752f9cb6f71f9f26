"""Ways to show examples and a query to a backbone."""
