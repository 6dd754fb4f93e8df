"""Training: batches, the loop, averages of the weights, records."""
