"""Forward passes that all share: batches, the loss, held-out evaluation, generation, data baselines."""
